"""Object keypoint similarity, and COCO's AP and AR over it, for all images at once.

The numbers are those of pycocotools 2.0 (``cocoeval.py``, iouType "keypoints"); only the order of work differs. Instead
of a loop over images, thresholds, detections and annotations there is one list of candidate pairs, and matching runs
in rounds: round r gives every image's r-th best detection its partner, at every threshold and area range together.
One difference: pycocotools (and faster-coco-eval) take a match with an annotation of id 0 for no match; here a match
is a match, unless ``id_0_is_none`` asks for their figure.

Measured by ``benchmarks/evaluation.py``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray

from posecore.evaluation.arrays import GroundTruth, Predictions, check_fit

THRESHOLDS: NDArray[np.float64] = np.linspace(0.5, 0.95, 10)
RECALLS: NDArray[np.float64] = np.linspace(0.0, 1.0, 101)
MAX_DETECTIONS = 20
ID_0 = "0"
OFFICIAL = "pycocotools/"
"""Begins the names of figures that pycocotools has otherwise, because of the annotation of id 0, and of those alone."""
AREA_RANGES: Mapping[str, tuple[float, float]] = {
    "all": (0.0, 1e5**2),
    "medium": (32.0**2, 96.0**2),
    "large": (96.0**2, 1e5**2),
}

AP_METRICS = ("AP", "AP50", "AP75", "AR")
"""Those that :meth:`Matching.of_resample` tells."""

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


def beside_official(metrics: Mapping[str, float], official: Mapping[str, float]) -> dict[str, float]:
    """The metrics, and beside them pycocotools' own where these differ."""
    return {**metrics, **{f"{OFFICIAL}{name}": value for name, value in official.items() if value != metrics[name]}}


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


@dataclass(frozen=True, kw_only=True, eq=False)
class Candidates:
    """Detections without their points: what matching looks at.

    Attributes:
        image_row: (D,) position in the ground truth's ``image_ids``.
        category_id: (D,) class numbers.
        scores: (D,) confidence, by which they are ranked.
        area: (D,) px² by which an unmatched one counts in an area range.
        pair_detection: (P,) row of a detection that could match at the lowest threshold.
        pair_truth: (P,) row of the annotation it could match; ascending by ``truth_rank`` within a detection.
        pair_oks: (P,) of the two.
    """

    image_row: Int[np.ndarray, " D"]
    category_id: Int[np.ndarray, " D"]
    scores: Float[np.ndarray, " D"]
    area: Float[np.ndarray, " D"]
    pair_detection: Int[np.ndarray, " P"]
    pair_truth: Int[np.ndarray, " P"]
    pair_oks: Float[np.ndarray, " P"]

    def of_oks(self, least: float) -> "Candidates":
        """The same detections with the pairs of a least OKS."""
        close = self.pair_oks >= least
        pairs = {field: getattr(self, field)[close] for field in ("pair_detection", "pair_truth", "pair_oks")}
        return replace(self, **pairs)

    @classmethod
    def concatenate(cls, parts: "Sequence[Candidates]") -> "Candidates":
        """The detections of all parts in order."""
        starts = np.cumsum([0, *(len(part.scores) for part in parts)])
        columns = {field.name: [getattr(part, field.name) for part in parts] for field in fields(cls)}
        columns["pair_detection"] = [
            rows + start for rows, start in zip(columns["pair_detection"], starts, strict=False)
        ]
        return cls(**{name: np.concatenate(values) for name, values in columns.items()})


class PairFinder:
    """Finds what detections could match, some detections at a time.

    Args:
        truth: annotations.
        oks_sigmas: per-keypoint constants.
        area: (N,) px² that OKS divides by.
        per_category: within categories, instead of taking all for one class.
    """

    def __init__(
        self,
        truth: GroundTruth,
        oks_sigmas: Float[np.ndarray, " K"],
        area: Float[np.ndarray, " N"],
        *,
        per_category: bool = False,
    ) -> None:
        self._truth, self._sigmas, self._area = truth, oks_sigmas, area
        self._categories = np.unique(truth.category_id) if per_category else None
        group = self._groups(truth.image_row, truth.category_id)
        self._truth_order = np.argsort(group, kind="stable")
        self._ordered_group = group[self._truth_order]
        self._labelled: NDArray[np.bool_] = truth.visibility > 0
        self._has_points = np.asarray(self._labelled.any(axis=1))

    def find(
        self,
        image_row: Int[np.ndarray, " D"],
        category_id: Int[np.ndarray, " D"],
        scores: Float[np.ndarray, " D"],
        keypoints: Float[np.ndarray, "D K 2"],
        detection_area: Float[np.ndarray, " D"] | None = None,
        least_oks: float = float(THRESHOLDS[0]),
    ) -> Candidates:
        """Detections with all pairs of a least OKS; by default those that could match at the lowest threshold.

        Sorted by detection, and within a detection so that the later pair is preferred: higher OKS, and at equal OKS
        the later annotation, as in pycocotools.
        """
        detection, position = pairs_within(self._groups(image_row, category_id), self._ordered_group)
        annotation = self._truth_order[position]
        oks = np.empty(len(detection))
        step = max(1, _CHUNK // keypoints.shape[1])
        for first in range(0, len(detection), step):
            pairs = slice(first, min(first + step, len(detection)))
            oks[pairs] = self._similarity(keypoints[detection[pairs]], annotation[pairs])
        close = np.flatnonzero(oks >= least_oks)
        close = close[np.lexsort((position[close], oks[close], detection[close]))]
        return Candidates(
            image_row=image_row,
            category_id=category_id,
            scores=scores,
            area=extent(keypoints) if detection_area is None else detection_area,
            pair_detection=detection[close],
            pair_truth=annotation[close],
            pair_oks=oks[close],
        )

    def _similarity(self, points: NDArray[np.float64], reference: NDArray[np.int64]) -> NDArray[np.float64]:
        truth, oks = self._truth, np.empty(len(points))
        known = self._has_points[reference]
        labelled, unlabelled = reference[known], reference[~known]
        oks[known] = similarity(
            points[known], truth.keypoints[labelled], self._labelled[labelled], self._area[labelled], self._sigmas
        )
        oks[~known] = similarity_to_region(
            points[~known], truth.bbox_xywh[unlabelled], self._area[unlabelled], self._sigmas
        )
        return oks

    def _groups(self, image_row: NDArray[np.int64], category_id: NDArray[np.int64]) -> NDArray[np.int64]:
        truth = self._truth
        return _groups(truth.image_rank[image_row], category_id, len(truth.image_ids), self._categories)


@dataclass(frozen=True, kw_only=True, eq=False)
class Matching:
    """Who found whom, at every area range and threshold; kept are the best 20 detections per image and category.

    Attributes:
        detection: (D,) rows of the kept detections, ordered by category and image, best first.
        image_row: (D,) of each.
        scores: (D,) of each.
        matched: (A, T, D) whether it found an annotation.
        excluded: (A, T, D) whether it counts neither as right nor as wrong.
        found: (A, T, N) whether an annotation was found.
        outside: (A, N) whether an annotation need not be found.
        truth_image_row: (N,) image of each annotation.
        truth_column: (N,) position of its category.
        rankings: of each category, its detections by falling score, ties as given.
        categories: (C,) the category numbers.
        areas: A names of the area ranges.
    """

    detection: Int[np.ndarray, " D"]
    image_row: Int[np.ndarray, " D"]
    scores: Float[np.ndarray, " D"]
    matched: Bool[np.ndarray, "A T D"]
    excluded: Bool[np.ndarray, "A T D"]
    found: Bool[np.ndarray, "A T N"]
    outside: Bool[np.ndarray, "A N"]
    truth_image_row: Int[np.ndarray, " N"]
    truth_column: Int[np.ndarray, " N"]
    rankings: tuple[Int[np.ndarray, " _"], ...]
    categories: Int[np.ndarray, " C"]
    areas: tuple[str, ...]

    def of_area(self, name: str) -> "Matching":
        """The same for one area range alone."""
        only = [self.areas.index(name)]
        flags = {field: getattr(self, field)[only] for field in ("matched", "excluded", "found", "outside")}
        return replace(self, areas=(name,), **flags)

    @cached_property
    def whole(self) -> OksResult:
        """Precision and recall over all images."""
        return self.result()

    def result(self, images: Float[np.ndarray, " I"] | Bool[np.ndarray, " I"] | None = None) -> OksResult:
        """Precision and recall.

        Args:
            images: how often each image counts: a choice of images, or a resample; None is once each.
        """
        shape = len(THRESHOLDS), len(RECALLS), len(self.categories), len(self.areas)
        precision = np.full(shape, -1.0)
        recall = np.full((shape[0], *shape[2:]), -1.0)
        weight = None if images is None else np.asarray(images, np.float64)
        of_truth = np.ones(len(self.truth_column)) if weight is None else weight[self.truth_image_row]
        for column, ranking in enumerate(self.rankings):
            if weight is not None:
                ranking = ranking[weight[self.image_row[ranking]] > 0]
            of_detection = None if weight is None else weight[self.image_row[ranking]]
            for index in range(len(self.areas)):
                wanted = (self.truth_column == column) & ~self.outside[index]
                if (num_positive := float(of_truth[wanted].sum())) > 0:
                    precision[:, :, column, index], recall[:, column, index] = _accumulate(
                        self.matched[index], self.excluded[index], ranking, of_detection, num_positive
                    )
        return OksResult(precision=precision, recall=recall, categories=self.categories, areas=self.areas)

    def of_resample(self, images: Float[np.ndarray, " I"]) -> dict[str, float]:
        """:data:`AP_METRICS`, each image as often as it says; NaN where nothing can be judged.

        Fastest of :meth:`of_area` "all", which is all it looks at.
        """
        summary = self.result(images).summary()
        return {name: summary[name] if summary[name] > -1 else np.nan for name in AP_METRICS}


class Ranking:
    """Detections put in order once, to be matched over any area ranges; of each image and category the best 20.

    Args:
        truth: annotations.
        candidates: detections.
        per_category: match within categories, instead of taking all for one class.
    """

    def __init__(self, truth: GroundTruth, candidates: Candidates, *, per_category: bool = False) -> None:
        self._truth = truth
        self._categories: NDArray[np.int64] = np.unique(truth.category_id) if per_category else np.zeros(1, np.int64)
        num_images = len(truth.image_ids)
        grouping = self._categories if per_category else None
        truth_group = _groups(truth.image_rank[truth.image_row], truth.category_id, num_images, grouping)
        self._truth_column = truth_group // max(num_images, 1)
        group = _groups(truth.image_rank[candidates.image_row], candidates.category_id, num_images, grouping)
        self._order = order = _best_per_group(group, candidates.scores)
        self._group = group[order]
        self._image_row, self._scores = candidates.image_row[order], candidates.scores[order]
        self._area = candidates.area[order]
        place = np.full(len(candidates.scores), -1, np.int64)
        place[order] = np.arange(len(order))
        kept = np.flatnonzero(place[candidates.pair_detection] >= 0)
        kept = kept[np.argsort(place[candidates.pair_detection[kept]], kind="stable")]
        self._pairs = place[candidates.pair_detection[kept]], candidates.pair_truth[kept], candidates.pair_oks[kept]
        bounds = np.searchsorted(self._group, np.arange(len(self._categories) + 1) * num_images)
        self._rankings = tuple(
            start + np.argsort(-self._scores[start:stop], kind="stable") for start, stop in pairwise(bounds.tolist())
        )

    def match(
        self,
        *,
        area: Float[np.ndarray, " N"],
        ignored: Bool[np.ndarray, " N"],
        area_ranges: Mapping[str, tuple[float, float]] = AREA_RANGES,
        id_0_is_none: bool = False,
    ) -> Matching:
        """Gives every image's detections their partners; the arguments are those of :func:`evaluate_oks`."""
        truth = self._truth
        low, high = np.array(list(area_ranges.values()), np.float64).T[:, :, None]
        outside = (area < low) | (area > high) | ignored | truth.is_crowd  # (A, N)
        unseen = np.zeros(len(truth), np.bool_)
        if id_0_is_none and ID_0 in truth.instance_ids:
            unseen[truth.instance_ids.index(ID_0)] = True
        matched, on_ignored, found = _match(*self._pairs, self._group, outside, truth.is_crowd, unseen)
        off_range = (self._area < low) | (self._area > high)  # (A, D)
        on_ignored |= ~matched & off_range[:, None]
        return Matching(
            detection=self._order,
            image_row=self._image_row,
            scores=self._scores,
            matched=matched,
            excluded=on_ignored,
            found=found,
            outside=outside,
            truth_image_row=truth.image_row,
            truth_column=self._truth_column,
            rankings=self._rankings,
            categories=self._categories,
            areas=tuple(area_ranges),
        )


def match_predictions(
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
) -> Matching:
    """COCO's matching with at most 20 detections per image and category.

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
    finder = PairFinder(truth, oks_sigmas, area, per_category=per_category)
    candidates = finder.find(
        predictions.image_row, predictions.category_id, predictions.scores, predictions.keypoints, detection_area
    )
    ranking = Ranking(truth, candidates, per_category=per_category)
    return ranking.match(area=area, ignored=ignored, area_ranges=area_ranges, id_0_is_none=id_0_is_none)


def evaluate_oks(
    truth: GroundTruth, predictions: Predictions, oks_sigmas: Float[np.ndarray, " K"], **rules: Any
) -> OksResult:
    """COCO's keypoint evaluation; the arguments and errors are those of :func:`match_predictions`."""
    return match_predictions(truth, predictions, oks_sigmas, **rules).result()


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
    columns = np.ascontiguousarray(keypoints.transpose(1, 2, 0))  # along the first axis numpy takes whole rows at once
    width, height = columns.max(axis=0, initial=-np.inf) - columns.min(axis=0, initial=np.inf)
    area: NDArray[np.float64] = width * height
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


def _match(
    pair_detection: NDArray[np.int64],
    pair_truth: NDArray[np.int64],
    pair_oks: NDArray[np.float64],
    group: NDArray[np.int64],
    outside: NDArray[np.bool_],
    is_crowd: NDArray[np.bool_],
    unseen: NDArray[np.bool_],
) -> tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.bool_]]:
    """Greedy matching by falling score, at every area range and threshold together.

    A detection takes its preferred free annotation among those that count; only if there is none, one of the ignored.
    A crowd is never used up. Whoever takes an unseen annotation has no partner, and it is used up.

    Returns:
        (A, T, D) whether a detection found a partner, and whether that partner is ignored in that area range; (A, T, N)
        whether an annotation was taken.
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
    return matched, on_ignored, taken


def _accumulate(
    matched: NDArray[np.bool_],
    excluded: NDArray[np.bool_],
    ranking: NDArray[np.int64],
    weight: NDArray[np.float64] | None,
    num_positive: float,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Interpolated precision (T, R) and final recall (T,) of detections ranked by falling score; flags are (T, D).

    Looked at are those that found somebody: between two of them recall stays and precision only falls.
    """
    precision, final = np.zeros((len(matched), len(RECALLS))), np.zeros(len(matched))
    for index, (partners, left_out) in enumerate(zip(matched, excluded, strict=True)):  # one at a time: memory
        counted = ~left_out[ranking]
        right = np.flatnonzero(partners[ranking] & counted)
        if weight is None:
            found, judged = np.arange(1, len(right) + 1), np.cumsum(counted)[right]
        else:
            found, judged = np.cumsum(weight[right]), np.cumsum(counted * weight)[right]
        recall = found / num_positive
        raw = found / (judged + np.spacing(1))
        # One place beyond the last of them: recalls never reached have precision 0.
        envelope = np.append(np.maximum.accumulate(raw[::-1])[::-1], 0.0)
        precision[index] = envelope[np.searchsorted(recall, RECALLS)]
        final[index] = recall[-1] if len(recall) else 0.0
    return precision, final


def _mean(values: NDArray[np.float64]) -> float:
    """Mean over the values that could be judged, -1 if there are none."""
    judged = values[values > -1]
    return float(judged.mean()) if judged.size else -1.0
