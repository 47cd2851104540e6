"""What answers to known bodies say besides the protocol: error of each point, in torso lengths, and of confidences."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import NDArray

from posecore.datasets.definition import EvaluationDefinition
from posecore.evaluation.arrays import GroundTruth, Predictions
from posecore.evaluation.bootstrap import BootstrapSettings, Estimate, Statistic, bootstrap_by_subject
from posecore.evaluation.calibration import bin_sums, calibration_errors, reliability_bins
from posecore.evaluation.clinical import torso_points
from posecore.evaluation.image_units import Units
from posecore.evaluation.keypoint_errors import keypoint_errors
from posecore.evaluation.torso import torso_lengths
from posecore.scoring.score import Cell, Table
from posecore.skeletons.skeleton import Skeleton
from posecore.viz.curves import Curve

RIGHT_WITHIN = 0.2
"""Share of the torso within which a point counts as right where its confidence is judged."""
_PCK_AT = (0.05, 0.1, 0.2, 0.5)
_CONFIDENCES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


def answered(truth: GroundTruth, answers: Predictions) -> tuple[GroundTruth, Predictions]:
    """The annotations that have an answer, and the answers renumbered to them, one each.

    Args:
        truth: all annotations.
        answers: at most one for each annotation; ``instance_row`` names it, and is ascending.
    """
    counts = (truth.visibility[answers.instance_row] > 0).any(axis=1) & ~truth.is_crowd[answers.instance_row]
    answers = answers.take(counts)
    chosen = np.zeros(len(truth), np.bool_)
    chosen[answers.instance_row] = True
    return truth.take(chosen), replace(answers, instance_row=np.arange(len(answers)))


def keypoint_table(truth: GroundTruth, answers: Predictions, skeleton: Skeleton) -> Table:
    """Errors of each point over answered bodies."""
    rows: list[Sequence[Cell]] = [
        (error.name, error.labelled, error.mean_px, error.median_px, error.relative, error.missed)
        for error in keypoint_errors(truth, answers, skeleton)
    ]
    return Table(
        title="By keypoint",
        note="Distances of labelled points of answered bodies; relative is the mean as a share of √(w·h) of the box, "
        "missed the share beyond a tenth of it.",
        columns=("keypoint", "labelled", "mean px", "median px", "relative", "missed"),
        rows=rows,
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class TorsoErrors:
    """Errors in torso lengths and what confidences say of them.

    Attributes:
        metrics: ``torso/…`` → value.
        intervals: of some of them.
        tables: by threshold of confidence, and by keypoint.
        curves: the reliability diagram, and the share of points within a distance.
    """

    metrics: dict[str, float]
    intervals: dict[str, Estimate]
    tables: list[Table]
    curves: list[Curve]


def torso_errors(
    truth: GroundTruth,
    answers: Predictions,
    skeleton: Skeleton,
    evaluation: EvaluationDefinition,
    units: Units,
    bootstrap: BootstrapSettings | None,
) -> TorsoErrors | None:
    """Neck-to-mid-hip normalised errors of answered bodies; None where no body has a torso to measure by.

    Args:
        truth: the answered annotations.
        answers: one for each, in their order.
        skeleton: names the points.
        evaluation: says which points end the torso, if not shoulders and hips.
        units: what is resampled.
        bootstrap: how intervals are made, or None for none.
    """
    ends = torso_points(evaluation, skeleton)
    if ends is None:
        return None
    length = torso_lengths(truth, skeleton, *ends)
    judged = length > 0
    if not judged.any():
        return None
    distance = np.linalg.norm(truth.keypoints[judged] - answers.keypoints[judged], axis=2) / length[judged, None]
    labelled = truth.visibility[judged] > 0
    confidence = answers.keypoint_scores[judged]
    unit = units.of_image[truth.image_row[judged]]
    body = np.broadcast_to(np.arange(len(labelled))[:, None], labelled.shape)[labelled]
    right = distance <= RIGHT_WITHIN
    sums = bin_sums(confidence[labelled], right[labelled], unit[body], units.number)
    columns = [labelled.sum(axis=1), np.where(labelled, distance, 0).sum(axis=1)]
    columns += [(labelled & (distance <= limit)).sum(axis=1) for limit in _PCK_AT]
    errors = np.stack([np.bincount(unit, column, units.number) for column in columns], axis=1).astype(np.float64)
    errors, sums = errors[errors[:, 0] > 0], sums[sums.sum(axis=1) > 0]
    names = ["torso/error", *(f"torso/PCK_{limit:g}" for limit in _PCK_AT)]
    estimates = dict(zip(names, _estimates(errors, _means, bootstrap), strict=True))
    of_confidence = _estimates(sums, calibration_errors, bootstrap)
    estimates |= dict(zip(("torso/ECE", "torso/overconfidence"), of_confidence, strict=True))
    metrics = {name: estimate.value for name, estimate in estimates.items()}
    metrics |= {"torso/error_median": float(np.median(distance[labelled])), "torso/bodies": float(judged.sum())}
    return TorsoErrors(
        metrics=metrics,
        intervals={name: estimate for name, estimate in estimates.items() if np.isfinite(estimate.low)},
        tables=[_coverage(distance, labelled, confidence)],
        curves=[_reliability(sums.sum(axis=0)), _within(distance[labelled])],
    )


def _means(sums: Float[np.ndarray, "B C"]) -> Float[np.ndarray, "B M"]:
    return np.asarray(sums[:, 1:] / sums[:, :1])


def _estimates(sums: NDArray[np.float64], statistic: Statistic, bootstrap: BootstrapSettings | None) -> list[Estimate]:
    if bootstrap is not None:
        return bootstrap_by_subject(sums, statistic, bootstrap)
    return [Estimate(float(value)) for value in statistic(sums.sum(axis=0, keepdims=True))[0]]


def _coverage(
    distance: Float[np.ndarray, "A K"], labelled: Bool[np.ndarray, "A K"], confidence: Float[np.ndarray, "A K"]
) -> Table:
    rows: list[Sequence[Cell]] = []
    for least in _CONFIDENCES:
        kept = labelled & (confidence >= least)
        errors = distance[kept]
        some = len(errors) > 0
        rows.append(
            (
                least,
                float(kept.sum() / labelled.sum()),
                float(errors.mean()) if some else None,
                float(np.quantile(errors, 0.95)) if some else None,
                float((errors <= RIGHT_WITHIN).mean()) if some else None,
            )
        )
    return Table(
        title="Error at stated confidence",
        note="Labelled points of answered bodies whose confidence is at least so much: their share of all, their error "
        f"in torso lengths, and the share within {RIGHT_WITHIN:g} of it.",
        columns=("confidence from", "coverage", "mean error", "95 % are below", "right"),
        rows=rows,
    )


def _reliability(sums: Float[np.ndarray, " C"]) -> Curve:
    bins = [found for found in reliability_bins(sums) if found.points]
    return Curve(
        title="Reliability of confidences",
        x_label="mean confidence",
        y_label=f"share within {RIGHT_WITHIN:g} torso lengths",
        series={"points": ([found.confidence for found in bins], [found.right for found in bins])},
        diagonal=True,
    )


def _within(distance: Float[np.ndarray, " P"]) -> Curve:
    limits = np.linspace(0, 1, 41)
    shares = np.searchsorted(np.sort(distance), limits, side="right") / len(distance)
    return Curve(
        title="Points within a distance",
        x_label="torso lengths",
        y_label="share of labelled points",
        series={"points": (limits.tolist(), shares.tolist())},
    )
