"""Judges predictions by the protocol a ``dataset.yaml`` names. The table below is closed: one entry per protocol."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, TypeAdapter, ValidationError

from posecore.datasets.definition import EvaluationDefinition
from posecore.errors import ConfigError, EvaluationError
from posecore.evaluation.aic import aic_of_resample, aic_sums, evaluate_aic
from posecore.evaluation.arrays import GroundTruth, Predictions
from posecore.evaluation.crowdpose import evaluate_crowdpose, match_crowdpose
from posecore.evaluation.image_units import Measure
from posecore.evaluation.oks import ID_0, Matching, match_predictions
from posecore.evaluation.pck import evaluate_pck
from posecore.evaluation.pckh import evaluate_pckh
from posecore.evaluation.pixel import evaluate_pixel
from posecore.evaluation.torso import evaluate_torso
from posecore.evaluation.wholebody import match_wholebody
from posecore.schema import AreaRule, Json
from posecore.skeletons.skeleton import Skeleton

GUESSED = "guessed_oks_constants"
"""Metric that says of how many points the OKS constant is a guess, wherever one is."""
_OKS_PROTOCOLS = frozenset({"oks", "oks_per_category", "wholebody", "crowdpose", "aic"})


def protocol_problem(definition: EvaluationDefinition, skeleton: Skeleton) -> str | None:
    """Why a skeleton cannot be judged by a protocol, known before there are predictions; None if it can.

    A sentence without the place, such as ``point tail has no OKS constant …``.
    """
    protocol = PROTOCOLS[definition.protocol]
    unknown = sorted(set(definition.options) - set(protocol.options))
    if unknown:
        has = ", ".join(protocol.options) or "none"
        return f"protocol {definition.protocol} has no option {', '.join(unknown)}; it has {has}."
    for option in _VALUES.keys() & definition.options.keys():
        try:
            _VALUES[option].validate_python(definition.options[option])
        except ValidationError as error:
            found = error.errors()[0]
            where = "".join(f"[{part}]" for part in found["loc"])
            return f"option {option}{where} of protocol {definition.protocol}: {found['msg']}."
    if definition.protocol in _OKS_PROTOCOLS:
        without = [point.name for point in skeleton.keypoints if point.oks_sigma is None]
        if without:
            listed = f"{', '.join(without[:4])}{', …' if len(without) > 4 else ''}"
            return (
                f"protocol {definition.protocol} divides by an OKS constant per point; skeleton {skeleton.name} has "
                f"none for {listed}; give each keypoint an oks_sigma, or choose the pck, torso or pixel protocol."
            )
    for option, default in _NAMED_POINTS.get(definition.protocol, {}).items():
        named = definition.options.get(option, list(default))
        if not isinstance(named, list) or not all(isinstance(name, str) for name in named):
            return f"option {option} of protocol {definition.protocol} must be a list of names of points."
        strange = [str(name) for name in named if name not in skeleton.names]
        if strange and (option in definition.options or definition.protocol == "torso"):
            native = {point.union: point.name for point in skeleton.keypoints}
            hint = f"; here {strange[0]} is called {native[strange[0]]}" if strange[0] in native else ""
            return (
                f"protocol {definition.protocol} measures by {option}: {', '.join(strange)}, which skeleton "
                f"{skeleton.name} does not have{hint}; name points of the dataset's own in evaluation.options.{option}."
            )
    return None


_VALUES: Mapping[str, TypeAdapter[Any]] = {
    "thresholds": TypeAdapter(Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=1)]),
    "normalise_by": TypeAdapter(Literal["bbox", "image"]),
    "pcutoff": TypeAdapter(Annotated[float, Field(ge=0, le=1)]),
}
"""Options that are no names of points, with the values they may have."""

_NAMED_POINTS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "torso": {"neck": ("left_shoulder", "right_shoulder"), "hip": ("left_hip", "right_hip")},
    "pckh": {"excluded": ()},
}
"""Options that name points, with what is meant where they are left out."""


def evaluate(
    definition: EvaluationDefinition, skeleton: Skeleton, truth: GroundTruth, predictions: Predictions
) -> dict[str, float]:
    """Metric name → value, by the dataset's own protocol.

    OKS values are in [0, 1] with -1 where nothing can be judged, PCKh is in percent, pixel errors in pixels; names keep
    to the characters MLflow accepts.

    Raises:
        EvaluationError: predictions and ground truth do not fit, or the data lacks what the protocol needs.
        ConfigError: an option the protocol does not have.
    """
    protocol = PROTOCOLS[definition.protocol]
    unknown = sorted(set(definition.options) - set(protocol.options))
    if unknown:
        raise ConfigError(
            f"evaluation.options: protocol {definition.protocol} has no option {', '.join(unknown)}; it has "
            f"{', '.join(protocol.options) or 'none'}."
        )
    metrics = protocol.run(_Case(definition.scale_rule, definition.options, skeleton, truth, predictions))
    guessed = sum(point.oks_guessed for point in skeleton.keypoints)
    return metrics | {GUESSED: float(guessed)} if guessed and definition.protocol in _OKS_PROTOCOLS else metrics


def of_resamples(
    definition: EvaluationDefinition, skeleton: Skeleton, truth: GroundTruth, predictions: Predictions
) -> Measure | None:
    """The average precisions of the dataset's own protocol, of any resample of its images; None where it has none.

    Raises:
        EvaluationError: predictions and ground truth do not fit, or the data lacks what the protocol needs.
    """
    resampled = PROTOCOLS[definition.protocol].resampled
    return None if resampled is None else resampled(_Case(definition.scale_rule, {}, skeleton, truth, predictions))


@dataclass(frozen=True)
class _Case:
    scale_rule: AreaRule | None
    options: Mapping[str, Json]
    skeleton: Skeleton
    truth: GroundTruth
    predictions: Predictions

    def sigmas(self) -> NDArray[np.float64]:
        if self.skeleton.oks_sigmas is None:
            raise EvaluationError(
                f"skeleton {self.skeleton.name} has points without an OKS constant; give each keypoint an oks_sigma, "
                "or choose the pck, torso or pixel protocol."
            )
        return self.skeleton.oks_sigmas

    def area(self, default: AreaRule | None = None) -> NDArray[np.float64]:
        return self.truth.scale_area(self.scale_rule or default)


@dataclass(frozen=True)
class Protocol:
    """One way of judging.

    Attributes:
        run: the judge.
        primary: the metric that stands for the result where only one fits.
        higher_is_better: direction of the primary metric.
        options: names allowed in ``evaluation.options``.
        resampled: the judge's average precisions as a function of how often each image counts, where it has any.
    """

    run: Callable[[_Case], dict[str, float]]
    primary: str
    higher_is_better: bool = True
    options: tuple[str, ...] = ()
    resampled: Callable[[_Case], Measure] | None = None


def _matching(case: _Case, id_0_is_none: bool = False, *, per_category: bool = False) -> Matching:
    return match_predictions(
        case.truth,
        case.predictions,
        case.sigmas(),
        area=case.area(),
        ignored=case.truth.num_keypoints == 0,
        per_category=per_category,
        id_0_is_none=id_0_is_none,
    )


def _oks(case: _Case, id_0_is_none: bool, *, per_category: bool = False) -> dict[str, float]:
    result = _matching(case, id_0_is_none, per_category=per_category).result()
    metrics = result.summary()
    if per_category:
        metrics |= {f"AP/category_{number}": ap for number, ap in result.ap_per_category().items()}
    return metrics


def _parts(case: _Case, id_0_is_none: bool = False) -> dict[str, Matching]:
    return match_wholebody(
        case.truth, case.predictions, case.skeleton, case.sigmas(), case.area(), id_0_is_none=id_0_is_none
    )


def _wholebody(case: _Case, id_0_is_none: bool) -> dict[str, float]:
    parts = {part: matching.result().summary() for part, matching in _parts(case, id_0_is_none).items()}
    by_part = {f"{part}/{name}": value for part, summary in parts.items() for name, value in summary.items()}
    return parts["wholebody"] | by_part


def _crowdpose(case: _Case, id_0_is_none: bool) -> dict[str, float]:
    return evaluate_crowdpose(
        case.truth, case.predictions, case.sigmas(), case.area("box_053"), id_0_is_none=id_0_is_none
    )


def _of_all(matching: Matching) -> Measure:
    return matching.of_area("all").of_resample


def _both_readings(judge: Callable[[_Case, bool], dict[str, float]]) -> Callable[[_Case], dict[str, float]]:
    """A judge who adds pycocotools' figure, where the annotation of id 0, which that never matches, makes another."""

    def run(case: _Case) -> dict[str, float]:
        metrics = judge(case, False)
        if ID_0 not in case.truth.instance_ids:
            return metrics
        official = judge(case, True)
        return metrics | {f"pycocotools/{name}": value for name, value in official.items() if value != metrics[name]}

    return run


PROTOCOLS: Mapping[str, Protocol] = {
    "oks": Protocol(_both_readings(_oks), "AP", resampled=lambda case: _of_all(_matching(case))),
    "oks_per_category": Protocol(
        _both_readings(partial(_oks, per_category=True)),
        "AP",
        resampled=lambda case: _of_all(_matching(case, per_category=True)),
    ),
    "wholebody": Protocol(_both_readings(_wholebody), "AP", resampled=lambda case: _of_all(_parts(case)["wholebody"])),
    "crowdpose": Protocol(
        _both_readings(_crowdpose),
        "AP",
        resampled=lambda case: _of_all(
            match_crowdpose(case.truth, case.predictions, case.sigmas(), case.area("box_053"))
        ),
    ),
    "aic": Protocol(
        lambda case: evaluate_aic(case.truth, case.predictions, case.sigmas(), case.area("box_plus_one")),
        "mAP",
        resampled=lambda case: partial(
            aic_of_resample, aic_sums(case.truth, case.predictions, case.sigmas(), case.area("box_plus_one"))
        ),
    ),
    "pckh": Protocol(
        lambda case: evaluate_pckh(case.truth, case.predictions, case.skeleton, **case.options),
        "PCKh",
        options=("excluded",),
    ),
    "torso": Protocol(
        lambda case: evaluate_torso(case.truth, case.predictions, case.skeleton, **case.options),
        "torso_error",
        higher_is_better=False,
        options=("neck", "hip", "thresholds"),
    ),
    "pck": Protocol(
        lambda case: evaluate_pck(case.truth, case.predictions, **case.options),
        "PCK_0.05",
        options=("thresholds", "normalise_by"),
    ),
    "pixel": Protocol(
        lambda case: evaluate_pixel(case.truth, case.predictions, **case.options),
        "mean_error_px",
        higher_is_better=False,
        options=("pcutoff",),
    ),
}
