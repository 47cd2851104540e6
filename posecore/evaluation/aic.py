"""AI Challenger's "mAP": no ranking by score and no one-to-one matching.

Every annotated person takes the best OKS of all predictions on the image; the value at a threshold is the number of
persons strictly above it, divided by the sum over images of max(persons, predictions). Only *visible* points count
(flag 2 here, 1 in the source), OKS divides by w·h + 1, and a person without a visible point can only lose.
Source: AIChallenger/AI_Challenger_2017 ``Evaluation/keypoint_eval/keypoint_eval.py``, whose ``delta`` is 2σ.
"""

import numpy as np
from jaxtyping import Float

from posecore.evaluation.arrays import GroundTruth, Predictions, check_fit
from posecore.evaluation.oks import THRESHOLDS, pairs_within, similarity


def evaluate_aic(
    truth: GroundTruth, predictions: Predictions, oks_sigmas: Float[np.ndarray, " K"], area: Float[np.ndarray, " N"]
) -> dict[str, float]:
    """The challenge's score and its values at 0.50 and 0.75.

    Args:
        truth: annotations.
        predictions: detections.
        oks_sigmas: per-keypoint constants.
        area: (N,) px², w·h + 1 in the official protocol.
    """
    return aic_metrics(aic_sums(truth, predictions, oks_sigmas, area))


def aic_sums(
    truth: GroundTruth, predictions: Predictions, oks_sigmas: Float[np.ndarray, " K"], area: Float[np.ndarray, " N"]
) -> Float[np.ndarray, "I 11"]:
    """Of each image, the persons found at each of the ten thresholds, and the larger of persons and answers.

    The arguments are those of :func:`evaluate_aic`.
    """
    check_fit(truth, predictions)
    order = np.argsort(predictions.image_row, kind="stable")
    person, position = pairs_within(truth.image_row, predictions.image_row[order])
    oks = similarity(
        predictions.keypoints[order[position]],
        truth.keypoints[person],
        truth.visibility[person] == 2,
        area[person],
        oks_sigmas,
    )
    best = np.zeros(len(truth))
    np.maximum.at(best, person, oks)
    num_images = len(truth.image_ids)
    persons = np.bincount(truth.image_row, minlength=num_images)
    answers = np.bincount(predictions.image_row, minlength=num_images)
    hits = best[:, None] > THRESHOLDS
    found = np.stack([np.bincount(truth.image_row, column, num_images) for column in hits.T], axis=1)
    # The official loop runs over annotated images only, so answers elsewhere cost nothing.
    return np.column_stack([found, np.where(persons > 0, np.maximum(persons, answers), 0)])


def aic_metrics(sums: Float[np.ndarray, "I 11"]) -> dict[str, float]:
    """The score of what :func:`aic_sums` counted."""
    *found, total = sums.sum(axis=0)
    values = np.array(found) / max(total, 1)
    return {"mAP": float(values.mean()), "mAP50": float(values[0]), "mAP75": float(values[5])}


def aic_of_resample(sums: Float[np.ndarray, "I 11"], images: Float[np.ndarray, " I"]) -> dict[str, float]:
    """The score, each image as often as it says; NaN where nobody is."""
    *found, total = images @ sums
    return {"mAP": float(np.mean(found) / total) if total else np.nan}
