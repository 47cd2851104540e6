"""What a clinic asks of a model: how far off in torso lengths, how often near enough, whom it misses, how sure it is.

All errors are distances divided by the body's own neck-to-mid-hip length from the annotation (Gama et al., Behav. Res.
Meth. 57:280, 2025), which needs no constants of adult bodies. Every number comes with an interval from resampled
subjects (:mod:`posecore.evaluation.bootstrap`), for the whole set and for each joint, view, posture and subject. What
the records do not state is a group of its own, never a guess.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import orjson
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from pydantic import Field, TypeAdapter, ValidationError

from posecore.config import Config
from posecore.counting import counted
from posecore.datasets.definition import EvaluationDefinition
from posecore.errors import EvaluationError
from posecore.evaluation.arrays import GroundTruth, Predictions, check_fit
from posecore.evaluation.bootstrap import BootstrapSettings, Estimate, Number, bootstrap_by_subject
from posecore.evaluation.calibration import ReliabilityBin, bin_sums, calibration_errors, reliability_bins
from posecore.evaluation.oks import pairs_within
from posecore.evaluation.pairing import paired_distances
from posecore.evaluation.torso import torso_lengths
from posecore.evaluation.traits import NOT_STATED, Traits, Unit
from posecore.skeletons.skeleton import Skeleton

NECK_UNION_NAMES = ("left_shoulder", "right_shoulder")
HIP_UNION_NAMES = ("left_hip", "right_hip")


class ClinicalSettings(Config):
    """What is reported, and what counts as what.

    Attributes:
        thresholds: PCK is given at these shares of the torso; a point exactly at the limit counts.
        right_within: for calibration, a point is right if it lies within this share of the torso.
        found_within: on detected boxes, a body is found if a prediction lies, on average over its labelled points (each
            counted as one torso at most), within this share of the torso.
        least_score: on detected boxes, predictions below this score count as no answer.
        bootstrap: how intervals are made.
    """

    thresholds: tuple[float, ...] = Field(default=(0.05, 0.1, 0.2, 0.5), min_length=1)
    right_within: float = Field(default=0.2, gt=0)
    found_within: float = Field(default=0.5, gt=0, le=1)
    least_score: float = Field(default=0.2, ge=0)
    bootstrap: BootstrapSettings = BootstrapSettings()


@dataclass(frozen=True, kw_only=True)
class GroupResult:
    """One row of a table: some of the labelled points.

    Attributes:
        name: of the group.
        units: subjects, or what stands for them, with a body in it.
        instances: bodies in it.
        points: labelled points in it.
        error: mean error in torso lengths, over points of bodies that were found.
        pck: share of the torso → share of labelled points within it; points of missed bodies count as not within.
        missed: share of bodies without an answer; None where boxes were given, so that none could be missed.
        sums: unit → what adds up over units, as :func:`group_values` takes it; intervals come from these alone.
    """

    name: str
    units: int
    instances: int
    points: int
    error: Estimate
    pck: Mapping[float, Estimate]
    missed: Estimate | None
    sums: Mapping[str, Sequence[float]]


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Whether confidences mean what they say, on the labelled points of bodies that were found.

    Attributes:
        bins: the reliability diagram.
        expected_error: expected calibration error. It cannot be negative and is biased upwards on small samples.
        surplus: mean confidence minus share right: above 0 the model is too sure of itself.
        beyond: points whose confidence lies outside [0, 1]; they count as 0 or 1.
    """

    bins: Sequence[ReliabilityBin]
    expected_error: Estimate
    surplus: Estimate
    beyond: int


@dataclass(frozen=True, kw_only=True)
class ClinicalResult:
    """The section "for clinics" of one evaluation set.

    Attributes:
        settings: what it was made with.
        whole: everything judged.
        by: ``keypoint``, ``view``, ``posture`` and ``subject`` → its groups, those of which nothing is stated last. A
            trait the records never state is not there.
        not_recorded: traits the records never state.
        units: what was resampled as one → how many of them.
        without_torso: labelled bodies that are not judged, because neck or hips are not labelled.
        redundant: predictions that answer no body, on images whose every body was judged; None where boxes were given.
        median_error: median error in torso lengths over answered points.
        mean_over_subjects: mean over subjects of each subject's mean error; all subjects weigh alike.
        calibration: of the confidences.
    """

    settings: ClinicalSettings
    whole: GroupResult
    by: Mapping[str, Sequence[GroupResult]]
    not_recorded: Sequence[str]
    units: Mapping[Unit, int]
    without_torso: int
    redundant: int | None
    median_error: Number
    mean_over_subjects: Estimate
    calibration: Calibration

    def to_json(self) -> bytes:
        """Everything as JSON text; a value that does not exist is null."""
        options = orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS
        return orjson.dumps(self, default=lambda settings: settings.model_dump(), option=options)

    @classmethod
    def from_json(cls, text: bytes, origin: str) -> "ClinicalResult":
        """Reads what :meth:`to_json` wrote.

        Args:
            text: the file's content.
            origin: the file, for error messages.

        Raises:
            EvaluationError: it is no such text.
        """
        try:
            return TypeAdapter(cls).validate_json(text)
        except ValidationError as error:
            found = error.errors()[0]
            raise EvaluationError(
                f"{origin}: {'.'.join(map(str, found['loc']))}: {found['msg']}; evaluate the model again."
            ) from None

    def headline(self) -> dict[str, float]:
        """Metric name → value for the whole set, for records and gates; what does not exist is not there.

        ``torso/error``, the mean error in torso lengths, with its interval, ``torso/error_low`` and
        ``torso/error_high``; ``torso/error_over_subjects``, where all subjects weigh alike; ``torso/error_median``;
        ``torso/PCK_<limit>``; ``torso/ECE``, the expected calibration error, and ``torso/overconfidence``, the mean
        confidence minus the share right; where boxes were detected, ``torso/missed``, a share, and ``torso/redundant``,
        a number.
        """
        whole, calibration = self.whole, self.calibration
        values = {
            "error": whole.error.value,
            "error_low": whole.error.low,
            "error_high": whole.error.high,
            "error_over_subjects": self.mean_over_subjects.value,
            "error_median": self.median_error,
            **{f"PCK_{limit:g}": pck.value for limit, pck in whole.pck.items()},
            "ECE": calibration.expected_error.value,
            "overconfidence": calibration.surplus.value,
        }
        if whole.missed is not None and self.redundant is not None:
            values |= {"missed": whole.missed.value, "redundant": float(self.redundant)}
        return {f"torso/{name}": value for name, value in values.items() if np.isfinite(value)}


def group_metrics(result: ClinicalResult) -> dict[str, float]:
    """``torso/error/<trait>/<group>`` → mean error in torso lengths, of every group that has one.

    Single points have a table of their own, and single subjects are not named where withdrawals do not reach.
    """
    return {
        f"torso/error/{trait}/{group.name}": group.error.value
        for trait, groups in result.by.items()
        if trait not in ("keypoint", "subject")
        for group in groups
        if np.isfinite(group.error.value)
    }


def torso_points(definition: EvaluationDefinition, skeleton: Skeleton) -> tuple[Sequence[str], Sequence[str]] | None:
    """Native names of the points of the neck and of the mid-hip, or None if the skeleton has no such points.

    Those the torso protocol of the definition names, else the skeleton's shoulders and hips by their union names.
    """
    stated = definition.options if definition.protocol == "torso" else {}
    ends = []
    for end, union_names in (("neck", NECK_UNION_NAMES), ("hip", HIP_UNION_NAMES)):
        if end in stated:
            ends.append(tuple(stated[end]))
        elif set(union_names) <= set(skeleton.union_names):
            ends.append(tuple(skeleton.names[skeleton.union_names.index(name)] for name in union_names))
    return (ends[0], ends[1]) if len(ends) == 2 else None


def require_torso(definition: EvaluationDefinition, skeleton: Skeleton) -> tuple[Sequence[str], Sequence[str]]:
    """What :func:`torso_points` names.

    Raises:
        EvaluationError: it names nothing.
    """
    ends = torso_points(definition, skeleton)
    if ends is None:
        raise EvaluationError(
            f"skeleton {skeleton.name} has no shoulders and hips (union names "
            f"{', '.join(NECK_UNION_NAMES + HIP_UNION_NAMES)}), so its bodies have no torso length; choose the torso "
            "protocol with `options: {neck: [...], hip: [...]}`."
        )
    return ends


def can_judge(truth: GroundTruth, skeleton: Skeleton, definition: EvaluationDefinition) -> bool:
    """Whether any body of a set has a torso to measure by."""
    ends = torso_points(definition, skeleton)
    return ends is not None and bool((truth.labelled & (torso_lengths(truth, skeleton, *ends) > 0)).any())


def evaluate_clinic(
    truth: GroundTruth,
    predictions: Predictions,
    traits: Traits,
    skeleton: Skeleton,
    definition: EvaluationDefinition,
    settings: ClinicalSettings | None = None,
) -> ClinicalResult:
    """Judges predictions as a clinic would.

    Predictions on annotated boxes answer those boxes. Predictions on detected boxes answer the body nearest to them,
    one each, the nearest pair first.

    Args:
        truth: annotations; bodies whose neck or hip points are not all labelled have no torso and are not judged.
        predictions: what the model said.
        traits: of the same instances.
        skeleton: names the points.
        definition: says which points end the torso, if not shoulders and hips.
        settings: thresholds and intervals.

    Raises:
        EvaluationError: the skeleton has no torso, no instance has one, or the arguments do not fit together.
    """
    settings = settings or ClinicalSettings()
    check_fit(truth, predictions)
    if len(traits) != len(truth):
        raise EvaluationError(
            f"{len(traits)} traits for {counted(len(truth), 'instance')}; take both from the same records."
        )
    answers = _answers(truth, predictions, skeleton, definition, settings)
    all_units = traits.units()
    units = [all_units[row] for row in answers.truth_row]
    unit_of = {unit: number for number, unit in enumerate(sorted(set(units)))}
    table = _Table(answers, np.array([unit_of[unit] for unit in units]), list(unit_of), settings)
    everything = np.ones(answers.error.shape, np.bool_)
    by = {"keypoint": [table.group(name, _column(everything, k)) for k, name in enumerate(skeleton.names)]}
    columns: Mapping[str, Sequence[str | None]] = {
        "view": traits.view,
        "posture": traits.posture,
        "subject": traits.subject,
    }
    stated = {trait: [values[row] for row in answers.truth_row] for trait, values in columns.items()}
    not_recorded = [trait for trait, values in stated.items() if all(value is None for value in values)]
    for trait in (trait for trait in stated if trait not in not_recorded):
        by[trait] = [
            table.group(NOT_STATED if name is None else name, _rows(everything, [v == name for v in stated[trait]]))
            for name in sorted(set(stated[trait]), key=lambda name: (name is None, name))
        ]
    kinds: list[Unit] = [kind for kind, _ in unit_of]
    return ClinicalResult(
        settings=settings,
        whole=table.group("all", everything),
        by=by,
        not_recorded=not_recorded,
        units={kind: kinds.count(kind) for kind in sorted(set(kinds))},
        without_torso=answers.without_torso,
        redundant=answers.redundant,
        median_error=float(np.median(answers.error[np.isfinite(answers.error)])) if answers.found.any() else np.nan,
        mean_over_subjects=table.mean_over_units(),
        calibration=table.calibration(),
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class _Answers:
    """J judged instances.

    Attributes:
        truth_row: (J,) rows of the ground truth.
        labelled: (J, K) points to be judged.
        error: (J, K) torso lengths; NaN where not labelled, or not answered.
        confidence: (J, K) of the answer, NaN likewise.
        found: (J,) whether there is an answer.
        boxes_given: whether annotated boxes were answered.
        without_torso: labelled instances that are not judged.
        redundant: as in :class:`ClinicalResult`.
    """

    truth_row: Int[np.ndarray, " J"]
    labelled: Bool[np.ndarray, "J K"]
    error: Float[np.ndarray, "J K"]
    confidence: Float[np.ndarray, "J K"]
    found: Bool[np.ndarray, " J"]
    boxes_given: bool
    without_torso: int
    redundant: int | None


def _answers(
    truth: GroundTruth,
    predictions: Predictions,
    skeleton: Skeleton,
    definition: EvaluationDefinition,
    settings: ClinicalSettings,
) -> _Answers:
    ends = require_torso(definition, skeleton)
    length = torso_lengths(truth, skeleton, *ends)
    bodies = truth.labelled
    judged = np.flatnonzero(bodies & (length > 0))
    if not len(judged):
        raise EvaluationError(
            f"no body has all of {', '.join([*ends[0], *ends[1]])} labelled, so no torso length is known and nothing "
            "can be given in torso lengths."
        )
    boxes_given = bool((predictions.instance_row >= 0).any())
    if boxes_given:
        answer, redundant = _own_answers(truth, predictions)[judged], None
    else:
        answer, redundant = _matched(truth, predictions, judged, length[judged], settings)
    found = answer >= 0
    labelled = truth.visibility[judged] > 0
    error, confidence = np.full(labelled.shape, np.nan), np.full(labelled.shape, np.nan)
    difference = truth.keypoints[judged[found]] - predictions.keypoints[answer[found]]
    error[found] = np.sqrt((difference**2).sum(axis=2)) / length[judged[found], None]
    confidence[found] = predictions.keypoint_scores[answer[found]]
    return _Answers(
        truth_row=judged,
        labelled=labelled,
        error=np.where(labelled, error, np.nan),
        confidence=np.where(labelled, confidence, np.nan),
        found=found,
        boxes_given=boxes_given,
        without_torso=int(bodies.sum()) - len(judged),
        redundant=redundant,
    )


def _own_answers(truth: GroundTruth, predictions: Predictions) -> NDArray[np.int64]:
    """(N,) the prediction made on each instance's own box, -1 for instances that have none and need none."""
    pairs = paired_distances(truth, predictions)
    answer = np.full(len(truth), -1, np.int64)
    answer[pairs.truth_row] = pairs.prediction_row
    return answer


def _matched(
    truth: GroundTruth,
    predictions: Predictions,
    judged: NDArray[np.int64],
    length: NDArray[np.float64],
    settings: ClinicalSettings,
) -> tuple[NDArray[np.int64], int]:
    """(J,) the prediction each judged body takes, -1 for none; and how many predictions answer no body."""
    usable = np.flatnonzero(predictions.scores >= settings.least_score)
    usable = usable[np.argsort(predictions.image_row[usable], kind="stable")]
    body, position = pairs_within(truth.image_row[judged], predictions.image_row[usable])
    candidate = usable[position]
    difference = truth.keypoints[judged[body]] - predictions.keypoints[candidate]
    share = np.sqrt((difference**2).sum(axis=2)) / length[body, None]
    labelled = truth.visibility[judged[body]] > 0
    cost = (share.clip(max=1.0) * labelled).sum(axis=1) / labelled.sum(axis=1)
    same = truth.category_id[judged[body]] == predictions.category_id[candidate]
    near = np.flatnonzero(same & (cost <= settings.found_within))
    answer = np.full(len(judged), -1, np.int64)
    free = np.ones(len(predictions), np.bool_)
    for pair in near[np.argsort(cost[near], kind="stable")]:
        if answer[body[pair]] < 0 and free[candidate[pair]]:
            answer[body[pair]] = candidate[pair]
            free[candidate[pair]] = False
    undecided = np.ones(len(truth), np.bool_)
    undecided[judged] = False
    complete = ~np.isin(predictions.image_row[usable], truth.image_row[undecided])
    return answer, int((free[usable] & complete).sum())


class _Table:
    """Sums over units (subjects, or what stands for them) of any part of the judged points, and estimates from them."""

    def __init__(
        self,
        answers: _Answers,
        unit: NDArray[np.int64],
        units: Sequence[tuple[Unit, str]],
        settings: ClinicalSettings,
    ) -> None:
        self._answers = answers
        self._unit = unit
        self._names = [f"{kind} {name}" for kind, name in units]
        self._num_units = len(units)
        self._settings = settings

    def group(self, name: str, chosen: NDArray[np.bool_]) -> GroupResult:
        """One row: the labelled points that are chosen, (J, K)."""
        answers, settings = self._answers, self._settings
        points = answers.labelled & chosen
        instances = points.any(axis=1)
        answered = points & np.isfinite(answers.error)
        hits = [(points & (answers.error <= threshold)).sum(axis=1) for threshold in settings.thresholds]
        columns = [
            instances,
            instances & ~answers.found,
            points.sum(axis=1),
            answered.sum(axis=1),
            np.where(answered, answers.error, 0.0).sum(axis=1),
            *hits,
        ]
        sums = self._by_unit(columns)
        present = np.flatnonzero(sums[:, 0] > 0)
        sums = sums[present]
        missed, error, *pck = bootstrap_by_subject(sums, group_values, settings.bootstrap)
        return GroupResult(
            name=name,
            units=len(sums),
            instances=int(instances.sum()),
            points=int(points.sum()),
            error=error,
            pck=dict(zip(settings.thresholds, pck, strict=True)),
            missed=None if answers.boxes_given else missed,
            sums={self._names[unit]: row for unit, row in zip(present, sums.tolist(), strict=True)},
        )

    def mean_over_units(self) -> Estimate:
        """The mean over units of each unit's mean error."""
        answered = np.isfinite(self._answers.error)
        error = np.where(answered, self._answers.error, 0.0).sum(axis=1)
        number, total = self._by_unit([answered.sum(axis=1), error]).T
        means = np.stack([np.ones((number > 0).sum()), total[number > 0] / number[number > 0]], axis=1)
        return bootstrap_by_subject(means, lambda sums: sums[:, 1:] / sums[:, :1], self._settings.bootstrap)[0]

    def calibration(self) -> Calibration:
        """Of all answered points."""
        answers, settings = self._answers, self._settings
        body, point = np.nonzero(np.isfinite(answers.error))
        confidence = answers.confidence[body, point]
        right = answers.error[body, point] <= settings.right_within
        sums = bin_sums(confidence, right, self._unit[body], self._num_units)
        sums = sums[sums.sum(axis=1) > 0]
        expected_error, surplus = bootstrap_by_subject(sums, calibration_errors, settings.bootstrap)
        return Calibration(
            bins=reliability_bins(sums.sum(axis=0)),
            expected_error=expected_error,
            surplus=surplus,
            beyond=int(((confidence < 0) | (confidence > 1)).sum()),
        )

    def _by_unit(self, columns: Sequence[NDArray[np.generic]]) -> NDArray[np.float64]:
        """(S, C) sums of (J,) columns."""
        return np.stack([np.bincount(self._unit, column, self._num_units) for column in columns], axis=1)


def group_values(sums: Float[np.ndarray, "B C"]) -> Float[np.ndarray, "B M"]:
    """Share of bodies missed, mean error, and PCK at each threshold.

    Args:
        sums: bodies, bodies missed, labelled points, answered points, their errors in torso lengths, and for each
            threshold the points within it. A value of nothing is 0 / 0.
    """
    instances, missed, labelled, answered, error, *hits = sums.T
    return np.stack([missed / instances, error / answered, *(hit / labelled for hit in hits)], axis=1)


def _rows(everything: NDArray[np.bool_], chosen: Sequence[bool]) -> NDArray[np.bool_]:
    return everything & np.array(chosen)[:, None]


def _column(everything: NDArray[np.bool_], keypoint: int) -> NDArray[np.bool_]:
    chosen = np.zeros_like(everything)
    chosen[:, keypoint] = True
    return chosen
