"""COCO-WholeBody's six evaluations: body, foot, face, left hand, right hand and all 133 points together.

Rules of the official scripts (COCO-WholeBody ``evaluation/myeval_*.py``): every part divides by the *person's* area; an
annotation is ignored for a part none of whose points is labelled (the file's ``*_valid`` flags are not read); each part
ranks by its own score where the results carry one, the body by the instance score; an unmatched detection's size is
the extent of its *body* points in all six.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from jaxtyping import Float

from posecore.evaluation.arrays import GroundTruth, Predictions
from posecore.evaluation.oks import Matching, extent, match_predictions
from posecore.skeletons.skeleton import Skeleton

PARTS: Mapping[str, tuple[str, ...]] = {
    "body": ("body",),
    "foot": ("foot",),
    "face": ("face",),
    "lefthand": ("left_hand",),
    "righthand": ("right_hand",),
    "wholebody": ("body", "foot", "face", "left_hand", "right_hand"),
}
"""Official part name → keypoint groups of the skeleton."""


def match_wholebody(
    truth: GroundTruth,
    predictions: Predictions,
    skeleton: Skeleton,
    oks_sigmas: Float[np.ndarray, " K"],
    area: Float[np.ndarray, " N"],
    id_0_is_none: bool = False,
) -> dict[str, Matching]:
    """One matching per part of :data:`PARTS` that the skeleton has."""
    body_extent = extent(predictions.keypoints[:, list(skeleton.indices_of_group("body"))])
    matchings: dict[str, Matching] = {}
    for part, groups in PARTS.items():
        points = list(skeleton.indices_of_group(groups))
        if not points:
            continue
        part_truth = replace(truth, keypoints=truth.keypoints[:, points], visibility=truth.visibility[:, points])
        part_predictions = replace(
            predictions,
            keypoints=predictions.keypoints[:, points],
            keypoint_scores=predictions.keypoint_scores[:, points],
            scores=predictions.scores if part == "body" else predictions.part_scores.get(part, predictions.scores),
        )
        matchings[part] = match_predictions(
            part_truth,
            part_predictions,
            oks_sigmas[points],
            area=area,
            ignored=(part_truth.visibility == 0).all(axis=1),
            detection_area=body_extent,
            id_0_is_none=id_0_is_none,
        )
    return matchings
