"""OKS protocols over results of any size: points are looked at once, and what is kept of them is what matching needs.

Numbers are those of :func:`posecore.evaluation.protocols.evaluate` on the same detections; no detection's points are
held, but for the one nearest to each annotation.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray

from posecore.errors import EvaluationError
from posecore.evaluation.arrays import GroundTruth, Predictions
from posecore.evaluation.crowdpose import crowdpose_metrics, require_crowd_index
from posecore.evaluation.oks import (
    AREA_RANGES,
    ID_0,
    THRESHOLDS,
    Candidates,
    Matching,
    OksResult,
    PairFinder,
    Ranking,
    beside_official,
    extent,
)
from posecore.evaluation.wholebody import PARTS
from posecore.schema import AreaRule
from posecore.scoring.blocks import Block
from posecore.skeletons.skeleton import Skeleton

SIZES: Mapping[str, tuple[float, float]] = {
    "below 32²": (0.0, 32.0**2),
    "32² to 64²": (32.0**2, 64.0**2),
    "64² to 96²": (64.0**2, 96.0**2),
    "96² to 192²": (96.0**2, 192.0**2),
    "above 192²": (192.0**2, 1e10),
}
"""Of the table by size, beside all, in px² of what OKS divides by; the official ranges are among the metrics."""
ANSWERED_FROM = 0.1
"""A body to which no detection has this OKS has no answer whose errors would mean anything."""
_WHOLE = "wholebody"


@dataclass(frozen=True, kw_only=True)
class OksRules:
    """What protocols that rank by OKS differ in.

    Attributes:
        per_category: match within categories, and average over them.
        area: what OKS divides by.
        parts: COCO-WholeBody's six evaluations.
        crowding: CrowdPose's images by how crowded they are.
    """

    per_category: bool = False
    area: AreaRule = "annotated"
    parts: bool = False
    crowding: bool = False


@dataclass(frozen=True, kw_only=True, eq=False)
class OksOutcome:
    """What a file of results came to.

    Attributes:
        metrics: by the protocol, with pycocotools' figure where an annotation of id 0 makes another.
        matching: over all points and sizes.
        near: (D,) of each detection, in the file's order, whether it has an OKS of 0.5 to anybody.
        num_strange: detections of a category that the annotations do not have.
        answers: for each annotation, the detection of the highest OKS, from :data:`ANSWERED_FROM` on; ``instance_row``
            names the annotation.
        answer_oks: (A,) of each.
        area: (N,) px² that OKS divides by.
    """

    metrics: dict[str, float]
    matching: Matching
    near: Bool[np.ndarray, " D"]
    num_strange: int
    answers: Predictions
    answer_oks: Float[np.ndarray, " A"]
    area: Float[np.ndarray, " N"]


class OksJudge:
    """Takes blocks of results and judges them when all are taken.

    Args:
        truth: annotations.
        skeleton: names the points and has their OKS constants.
        rules: of the protocol.

    Raises:
        EvaluationError: a point has no OKS constant, or the annotations lack what the rules ask for.
    """

    def __init__(self, truth: GroundTruth, skeleton: Skeleton, rules: OksRules) -> None:
        sigmas = skeleton.oks_sigmas
        if sigmas is None:
            raise EvaluationError(
                f"skeleton {skeleton.name} has points without an OKS constant; give each an oks_sigma, or score by the "
                "torso or pixel protocol."
            )
        if rules.crowding:
            require_crowd_index(truth)
        self._truth, self._rules = truth, rules
        self._area = truth.scale_area(rules.area)
        wanted = truth.num_keypoints > 0
        if np.isnan(self._area[wanted & ~truth.is_crowd]).any():
            raise EvaluationError("annotations have no area, which OKS divides by; name another: --area box_053.")
        self._body = list(skeleton.indices_of_group("body")) if rules.parts else []
        named = PARTS.items() if rules.parts else [(_WHOLE, ())]
        chosen = {name: list(skeleton.indices_of_group(groups)) for name, groups in named}
        every = list(range(skeleton.num_keypoints))
        self._points = {name: points or every for name, points in chosen.items() if points or not rules.parts}
        self._truths = {name: self._of_part(points) for name, points in self._points.items()}
        self._finders = {
            name: PairFinder(self._truths[name], sigmas[points], self._area, per_category=rules.per_category)
            for name, points in self._points.items()
        }
        self._found: dict[str, list[Candidates]] = {name: [] for name in self._points}
        self._rankings: dict[str, Ranking] = {}
        self._nearest = _Nearest(len(truth), skeleton.num_keypoints)

    def take(self, block: Block) -> None:
        """Looks at some entries."""
        size = extent(block.keypoints[:, self._body]) if self._body else None
        for name, points in self._points.items():
            scores = block.scores if name == "body" else block.part_scores.get(name, block.scores)
            keypoints = block.keypoints if len(points) == block.keypoints.shape[1] else block.keypoints[:, points]
            least = ANSWERED_FROM if name == _WHOLE else THRESHOLDS[0]
            found = self._finders[name].find(block.image_row, block.category_id, scores, keypoints, size, least)
            if name == _WHOLE:
                self._nearest.look_at(found, block)
                found = found.of_oks(THRESHOLDS[0])
            self._found[name].append(found)

    def outcome(self) -> OksOutcome:
        """Judges everything that was taken."""
        known, near, num_strange = np.unique(self._truth.category_id), np.zeros(0, np.bool_), 0
        for name in self._points:
            candidates = Candidates.concatenate(self._found.pop(name))
            self._rankings[name] = Ranking(self._truths[name], candidates, per_category=self._rules.per_category)
            if name == _WHOLE:
                near = np.zeros(len(candidates.scores), np.bool_)
                near[candidates.pair_detection] = True
                num_strange = int((~np.isin(candidates.category_id, known)).sum()) if len(known) else 0
        whole, metrics = self._metrics(id_0_is_none=False)
        if ID_0 in self._truth.instance_ids:
            _, theirs = self._metrics(id_0_is_none=True)
            metrics = beside_official(metrics, theirs)
        answers, oks = self._nearest.answers(self._truth.image_ids, self._truth.image_row)
        return OksOutcome(
            metrics=metrics,
            matching=whole,
            near=near,
            num_strange=num_strange,
            answers=answers,
            answer_oks=oks,
            area=self._area,
        )

    def by_size(self, whole: Matching) -> Iterator[tuple[str, Matching]]:
        """The matching over all sizes, and one over each of :data:`SIZES`, one after the other.

        Each takes 20 bytes for a detection.
        """
        yield "all", whole
        for name, limits in SIZES.items():
            yield name, self._match(_WHOLE, {name: limits})

    def _metrics(self, *, id_0_is_none: bool) -> tuple[Matching, dict[str, float]]:
        """The matching of all sizes over all points, and what the protocol says."""
        whole, result = self._judged(_WHOLE, id_0_is_none)
        if self._rules.crowding:
            return whole, crowdpose_metrics(self._truth, whole)
        metrics = result.summary()
        if self._rules.parts:
            for name in self._points:
                of_part = result if name == _WHOLE else self._judged(name, id_0_is_none)[1]
                metrics |= {f"{name}/{key}": value for key, value in of_part.summary().items()}
        elif self._rules.per_category and len(result.categories) > 1:
            metrics |= {f"AP/category_{number}": ap for number, ap in result.ap_per_category().items()}
        return whole, metrics

    def _judged(self, name: str, id_0_is_none: bool) -> tuple[Matching, OksResult]:
        """The matching of all sizes, and the result over the official ones, of which one at a time is in memory."""
        whole, *sizes = AREA_RANGES.items()
        matching = self._match(name, dict([whole]), id_0_is_none=id_0_is_none)
        results = [matching.whole]
        if not self._rules.crowding:
            results += [self._match(name, dict([size]), id_0_is_none=id_0_is_none).whole for size in sizes]
        joined = OksResult(
            precision=np.concatenate([result.precision for result in results], axis=3),
            recall=np.concatenate([result.recall for result in results], axis=2),
            categories=results[0].categories,
            areas=tuple(area for result in results for area in result.areas),
        )
        return matching, joined

    def _match(
        self,
        name: str,
        area_ranges: Mapping[str, tuple[float, float]],
        *,
        id_0_is_none: bool = False,
    ) -> Matching:
        truth = self._truths[name]
        ignored = (truth.visibility == 0).all(axis=1) if self._rules.parts else truth.num_keypoints == 0
        return self._rankings[name].match(
            area=self._area, ignored=ignored, area_ranges=area_ranges, id_0_is_none=id_0_is_none
        )

    def _of_part(self, points: list[int]) -> GroundTruth:
        truth = self._truth
        if len(points) == truth.keypoints.shape[1]:
            return truth
        return replace(truth, keypoints=truth.keypoints[:, points], visibility=truth.visibility[:, points])


class _Nearest:
    """For each annotation the detection of the highest OKS so far, the first of equals."""

    def __init__(self, num_annotations: int, num_keypoints: int) -> None:
        self._oks = np.full(num_annotations, -1.0)
        self._points = np.zeros((num_annotations, num_keypoints, 3))
        self._scores = np.zeros(num_annotations)
        self._category_id = np.zeros(num_annotations, np.int64)

    def look_at(self, found: Candidates, block: Block) -> None:
        order = np.lexsort((-found.pair_detection, found.pair_oks, found.pair_truth))
        annotation = found.pair_truth[order]
        last = order[np.flatnonzero(np.append(np.diff(annotation) != 0, len(annotation) > 0))]
        better = last[found.pair_oks[last] > self._oks[found.pair_truth[last]]]
        row, detection = found.pair_truth[better], found.pair_detection[better]
        self._oks[row] = found.pair_oks[better]
        self._points[row, :, :2] = block.keypoints[detection]
        self._points[row, :, 2] = block.keypoint_scores[detection]
        self._scores[row] = block.scores[detection]
        self._category_id[row] = block.category_id[detection]

    def answers(
        self, image_ids: tuple[str, ...], image_row: Int[np.ndarray, " N"]
    ) -> tuple[Predictions, NDArray[np.float64]]:
        rows = np.flatnonzero(self._oks >= 0)
        answers = Predictions(
            image_ids=image_ids,
            image_row=image_row[rows],
            instance_row=rows,
            keypoints=self._points[rows, :, :2],
            keypoint_scores=self._points[rows, :, 2],
            scores=self._scores[rows],
            category_id=self._category_id[rows],
            crop_area=np.full(len(rows), np.nan),
        )
        return answers, self._oks[rows]
