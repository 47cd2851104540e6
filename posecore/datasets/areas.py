"""Whether the areas that annotations state can be those of the bodies in their boxes.

OKS divides by the area, so a wrong one makes average precision mean nothing without any sign of it: SyRIP's files state
one constant for every infant, 15 times the median box.
"""

import numpy as np
from jaxtyping import Float

from posecore.counting import counted

FEWEST_BODIES = 8
"""Fewer areas may be equal, or too large, by chance."""

_TOLERANCE = 1.1
"""An area may exceed its box by rounding: masks count pixels, and boxes are outlines."""
_MANY = 0.5
_ALIKE = 1e-6
_UNLIKE = 1.5  # the largest box by the smallest: bodies of one size have boxes of other sizes


_SAME = 0.005
_NEARLY_ALL = 0.9


def areas_of_boxes(area: Float[np.ndarray, " N"], box_area: Float[np.ndarray, " N"]) -> str | None:
    """The same of areas that are those of the boxes, which some datasets mean and other tools leave behind."""
    same = int((np.abs(area - box_area) <= _SAME * box_area).sum())
    if len(area) < FEWEST_BODIES or same < _NEARLY_ALL * len(area):
        return None
    return (
        f"the annotations state width × height of the box as area for {same} of {counted(len(area), 'body')}, where "
        "the COCO family means the body's outline, about half of it; tools that a file went through write that, and "
        "OKS then counts worse predictions as right. Take the publisher's file, or set area_rule in dataset.yaml: box "
        "if boxes are meant, box_053 for a body's usual share"
    )


def impossible_areas(area: Float[np.ndarray, " N"], box_area: Float[np.ndarray, " N"]) -> str | None:
    """What is wrong with stated areas and what to do, as a sentence without its end; None if nothing is.

    Args:
        area: px², as the annotations of N bodies state it.
        box_area: px², w · h of their boxes.
    """
    if len(area) < FEWEST_BODIES:
        return None
    advice = "OKS by it would mean nothing; set area_rule: box in dataset.yaml"
    if np.ptp(area) <= _ALIKE * area.max() and box_area.max() > _UNLIKE * box_area.min():
        return (
            f"the annotations state one area, {area[0]:.6g} px², for all {counted(len(area), 'body')}, whose boxes "
            f"have {box_area.min():.6g} to {box_area.max():.6g} px²: {advice}"
        )
    larger = int((area > _TOLERANCE * box_area).sum())
    if larger > _MANY * len(area):
        worst = float(np.median(area / box_area))
        return (
            f"the annotations state for {larger} of {counted(len(area), 'body')} an area larger than their box (median "
            f"{worst:.3g} times the box): {advice}"
        )
    return None
