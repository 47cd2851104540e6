"""Error as a share of the body's own torso: distance divided by neck to mid-hip, both from the annotation.

Scale-free and readable for clinicians; the measure of Gama et al. (Behav. Res. Meth. 57:280, 2025) for infants, whose
limbs are too short for the adult constants in OKS. By default the neck is the middle of the shoulders, so that
skeletons with and without a neck point are measured alike.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from posecore.errors import EvaluationError
from posecore.evaluation.arrays import GroundTruth, Predictions
from posecore.evaluation.pairing import paired_distances
from posecore.skeletons.skeleton import Skeleton


def evaluate_torso(
    truth: GroundTruth,
    predictions: Predictions,
    skeleton: Skeleton,
    neck: Sequence[str] = ("left_shoulder", "right_shoulder"),
    hip: Sequence[str] = ("left_hip", "right_hip"),
    thresholds: Sequence[float] = (0.1, 0.2),
) -> dict[str, float]:
    """Mean and median normalised error over all labelled points, and the share of points within each threshold.

    Args:
        truth: annotations; instances whose neck or hip points are not all labelled have no torso and are not judged.
        predictions: one per labelled instance.
        skeleton: names the points.
        neck: native names of the points whose middle is the neck.
        hip: native names of the points whose middle is the mid-hip.
        thresholds: shares of the torso; a point exactly at the limit counts.

    Raises:
        EvaluationError: a name is unknown, predictions are not one per instance, or no instance has a torso.
    """
    distances = paired_distances(truth, predictions)
    length = torso_lengths(truth, skeleton, neck, hip)[distances.truth_row]
    judged = length > 0  # NaN, where an end is not labelled, compares false
    if not judged.any():
        raise EvaluationError(
            f"no instance has all of {', '.join([*neck, *hip])} labelled, so no torso length is known; set "
            "`options: {neck: [...], hip: [...]}` of the torso protocol to points this dataset labels."
        )
    error = (distances.pixels[judged] / length[judged, None]).ravel()
    error = error[np.isfinite(error)]
    metrics = {
        "torso_error": float(error.mean()),
        "torso_error_median": float(np.median(error)),
        "instances": float(judged.sum()),
    }
    return metrics | {f"PCK_torso_{threshold:g}": float((error <= threshold).mean()) for threshold in thresholds}


def torso_lengths(
    truth: GroundTruth, skeleton: Skeleton, neck: Sequence[str], hip: Sequence[str]
) -> Float[np.ndarray, " N"]:
    """(N,) image pixels from neck to mid-hip of every instance; NaN where one of the named points is not labelled.

    Args:
        truth: annotations.
        skeleton: names the points.
        neck: native names of the points whose middle is the neck.
        hip: native names of the points whose middle is the mid-hip.

    Raises:
        EvaluationError: a name is unknown.
    """
    ends = [_middle(truth, skeleton, names) for names in (neck, hip)]
    length: Float[np.ndarray, " N"] = np.hypot(*(ends[0] - ends[1]).T)
    return length


def _middle(truth: GroundTruth, skeleton: Skeleton, names: Sequence[str]) -> NDArray[np.float64]:
    """(N, 2) mean of the named points, NaN where one of them is not labelled."""
    unknown = [name for name in names if name not in skeleton.names]
    if unknown:
        raise EvaluationError(f"skeleton {skeleton.name} has no keypoint {', '.join(unknown)}; see its names.")
    points = [skeleton.names.index(name) for name in names]
    labelled = truth.visibility[:, points].min(axis=1) > 0
    middle: NDArray[np.float64] = truth.keypoints[:, points].mean(axis=1)
    return np.where(labelled[:, None], middle, np.nan)
