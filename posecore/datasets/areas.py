"""Whether the areas that annotations state can be those of the bodies in their boxes.

OKS divides by the area, so a wrong one makes average precision mean nothing without any sign of it: SyRIP's files state
one constant for every infant, 15 times the median box.
"""

import numpy as np
from jaxtyping import Float

FEWEST_BODIES = 8
"""Fewer areas may be equal, or too large, by chance."""

_TOLERANCE = 1.1
"""An area may exceed its box by rounding: masks count pixels, and boxes are outlines."""
_MANY = 0.5
_ALIKE = 1e-6
_UNLIKE = 1.5  # the largest box by the smallest: bodies of one size have boxes of other sizes


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
            f"the annotations state one area, {area[0]:.6g} px², for all {len(area)} bodies, whose boxes have "
            f"{box_area.min():.6g} to {box_area.max():.6g} px²: {advice}"
        )
    larger = int((area > _TOLERANCE * box_area).sum())
    if larger > _MANY * len(area):
        worst = float(np.median(area / box_area))
        return (
            f"the annotations state for {larger} of {len(area)} bodies an area larger than their box (median "
            f"{worst:.3g} times the box): {advice}"
        )
    return None
