"""Error in pixels, as laboratories report it for fixed cameras.

DeepLabCut prints as "RMSE" the *mean* distance; it is ``mean_error_px`` here, and ``rmse_px`` is the root of the mean
squared distance. The values with ``_confident`` judge only points whose confidence reaches the p-cutoff.
"""

import numpy as np
from numpy.typing import NDArray

from posecore.errors import EvaluationError
from posecore.evaluation.arrays import GroundTruth, Predictions
from posecore.evaluation.pairing import paired_distances


def evaluate_pixel(truth: GroundTruth, predictions: Predictions, pcutoff: float = 0.6) -> dict[str, float]:
    """Mean, median and root-mean-square distance in image pixels, over all labelled points and the confident ones.

    Args:
        truth: annotations.
        predictions: one per labelled instance.
        pcutoff: least confidence of a point to enter the ``_confident`` values; DeepLabCut's default is 0.6.

    Raises:
        EvaluationError: predictions are not one per labelled instance, or nothing is labelled.
    """
    distances = paired_distances(truth, predictions)
    labelled = np.isfinite(distances.pixels)
    if not labelled.any():
        raise EvaluationError("no point is labelled in this split, so there is no pixel error to measure.")
    confident = labelled & (predictions.keypoint_scores[distances.prediction_row] >= pcutoff)
    metrics = _statistics(distances.pixels[labelled], "")
    if confident.any():
        metrics |= _statistics(distances.pixels[confident], "_confident")
    metrics["confident_share"] = float(confident.sum() / labelled.sum())
    return metrics


def _statistics(pixels: NDArray[np.float64], suffix: str) -> dict[str, float]:
    return {
        f"mean_error_px{suffix}": float(pixels.mean()),
        f"median_error_px{suffix}": float(np.median(pixels)),
        f"rmse_px{suffix}": float(np.sqrt((pixels**2).mean())),
    }
