"""The score of a results file by a protocol that ranks by OKS: COCO, WholeBody, CrowdPose, AP-10K."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool
from numpy.typing import NDArray

from posecore.counting import counted
from posecore.datasets.definition import EvaluationDefinition
from posecore.errors import EvaluationError
from posecore.evaluation.arrays import GroundTruth
from posecore.evaluation.body_errors import swapped_points
from posecore.evaluation.bootstrap import BootstrapSettings
from posecore.evaluation.image_units import intervals, units_of
from posecore.evaluation.oks import OFFICIAL, RECALLS, THRESHOLDS, Matching
from posecore.scoring.blocks import Results
from posecore.scoring.diagnostics import answered, keypoint_table, torso_errors
from posecore.scoring.oks_judge import ANSWERED_FROM, OksJudge, OksOutcome, OksRules
from posecore.scoring.score import Cell, Score, Scored, Table, WorstPicture
from posecore.scoring.truth import Truth
from posecore.storage import AnyPath
from posecore.viz.curves import Curve

_NUM_WORST = 12


def score_oks(
    results: AnyPath,
    truth: Truth,
    rules: OksRules,
    *,
    protocol: str,
    evaluation: EvaluationDefinition,
    bootstrap: BootstrapSettings | None,
) -> Scored:
    """Reads and judges a file of results, a block at a time.

    Args:
        results: the JSON list.
        truth: what it is held against.
        rules: of the protocol.
        protocol: its name.
        evaluation: says which points end the torso, if not shoulders and hips.
        bootstrap: how intervals are made, or None for none.

    Raises:
        EvaluationError: the file does not fit the annotations; results on pictures that these do not have are refused,
            as pycocotools refuses them.
    """
    judge = OksJudge(truth.arrays, truth.skeleton, rules)
    entries = Results(results, truth.arrays.image_ids, truth.skeleton.num_keypoints)
    answers_on = np.zeros(len(truth.arrays.image_ids), np.int64)
    for block in entries:
        judge.take(block)
        answers_on += np.bincount(block.image_row, minlength=len(answers_on))
    _refuse_unknown(entries, truth)
    outcome = judge.outcome()
    units = units_of(truth.arrays, truth.traits)
    matching = outcome.matching
    measure = matching.of_resample
    estimates = intervals(measure, units, bootstrap)
    metrics, tables, curves = dict(outcome.metrics), [_by_size(judge, outcome)], [_precision_recall(matching)]
    del judge  # with what it kept of each detection, of which nothing below asks
    known, answers = answered(truth.arrays, outcome.answers)
    if len(answers):
        tables.append(keypoint_table(known, answers, truth.skeleton))
        torso = torso_errors(known, answers, truth.skeleton, evaluation, units, bootstrap)
        if torso is not None:
            metrics |= torso.metrics
            estimates |= torso.intervals
            tables += torso.tables
            curves += torso.curves
    found = _Found.of(truth.arrays, outcome, matching)
    score = Score(
        protocol=protocol,
        results=str(results),
        truth=truth.origin,
        primary="AP",
        higher_is_better=True,
        metrics=metrics,
        intervals=estimates,
        units=units.kinds if bootstrap is not None else {},
        counts=_counts(truth, entries, answers_on, outcome, found, len(answers)),
        remarks=_remarks(outcome),
        tables=tables,
        curves=curves,
        worst=_worst(truth, found, outcome),
        worst_note="Pictures by the sum over their bodies of 1 minus the best OKS that any detection has to it; missed "
        "and redundant are at OKS 0.5.",
    )
    return Scored(score=score, measure=measure, units=units, truth=truth, answers=outcome.answers)


def num_entries(results: AnyPath, truth: Truth) -> int:
    """How many entries a file of results has, which is read as :func:`score_oks` reads it and not judged.

    Raises:
        EvaluationError: as there.
    """
    entries = Results(results, truth.arrays.image_ids, truth.skeleton.num_keypoints)
    for _ in entries:
        pass
    _refuse_unknown(entries, truth)
    return entries.num_entries


def _refuse_unknown(entries: Results, truth: Truth) -> None:
    if entries.num_unknown:
        raise EvaluationError(
            f"{entries.path}: {entries.num_unknown} of {counted(entries.num_entries, 'result')} are on pictures that "
            f"{truth.origin} does not have, the first on {entries.unknown!r}; this protocol's own code refuses such a "
            "file."
        )


def _by_size(judge: OksJudge, outcome: OksOutcome) -> Table:
    rows: list[Sequence[Cell]] = []
    for name, matching in judge.by_size(outcome.matching):
        bodies, result = int((~matching.outside).sum()), matching.whole
        precision, recall = result.precision[..., 0], result.recall[..., 0]
        values = [float(table[table > -1].mean()) if (table > -1).any() else None for table in (precision, recall)]
        at_half = [
            float(table[0][table[0] > -1].mean()) if (table[0] > -1).any() else None for table in (precision, recall)
        ]
        rows.append((name, bodies, *values, *at_half))
    return Table(
        title="By size",
        note="Areas in px², of what OKS divides by; a detection that found nobody counts by the extent of its points.",
        columns=("area", "bodies", "AP", "AR", "AP50", "AR50"),
        rows=rows,
    )


def _precision_recall(matching: Matching) -> Curve:
    table = matching.whole.precision[..., 0]
    table = np.where(table < 0, np.nan, table)
    with np.errstate(invalid="ignore"):
        series = {
            f"OKS {THRESHOLDS[index]:.2f}": (RECALLS.tolist(), np.nan_to_num(_mean(table[index])).tolist())
            for index in (0, 5, 8)
        }
    return Curve(title="Precision over recall", x_label="recall", y_label="precision", series=series)


def _mean(columns: NDArray[np.float64]) -> NDArray[np.float64]:
    known = np.isfinite(columns)
    return np.asarray(np.where(known, columns, 0).sum(axis=1) / np.maximum(known.sum(axis=1), 1))


@dataclass(frozen=True, kw_only=True, eq=False)
class _Found:
    """At OKS 0.5.

    Attributes:
        wanted: (N,) annotations to be found.
        missed: (N,) those nobody found.
        redundant: (D,) detections of the matching that found nobody.
        doubled: (D,) those of them that have OKS 0.5 to a body, which another one found.
        num_right: detections that found somebody who counts.
        best: precision, recall and score of the least confident detection kept, where their F1 is highest.
    """

    wanted: Bool[np.ndarray, " N"]
    missed: Bool[np.ndarray, " N"]
    redundant: Bool[np.ndarray, " D"]
    doubled: Bool[np.ndarray, " D"]
    num_right: int
    best: tuple[float, float, float] | None

    @classmethod
    def of(cls, truth: GroundTruth, outcome: OksOutcome, matching: Matching) -> "_Found":
        wanted = ~matching.outside[0]
        counted = ~matching.excluded[0, 0]
        matched = matching.matched[0, 0]
        redundant = counted & ~matched
        right = counted & matched
        return cls(
            wanted=wanted,
            missed=wanted & ~matching.found[0, 0],
            redundant=redundant,
            doubled=redundant & outcome.near[matching.detection],
            num_right=int(right.sum()),
            best=_best(matching.scores[counted], right[counted], int(wanted.sum())),
        )


def _best(scores: NDArray[np.float64], right: NDArray[np.bool_], num_wanted: int) -> tuple[float, float, float] | None:
    if not len(scores) or not num_wanted:
        return None
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(right[order])
    precision, recall = hits / np.arange(1, len(hits) + 1), hits / num_wanted
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    place = int(f1.argmax())
    return float(precision[place]), float(recall[place]), float(scores[order[place]])


def _counts(
    truth: Truth,
    entries: Results,
    answers_on: NDArray[np.int64],
    outcome: OksOutcome,
    found: _Found,
    num_answered: int,
) -> dict[str, int]:
    arrays = truth.arrays
    with_bodies = np.zeros(len(arrays.image_ids), np.bool_)
    with_bodies[arrays.image_row[found.wanted]] = True
    answers = outcome.answers
    swapped = swapped_points(arrays, answers, truth.skeleton, outcome.area, answers.instance_row).any(axis=1)
    return {
        "pictures": len(arrays.image_ids),
        "pictures without a result": int((answers_on == 0).sum()),
        "of those, pictures with bodies": int((with_bodies & (answers_on == 0)).sum()),
        "annotations": len(arrays),
        "bodies that count": int(found.wanted.sum()),
        **truth.left_out,
        "results": entries.num_entries,
        "results beyond the 20 best of a picture, or of no category of the annotations": entries.num_entries
        - len(found.redundant),
        "results of a category that the annotations do not have": outcome.num_strange,
        "missed bodies (OKS 0.5)": int(found.missed.sum()),
        "redundant results (OKS 0.5)": int(found.redundant.sum()),
        "of those, on a body that another result found": int(found.doubled.sum()),
        f"bodies with an answer (OKS {ANSWERED_FROM:g})": num_answered,
        "of those, with a point where another body has the same": int(swapped.sum()),
    }


def _remarks(outcome: OksOutcome) -> list[str]:
    remarks = []
    if any(name.startswith(OFFICIAL) for name in outcome.metrics):
        remarks.append(
            "An annotation has the id 0, which pycocotools and faster-coco-eval take for none, so whoever finds it "
            "counts as wrong there; their figures stand beside ours as pycocotools/…."
        )
    return remarks


def _worst(truth: Truth, found: _Found, outcome: OksOutcome) -> list[WorstPicture]:
    arrays, matching = truth.arrays, outcome.matching
    best = np.zeros(len(arrays))
    best[outcome.answers.instance_row] = outcome.answer_oks
    rows = arrays.image_row[found.wanted]
    number = len(arrays.image_ids)
    loss = np.bincount(rows, 1 - best[found.wanted], number)
    persons = np.bincount(rows, minlength=number)
    missed = np.bincount(arrays.image_row[found.missed], minlength=number)
    redundant = np.bincount(matching.image_row[found.redundant], minlength=number)
    order = np.lexsort((-redundant, -loss))[:_NUM_WORST]
    return [
        WorstPicture(
            image_id=arrays.image_ids[row],
            file=truth.files[row],
            persons=int(persons[row]),
            missed=int(missed[row]),
            redundant=int(redundant[row]),
            loss=float(loss[row]),
        )
        for row in order.tolist()
        if loss[row] > 0
    ]
