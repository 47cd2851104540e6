"""Two models on the same bodies of any set: errors relative to the box, and their difference with an interval.

Subjects are drawn once, and the difference is taken in each draw, so that what makes a subject hard for both cancels.
The mean error and the share of near points are sums over subjects. Average precision is none: who found whom is
settled once, as it does not leave the picture, and the ranking of all detections is judged again in every draw, each
picture as often as it was drawn.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray

from posecore.errors import EvaluationError
from posecore.evaluation.arrays import GroundTruth, Predictions
from posecore.evaluation.bootstrap import BootstrapSettings, Estimate, bootstrap_by_subject
from posecore.evaluation.image_units import Measure, Units, intervals
from posecore.evaluation.keypoint_errors import WITHIN_A_SUBJECT, grouped, relative_distances
from posecore.evaluation.pairing import paired_distances
from posecore.evaluation.traits import Traits, Unit

NEAR = 0.1
"""A point within this share of √(w·h) of the box is near."""


_OF = ("first", "second", "difference")


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A measure of both models.

    Attributes:
        first: of the first.
        second: of the second.
        difference: second - first, from the same resamples.
    """

    first: Estimate
    second: Estimate
    difference: Estimate


@dataclass(frozen=True, kw_only=True, eq=False)
class PairedErrors:
    """Two models on one set.

    Attributes:
        error: mean distance of a labelled point, as a share of √(w·h) of the body's box.
        near: share of points within :data:`NEAR`.
        units: what was resampled as one → how many of them.
        bodies: judged.
        truth_row: (P,) rows of the ground truth.
        change: (P,) by how much the second model's mean error of each body is larger.
        points: (K) the error of each point; NaN where it is labelled nowhere.
        subjects: the error on each subject, or video where none is stated; intervals from its own pictures drawn anew.
    """

    error: Pair
    near: Pair
    units: dict[Unit, int]
    bodies: int
    truth_row: Int[np.ndarray, " P"]
    change: Float[np.ndarray, " P"]
    points: Sequence[Pair] = ()
    subjects: Mapping[str, Pair] = field(default_factory=dict)


def compare_predictions(
    truth: GroundTruth,
    first: Predictions,
    second: Predictions,
    traits: Traits,
    settings: BootstrapSettings | None = None,
) -> PairedErrors:
    """Compares what two models said of the annotated boxes of one split.

    Args:
        truth: annotations.
        first: of one model.
        second: of the other.
        traits: of the same instances: whose body each is.
        settings: of the intervals.

    Raises:
        EvaluationError: a body was not answered, or none has a labelled point.
    """
    distances = [paired_distances(truth, each) for each in (first, second)]
    rows = distances[0].truth_row
    if not len(rows):
        raise EvaluationError("no body has a labelled point, so there is nothing to compare two models by.")
    errors = [relative_distances(truth, each) for each in distances]
    all_units = traits.units()
    rows_of = grouped([all_units[row] for row in rows])
    columns = [np.isfinite(errors[0]).sum(axis=1)]
    for error in errors:
        columns += [np.nansum(error, axis=1), (error <= NEAR).sum(axis=1)]
    sums = np.stack([[column[places].sum() for column in columns] for places in rows_of.values()]).astype(np.float64)
    error_a, error_b, error_change, near_a, near_b, near_change = bootstrap_by_subject(sums, _measures, settings)
    subjects = {}
    for (kind, name), places in rows_of.items():
        if kind != "image":
            pictures = grouped([traits.image[row] for row in rows[places]])
            (subjects[name],) = _pairs([each[places] for each in errors], pictures, False, WITHIN_A_SUBJECT)
    kinds = [kind for kind, _ in rows_of]
    return PairedErrors(
        error=Pair(first=error_a, second=error_b, difference=error_change),
        near=Pair(first=near_a, second=near_b, difference=near_change),
        units={kind: kinds.count(kind) for kind in sorted(set(kinds))},
        bodies=len(rows),
        truth_row=rows,
        change=np.nanmean(errors[1], axis=1) - np.nanmean(errors[0], axis=1),
        points=_pairs(errors, rows_of, True, settings),
        subjects=subjects,
    )


def _pairs(
    errors: Sequence[Float[np.ndarray, "P K"]],
    rows_of: Mapping[Any, NDArray[np.int64]],
    by_point: bool,
    settings: BootstrapSettings | None,
) -> list[Pair]:
    """The mean error of both and its difference, of each point or of all, from units drawn anew."""
    columns = [np.isfinite(errors[0]), *(np.nan_to_num(error) for error in errors)]
    if not by_point:
        columns = [column.sum(axis=1, keepdims=True) for column in columns]
    sums = np.stack([np.concatenate([column[places].sum(axis=0) for column in columns]) for places in rows_of.values()])

    def means(drawn: NDArray[np.float64]) -> NDArray[np.float64]:
        points, first, second = np.split(drawn, 3, axis=1)
        return np.concatenate([first / points, second / points, (second - first) / points], axis=1)

    found = bootstrap_by_subject(sums.astype(np.float64), means, settings)
    each = len(found) // 3
    triples = zip(found[:each], found[each : 2 * each], found[2 * each :], strict=True)
    return [Pair(first=first, second=second, difference=difference) for first, second, difference in triples]


def compare_metrics(
    first: Measure, second: Measure, units: Units, settings: BootstrapSettings | None = None
) -> dict[str, Pair]:
    """Metric name → both models and their difference, of the metrics that can be judged.

    Args:
        first: metrics of one model, of any resample of the images.
        second: of the other, on the same images.
        units: what is drawn.
        settings: of the intervals.
    """
    settings = settings or BootstrapSettings()

    def both(images: NDArray[np.float64]) -> dict[tuple[str, str], float]:
        before, after = first(images), second(images)
        return {
            (name, of): value
            for name in before
            for of, value in zip(_OF, (before[name], after[name], after[name] - before[name]), strict=True)
        }

    whole = both(np.ones(len(units.of_image)))
    found = intervals(both, units, settings)
    estimates = {key: found.get(key, Estimate(value)) for key, value in whole.items()}
    names = dict.fromkeys(name for (name, _), value in whole.items() if np.isfinite(value))
    return {name: Pair(**{of: estimates[name, of] for of in _OF}) for name in names}


def _measures(sums: Float[np.ndarray, "B C"]) -> Float[np.ndarray, "B M"]:
    points, error_a, near_a, error_b, near_b = sums.T
    values = [error_a, error_b, error_b - error_a, near_a, near_b, near_b - near_a]
    measures: Float[np.ndarray, "B M"] = np.stack([value / points for value in values], axis=1)
    return measures
