"""What happens to predictions on detected boxes before they are judged: rescoring, and suppression of duplicates.

Both as published for COCO with ViTPose (``mmpose/core/post_processing/nms.py`` and the COCO dataset class beside it).
"""

import numpy as np
from jaxtyping import Float

from posecore.evaluation.arrays import Predictions
from posecore.evaluation.oks import similarity


def rescore(
    box_scores: Float[np.ndarray, " D"], keypoint_scores: Float[np.ndarray, "D K"], minimum: float = 0.2
) -> Float[np.ndarray, " D"]:
    """Box score × mean of the keypoint scores above ``minimum``; 0 where no keypoint is above it."""
    counted = keypoint_scores > minimum
    total = np.where(counted, keypoint_scores, 0.0).sum(axis=1)
    return box_scores * total / np.maximum(counted.sum(axis=1), 1)


def suppress_duplicates(
    predictions: Predictions, oks_sigmas: Float[np.ndarray, " K"], threshold: float = 0.9
) -> Predictions:
    """OKS-NMS: on each image, drops every prediction whose OKS with a better one is above the threshold.

    OKS of two predictions counts all points and divides by the mean of their crop areas.

    Returns:
        The kept predictions in their original order.
    """
    keep = np.ones(len(predictions), np.bool_)
    order = np.lexsort((-predictions.scores, predictions.image_row))
    _, starts = np.unique(predictions.image_row[order], return_index=True)
    for rows in np.split(order, starts[1:]):
        for position, row in enumerate(rows):
            rest = rows[position + 1 :]
            rest = rest[keep[rest]]
            if not keep[row] or not len(rest):
                continue
            oks = similarity(
                predictions.keypoints[rest],
                np.broadcast_to(predictions.keypoints[row], predictions.keypoints[rest].shape),
                np.ones(predictions.keypoint_scores[rest].shape, np.bool_),
                (predictions.crop_area[rest] + predictions.crop_area[row]) / 2,
                oks_sigmas,
            )
            keep[rest[oks > threshold]] = False
    return predictions.take(keep)
