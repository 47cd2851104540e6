"""Which keypoints are hard: the error of each, over all instances of a set."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from posecore.evaluation.arrays import GroundTruth, Predictions
from posecore.evaluation.pairing import Distances, nearest_distances, paired_distances
from posecore.skeletons.skeleton import Skeleton


@dataclass(frozen=True, kw_only=True)
class KeypointError:
    """Errors of one keypoint; NaN where it is labelled nowhere.

    Attributes:
        name: native name.
        labelled: how many instances label it.
        mean_px: mean distance in image pixels.
        median_px: median distance in image pixels.
        relative: mean distance as a share of √(w·h) of the instance's box.
        missed: share of points further away than a tenth of √(w·h).
    """

    name: str
    labelled: int
    mean_px: float
    median_px: float
    relative: float
    missed: float


def answered_distances(truth: GroundTruth, predictions: Predictions) -> Distances:
    """Distances by annotated box where the predictions come from such, else to the nearest prediction."""
    from_truth = (predictions.instance_row >= 0).any()
    return paired_distances(truth, predictions) if from_truth else nearest_distances(truth, predictions)


def relative_distances(truth: GroundTruth, distances: Distances) -> Float[np.ndarray, "P K"]:
    """(P, K) distances as a share of √(w·h) of each instance's box."""
    size = truth.bbox_xywh[distances.truth_row, 2:].clip(min=1.0)
    relative: Float[np.ndarray, "P K"] = distances.pixels / np.sqrt(size.prod(axis=1))[:, None]
    return relative


def keypoint_errors(truth: GroundTruth, predictions: Predictions, skeleton: Skeleton) -> list[KeypointError]:
    """One row per keypoint of the skeleton, in its order."""
    distances = answered_distances(truth, predictions)
    relative = relative_distances(truth, distances)
    rows: list[KeypointError] = []
    for column, name in enumerate(skeleton.names):
        labelled = np.isfinite(distances.pixels[:, column])
        pixels, share = distances.pixels[labelled, column], relative[labelled, column]
        known = len(pixels) > 0
        rows.append(
            KeypointError(
                name=name,
                labelled=len(pixels),
                mean_px=float(pixels.mean()) if known else np.nan,
                median_px=float(np.median(pixels)) if known else np.nan,
                relative=float(share.mean()) if known else np.nan,
                missed=float((share > 0.1).mean()) if known else np.nan,
            )
        )
    return rows
