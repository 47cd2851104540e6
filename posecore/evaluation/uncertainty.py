"""Whether a model knows how far off it is: fitted on a held-out split, and judged on another.

Fitting makes a :class:`~posecore.models.uncertainty.HeadUncertainty` of predictions and labels, group by group: a scale
of the covariances by maximum likelihood, λ = mean eᵀΣ⁻¹e / 2 over errors e, a curve from scores to the probability of
being visible, and a split-conformal radius of the errors by predicted sigma. Judging asks of a promised 90 % how many
they are (coverage) and of probabilities how far they are off (expected calibration error), group by group, with
intervals from resampled subjects.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import orjson
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from posecore.errors import EvaluationError
from posecore.evaluation.arrays import GroundTruth, Predictions
from posecore.evaluation.bootstrap import Estimate, Number, bootstrap_by_subject
from posecore.evaluation.calibration import NUM_BINS, bin_sums, calibration_errors
from posecore.evaluation.conformal import conformal_quantile, least_units
from posecore.evaluation.keypoint_errors import answered_distances
from posecore.evaluation.logistic import fit_logistic
from posecore.evaluation.pairing import Distances
from posecore.evaluation.traits import Traits
from posecore.models.uncertainty import COVERED, KEYPOINT, LOOKS, OPEN, Fit, HeadUncertainty

LEAST_OF_EACH = 10
"""Visible and occluded points of which a curve of its own is fitted."""
VISIBILITY = "visibility"
"""Trait of a point as its label states it, which no prediction knows: it is judged by, and not fitted to."""


@dataclass(frozen=True, kw_only=True, eq=False)
class _Points:
    """Labelled points with what a model said of them; one row each.

    Attributes:
        error: (P, 2) in x and y, image pixels.
        covariance: (P, 2, 2) as the codec gave it.
        score: (P,) of the answer.
        visible: (P,) whether the label says so.
        column: (P,) which keypoint.
        body: (P,) row of the prediction.
        row: (P,) row of the ground truth.
        unit: (P,) number of the subject, or of what stands for it.
        units: their names.
    """

    error: Float[np.ndarray, "P 2"]
    covariance: Float[np.ndarray, "P 2 2"]
    score: Float[np.ndarray, " P"]
    visible: Bool[np.ndarray, " P"]
    column: Int[np.ndarray, " P"]
    body: Int[np.ndarray, " P"]
    row: Int[np.ndarray, " P"]
    unit: Int[np.ndarray, " P"]
    units: Sequence[tuple[str, str]]

    @property
    def distance(self) -> NDArray[np.float64]:
        """(P,) pixels off."""
        return np.hypot(self.error[:, 0], self.error[:, 1])

    @property
    def sigma(self) -> NDArray[np.float64]:
        """(P,) the root of the mean of both variances, NaN where there is no answer."""
        return np.sqrt(np.trace(self.covariance, axis1=1, axis2=2) / 2)

    @property
    def relative(self) -> NDArray[np.float64]:
        """(P,) sigmas off; infinite where there is no answer."""
        sigma = self.sigma
        return np.where(np.isfinite(sigma), self.distance / np.where(np.isfinite(sigma), sigma, 1.0), np.inf)


def is_answered(truth: GroundTruth, predictions: Predictions, pairs: Distances | None = None) -> bool:
    """Whether there is a labelled point that something was said of, by which promises can be judged.

    Args:
        truth: labels.
        predictions: with covariances.
        pairs: as of :func:`fit_uncertainty`.
    """
    return bool(_counted(truth, predictions, pairs)[1].any())


def _counted(
    truth: GroundTruth, predictions: Predictions, pairs: Distances | None
) -> tuple[Distances, Bool[np.ndarray, "M K"]]:
    """Who is answered by what, and which of their points count."""
    assert predictions.covariances is not None, "predict with uncertainty"
    labelled = truth.visibility > 0
    if pairs is None:
        pairs = answered_distances(truth, predictions)
        return pairs, labelled[pairs.truth_row]
    # Nothing is promised of bodies that were not found, nor of points of others that were not.
    known = np.isfinite(predictions.covariances).all(axis=(2, 3))
    return pairs, labelled[pairs.truth_row] & known[pairs.prediction_row]


def _points(
    truth: GroundTruth,
    predictions: Predictions,
    units: Sequence[tuple[str, str]],
    where: str,
    pairs: Distances | None,
) -> _Points:
    assert predictions.covariances is not None, "predict with uncertainty"
    pairs, counted = _counted(truth, predictions, pairs)
    place, column = np.nonzero(counted)
    if not len(place):
        raise EvaluationError(f"{where}: no labelled point was answered, so nothing says how far off the model is.")
    row, body = pairs.truth_row[place], pairs.prediction_row[place]
    names = [units[each] for each in row]
    number = {name: place for place, name in enumerate(sorted(set(names)))}
    return _Points(
        error=predictions.keypoints[body, column] - truth.keypoints[row, column],
        covariance=predictions.covariances[body, column],
        score=predictions.keypoint_scores[body, column],
        visible=truth.visibility[row, column] == 2,
        column=column,
        body=body,
        row=row,
        unit=np.array([number[name] for name in names], np.int64),
        units=list(number),
    )


def fit_uncertainty(
    truth: GroundTruth,
    predictions: Predictions,
    traits: Traits,
    *,
    points: Sequence[str],
    level: float,
    pictures: bool,
    pairs: Distances | None = None,
    **said: str | bool,
) -> HeadUncertainty:
    """What a split says of a head's answers on others like it.

    Args:
        truth: labels that the model has not learned from.
        predictions: with covariances, of every point of the head, in its order.
        traits: of the same instances.
        points: native names.
        level: probability of the radii.
        pictures: whether pictures stand for themselves although subjects are named: radii then hold for further
            pictures of the same subjects.
        pairs: who is answered by what; None is each by the answer to its box, or else by the nearest.
        said: the other fields of :class:`~posecore.models.uncertainty.HeadUncertainty`.

    Raises:
        EvaluationError: no point is labelled, or the units are too few for a radius.
    """
    where = str(said["data"])
    found = _points(truth, predictions, _units(traits, pictures), where, pairs)
    _refuse_few(found.units, level, where)
    kinds = sorted({kind for kind, _ in found.units})
    whole = _fit(found, np.ones(len(found.score), np.bool_), level)
    by: dict[str, dict[str, Fit]] = {KEYPOINT: {}}
    for column, name in enumerate(points):
        by[KEYPOINT][name] = _fit(found, found.column == column, level)
    for trait, names in _stated(truth, traits).items():
        of_points = np.array([names[row] or "" for row in found.row])
        by[trait] = {name: _fit(found, of_points == name, level) for name in sorted(set(of_points.tolist()) - {""})}
    first = HeadUncertainty(
        points=tuple(points), level=level, unit=" or ".join(kinds), whole=whole, by={KEYPOINT: by[KEYPOINT]}, **said
    )
    looks = first.chance(found.score, found.column)
    if np.isfinite(looks).any():
        by[LOOKS] = {COVERED: _fit(found, looks < 0.5, level), OPEN: _fit(found, looks >= 0.5, level)}
    return first.model_copy(update={"by": by})


def check_units(truth: GroundTruth, traits: Traits, level: float, pictures: bool, where: str) -> None:
    """Returns unless the labels themselves are of too few units for a radius, whatever a model answers.

    Args:
        truth: labels that the model has not learned from.
        traits: of the same instances.
        level: probability of the radii.
        pictures: as of :func:`fit_uncertainty`.
        where: what the message names first.

    Raises:
        EvaluationError: they are, or no point is labelled.
    """
    units = _units(traits, pictures)
    labelled = {units[row] for row in np.flatnonzero((truth.visibility > 0).any(axis=1)).tolist()}
    if not labelled:
        raise EvaluationError(f"{where}: no point is labelled, so nothing says how far off the model is.")
    _refuse_few(sorted(labelled), level, where)


def _units(traits: Traits, pictures: bool) -> Sequence[tuple[str, str]]:
    return [("image", image) for image in traits.image] if pictures else traits.units()


def _refuse_few(units: Sequence[tuple[str, str]], level: float, where: str) -> None:
    least, (kind, name) = least_units(level), units[0]
    instead = "" if kind == "image" else ", or with --pictures for further pictures of {} alone"
    if len(units) == 1:
        raise EvaluationError(
            f"{where}: all labelled points are of one {kind}, {name}, which says nothing of others; calibrate on a "
            f"split of at least {least}{instead.format('this one')}."
        )
    if len(units) < least:
        kinds = " and ".join(sorted({f"{kind}s" for kind, _ in units}))
        raise EvaluationError(
            f"{where}: {len(units)} {kinds} are too few to promise {100 * level:g} % for a new one, which takes "
            f"{least}; calibrate on more, with a lower --level{instead.format('these')}."
        )


def _fit(found: _Points, chosen: NDArray[np.bool_], level: float) -> Fit:
    error, covariance = found.error[chosen], found.covariance[chosen]
    known = np.isfinite(covariance).all(axis=(1, 2))
    scale = None
    if known.any():
        solved = np.linalg.solve(covariance[known], error[known, :, None])[..., 0]
        scale = float((error[known] * solved).sum(axis=1).mean() / 2)
    radius = conformal_quantile(found.relative[chosen], found.unit[chosen], level)
    visible, score = found.visible[chosen], found.score[chosen]
    enough = min(int(visible.sum()), int((~visible).sum())) >= LEAST_OF_EACH
    return Fit(
        points=int(chosen.sum()),
        units=len(np.unique(found.unit[chosen])),
        scale=scale or None,
        radius=radius if np.isfinite(radius) and radius > 0 else None,
        visible=fit_logistic(score, visible) if enough else None,
    )


def _stated(truth: GroundTruth, traits: Traits) -> dict[str, Sequence[str | None]]:
    """Trait → group of each instance, of the traits by which instances differ or which they state."""
    categories = [str(number) for number in truth.category_id.tolist()]
    columns: dict[str, Sequence[str | None]] = {"view": traits.view, "posture": traits.posture}
    if len(set(categories)) > 1:
        columns["category"] = categories
    return {trait: names for trait, names in columns.items() if any(name is not None for name in names)}


@dataclass(frozen=True, kw_only=True)
class TrustedGroup:
    """Labelled points of one group.

    Attributes:
        name: of the group.
        points: how many.
        units: of how many subjects, or of what stands for them.
        coverage: share of points within their radius.
        ellipse: share of points within the ellipse of the same area.
        radius: median radius, image pixels.
        visible_error: expected calibration error of the probability of being visible; NaN where there is none.
    """

    name: str
    points: int
    units: int
    coverage: Estimate
    ellipse: Estimate
    radius: Number
    visible_error: Estimate


@dataclass(frozen=True, kw_only=True)
class UncertaintyResult:
    """Whether promises were kept on a split.

    Attributes:
        level: what was promised.
        fitted_on: dataset and split that the promises come from.
        unit: what was called exchangeable there.
        whole: all points.
        by: trait → its groups.
    """

    level: float
    fitted_on: str
    unit: str
    whole: TrustedGroup
    by: Mapping[str, Sequence[TrustedGroup]]

    def headline(self) -> dict[str, float]:
        """Metrics: ``coverage90`` with ends, ``ellipse90``, ``visible_ECE``, and those of groups but keypoints."""
        percent = f"{100 * self.level:g}"
        named = [("", self.whole)]
        named += [(f"/{trait}/{g.name}", g) for trait, of in self.by.items() if trait != KEYPOINT for g in of]
        values = {
            f"coverage{percent}_low": self.whole.coverage.low,
            f"coverage{percent}_high": self.whole.coverage.high,
        }
        for place, group in named:
            values[f"coverage{percent}{place}"] = group.coverage.value
            values[f"visible_ECE{place}"] = group.visible_error.value
        values[f"ellipse{percent}"] = self.whole.ellipse.value
        return {name: value for name, value in values.items() if np.isfinite(value)}

    def estimate(self, metric: str) -> Estimate | None:
        """What stands behind a metric of :meth:`headline`, or None."""
        what, _, place = metric.partition("/")
        trait, _, name = place.partition("/")
        group = next((each for each in self.by.get(trait, ()) if each.name == name), None) if place else self.whole
        percent = f"{100 * self.level:g}"
        if group is None:
            return None
        return {
            f"coverage{percent}": group.coverage,
            f"ellipse{percent}": group.ellipse,
            "visible_ECE": group.visible_error,
        }.get(what)

    def to_json(self) -> bytes:
        """All of it; NaN becomes null."""
        return orjson.dumps(_RESULT.dump_python(self, mode="json"), option=orjson.OPT_INDENT_2)

    @classmethod
    def from_json(cls, text: bytes, origin: str) -> "UncertaintyResult":
        """What :meth:`to_json` wrote.

        Raises:
            EvaluationError: it is not that.
        """
        try:
            return _RESULT.validate_json(text)
        except ValidationError as error:
            raise EvaluationError(f"{origin}: no such result ({error.errors()[0]['msg']}); evaluate again.") from None


_RESULT = TypeAdapter(UncertaintyResult)


def judge_uncertainty(
    truth: GroundTruth,
    predictions: Predictions,
    traits: Traits,
    promised: HeadUncertainty,
    points: Sequence[str],
    pairs: Distances | None = None,
) -> UncertaintyResult:
    """Compares what was promised with what is so.

    Args:
        truth: labels that were not fitted to.
        predictions: with covariances.
        traits: of the same instances.
        promised: of the head that answered.
        points: names of the predicted points as the head calls them, in the order of the predictions.
        pairs: as of :func:`fit_uncertainty`.

    Raises:
        EvaluationError: no labelled point was answered.
    """
    found = _points(truth, predictions, traits.units(), "the evaluation set", pairs)
    assert predictions.covariances is not None
    trusted = promised.of_points(points).apply(predictions.covariances, predictions.keypoint_scores)
    radius = trusted.radius[found.body, found.column]
    table = _Table(
        found=found,
        within=found.distance <= radius,
        inside=_in_ellipse(found, trusted.covariances[found.body, found.column], radius),
        radius=radius,
        chance=trusted.visible[found.body, found.column],
    )
    everything = np.ones(len(radius), np.bool_)
    # Of points that are all visible by their label, a probability of less than one is no error.
    by = {
        trait: [table.group(name, rows, chances=trait != VISIBILITY) for name, rows in of]
        for trait, of in _groups(found, truth, traits, points)
    }
    return UncertaintyResult(
        level=promised.level,
        fitted_on=promised.data,
        unit=promised.unit,
        whole=table.group("all", everything),
        by=by,
    )


def _groups(
    found: _Points, truth: GroundTruth, traits: Traits, points: Sequence[str]
) -> Iterator[tuple[str, list[tuple[str, NDArray[np.bool_]]]]]:
    if 0 < found.visible.sum() < len(found.visible):
        yield VISIBILITY, [("visible", found.visible), ("occluded", ~found.visible)]
    for trait, names in _stated(truth, traits).items():
        of_points = np.array([names[row] or "" for row in found.row])
        yield trait, [(name, of_points == name) for name in sorted(set(of_points.tolist()) - {""})]
    columns = [(name, found.column == column) for column, name in enumerate(points)]
    yield KEYPOINT, [(name, rows) for name, rows in columns if rows.any()]


def _in_ellipse(
    found: _Points, covariance: Float[np.ndarray, "P 2 2"], radius: Float[np.ndarray, " P"]
) -> NDArray[np.bool_]:
    """Whether each point is within the ellipse of its covariance's shape and its circle's area."""
    inside = np.zeros(len(radius), np.bool_)
    known = np.isfinite(covariance).all(axis=(1, 2)) & np.isfinite(radius)
    shape, error = covariance[known], found.error[known]
    shape = shape / np.sqrt(np.linalg.det(shape))[:, None, None]
    solved = np.linalg.solve(shape, error[..., None])[..., 0]
    inside[known] = (error * solved).sum(axis=1) <= radius[known] ** 2
    return inside | np.isinf(radius)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Table:
    """What groups are summed up from; (P,) each."""

    found: _Points
    within: NDArray[np.bool_]
    inside: NDArray[np.bool_]
    radius: NDArray[np.float64]
    chance: NDArray[np.float64]

    def group(self, name: str, chosen: NDArray[np.bool_], *, chances: bool = True) -> TrustedGroup:
        unit, count = self.found.unit, len(self.found.units)
        kept = np.stack(
            [np.bincount(unit[chosen], of[chosen], count) for of in (np.ones(len(unit)), self.within, self.inside)],
            axis=1,
        )
        kept = kept[kept[:, 0] > 0]
        coverage, ellipse = bootstrap_by_subject(kept, lambda sums: sums[:, 1:] / sums[:, :1])
        said = chosen & np.isfinite(self.chance)
        error = Estimate(np.nan)
        if chances and said.any():
            sums = bin_sums(self.chance[said], self.found.visible[said], unit[said], count)
            error = bootstrap_by_subject(sums[sums[:, :NUM_BINS].sum(axis=1) > 0], calibration_errors)[0]
        return TrustedGroup(
            name=name,
            points=int(chosen.sum()),
            units=len(kept),
            coverage=coverage,
            ellipse=ellipse,
            radius=float(np.median(self.radius[chosen])),
            visible_error=error,
        )
