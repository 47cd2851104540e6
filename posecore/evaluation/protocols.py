"""Judges predictions by the protocol a ``dataset.yaml`` names: one of those below, or one of its own.

:class:`~posecore.evaluation.metric.Metric` says what a protocol is.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Annotated, Any, Literal, TypeAlias

import numpy as np
from pydantic import BeforeValidator, Field, TypeAdapter, ValidationError

from posecore.datasets.definition import PROTOCOLS_DOOR, EvaluationDefinition
from posecore.doors import built_in, trusted_file
from posecore.errors import ConfigError
from posecore.evaluation.aic import aic_of_resample, aic_sums, evaluate_aic
from posecore.evaluation.arrays import GroundTruth, Predictions
from posecore.evaluation.body_errors import BodyErrors, body_errors, meant_distances
from posecore.evaluation.crowdpose import evaluate_crowdpose, match_crowdpose
from posecore.evaluation.image_units import Measure
from posecore.evaluation.metric import Case, Metric
from posecore.evaluation.oks import ID_0, OFFICIAL, Matching, beside_official, match_predictions
from posecore.evaluation.pairing import Distances
from posecore.evaluation.pck import evaluate_pck
from posecore.evaluation.pckh import EXCLUDED, evaluate_pckh
from posecore.evaluation.pixel import evaluate_pixel
from posecore.evaluation.torso import evaluate_torso
from posecore.evaluation.wholebody import match_wholebody
from posecore.skeletons.skeleton import Skeleton

GUESSED = "guessed_oks_constants"
"""Metric that says of how many points the OKS constant is a guess, wherever one is."""


def _names(value: Any) -> Any:
    if not isinstance(value, (list, tuple)) or not all(isinstance(name, str) for name in value):
        raise ValueError("must be a list of names of points.")
    return value


_PointNames: TypeAlias = Annotated[tuple[str, ...], BeforeValidator(_names)]
_Thresholds: TypeAlias = Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=1)]


class _ByOks(Metric):
    """Divides distances by an OKS constant per point."""

    primary = "AP"
    divides_by_oks = True

    def problem(self, skeleton: Skeleton) -> str | None:
        without = [point.name for point in skeleton.keypoints if point.oks_sigma is None]
        if not without:
            return None
        listed = f"{', '.join(without[:4])}{', …' if len(without) > 4 else ''}"
        return (
            f"protocol {self.kind} divides by an OKS constant per point; skeleton {skeleton.name} has none for "
            f"{listed}; give each keypoint an oks_sigma, or choose the pck, torso or pixel protocol."
        )


class _BothReadings(_ByOks):
    """Adds pycocotools' figure, where the annotation of id 0, which that never matches, makes another."""

    def __call__(self, case: Case) -> dict[str, float]:
        metrics = self.read(case, id_0_is_none=False)
        if ID_0 not in case.truth.instance_ids:
            return metrics
        return beside_official(metrics, self.read(case, id_0_is_none=True))

    def read(self, case: Case, *, id_0_is_none: bool) -> dict[str, float]:
        raise NotImplementedError


class Oks(_BothReadings):
    """COCO's AP and AR, all categories taken as one."""

    kind: Literal["oks"] = "oks"

    def read(self, case: Case, *, id_0_is_none: bool) -> dict[str, float]:
        """The figures, by one reading of id 0."""
        result = self._matching(case, id_0_is_none=id_0_is_none).result()
        metrics = result.summary()
        if self.per_category:
            metrics |= {f"AP/category_{number}": ap for number, ap in result.ap_per_category().items()}
        return metrics

    def resampled(self, case: Case) -> Measure:
        """The average precisions."""
        return _of_all(self._matching(case))

    def _matching(self, case: Case, *, id_0_is_none: bool = False) -> Matching:
        return match_predictions(
            case.truth,
            case.predictions,
            case.sigmas(),
            area=case.area(),
            ignored=case.truth.num_keypoints == 0,
            per_category=self.per_category,
            id_0_is_none=id_0_is_none,
        )


class OksPerCategory(Oks):
    """Their means over categories, such as species, and each by itself."""

    kind: Literal["oks_per_category"] = "oks_per_category"  # type: ignore[assignment]
    per_category = True


class Wholebody(_BothReadings):
    """COCO-WholeBody's, for the body and each of its parts."""

    kind: Literal["wholebody"] = "wholebody"

    def read(self, case: Case, *, id_0_is_none: bool) -> dict[str, float]:
        """The figures, by one reading of id 0."""
        matched = self._parts(case, id_0_is_none=id_0_is_none)
        parts = {part: matching.result().summary() for part, matching in matched.items()}
        by_part = {f"{part}/{name}": value for part, summary in parts.items() for name, value in summary.items()}
        return parts["wholebody"] | by_part

    def resampled(self, case: Case) -> Measure:
        """The average precisions of the whole."""
        return _of_all(self._parts(case)["wholebody"])

    def _parts(self, case: Case, *, id_0_is_none: bool = False) -> dict[str, Matching]:
        return match_wholebody(
            case.truth, case.predictions, case.skeleton, case.sigmas(), case.area(), id_0_is_none=id_0_is_none
        )


class Crowdpose(_BothReadings):
    """CrowdPose's, with easy, medium and hard images."""

    kind: Literal["crowdpose"] = "crowdpose"
    usual_scale = "box_053"

    def read(self, case: Case, *, id_0_is_none: bool) -> dict[str, float]:
        """The figures, by one reading of id 0."""
        area = case.area(self.usual_scale)
        return evaluate_crowdpose(case.truth, case.predictions, case.sigmas(), area, id_0_is_none=id_0_is_none)

    def resampled(self, case: Case) -> Measure:
        """The average precisions of all images."""
        return _of_all(match_crowdpose(case.truth, case.predictions, case.sigmas(), case.area(self.usual_scale)))


class Aic(_ByOks):
    """AI Challenger's mAP."""

    kind: Literal["aic"] = "aic"
    primary = "mAP"
    usual_scale = "box_plus_one"

    def __call__(self, case: Case) -> dict[str, float]:
        """The figures."""
        return evaluate_aic(case.truth, case.predictions, case.sigmas(), case.area(self.usual_scale))

    def resampled(self, case: Case) -> Measure:
        """The average precisions."""
        sums = aic_sums(case.truth, case.predictions, case.sigmas(), case.area(self.usual_scale))
        return partial(aic_of_resample, sums)


class Pckh(Metric):
    """MPII's PCKh.

    Attributes:
        excluded: points that the means leave out.
    """

    kind: Literal["pckh"] = "pckh"
    pairs_bodies = True
    primary = "PCKh"
    excluded: _PointNames = EXCLUDED

    def __call__(self, case: Case) -> dict[str, float]:
        """The figures, in percent."""
        return evaluate_pckh(case.truth, case.predictions, case.skeleton, self.excluded)

    def problem(self, skeleton: Skeleton) -> str | None:
        """A point to be left out that there is not; those that are by default may be missing."""
        stated = self.excluded if "excluded" in self.model_fields_set else ()
        return _strangers(self.kind, "excluded", stated, skeleton)


class Torso(Metric):
    """Distances by the length of the body's own torso.

    Attributes:
        neck: points whose middle is the neck.
        hip: points whose middle is the hip.
        thresholds: in torso lengths; the share of points within each is given.
    """

    kind: Literal["torso"] = "torso"
    pairs_bodies = True
    primary = "torso_error"
    higher_is_better = False
    neck: _PointNames = ("left_shoulder", "right_shoulder")
    hip: _PointNames = ("left_hip", "right_hip")
    thresholds: _Thresholds = (0.1, 0.2)

    def __call__(self, case: Case) -> dict[str, float]:
        """The figures."""
        return evaluate_torso(
            case.truth, case.predictions, case.skeleton, neck=self.neck, hip=self.hip, thresholds=self.thresholds
        )

    def problem(self, skeleton: Skeleton) -> str | None:
        """A point of the torso that there is not."""
        of_neck = _strangers(self.kind, "neck", self.neck, skeleton)
        return of_neck or _strangers(self.kind, "hip", self.hip, skeleton)


class Pck(Metric):
    """The share of points within a part of the body's box.

    Attributes:
        thresholds: shares of the longer side.
        normalise_by: whose side: the body's ``bbox`` or the ``image``.
    """

    kind: Literal["pck"] = "pck"
    pairs_bodies = True
    primary = "PCK_0.05"
    thresholds: _Thresholds = (0.05, 0.1, 0.2)
    normalise_by: Literal["bbox", "image"] = "bbox"

    def __call__(self, case: Case) -> dict[str, float]:
        """The figures, in [0, 1]."""
        return evaluate_pck(case.truth, case.predictions, self.thresholds, self.normalise_by)


class Pixel(Metric):
    """Distances in pixels of the image.

    Attributes:
        pcutoff: least confidence of the points of the ``_confident`` values.
    """

    kind: Literal["pixel"] = "pixel"
    pairs_bodies = True
    primary = "mean_error_px"
    higher_is_better = False
    pcutoff: float = Field(default=0.6, ge=0, le=1)

    def __call__(self, case: Case) -> dict[str, float]:
        """The figures, in pixels."""
        return evaluate_pixel(case.truth, case.predictions, self.pcutoff)


MetricConfig: TypeAlias = Annotated[
    Oks | OksPerCategory | Wholebody | Crowdpose | Aic | Pckh | Torso | Pck | Pixel | Metric, PROTOCOLS_DOOR
]
"""Every protocol there is, and whoever comes by."""

BUILT_IN: Mapping[str, type[Metric]] = built_in(MetricConfig)
"""By name."""

_READ: TypeAdapter[Metric] = TypeAdapter(MetricConfig)


def metric_class(protocol: str) -> type[Metric]:
    """What a protocol's name stands for, whatever its options.

    Raises:
        ConfigError: there is no such protocol.
    """
    try:
        return PROTOCOLS_DOOR.find(protocol, MetricConfig)
    except ValueError as error:
        raise ConfigError(str(error)) from None


def metric_of(definition: EvaluationDefinition) -> Metric:
    """A dataset's own protocol with its options.

    Raises:
        ConfigError: there is no such protocol, or an option does not fit it; a sentence without the place.
    """
    if "kind" in definition.options:
        raise ConfigError(f"protocol {definition.protocol} has no option kind.")
    try:
        return _READ.validate_python({**definition.options, "kind": definition.protocol})
    except ValidationError as error:
        raise ConfigError(_said_of_options(definition.protocol, error)) from None


def _said_of_options(protocol: str, error: ValidationError) -> str:
    found = error.errors(include_url=False)
    if found[0]["loc"] == ("kind",):
        return str(found[0]["msg"])
    unknown = sorted(str(each["loc"][0]) for each in found if each["type"] == "extra_forbidden")
    if unknown:
        has = [name for name in metric_class(protocol).model_fields if name != "kind"]
        return f"protocol {protocol} has no option {', '.join(unknown)}; it has {', '.join(has) or 'none'}."
    option, *inside = found[0]["loc"] or ("",)
    where = "".join(f"[{part}]" for part in inside)
    said = found[0]["msg"].removeprefix("Value error, ").rstrip(".")
    return f"option {option}{where} of protocol {protocol}: {said}."


def _of_all(matching: Matching) -> Measure:
    return matching.of_area("all").of_resample


def _strangers(protocol: str, option: str, named: Sequence[str], skeleton: Skeleton) -> str | None:
    strange = [name for name in named if name not in skeleton.names]
    if not strange:
        return None
    native = {point.union: point.name for point in skeleton.keypoints}
    hint = f"; here {strange[0]} is called {native[strange[0]]}" if strange[0] in native else ""
    return (
        f"protocol {protocol} measures by {option}: {', '.join(strange)}, which skeleton {skeleton.name} does not "
        f"have{hint}; name points of the dataset's own in evaluation.options.{option}."
    )


def protocol_problem(definition: EvaluationDefinition, skeleton: Skeleton) -> str | None:
    """Why a skeleton cannot be judged by a protocol, known before there are predictions; None if it can.

    A sentence without the place, such as ``point tail has no OKS constant …``.

    Args:
        definition: of a ``dataset.yaml``, which is its user's own: a protocol's code that it names is imported.
        skeleton: of the dataset.
    """
    try:
        with trusted_file():
            return metric_of(definition).problem(skeleton)
    except ConfigError as error:
        return str(error)


def scenes_problem(definition: EvaluationDefinition) -> str | None:
    """Why bodies that a model found in whole pictures cannot be judged by a protocol; None if they can."""
    with trusted_file():
        metric = metric_of(definition)
    if metric.pairs_bodies:
        why = "wants one answer to every annotated body, and a model of whole pictures may find more or fewer"
    elif metric.per_category:
        why = "judges each class by itself, and a model of whole pictures does not say of which class a body is"
    else:
        return None
    return f"protocol {metric.kind} {why}; choose oks or crowdpose (changes: {{evaluation: {{protocol: oks}}}})."


def evaluate(
    definition: EvaluationDefinition, skeleton: Skeleton, truth: GroundTruth, predictions: Predictions
) -> dict[str, float]:
    """Metric name → value, by the dataset's own protocol.

    OKS values are in [0, 1], PCKh is in percent, pixel errors in pixels; names keep to the characters MLflow accepts.
    A precision of which the split has nothing to judge, such as that of large bodies, is left out; the primary one, of
    a split without any labelled body, is -1, as pycocotools says it.

    Raises:
        EvaluationError: predictions and ground truth do not fit, or the data lacks what the protocol needs.
        ConfigError: an option the protocol does not have.
    """
    try:
        metric = metric_of(definition)
    except ConfigError as error:
        raise ConfigError(f"evaluation.options: {error}") from None
    metrics = dict(metric(Case(skeleton, truth, predictions, definition.scale_rule)))
    if metric.divides_by_oks:
        metrics = {
            name: value
            for name, value in metrics.items()
            if value != -1.0 or name == metric.primary or name.startswith(OFFICIAL)
        }
    guessed = sum(point.oks_guessed for point in skeleton.keypoints)
    return metrics | {GUESSED: float(guessed)} if guessed and metric.divides_by_oks else metrics


def metrics_of(definition: EvaluationDefinition, skeleton: Skeleton, truth: GroundTruth) -> frozenset[str]:
    """Names of what :func:`evaluate` finds of a split, known by its labels: of answers that are the labels themselves.

    Raises:
        EvaluationError: the data lacks what the protocol needs.
        ConfigError: an option the protocol does not have.
    """
    rows = np.flatnonzero(truth.labelled)
    answers = Predictions(
        image_ids=truth.image_ids,
        image_row=truth.image_row[rows],
        instance_row=rows,
        keypoints=np.nan_to_num(truth.keypoints[rows]).astype(np.float64),
        keypoint_scores=np.ones((len(rows), skeleton.num_keypoints)),
        scores=np.ones(len(rows)),
        category_id=truth.category_id[rows],
        crop_area=truth.bbox_xywh[rows, 2:].prod(axis=1).astype(np.float64),
    )
    return frozenset(evaluate(definition, skeleton, truth, answers))


def bodies_of(
    definition: EvaluationDefinition, skeleton: Skeleton, truth: GroundTruth, predictions: Predictions
) -> BodyErrors | None:
    """Which bodies are missed, answered too often or mixed up, by the area of the dataset's own protocol.

    None for a protocol that does not divide by OKS constants, or a skeleton without.

    Raises:
        EvaluationError: predictions and ground truth do not fit.
        ConfigError: an option the protocol does not have.
    """
    metric = metric_of(definition)
    if not metric.divides_by_oks or skeleton.oks_sigmas is None:
        return None
    case = Case(skeleton, truth, predictions, definition.scale_rule)
    return body_errors(truth, predictions, skeleton, case.area(metric.usual_scale))


def meant_answers(
    definition: EvaluationDefinition, skeleton: Skeleton, truth: GroundTruth, predictions: Predictions
) -> Distances:
    """Distances between bodies and the answers meant for them, where there may be more or fewer; points need constants.

    Raises:
        EvaluationError: predictions and ground truth do not fit.
        ConfigError: an option the protocol does not have.
    """
    case = Case(skeleton, truth, predictions, definition.scale_rule)
    return meant_distances(truth, predictions, skeleton, case.area(metric_of(definition).usual_scale))


def of_resamples(
    definition: EvaluationDefinition, skeleton: Skeleton, truth: GroundTruth, predictions: Predictions
) -> Measure | None:
    """The average precisions of the dataset's own protocol, of any resample of its images; None where it has none.

    Raises:
        EvaluationError: predictions and ground truth do not fit, or the data lacks what the protocol needs.
        ConfigError: an option the protocol does not have.
    """
    return metric_of(definition).resampled(Case(skeleton, truth, predictions, definition.scale_rule))
