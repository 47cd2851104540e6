"""Object keypoint similarity, and COCO's AP and AR over it, for all images at once.

The numbers are those of pycocotools 2.0 (``cocoeval.py``, iouType "keypoints"); only the order of work differs. Instead
of a loop over images, thresholds, detections and annotations there is one list of candidate pairs, and matching runs
in rounds: round r gives every image's r-th best detection its partner, at every threshold and area range together.
One difference: pycocotools (and faster-coco-eval) take a match with an annotation of id 0 for no match; here a match
is a match, unless ``id_0_is_none`` asks for their figure.

Measured by ``benchmarks/evaluation.py``.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray

from posecore.evaluation.arrays import GroundTruth, Predictions, check_fit

THRESHOLDS: NDArray[np.float64] = np.linspace(0.5, 0.95, 10)
RECALLS: NDArray[np.float64] = np.linspace(0.0, 1.0, 101)
MAX_DETECTIONS = 20
ID_0 = "0"
AREA_RANGES: Mapping[str, tuple[float, float]] = {
    "all": (0.0, 1e5**2),
    "medium": (32.0**2, 96.0**2),
    "large": (96.0**2, 1e5**2),
}

_CHUNK = 1 << 16  # pairs × points per step: the temporaries stay in the cache, and memory stays bounded


@dataclass(frozen=True, kw_only=True, eq=False)
class OksResult:
    """Precision and recall of a whole set.

    Attributes:
        precision: (T, R, C, A) at :data:`THRESHOLDS` × :data:`RECALLS` × categories × area ranges; -1 where a category
            has no annotation in that area range.
        recall: (T, C, A); -1 likewise.
        categories: (C,) the category numbers.
        areas: A names of the area ranges.
    """

    precision: Float[np.ndarray, "T R C A"]
    recall: Float[np.ndarray, "T C A"]
    categories: Int[np.ndarray, " C"]
    areas: tuple[str, ...]

    def summary(self) -> dict[str, float]:
        """The numbers pycocotools prints: AP and AR over all thresholds, at 0.50 and 0.75, and per area range.

        A value is -1 where nothing can be judged.
        """
        values: dict[str, float] = {}
        for name, table in (("AP", self.precision), ("AR", self.recall)):
            everywhere = table[..., self.areas.index("all")]
            values[name] = _mean(everywhere)
            values[f"{name}50"] = _mean(everywhere[0])
            values[f"{name}75"] = _mean(everywhere[5])
            for area, letter in (("medium", "M"), ("large", "L")):
                if area in self.areas:
                    values[f"{name}{letter}"] = _mean(table[..., self.areas.index(area)])
        return values

    def ap_per_category(self) -> dict[int, float]:
        """Category number → AP over all thresholds and areas; categories without an annotation are left out."""
        table = self.precision[..., self.areas.index("all")]
        values = {int(category): _mean(table[:, :, column]) for column, category in enumerate(self.categories)}
        return {category: value for category, value in values.items() if value > -1}


def similarity(
    points: Float[np.ndarray, "P K 2"],
    references: Float[np.ndarray, "P K 2"],
    counted: Bool[np.ndarray, "P K"],
    area: Float[np.ndarray, " P"],
    oks_sigmas: Float[np.ndarray, " K"],
) -> Float[np.ndarray, " P"]:
    """OKS of P pairs: the mean over counted points of exp(-d² / (2 · area · (2σ)²)).

    Args:
        points: x, y in pixels.
        references: x, y in pixels.
        counted: which points enter the mean; a pair without any has similarity 0.
        area: px².
        oks_sigmas: per-keypoint constants.

    Returns:
        (P,) values in [0, 1].
    """
    difference = points - references
    squared = difference[..., 0] ** 2 + difference[..., 1] ** 2
    exponent = squared / (oks_sigmas * 2) ** 2 / (area + np.spacing(1))[:, None] / 2
    terms = np.where(counted, np.exp(-exponent), 0.0)
    total: NDArray[np.float64] = terms.sum(axis=1) / np.maximum(counted.sum(axis=1), 1)
    return total


def similarity_to_region(
    points: Float[np.ndarray, "P K 2"],
    bbox_xywh: Float[np.ndarray, "P 4"],
    area: Float[np.ndarray, " P"],
    oks_sigmas: Float[np.ndarray, " K"],
) -> Float[np.ndarray, " P"]:
    """OKS against annotations without a labelled point: distances are those to the box grown to three times its size.

    The box grows by its own width and height to every side ("double the box" in pycocotools' words), and points inside
    are at distance 0.
    """
    low = bbox_xywh[:, None, :2] - bbox_xywh[:, None, 2:]
    high = bbox_xywh[:, None, :2] + bbox_xywh[:, None, 2:] * 2
    outside = np.maximum(low - points, 0.0) + np.maximum(points - high, 0.0)
    counted = np.ones(points.shape[:2], np.bool_)
    return similarity(outside, np.zeros_like(outside), counted, area, oks_sigmas)


def evaluate_oks(
    truth: GroundTruth,
    predictions: Predictions,
    oks_sigmas: Float[np.ndarray, " K"],
    *,
    area: Float[np.ndarray, " N"],
    ignored: Bool[np.ndarray, " N"],
    per_category: bool = False,
    area_ranges: Mapping[str, tuple[float, float]] = AREA_RANGES,
    detection_area: Float[np.ndarray, " D"] | None = None,
    id_0_is_none: bool = False,
) -> OksResult:
    """COCO's keypoint evaluation with at most 20 detections per image and category.

    Args:
        truth: annotations.
        predictions: detections, ranked by their ``scores``.
        oks_sigmas: per-keypoint constants.
        area: px² that OKS divides by and area ranges look at.
        ignored: annotations that are neither to be found nor, if found, a mistake; crowds are always among them.
        per_category: match within categories and average over them, instead of taking all for one class.
        area_ranges: name → lowest and highest area in px², both inclusive; must contain "all".
        detection_area: px² by which an unmatched detection counts in an area range; None means the extent of its
            points, as pycocotools' ``loadRes`` sets it.
        id_0_is_none: a detection that finds the annotation of id "0" has found none, and nobody else may have it.

    Raises:
        EvaluationError: predictions and ground truth do not fit together.
    """
    check_fit(truth, predictions)
    if detection_area is None:
        detection_area = extent(predictions.keypoints)
    ignored = ignored | truth.is_crowd
    categories: NDArray[np.int64] = np.unique(truth.category_id) if per_category else np.zeros(1, np.int64)
    num_images = len(truth.image_ids)
    grouping = categories if per_category else None
    truth_group = _groups(truth.image_rank[truth.image_row], truth.category_id, num_images, grouping)
    truth_order = np.argsort(truth_group, kind="stable")
    group = _groups(truth.image_rank[predictions.image_row], predictions.category_id, num_images, grouping)
    order = _best_per_group(group, predictions.scores)
    group = group[order]

    low, high = np.array(list(area_ranges.values()), np.float64).T[:, :, None]
    outside = (area < low) | (area > high) | ignored  # (A, N)
    pair_detection, pair_truth, pair_oks = _candidates(
        truth, predictions.keypoints[order], group, truth_order, truth_group[truth_order], area, oks_sigmas
    )
    unseen = np.zeros(len(truth), np.bool_)
    if id_0_is_none and ID_0 in truth.instance_ids:
        unseen[truth.instance_ids.index(ID_0)] = True
    matched, on_ignored = _match(
        pair_detection, pair_truth, pair_oks, group, outside, truth.is_crowd, unseen
    )  # (A, T, D) each
    kept_area = detection_area[order]
    off_range = (kept_area < low) | (kept_area > high)  # (A, D)
    excluded = on_ignored | (~matched & off_range[:, None])

    precision = np.full((len(THRESHOLDS), len(RECALLS), len(categories), len(area_ranges)), -1.0)
    recall = np.full((len(THRESHOLDS), len(categories), len(area_ranges)), -1.0)
    bounds = np.searchsorted(group, np.arange(len(categories) + 1) * num_images)
    for column, (start, stop) in enumerate(pairwise(bounds.tolist())):
        of_category = truth_group // num_images == column
        ranking = start + np.argsort(-predictions.scores[order[start:stop]], kind="stable")
        for index in range(len(area_ranges)):
            num_positive = int((of_category & ~outside[index]).sum())
            if num_positive:
                precision[:, :, column, index], recall[:, column, index] = _accumulate(
                    matched[index][:, ranking], excluded[index][:, ranking], num_positive
                )
    return OksResult(precision=precision, recall=recall, categories=categories, areas=tuple(area_ranges))


def pairs_within(
    group: Int[np.ndarray, " D"], ordered_group: Int[np.ndarray, " N"]
) -> tuple[Int[np.ndarray, " P"], Int[np.ndarray, " P"]]:
    """All pairs of rows that share a group.

    Args:
        group: group of each row on the left.
        ordered_group: ascending group of each row on the right.

    Returns:
        Rows on the left, ascending, and rows on the right, ascending within a left row.
    """
    first = np.searchsorted(ordered_group, group, side="left")
    count = np.searchsorted(ordered_group, group, side="right") - first
    left = np.repeat(np.arange(len(group)), count)
    right = np.arange(len(left)) - np.repeat(np.cumsum(count) - count - first, count)
    return left, right


def extent(keypoints: Float[np.ndarray, "D K 2"]) -> Float[np.ndarray, " D"]:
    """(D,) px²: area of the tight box around all points of each detection."""
    size = keypoints.max(axis=1, initial=-np.inf) - keypoints.min(axis=1, initial=np.inf)
    area: NDArray[np.float64] = size[:, 0] * size[:, 1]
    return area


def _groups(
    image_rank: NDArray[np.int64],
    category_id: NDArray[np.int64],
    num_images: int,
    categories: NDArray[np.int64] | None,
) -> NDArray[np.int64]:
    """One number per (category, image), ascending in both; -1 for a category that is not among ``categories``."""
    if categories is None:
        return image_rank
    known = np.isin(category_id, categories)
    return np.where(known, np.searchsorted(categories, category_id) * num_images + image_rank, -1)


def _best_per_group(group: NDArray[np.int64], scores: NDArray[np.float64]) -> NDArray[np.int64]:
    """Rows sorted by group, then by falling score (ties as given), at most 20 per group, unknown groups dropped."""
    order = np.lexsort((-scores, group))
    ordered = group[order]
    rank = np.arange(len(order)) - np.searchsorted(ordered, ordered)
    return order[(rank < MAX_DETECTIONS) & (ordered >= 0)]


def _candidates(
    truth: GroundTruth,
    keypoints: NDArray[np.float64],
    group: NDArray[np.int64],
    truth_order: NDArray[np.int64],
    ordered_truth_group: NDArray[np.int64],
    area: NDArray[np.float64],
    oks_sigmas: NDArray[np.float64],
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """All pairs within a group that could match at the lowest threshold.

    Sorted by detection, and within a detection so that the later pair is preferred: higher OKS, and at equal OKS the
    later annotation, as in pycocotools.
    """
    detection, position = pairs_within(group, ordered_truth_group)
    annotation = truth_order[position]

    labelled: NDArray[np.bool_] = truth.visibility > 0
    has_points: NDArray[np.bool_] = labelled.sum(axis=1) > 0
    oks = np.empty(len(detection))
    step = max(1, _CHUNK // keypoints.shape[1])
    for first in range(0, len(detection), step):
        pairs = np.arange(first, min(first + step, len(detection)))
        with_points = pairs[has_points[annotation[pairs]]]
        reference = annotation[with_points]
        oks[with_points] = similarity(
            keypoints[detection[with_points]],
            truth.keypoints[reference],
            labelled[reference],
            area[reference],
            oks_sigmas,
        )
        region_only = pairs[~has_points[annotation[pairs]]]
        reference = annotation[region_only]
        oks[region_only] = similarity_to_region(
            keypoints[detection[region_only]], truth.bbox_xywh[reference], area[reference], oks_sigmas
        )
    close = np.flatnonzero(oks >= THRESHOLDS[0])
    close = close[np.lexsort((position[close], oks[close], detection[close]))]
    return detection[close], annotation[close], oks[close]


def _match(
    pair_detection: NDArray[np.int64],
    pair_truth: NDArray[np.int64],
    pair_oks: NDArray[np.float64],
    group: NDArray[np.int64],
    outside: NDArray[np.bool_],
    is_crowd: NDArray[np.bool_],
    unseen: NDArray[np.bool_],
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Greedy matching by falling score, at every area range and threshold together.

    A detection takes its preferred free annotation among those that count; only if there is none, one of the ignored.
    A crowd is never used up. Whoever takes an unseen annotation has no partner, and it is used up.

    Returns:
        (A, T, D) whether a detection found a partner, and whether that partner is ignored in that area range.
    """
    num_areas, num_thresholds, num_pairs, num_truth = len(outside), len(THRESHOLDS), len(pair_oks), len(unseen)
    thresholds = np.minimum(THRESHOLDS, 1 - 1e-10)[None, :, None]
    taken = np.zeros((num_areas, num_thresholds, num_truth), np.bool_)
    matched = np.zeros((num_areas, num_thresholds, len(group)), np.bool_)
    on_ignored = np.zeros_like(matched)

    # Round of a pair = position of its detection among the detections of its group that have any candidate.
    detections, starts = np.unique(pair_detection, return_index=True)
    stops = np.append(starts[1:], num_pairs)
    busy_group = group[detections]
    turn = np.arange(len(detections)) - np.searchsorted(busy_group, busy_group)
    for round_number in np.unique(turn):
        now = np.flatnonzero(turn == round_number)
        sizes = stops[now] - starts[now]
        segment = np.cumsum(sizes) - sizes
        pairs = np.arange(sizes.sum()) + np.repeat(starts[now] - segment, sizes)
        annotation = pair_truth[pairs]
        possible = (pair_oks[pairs] >= thresholds) & (~taken[:, :, annotation] | is_crowd[annotation])
        # Later pairs are preferred, and any annotation that counts before any that is ignored.
        preference = pairs + np.where(outside[:, annotation], 0, num_pairs)[:, None]
        best = np.maximum.reduceat(np.where(possible, preference, -1), segment, axis=2)
        area, threshold, column = np.nonzero(best >= 0)
        chosen = best[area, threshold, column]
        taken[area, threshold, pair_truth[chosen % num_pairs]] = True
        matched[area, threshold, detections[now][column]] = ~unseen[pair_truth[chosen % num_pairs]]
        on_ignored[area, threshold, detections[now][column]] = chosen < num_pairs
    return matched, on_ignored


def _accumulate(
    matched: NDArray[np.bool_], excluded: NDArray[np.bool_], num_positive: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Interpolated precision (T, R) and final recall (T,) of detections ranked by falling score, (T, D) each."""
    found = np.cumsum(matched & ~excluded, axis=1)
    wrong = np.cumsum(~matched & ~excluded, axis=1)
    recall = found / num_positive
    raw = found / (found + wrong + np.spacing(1))
    envelope = np.maximum.accumulate(raw[:, ::-1], axis=1)[:, ::-1]
    # One column beyond the last detection: recalls never reached have precision 0.
    envelope = np.concatenate([envelope, np.zeros((len(envelope), 1))], axis=1)
    reached = np.stack([np.searchsorted(row, RECALLS) for row in recall])
    precision = np.take_along_axis(envelope, reached, axis=1)
    final = recall[:, -1] if recall.shape[1] else np.zeros(len(recall))
    return precision, final


def _mean(values: NDArray[np.float64]) -> float:
    """Mean over the values that could be judged, -1 if there are none."""
    judged = values[values > -1]
    return float(judged.mean()) if judged.size else -1.0
