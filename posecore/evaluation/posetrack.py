"""Average precision of each joint in frames of many persons, as PoseTrack's evaluation (poseval) computes it.

A predicted pose belongs to the annotated one that has the largest share of its joints within half a head size of the
prediction's; each annotated pose keeps the best of those that chose it. All joints of all predictions are then ranked
by their confidences, joint by joint: right are those within half a head size of the pose that theirs was kept for. The
head size is 0.6 of the diagonal of the head's box. AP is the area under the precision that is reached at a recall or
beyond. Frames without an annotation are passed over; on those whose annotations have no joint every prediction is
wrong. Joints, annotated or predicted, in regions to be ignored are taken out first (:func:`without_ignored`). In
poseval equal confidences are ranked by an unstable sort; here the later of equals comes first, which is what it does
for short lists.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Int

from posecore.errors import EvaluationError
from posecore.evaluation.arrays import GroundTruth, Predictions

_HEAD_SHARE = 0.6
_WITHIN = 0.5


@dataclass(frozen=True, kw_only=True, eq=False)
class JointMatches:
    """Every predicted joint, and every annotated one.

    Attributes:
        image_row: (D,) of each prediction on a frame with annotated poses.
        scores: (D, K) confidence of each joint; NaN where none was predicted.
        right: (D, K) whether it is right.
        matched: (D,) whether the pose was kept for an annotated one.
        found: (N,) whether an annotated pose kept one.
        num_annotated: (I, K) annotated joints of each image.
    """

    image_row: Int[np.ndarray, " D"]
    scores: Float[np.ndarray, "D K"]
    right: Bool[np.ndarray, "D K"]
    matched: Bool[np.ndarray, " D"]
    found: Bool[np.ndarray, " N"]
    num_annotated: Int[np.ndarray, "I K"]


def match_joints(truth: GroundTruth, predictions: Predictions) -> JointMatches:
    """Assigns poses frame by frame.

    Args:
        truth: annotations with head boxes; poses without a labelled joint are passed over.
        predictions: a joint with a confidence of 0 or less, or at exactly (0, 0), was not predicted.

    Raises:
        EvaluationError: an annotated pose has no head box.
    """
    labelled = truth.visibility > 0
    posed = np.flatnonzero(labelled.any(axis=1) & ~truth.is_crowd)
    box = truth.head_bbox_xyxy[posed]
    size = np.hypot(box[:, 2] - box[:, 0], box[:, 3] - box[:, 1]) * _HEAD_SHARE
    if not (size > 0).all():
        without = truth.instance_ids[posed[int((~(size > 0)).argmax())]]
        raise EvaluationError(f"annotation {without!r} has no head box, which this protocol measures by.")
    predicted = (predictions.keypoint_scores > 0) & (predictions.keypoints != 0).any(axis=2)
    shown = np.zeros(len(truth.image_ids), np.bool_)
    shown[truth.image_row[~truth.is_crowd]] = True
    kept = np.flatnonzero(shown[predictions.image_row] & predicted.any(axis=1))
    kept = kept[np.argsort(predictions.image_row[kept], kind="stable")]
    right = np.zeros((len(kept), labelled.shape[1]), np.bool_)
    matched, found = np.zeros(len(kept), np.bool_), np.zeros(len(truth), np.bool_)
    order = np.argsort(truth.image_row[posed], kind="stable")
    poses, sizes = posed[order], size[order]
    edges = np.arange(len(truth.image_ids) + 1)
    of_truth = np.searchsorted(truth.image_row[poses], edges)
    of_answer = np.searchsorted(predictions.image_row[kept], edges)
    for image in np.flatnonzero(shown).tolist():
        here = poses[of_truth[image] : of_truth[image + 1]]
        answers = np.arange(of_answer[image], of_answer[image + 1])
        if not len(answers) or not len(here):
            continue
        rows = kept[answers]
        distance = np.linalg.norm(predictions.keypoints[rows][:, None] - truth.keypoints[here][None], axis=3)
        near = distance / sizes[of_truth[image] : of_truth[image + 1]][None, :, None] <= _WITHIN
        near &= predicted[rows][:, None] & labelled[here][None]
        share = near.sum(axis=2) / labelled[here].sum(axis=1)
        chosen = share.argmax(axis=1)
        share[np.arange(share.shape[1])[None] != chosen[:, None]] = 0
        best = share.argmax(axis=0)
        for pose in np.flatnonzero(share.max(axis=0) > 0).tolist():
            right[answers[best[pose]]] = near[best[pose], pose]
            matched[answers[best[pose]]] = True
            found[here[pose]] = True
    counts = np.zeros((len(truth.image_ids), labelled.shape[1]), np.int64)
    np.add.at(counts, truth.image_row[posed], labelled[posed])
    return JointMatches(
        image_row=predictions.image_row[kept],
        scores=np.where(predicted[kept], predictions.keypoint_scores[kept], np.nan),
        right=right,
        matched=matched,
        found=found,
        num_annotated=counts,
    )


def without_ignored(
    truth: GroundTruth, predictions: Predictions, ignored: Mapping[int, Sequence[Float[np.ndarray, "P 2"]]]
) -> tuple[GroundTruth, Predictions]:
    """Both without the joints that lie within regions to be ignored: they are then neither annotated nor predicted.

    Args:
        truth: annotations.
        predictions: of the same images.
        ignored: corners of polygons by row of their image.
    """
    visibility, scores = truth.visibility.copy(), predictions.keypoint_scores.copy()
    for image, polygons in ignored.items():
        for rows, points, column in (
            (np.flatnonzero(truth.image_row == image), truth.keypoints, visibility),
            (np.flatnonzero(predictions.image_row == image), predictions.keypoints, scores),
        ):
            for polygon in polygons:
                column[rows] = np.where(_within(points[rows], polygon), 0, column[rows])
    return replace(truth, visibility=visibility), replace(predictions, keypoint_scores=scores)


def _within(points: Float[np.ndarray, "N K 2"], polygon: Float[np.ndarray, "P 2"]) -> Bool[np.ndarray, "N K"]:
    """Whether a ray to the right crosses the outline an odd number of times."""
    (x, y), begin, end = np.moveaxis(points, -1, 0), polygon, np.roll(polygon, -1, axis=0)
    inside = np.zeros(points.shape[:2], np.bool_)
    for (x1, y1), (x2, y2) in zip(begin.tolist(), end.tolist(), strict=True):
        if y1 != y2:
            inside ^= ((y1 > y) != (y2 > y)) & (x < x1 + (y - y1) * (x2 - x1) / (y2 - y1))
    return inside


def average_precisions(matches: JointMatches, images: Float[np.ndarray, " I"] | None = None) -> Float[np.ndarray, " K"]:
    """(K,) in percent; NaN for a joint that is annotated nowhere.

    Args:
        matches: of a set.
        images: how often each image counts; None is once each.
    """
    weight = np.ones(len(matches.num_annotated)) if images is None else images
    total = weight @ matches.num_annotated
    of_answer = weight[matches.image_row]
    values = np.full(len(total), np.nan)
    for joint in np.flatnonzero(total > 0).tolist():
        known = np.flatnonzero(np.isfinite(matches.scores[:, joint]))
        ranked = known[np.argsort(matches.scores[known, joint], kind="stable")[::-1]]
        of_ranked = of_answer[ranked]
        hits, all_ranked = np.cumsum(of_ranked * matches.right[ranked, joint]), np.cumsum(of_ranked)
        recall = np.concatenate([[0.0], hits / total[joint], [1.0]])
        precision = np.concatenate([[0.0], hits / np.maximum(all_ranked, 1e-12), [0.0]])
        envelope = np.maximum.accumulate(precision[::-1])[::-1]
        values[joint] = 100 * float((np.diff(recall) * envelope[1:]).sum())
    return values
