"""What a body's region may look like in a source: polygons, or runs of pixels in COCO's encoding.

What passes here pycocotools can draw. It decodes other texts to stray memory, and fills without end what lies far off.
"""

from collections.abc import Iterable
from math import isfinite

import numpy as np
from numpy.typing import NDArray

from posecore.formats.values import Refusal, numbers, numeric_array
from posecore.schema import NUMBERS_OF_A_POLYGON, Json, Segmentation

MAX_COORDINATE = 1e5
"""Pixels. A polygon is walked pixel by pixel along its edges."""


def check_regions(regions: Iterable[Segmentation | None], height: int, width: int) -> None:
    """Returns if every region can be drawn.

    Args:
        regions: of the bodies of a picture.
        height: of the picture.
        width: of the picture.

    Raises:
        Refusal: one cannot.
    """
    for region in regions:
        if isinstance(region, dict):
            check_rle(region, height, width)
            continue
        for polygon in region or ():
            if len(polygon) >= NUMBERS_OF_A_POLYGON:
                check_polygon(polygon if len(polygon) % 2 == 0 else polygon[:-1])


def check_segmentation(value: Json, height: int, width: int) -> None:
    """Returns if a segmentation can be drawn.

    Args:
        value: polygons or RLE, as in the source.
        height: of the picture, 0 if it is not known.
        width: likewise.

    Raises:
        Refusal: it cannot.
    """
    if isinstance(value, dict):
        check_rle(value, height, width)
        return
    if not isinstance(value, list):
        raise Refusal("bad-segmentation", f"a mask is a list of polygons or an RLE object, not {type(value).__name__}.")
    for polygon in value:
        check_polygon(polygon)


def check_polygon(value: Json) -> None:
    """Refuses what is not a flat list of x, y of at least 3 points, or lies so far off that filling it would not end.

    Raises:
        Refusal: it is not a polygon.
    """
    if isinstance(value, list) and _are_near_points(value):
        return
    points = numeric_array(value, "a polygon")
    if (
        points.ndim != 1
        or points.size < NUMBERS_OF_A_POLYGON
        or points.size % 2
        or not (np.abs(points) < MAX_COORDINATE).all()
    ):
        raise Refusal("bad-segmentation", "a polygon must be a flat list of x, y of at least 3 points near the image.")


def _are_near_points(values: list[Json]) -> bool:
    """The usual case, in a fifth of the time that making an array takes."""
    try:
        # A NaN may pass any comparison, but makes the sum one; text and lists have no sum.
        near = min(values) > -MAX_COORDINATE and max(values) < MAX_COORDINATE and isfinite(sum(values))
    except (TypeError, ValueError):
        return False
    return near and len(values) >= NUMBERS_OF_A_POLYGON and len(values) % 2 == 0 and not isinstance(values[0], bool)


def check_rle(value: dict[str, Json], height: int, width: int) -> None:
    """Refuses what is no RLE of a picture's size.

    Args:
        value: ``{"size": [height, width], "counts": str | list[int]}``.
        height: of the picture, 0 if it is not known.
        width: likewise.

    Raises:
        Refusal: it is not one.
    """
    of = tuple(numbers(value.get("size"), 2, "size of a mask"))
    if width and height and of != (height, width):
        raise Refusal(
            "bad-segmentation", f"the mask is {of[1]:g}×{of[0]:g} pixels, but the picture has {width}×{height}."
        )
    counts = value.get("counts")
    runs = _runs(counts) if isinstance(counts, str) else numeric_array(counts, "counts of a mask")
    size = of[0] * of[1]
    # The bound on each run comes before their sum, which could overflow.
    if runs.ndim != 1 or ((runs < 0) | (runs > size) | (runs % 1 != 0)).any() or runs.sum() != size:
        raise Refusal("bad-segmentation", "the mask's runs must be whole numbers that add up to its size.")


def _runs(text: str) -> NDArray[np.float64]:
    """Run lengths of compressed counts (pycocotools ``rleFrString``), which decodes a short text to stray memory."""
    runs: list[int] = []
    value = shift = 0
    for character in text:
        digit = ord(character) - 48
        if not 0 <= digit < 64 or shift > 30:
            raise Refusal("bad-segmentation", "the mask's compressed counts are not RLE text.")
        value |= (digit & 31) << shift
        shift += 5
        if digit & 32:
            continue
        if digit & 16:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    return np.array(runs, np.float64)
