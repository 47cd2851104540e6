"""CrowdPose's AP, with its easy, medium and hard images.

As the official code computes it (and its ports do): OKS divides by 0.53·w·h of the box; an annotation is ignored when
the file's ``num_keypoints``, which counts only the first 12 joints, is 0; images are easy below crowdIndex 0.2,
medium below 0.8, hard from there (papers print other limits); the three values are plain means of the precision table,
-1 included where nothing can be judged, rounded to 4 digits.
"""

import numpy as np
from jaxtyping import Float

from posecore.errors import EvaluationError
from posecore.evaluation.arrays import GroundTruth, Predictions
from posecore.evaluation.oks import AREA_RANGES, Matching, match_predictions

_EASY_BELOW, _MEDIUM_BELOW = 0.2, 0.8


def evaluate_crowdpose(
    truth: GroundTruth,
    predictions: Predictions,
    oks_sigmas: Float[np.ndarray, " K"],
    area: Float[np.ndarray, " N"],
    id_0_is_none: bool = False,
) -> dict[str, float]:
    """AP, AP50, AP75, AR, AR50, AR75 and the AP of easy, medium and hard images.

    Args:
        truth: annotations.
        predictions: detections.
        oks_sigmas: per-keypoint constants.
        area: (N,) px².
        id_0_is_none: as of :func:`~posecore.evaluation.oks.evaluate_oks`.

    Raises:
        EvaluationError: images carry no ``crowdIndex``.
    """
    require_crowd_index(truth)
    return crowdpose_metrics(truth, match_crowdpose(truth, predictions, oks_sigmas, area, id_0_is_none))


def match_crowdpose(
    truth: GroundTruth,
    predictions: Predictions,
    oks_sigmas: Float[np.ndarray, " K"],
    area: Float[np.ndarray, " N"],
    id_0_is_none: bool = False,
) -> Matching:
    """Who found whom; the arguments are those of :func:`evaluate_crowdpose`."""
    return match_predictions(
        truth,
        predictions,
        oks_sigmas,
        area=area,
        ignored=truth.num_keypoints == 0,
        area_ranges={"all": AREA_RANGES["all"]},
        id_0_is_none=id_0_is_none,
    )


def require_crowd_index(truth: GroundTruth) -> None:
    """Returns if every image says how crowded it is.

    Raises:
        EvaluationError: one does not.
    """
    if np.isnan(truth.crowd_index).any():
        row = int(np.flatnonzero(np.isnan(truth.crowd_index))[0])
        raise EvaluationError(
            f"image {truth.image_ids[row]!r} has no crowdIndex, which the crowdpose protocol splits by; use the "
            "official annotation files, or set `evaluation: {protocol: oks, scale_rule: box_053}`."
        )


def crowdpose_metrics(truth: GroundTruth, matching: Matching) -> dict[str, float]:
    """What :func:`evaluate_crowdpose` says of detections that have their partners."""
    metrics = matching.whole.summary()
    easy = truth.crowd_index < _EASY_BELOW
    hard = truth.crowd_index >= _MEDIUM_BELOW
    for name, chosen in (("easy", easy), ("medium", ~easy & ~hard), ("hard", hard)):
        metrics[f"AP_{name}"] = round(float(matching.result(chosen).precision.mean()), 4)
    return metrics
