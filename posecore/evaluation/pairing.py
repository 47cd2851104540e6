"""Pixel distances between each annotated instance and the one prediction made for it.

Protocols that judge one answer per instance (PCKh, PCK, torso, pixel error) start from these distances.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray

from posecore.counting import counted
from posecore.errors import EvaluationError
from posecore.evaluation.arrays import GroundTruth, Predictions, check_fit
from posecore.evaluation.oks import pairs_within


@dataclass(frozen=True, kw_only=True, eq=False)
class Distances:
    """Errors of P instances that carry at least one labelled point and are no crowd.

    Attributes:
        truth_row: (P,) rows of the ground truth, ascending.
        prediction_row: (P,) rows of the predictions.
        pixels: (P, K) Euclidean error in image pixels, NaN where the point is not labelled.
    """

    truth_row: Int[np.ndarray, " P"]
    prediction_row: Int[np.ndarray, " P"]
    pixels: Float[np.ndarray, "P K"]

    def take(self, chosen: NDArray[np.bool_]) -> "Distances":
        """The chosen instances."""
        return Distances(
            truth_row=self.truth_row[chosen],
            prediction_row=self.prediction_row[chosen],
            pixels=self.pixels[chosen],
        )


def paired_distances(truth: GroundTruth, predictions: Predictions) -> Distances:
    """Distances where every annotated box was cropped and answered exactly once.

    Raises:
        EvaluationError: a labelled instance has no prediction or several, or the two do not fit together.
    """
    check_fit(truth, predictions)
    judged = np.flatnonzero(truth.labelled)
    answers = np.flatnonzero(predictions.instance_row >= 0)
    counts = np.bincount(predictions.instance_row[answers], minlength=len(truth))
    wrong = judged[counts[judged] != 1]
    if len(wrong):
        raise EvaluationError(
            f"instance {truth.instance_ids[wrong[0]]!r} has {counted(counts[wrong[0]], 'prediction')} (not exactly "
            f"one: {len(wrong)} of {counted(len(judged), 'labelled instance')}); this protocol needs ground-truth "
            "boxes."
        )
    answer_of = np.full(len(truth), -1, np.int64)
    answer_of[predictions.instance_row[answers]] = answers
    return distances_of(truth, predictions, judged, answer_of[judged])


def nearest_distances(truth: GroundTruth, predictions: Predictions) -> Distances:
    """Distances to the prediction nearest to each instance, for detected boxes.

    Instances on images without any prediction are left out. Nearest is the smallest mean over labelled points of the
    distance, capped at √area so that one stray point does not decide.
    """
    check_fit(truth, predictions)
    judged = np.flatnonzero(truth.labelled)
    order = np.argsort(predictions.image_row, kind="stable")
    left, position = pairs_within(truth.image_row[judged], predictions.image_row[order])
    if not len(left):
        return distances_of(truth, predictions, judged[:0], order[:0])
    candidates = distances_of(truth, predictions, judged[left], order[position])
    cap = np.sqrt(truth.area[candidates.truth_row])[:, None]
    cost = np.nanmean(np.minimum(candidates.pixels, cap), axis=1)
    by_cost = np.lexsort((cost, left))
    _, first = np.unique(left[by_cost], return_index=True)
    nearest = np.zeros(len(left), np.bool_)
    nearest[by_cost[first]] = True
    return candidates.take(nearest)


def distances_of(
    truth: GroundTruth, predictions: Predictions, truth_row: NDArray[np.int64], prediction_row: NDArray[np.int64]
) -> Distances:
    """Distances between annotations, (P,) rows ascending, and the predictions that answer them."""
    difference = truth.keypoints[truth_row] - predictions.keypoints[prediction_row]
    pixels = np.where(truth.visibility[truth_row] > 0, np.sqrt((difference**2).sum(axis=2)), np.nan)
    return Distances(truth_row=truth_row, prediction_row=prediction_row, pixels=pixels)
