"""The score of frames of many persons by the average precision of each joint, as PoseTrack has it."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from posecore.errors import EvaluationError
from posecore.evaluation.bootstrap import BootstrapSettings
from posecore.evaluation.image_units import intervals, units_of
from posecore.evaluation.posetrack import JointMatches, average_precisions, match_joints, without_ignored
from posecore.scoring.body_answers import one_for_each, read_all
from posecore.scoring.diagnostics import answered, keypoint_table
from posecore.scoring.score import Score, Scored, WorstPicture
from posecore.scoring.truth import Truth
from posecore.storage import AnyPath

_NUM_WORST = 12


def score_posetrack(results: AnyPath, truth: Truth, *, bootstrap: BootstrapSettings | None) -> Scored:
    """Reads and judges a COCO results list, or PoseTrack's submission: a folder with a file per sequence.

    Results on frames that are not annotated are passed over.

    Raises:
        EvaluationError: the file does not fit the annotations, or no joint is annotated.
    """
    read = read_all(results, truth)
    arrays, predictions = without_ignored(truth.arrays, read.predictions, truth.ignored)
    units = units_of(truth.arrays, truth.traits)
    matches = match_joints(arrays, predictions)
    values = average_precisions(matches)
    if not np.isfinite(values).any():
        raise EvaluationError(f"{truth.origin}: no joint is annotated, so there is nothing to score.")

    def measure(images: NDArray[np.float64]) -> dict[str, float]:
        return {"mAP": _mean(average_precisions(matches, images))}

    truth = replace(truth, arrays=arrays)
    answers = one_for_each(truth, predictions)
    known, judged = answered(arrays, answers)
    missed = arrays.labelled & ~matches.found
    named = zip(truth.skeleton.names, values.tolist(), strict=True)
    score = Score(
        protocol="posetrack-like",
        results=str(results),
        truth=truth.origin,
        primary="mAP",
        higher_is_better=True,
        metrics={"mAP": _mean(values)} | {f"AP/{name}": value for name, value in named if np.isfinite(value)},
        intervals=intervals(measure, units, bootstrap),
        units=units.kinds if bootstrap is not None else {},
        counts={
            "pictures": len(arrays.image_ids),
            "annotations": len(arrays),
            **truth.left_out,
            "results": read.num_entries,
            "results on nothing that is annotated": read.num_entries - len(matches.image_row),
            "missed bodies": int(missed.sum()),
            "redundant results": int((~matches.matched).sum()),
        },
        tables=[keypoint_table(known, judged, truth.skeleton)] if len(judged) else [],
        worst=_worst(truth, matches, missed),
        worst_note="Pictures by missed bodies and redundant results.",
    )
    return Scored(score=score, measure=measure, units=units, truth=truth, answers=answers)


def _mean(values: NDArray[np.float64]) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else np.nan


def _worst(truth: Truth, matches: JointMatches, missed: NDArray[np.bool_]) -> list[WorstPicture]:
    number = len(truth.arrays.image_ids)
    lost = np.bincount(truth.arrays.image_row[missed], minlength=number)
    redundant = np.bincount(matches.image_row[~matches.matched], minlength=number)
    persons = np.bincount(truth.arrays.image_row[missed | matches.found], minlength=number)
    return [
        WorstPicture(
            image_id=truth.arrays.image_ids[row],
            file=truth.files[row],
            persons=int(persons[row]),
            missed=int(lost[row]),
            redundant=int(redundant[row]),
            loss=float(lost[row] + redundant[row]),
        )
        for row in np.argsort(-(lost + redundant), kind="stable")[:_NUM_WORST].tolist()
        if lost[row] + redundant[row] > 0
    ]
