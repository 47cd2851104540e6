"""The score of one answer for each body: MPII's PCKh, errors per torso, errors in pixels, PCK."""

import numpy as np
from numpy.typing import NDArray

from posecore.datasets.definition import EvaluationDefinition
from posecore.errors import EvaluationError
from posecore.evaluation.arrays import GroundTruth, Predictions
from posecore.evaluation.bootstrap import BootstrapSettings
from posecore.evaluation.clinical import require_torso
from posecore.evaluation.image_units import Measure, intervals, units_of
from posecore.evaluation.pairing import paired_distances
from posecore.evaluation.pckh import EXCLUDED as PCKH_EXCLUDED
from posecore.evaluation.protocols import evaluate, metric_class
from posecore.evaluation.torso import torso_lengths
from posecore.formats.mpii import DERIVED_HEAD_BOXES
from posecore.scoring.body_answers import one_for_each, read_all
from posecore.scoring.diagnostics import answered, keypoint_table, torso_errors
from posecore.scoring.mpii_files import HEAD_SHARE, WHOLE_PIXELS, read_mpii_answers
from posecore.scoring.score import Score, Scored, WorstPicture
from posecore.scoring.truth import Truth
from posecore.skeletons.skeleton import Skeleton
from posecore.storage import AnyPath
from posecore.viz.curves import Curve

_NUM_WORST = 12


def score_answers(
    results: AnyPath,
    truth: Truth,
    evaluation: EvaluationDefinition,
    *,
    protocol: str,
    bootstrap: BootstrapSettings | None,
) -> Scored:
    """Reads a file of results, finds each body its answer, and judges the answers.

    Args:
        results: a COCO results list; for PCKh the forms of :func:`~posecore.scoring.mpii_files.read_mpii_answers`.
        truth: what it is held against.
        evaluation: a protocol of one answer for each body, with its options.
        protocol: its name for people.
        bootstrap: how intervals are made, or None for none.

    Raises:
        EvaluationError: the file does not fit the annotations, or no body has an answer.
    """
    units = units_of(truth.arrays, truth.traits)
    counts = {"pictures": len(truth.arrays.image_ids), "annotations": len(truth.arrays), **truth.left_out}
    if evaluation.protocol == "pckh":
        answers, num_without = read_mpii_answers(results, truth)
        counts |= {"results": len(answers), "persons without an answer that is a number": num_without}
    else:
        read = read_all(results, truth)
        answers = one_for_each(truth, read.predictions)
        counts |= {"results": read.num_entries, "results on nothing that is annotated": read.num_unknown}
    labelled = truth.arrays.labelled
    known, judged = answered(truth.arrays, answers)
    if not len(judged):
        raise EvaluationError(
            f"{results}: no result answers any labelled body of {truth.origin}; is it the same split?"
        )
    counts |= {"bodies that count": int(labelled.sum()), "missed bodies": int(labelled.sum()) - len(judged)}
    if evaluation.protocol != "pckh":
        counts["redundant results"] = len(read.predictions) - len(answers)
    spec = metric_class(evaluation.protocol)
    metrics = evaluate(evaluation, truth.skeleton, known, judged)
    metrics["missed"] = counts["missed bodies"] / max(counts["bodies that count"], 1)
    error, unit_name = _errors(known, judged, truth.skeleton, evaluation)
    terms = _terms(error, truth.skeleton, evaluation)
    measure = mean_over_images(spec.primary, np.nansum(terms, axis=1), np.isfinite(terms).sum(axis=1), known)
    # The mean over points of PCK is no ratio of sums.
    estimates = {} if evaluation.protocol == "pck" else intervals(measure, units, bootstrap)
    tables, curves = [keypoint_table(known, judged, truth.skeleton)], [_within(error, unit_name)]
    if np.isfinite(judged.keypoint_scores).all():
        torso = torso_errors(known, judged, truth.skeleton, evaluation, units, bootstrap)
        if torso is not None:
            metrics |= torso.metrics
            estimates |= torso.intervals
            tables += torso.tables
            curves += torso.curves
    score = Score(
        protocol=protocol,
        results=str(results),
        truth=truth.origin,
        primary=spec.primary,
        higher_is_better=spec.higher_is_better,
        metrics=metrics,
        intervals=estimates,
        units=units.kinds if bootstrap is not None else {},
        counts=counts,
        remarks=_remarks(truth, evaluation),
        tables=tables,
        curves=curves,
        worst=_worst(truth, known, error, labelled),
        worst_note=f"Pictures by the mean error of their answered bodies, in {unit_name}.",
    )
    return Scored(score=score, measure=measure, units=units, truth=truth, answers=answers)


def mean_over_images(name: str, total: NDArray[np.float64], number: NDArray[np.int64], truth: GroundTruth) -> Measure:
    """A measure that is a mean.

    Args:
        name: of the metric.
        total: (A,) sum over each body.
        number: (A,) of what was summed.
        truth: says which image each body is of.
    """
    num_images = len(truth.image_ids)
    sums = np.stack([np.bincount(truth.image_row, column, num_images) for column in (total, number)])

    def measure(images: NDArray[np.float64]) -> dict[str, float]:
        of_all, count = sums @ images
        return {name: float(of_all / count) if count else np.nan}

    return measure


def _errors(
    truth: GroundTruth, answers: Predictions, skeleton: Skeleton, evaluation: EvaluationDefinition
) -> tuple[NDArray[np.float64], str]:
    """(A, K) errors of answered bodies in the protocol's unit, NaN where not labelled or without unit; and its name."""
    pixels = paired_distances(truth, answers).pixels
    if evaluation.protocol == "pckh":
        box = truth.head_bbox_xyxy
        size, name = np.hypot(box[:, 2] - box[:, 0], box[:, 3] - box[:, 1]) * HEAD_SHARE, "head sizes"
    elif evaluation.protocol == "torso":
        size, name = torso_lengths(truth, skeleton, *require_torso(evaluation, skeleton)), "torso lengths"
    else:
        size, name = np.ones(len(pixels)), "pixels"
    return np.asarray(pixels / np.where(size > 0, size, np.nan)[:, None]), name


def _terms(error: NDArray[np.float64], skeleton: Skeleton, evaluation: EvaluationDefinition) -> NDArray[np.float64]:
    """(A, K) what the primary metric is the mean of, NaN where nothing is."""
    if evaluation.protocol != "pckh":
        return error
    excluded = evaluation.options.get("excluded", PCKH_EXCLUDED)
    counted = np.array([name not in excluded for name in skeleton.names])
    return np.where(np.isfinite(error) & counted, 100.0 * (error <= 0.5), np.nan)


def _within(error: NDArray[np.float64], unit: str) -> Curve:
    known = np.sort(error[np.isfinite(error)])
    most = {"head sizes": 0.5, "torso lengths": 1.0}.get(unit, float(np.quantile(known, 0.95)) if len(known) else 1.0)
    limits = np.linspace(0, most, 51)
    shares = np.searchsorted(known, limits, side="right") / max(len(known), 1)
    return Curve(
        title="Points within a distance",
        x_label=unit,
        y_label="share of labelled points",
        series={"points": (limits.tolist(), shares.tolist())},
    )


def _remarks(truth: Truth, evaluation: EvaluationDefinition) -> list[str]:
    said = {
        DERIVED_HEAD_BOXES: "Head boxes were derived from head_top and upper_neck: PCKh comes out up to 0.15 too high.",
        WHOLE_PIXELS: "Joints are cut to whole pixels in this file: PCKh is up to 0.02 off that of gt_valid.mat.",
    }
    known = truth.left_out if evaluation.protocol == "pckh" else {}
    return [sentence for code, sentence in said.items() if code in known]


def _worst(
    truth: Truth, known: GroundTruth, error: NDArray[np.float64], labelled: NDArray[np.bool_]
) -> list[WorstPicture]:
    number = len(truth.arrays.image_ids)
    persons = np.bincount(truth.arrays.image_row[labelled], minlength=number)
    has = np.isfinite(error).any(axis=1)
    mean = np.nansum(error, axis=1) / np.maximum(np.isfinite(error).sum(axis=1), 1)
    found = np.bincount(known.image_row, minlength=number)
    count = np.bincount(known.image_row[has], minlength=number)
    loss = np.bincount(known.image_row[has], mean[has], number) / np.maximum(count, 1)
    return [
        WorstPicture(
            image_id=truth.arrays.image_ids[row],
            file=truth.files[row],
            persons=int(persons[row]),
            missed=int(persons[row] - found[row]),
            redundant=0,
            loss=float(loss[row]),
        )
        for row in np.argsort(-loss, kind="stable")[:_NUM_WORST].tolist()
        if loss[row] > 0
    ]
