"""Two models on the same bodies of any set: errors relative to the box, and their difference with an interval.

Protocols such as AP are no sums over subjects, so a difference of them has no interval from resampled subjects. The
mean error and the share of near points are: subjects are drawn once, and the difference is taken in each draw, so that
what makes a subject hard for both cancels.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from posecore.errors import EvaluationError
from posecore.evaluation.arrays import GroundTruth, Predictions
from posecore.evaluation.bootstrap import BootstrapSettings, Estimate, bootstrap_by_subject
from posecore.evaluation.keypoint_errors import relative_distances
from posecore.evaluation.pairing import paired_distances
from posecore.evaluation.traits import Traits, Unit

NEAR = 0.1
"""A point within this share of √(w·h) of the box is near."""


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
    """

    error: Pair
    near: Pair
    units: dict[Unit, int]
    bodies: int
    truth_row: Int[np.ndarray, " P"]
    change: Float[np.ndarray, " P"]


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
    units = [all_units[row] for row in rows]
    number = {unit: place for place, unit in enumerate(sorted(set(units)))}
    of_unit = np.array([number[unit] for unit in units])
    columns = [np.isfinite(errors[0]).sum(axis=1)]
    for error in errors:
        columns += [np.nansum(error, axis=1), (error <= NEAR).sum(axis=1)]
    sums = np.stack([np.bincount(of_unit, column, len(number)) for column in columns], axis=1)
    error_a, error_b, error_change, near_a, near_b, near_change = bootstrap_by_subject(sums, _measures, settings)
    kinds = [kind for kind, _ in number]
    return PairedErrors(
        error=Pair(first=error_a, second=error_b, difference=error_change),
        near=Pair(first=near_a, second=near_b, difference=near_change),
        units={kind: kinds.count(kind) for kind in sorted(set(kinds))},
        bodies=len(rows),
        truth_row=rows,
        change=np.nanmean(errors[1], axis=1) - np.nanmean(errors[0], axis=1),
    )


def _measures(sums: Float[np.ndarray, "B C"]) -> Float[np.ndarray, "B M"]:
    points, error_a, near_a, error_b, near_b = sums.T
    values = [error_a, error_b, error_b - error_a, near_a, near_b, near_b - near_a]
    measures: Float[np.ndarray, "B M"] = np.stack([value / points for value in values], axis=1)
    return measures
