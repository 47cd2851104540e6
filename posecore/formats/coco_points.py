"""Points as files of the COCO family write them: x, y, flag in one flat list."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from posecore.counting import counted
from posecore.formats.values import Refusal, numeric_array
from posecore.schema import FloatArray, Json


def flat_keypoints(annotation: Mapping[str, Json], field: str, num_keypoints: int) -> NDArray[np.float64]:
    """(K, 3) float64 from a flat list of x, y, flag.

    Raises:
        Refusal: the field is missing or is not a list of 3·K numbers.
    """
    if field not in annotation:
        raise Refusal(
            "missing-field",
            f"the annotation has no field {field!r}; if its category is not of this dataset, say which are: "
            "reader_options: {categories: [...]}.",
        )
    array = numeric_array(annotation[field], field)
    if array.shape != (3 * num_keypoints,):
        raise Refusal(
            "wrong-length", f"{field} must be a list of {counted(3 * num_keypoints, 'number')}, not {array.shape}."
        )
    return array.reshape(num_keypoints, 3)


def coco_flags(points: NDArray[np.float64]) -> FloatArray:
    """(K, 3) float32 of points whose flags are COCO's already; unlabelled points become 0, 0, 0.

    Raises:
        Refusal: a flag is not 0, 1 or 2, or a labelled coordinate is not finite.
    """
    flags = points[:, 2]
    wrong = np.flatnonzero((flags != 0) & (flags != 1) & (flags != 2))
    if wrong.size:
        raise Refusal("flag-out-of-range", f"keypoint {wrong[0]} has flag {flags[wrong[0]]:g}; 0, 1 and 2 exist.")
    with np.errstate(over="ignore"):
        kept = np.where(flags[:, None] > 0, points, 0).astype(np.float32)
    if not np.isfinite(kept).all():
        raise Refusal("nan-keypoints", "a labelled keypoint has a coordinate that is not a finite number.")
    return kept


def any_positive_flag(points: NDArray[np.float64], threshold: float = 0.0) -> NDArray[np.float64]:
    """Points whose flag is a detector's score: above the threshold they are labelled (2), others not (0).

    Scores must not be truncated to whole numbers: 0.9 would become "not labelled".

    Raises:
        Refusal: a flag is negative or not a number.
    """
    flags = points[:, 2]
    if not (flags >= 0).all():
        raise Refusal("flag-out-of-range", "a flag is negative or not a number; scores and flags are 0 or more.")
    return np.column_stack([points[:, :2], np.where(flags > threshold, 2.0, 0.0)])
