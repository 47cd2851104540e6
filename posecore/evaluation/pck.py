"""PCK: the share of points nearer than a fraction of the box's or the image's longer side.

As mmpose computes it: strictly nearer, and the mean over keypoints (``PCK_0.05``). The mean over all points together,
which papers also print, is ``PCK_0.05_pooled``.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from posecore.counting import counted
from posecore.errors import EvaluationError
from posecore.evaluation.arrays import GroundTruth, Predictions
from posecore.evaluation.pairing import paired_distances


def evaluate_pck(
    truth: GroundTruth,
    predictions: Predictions,
    thresholds: Sequence[float] = (0.05, 0.1, 0.2),
    normalise_by: Literal["bbox", "image"] = "bbox",
) -> dict[str, float]:
    """PCK at each threshold, in [0, 1], both means.

    Raises:
        EvaluationError: predictions are not one per labelled instance, a size is unknown, or nothing is labelled.
    """
    distances = paired_distances(truth, predictions)
    if normalise_by == "bbox":
        size = truth.bbox_xywh[distances.truth_row, 2:].max(axis=1)
    else:
        size = truth.image_size[truth.image_row[distances.truth_row]].max(axis=1).astype(np.float64)
    if not len(size) or not (size > 0).all():
        raise EvaluationError(
            f"PCK divides by the {normalise_by} size, which {int((size <= 0).sum())} of "
            f"{counted(len(size), 'labelled instance')} do not have; choose `normalise_by: bbox` or `image` "
            "accordingly."
        )
    scaled = distances.pixels / size[:, None]
    labelled = np.isfinite(scaled).sum(axis=0)
    metrics: dict[str, float] = {}
    for threshold in thresholds:
        hits = (scaled < threshold).sum(axis=0)
        metrics[f"PCK_{threshold:g}"] = float((hits[labelled > 0] / labelled[labelled > 0]).mean())
        metrics[f"PCK_{threshold:g}_pooled"] = float(hits.sum() / labelled.sum())
    return metrics
