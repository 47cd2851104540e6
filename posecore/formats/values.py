"""Values of annotation files, checked before use: a wrong one becomes a counted reject and never a traceback."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from posecore.counting import counted
from posecore.errors import DatasetError
from posecore.formats.reader import Source
from posecore.schema import AreaRule, BoxXywh, FloatArray, Json, Outcome, Reject

MAX_NUMBER = 2**53
"""No coordinate, count or area of an image comes near it, and a float64 holds every whole number below it."""


class Refusal(DatasetError):
    """One record or instance cannot be taken over; readers turn it into a :class:`~posecore.schema.Reject`.

    Attributes:
        reason: kebab-case code of the cause.
        detail: one sentence for a person.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)  # what a process that gets it from another makes it anew from
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return self.detail

    def reject(
        self, source: Source, where: str, source_id: str = "", instance_id: str = "", outcome: Outcome = "lost"
    ) -> Reject:
        """The counted form; ``where`` is file and position."""
        return Reject(
            reason=self.reason,
            detail=self.detail,
            dataset=source.dataset,
            split=source.split,
            source=where,
            source_id=source_id,
            instance_id=instance_id,
            outcome=outcome,
        )


def number(value: Json, what: str) -> float:
    """A finite number of at most :data:`MAX_NUMBER`.

    Raises:
        Refusal: it is not.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) <= MAX_NUMBER:
        raise Refusal("not-a-number", f"{what} must be a finite number, not {_short(value)}.")
    return float(value)


def integer(value: Json, what: str) -> int:
    """A whole number, also if written as a float.

    Raises:
        Refusal: it is not.
    """
    if not number(value, what).is_integer():
        raise Refusal("not-an-integer", f"{what} must be a whole number, not {_short(value)}.")
    return int(value)


def boolean(value: Json, what: str) -> bool:
    """A truth value, written as such or as a whole number, which is false if 0.

    Raises:
        Refusal: it is neither.
    """
    return value if isinstance(value, bool) else bool(integer(value, what))


def numbers(value: Json, count: int, what: str) -> tuple[float, ...]:
    """A list of exactly ``count`` finite numbers.

    Raises:
        Refusal: it is not.
    """
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) != count:
        raise Refusal("wrong-length", f"{what} must be a list of {counted(count, 'number')}, not {_short(value)}.")
    return tuple(number(item, what) for item in value)


def numeric_array(value: Json, what: str) -> NDArray[np.float64]:
    """Plain numbers as a float64 array of their own shape.

    Raises:
        Refusal: something in it is not a number, or lists of different lengths are nested.
    """
    try:
        array = np.array(value)
    except ValueError:
        raise Refusal("not-a-number", f"{what} is a ragged list; expected plain numbers.") from None
    if array.dtype.kind not in "iuf":
        raise Refusal("not-a-number", f"{what} must be a list of numbers.")
    return array.astype(np.float64)


def text(value: Json, what: str) -> str:
    """A text that is not empty.

    Raises:
        Refusal: it is not.
    """
    if not isinstance(value, str) or not value:
        raise Refusal("not-a-text", f"{what} must be a text, not {_short(value)}.")
    return value


def mapping(value: Json, what: str) -> Mapping[str, Json]:
    """A JSON object.

    Raises:
        Refusal: it is not.
    """
    if not isinstance(value, Mapping):
        raise Refusal("not-an-object", f"{what} must be an object, not {_short(value)}.")
    return value


def sequence(value: Json, what: str) -> Sequence[Json]:
    """A JSON list.

    Raises:
        Refusal: it is not.
    """
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise Refusal("not-a-list", f"{what} must be a list, not {_short(value)}.")
    return value


def box_xywh(x: float, y: float, width: float, height: float) -> BoxXywh:
    """A box with a positive size.

    Raises:
        Refusal: width or height is zero or negative.
    """
    if not (width > 0 and height > 0):
        raise Refusal("bad-box", f"the box has width {width:g} and height {height:g}; both must be positive.")
    return x, y, width, height


def box_from_corners(value: Json, what: str) -> BoxXywh:
    """An x, y, w, h box from the corners x1, y1, x2, y2.

    Raises:
        Refusal: not four finite numbers, or not a box.
    """
    x1, y1, x2, y2 = numbers(value, 4, what)
    return box_xywh(x1, y1, x2 - x1, y2 - y1)


def box_around(keypoints: FloatArray, margin: float, min_side: float = 1.0) -> BoxXywh:
    """A box for a dataset without boxes: the extent of the labelled points, enlarged.

    Args:
        keypoints: (K, 3) float32, x, y in image pixels and COCO flag.
        margin: added on every side, as a share of the extent's longer side.
        min_side: least width and height in pixels, for one point or points in a line.

    Raises:
        Refusal: no point is labelled.
    """
    points = keypoints[keypoints[:, 2] > 0, :2].astype(np.float64)
    if not len(points):
        raise Refusal("no-keypoints", "no point is labelled, and the format has no boxes.")
    low, high = points.min(axis=0), points.max(axis=0)
    extent = high - low
    side = np.maximum(extent + 2 * margin * extent.max(), min_side)
    x, y = (low + high - side) / 2
    return float(x), float(y), float(side[0]), float(side[1])


def keypoints_from_rows(rows: Sequence[tuple[float, float, int]]) -> FloatArray:
    """(K, 3) float32 of x, y in 0-based image pixels and the COCO flag; unlabelled points become 0, 0, 0.

    Raises:
        Refusal: a flag is not 0, 1 or 2, or a labelled coordinate is not finite.
    """
    array = np.zeros((len(rows), 3), np.float32)
    for index, (x, y, flag) in enumerate(rows):
        if flag not in (0, 1, 2):
            raise Refusal("flag-out-of-range", f"keypoint {index} has flag {flag!r}; 0, 1 and 2 exist.")
        if flag:
            if not (abs(x) <= MAX_NUMBER and abs(y) <= MAX_NUMBER):
                raise Refusal("nan-keypoints", f"keypoint {index} is labelled but lies at ({x}, {y}).")
            array[index] = x, y, flag
    return array


def area_of_box(rule: AreaRule, width: float, height: float) -> float:
    """OKS area in px² for a dataset without areas of its own.

    Raises:
        DatasetError: the rule asks for a mask or a field that the format does not have.
    """
    if rule == "box":
        return width * height
    if rule == "box_053":
        return 0.53 * width * height
    if rule == "box_plus_one":
        return width * height + 1
    raise DatasetError(
        f"area_rule {rule!r}: this format has neither masks nor areas; use box, box_053 or box_plus_one."
    )


def _short(value: Json) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}…"
