"""MPII's PCKh: the share of joints within a fraction of 0.6 · head-box diagonal, in percent.

Two means are in use and differ by half a point for the same predictions: weighted by the number of labelled joints
(HRNet, mmpose: here ``PCKh``) and unweighted over the joints (pytorch-pose: ``PCKh_unweighted``). Both leave out
pelvis and thorax, which MPII derives from hips and shoulders. The official files are 1-based; here annotation and
prediction are both 0-based, and a common shift of both changes no distance and no head size.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from posecore.errors import EvaluationError
from posecore.evaluation.arrays import GroundTruth, Predictions
from posecore.evaluation.pairing import paired_distances
from posecore.skeletons.skeleton import Skeleton

EXCLUDED = ("pelvis", "thorax")
"""Points that both means leave out unless the definition names others."""
_HEAD_SHARE = 0.6


def evaluate_pckh(
    truth: GroundTruth,
    predictions: Predictions,
    skeleton: Skeleton,
    excluded: Sequence[str] = EXCLUDED,
) -> dict[str, float]:
    """PCKh at 0.5 and 0.1 of the head size, both means, and at 0.5 each joint (mean of left and right).

    Args:
        truth: annotations with head boxes; labelled persons without one are not judged, as in the official test.
        predictions: one per labelled instance.
        skeleton: names the joints.
        excluded: native names left out of both means.

    Raises:
        EvaluationError: predictions are not one per instance, or no labelled person has a head box.
    """
    distances = paired_distances(truth, predictions)
    box = truth.head_bbox_xyxy[distances.truth_row]
    diagonal = np.hypot(box[:, 2] - box[:, 0], box[:, 3] - box[:, 1])
    judged = np.isfinite(diagonal) & (diagonal > 0)
    if not judged.any():
        raise EvaluationError(
            "no labelled instance has a head box, which PCKh measures by; choose another protocol in dataset.yaml."
        )
    scaled = distances.pixels[judged] / (diagonal[judged, None] * _HEAD_SHARE)
    counted = np.array([name not in excluded for name in skeleton.names])
    labelled = np.isfinite(scaled).sum(axis=0)

    metrics: dict[str, float] = {"persons": float(judged.sum())}
    for suffix, threshold in (("", 0.5), ("_0.1", 0.1)):
        hits = (scaled <= threshold).sum(axis=0)
        share = 100 * hits / np.maximum(labelled, 1)
        metrics[f"PCKh{suffix}"] = float(100 * hits[counted].sum() / max(labelled[counted].sum(), 1))
        metrics[f"PCKh{suffix}_unweighted"] = float(share[counted & (labelled > 0)].mean())
        if threshold == 0.5:
            metrics |= {f"PCKh/{joint}": value for joint, value in _by_joint(skeleton, share, labelled).items()}
    return metrics


def _by_joint(skeleton: Skeleton, share: NDArray[np.float64], labelled: NDArray[np.int64]) -> dict[str, float]:
    """Joint name without its side → mean over the sides that are labelled at all."""
    sides: dict[str, list[float]] = {}
    for name, value, count in zip(skeleton.names, share.tolist(), labelled.tolist(), strict=True):
        if count:
            sides.setdefault(name.removeprefix("left_").removeprefix("right_"), []).append(value)
    return {joint: sum(values) / len(values) for joint, values in sides.items()}
