"""The score of AI Challenger's own results format by its own formula."""

from functools import partial

import numpy as np

from posecore.counting import counted
from posecore.datasets.definition import EvaluationDefinition
from posecore.errors import EvaluationError
from posecore.evaluation.aic import aic_metrics, aic_of_resample, aic_sums
from posecore.evaluation.arrays import Predictions
from posecore.evaluation.bootstrap import BootstrapSettings
from posecore.evaluation.image_units import intervals, units_of
from posecore.scoring.body_answers import one_for_each, read_all
from posecore.scoring.diagnostics import answered, keypoint_table
from posecore.scoring.json_blocks import float64_of, read_blocks
from posecore.scoring.score import Score, Scored, WorstPicture
from posecore.scoring.truth import Truth
from posecore.storage import AnyPath

_NUM_WORST = 12


def score_aic(
    results: AnyPath, truth: Truth, evaluation: EvaluationDefinition, *, bootstrap: BootstrapSettings | None
) -> Scored:
    """Reads and judges a list with an entry for each picture, or a COCO results list.

    As the official code has it, results on pictures that are not annotated are passed over, and pictures without
    results count as missed.

    Raises:
        EvaluationError: the file is neither.
    """
    predictions, num_unknown = read_aic_answers(results, truth)
    arrays, units = truth.arrays, units_of(truth.arrays, truth.traits)
    sigmas = truth.skeleton.oks_sigmas
    assert sigmas is not None, truth.skeleton.name
    sums = aic_sums(arrays, predictions, sigmas, arrays.scale_area(evaluation.scale_rule or "box_plus_one"))
    measure = partial(aic_of_resample, sums)
    answers = one_for_each(truth, predictions)
    known, judged = answered(arrays, answers)
    persons = np.bincount(arrays.image_row, minlength=len(arrays.image_ids))
    given = np.bincount(predictions.image_row, minlength=len(arrays.image_ids))
    loss = sums[:, -1] - sums[:, :-1].mean(axis=1)
    score = Score(
        protocol="aic",
        results=str(results),
        truth=truth.origin,
        primary="mAP",
        higher_is_better=True,
        metrics=aic_metrics(sums),
        intervals=intervals(measure, units, bootstrap),
        units=units.kinds if bootstrap is not None else {},
        counts={
            "pictures": len(arrays.image_ids),
            "pictures without a result": int((given == 0).sum()),
            "annotations": len(arrays),
            **truth.left_out,
            "results": len(predictions) + num_unknown,
            "results on nothing that is annotated": num_unknown,
            "missed bodies": len(arrays) - len(judged),
            "redundant results": int(np.maximum(given - persons, 0).sum()),
        },
        tables=[keypoint_table(known, judged, truth.skeleton)] if len(judged) else [],
        worst=[
            WorstPicture(
                image_id=arrays.image_ids[row],
                file=truth.files[row],
                persons=int(persons[row]),
                missed=int(max(persons[row] - given[row], 0)),
                redundant=int(max(given[row] - persons[row], 0)),
                loss=float(loss[row]),
            )
            for row in np.argsort(-loss, kind="stable")[:_NUM_WORST].tolist()
            if loss[row] > 0
        ],
        worst_note="Pictures by what they take from the score: the larger of persons and results, minus the mean "
        "number of persons found over the ten thresholds.",
    )
    return Scored(score=score, measure=measure, units=units, truth=truth, answers=answers)


def read_aic_answers(results: AnyPath, truth: Truth) -> tuple[Predictions, int]:
    """A list with an entry for each picture, or a COCO results list.

    Returns:
        The answers on pictures that are annotated, and how many others there are.

    Raises:
        EvaluationError: the file is neither.
    """
    row_of = {image_id: row for row, image_id in enumerate(truth.arrays.image_ids)}
    rows: list[int] = []
    points: list[bytes] = []
    num_unknown = number = 0
    wanted = 3 * truth.skeleton.num_keypoints
    for items in read_blocks(results):
        for item in items:
            if number == 0 and "keypoint_annotations" not in item:
                read = read_all(results, truth)
                return read.predictions, read.num_unknown
            try:
                bodies = item["keypoint_annotations"]
                row = row_of.get(str(item["image_id"]))
                for body in bodies.values():
                    if row is None:
                        num_unknown += 1
                        continue
                    given = float64_of(body)
                    if len(given) != 8 * wanted:
                        raise ValueError(f"{counted(len(given) // 8, 'number')}, not {wanted}")
                    rows.append(row)
                    points.append(given)
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                raise EvaluationError(
                    f"{results}: entry {number} does not fit ({type(error).__name__}: {error}); expected an image_id "
                    "and keypoint_annotations, of each person 14 points as x, y, flag."
                ) from None
            number += 1
    triplets = np.frombuffer(b"".join(points)).reshape(len(points), -1, 3)
    if not np.isfinite(triplets).all():
        raise EvaluationError(f"{results}: a point is not a finite number.")
    count = len(rows)
    predictions = Predictions(
        image_ids=truth.arrays.image_ids,
        image_row=np.array(rows, np.int64),
        instance_row=np.full(count, -1, np.int64),
        keypoints=triplets[:, :, :2].reshape(count, truth.skeleton.num_keypoints, 2),
        keypoint_scores=np.ones((count, truth.skeleton.num_keypoints)),
        scores=np.ones(count),
        category_id=np.ones(count, np.int64),
        crop_area=np.full(count, np.nan),
    )
    return predictions, num_unknown
