"""COCO results lists by protocols that judge one answer for each body."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from posecore.counting import counted
from posecore.errors import EvaluationError
from posecore.evaluation.arrays import Predictions
from posecore.scoring.blocks import BODY_ID_FIELD, Block, Results
from posecore.scoring.truth import Truth
from posecore.storage import AnyPath


@dataclass(frozen=True, kw_only=True, eq=False)
class ReadResults:
    """All of a results file.

    Attributes:
        predictions: on known pictures; ``instance_row`` names the annotation where the file does, else it is -1.
        num_entries: of the file.
        num_unknown: of those, how many are on pictures, or answer annotations, that are not there.
    """

    predictions: Predictions
    num_entries: int
    num_unknown: int


def read_all(path: AnyPath, truth: Truth) -> ReadResults:
    """Reads a file; what answers nothing that is known is counted and left out.

    Raises:
        EvaluationError: the file does not fit the skeleton, or names annotations in some entries only, or one twice.
    """
    entries = Results(path, truth.arrays.image_ids, truth.skeleton.num_keypoints, of_bodies=True)
    blocks = [block for block in entries if len(block.scores)]
    bodies = [body for block in blocks for body in block.bodies]
    named = sum(body != "" for body in bodies)
    if named not in (0, len(bodies)):
        raise EvaluationError(
            f"{path}: {named} of {counted(len(bodies), 'result')} have a field {BODY_ID_FIELD}; either all name the "
            "annotation that they answer, or none."
        )
    row_of = {name: row for row, name in enumerate(truth.arrays.instance_ids)}
    rows = np.array([row_of.get(body, -1) if body else -1 for body in bodies], np.int64)
    predictions = _joined(blocks, truth, rows)
    strange = (rows < 0) if named else np.zeros(len(rows), np.bool_)
    kept = predictions.take(~strange)
    _, counts = np.unique(kept.instance_row[kept.instance_row >= 0], return_counts=True)
    if (counts > 1).any():
        raise EvaluationError(f"{path}: more than one answer to {counted(int((counts > 1).sum()), 'annotation')}.")
    return ReadResults(
        predictions=kept, num_entries=entries.num_entries, num_unknown=entries.num_unknown + int(strange.sum())
    )


def one_for_each(truth: Truth, predictions: Predictions) -> Predictions:
    """At most one answer for each labelled body, ``instance_row`` ascending.

    Where the file names annotations, those; else bodies and results of a picture are paired so that the sum of their
    mean distances, in shares of √(w·h) of the box and 1 at most, is least. A pair as far apart as that is none.
    """
    if (predictions.instance_row >= 0).any():
        return predictions.take(np.argsort(predictions.instance_row, kind="stable"))
    # Imported here because it takes a third of a second, which protocols that rank by OKS should not wait for.
    from scipy.optimize import linear_sum_assignment

    arrays = truth.arrays
    bodies = np.flatnonzero(arrays.labelled)
    of_image: dict[int, tuple[list[int], list[int]]] = {}
    for body in bodies.tolist():
        of_image.setdefault(int(arrays.image_row[body]), ([], []))[0].append(body)
    for row, image in enumerate(predictions.image_row.tolist()):
        if image in of_image:
            of_image[image][1].append(row)
    answer = np.full(len(arrays), -1, np.int64)
    for here, answers in of_image.values():
        cost = _costs(truth, predictions, np.array(here), np.array(answers, np.int64))
        for place, chosen in zip(*linear_sum_assignment(cost), strict=True):
            if cost[place, chosen] < 1:
                answer[here[place]] = answers[chosen]
    found = np.flatnonzero(answer >= 0)
    taken = predictions.take(answer[found])
    return replace(taken, instance_row=found)


def _costs(
    truth: Truth, predictions: Predictions, bodies: NDArray[np.int64], answers: NDArray[np.int64]
) -> NDArray[np.float64]:
    arrays = truth.arrays
    visible = arrays.visibility[bodies][..., None] > 0
    low, high = (np.where(visible, arrays.keypoints[bodies], fill) for fill in (np.inf, -np.inf))
    sides = np.maximum(arrays.bbox_xywh[bodies, 2:], high.max(axis=1) - low.min(axis=1))  # a file may have no boxes
    size = np.sqrt(sides.clip(min=1.0).prod(axis=1))
    distance = np.linalg.norm(arrays.keypoints[bodies][:, None] - predictions.keypoints[answers][None], axis=3)
    labelled = arrays.visibility[bodies][:, None] > 0
    share = np.minimum(distance / size[:, None, None], 1.0) * labelled
    return np.asarray(share.sum(axis=2) / labelled.sum(axis=2))


def _joined(blocks: list[Block], truth: Truth, rows: NDArray[np.int64]) -> Predictions:
    num_keypoints = truth.skeleton.num_keypoints

    def column(name: str, empty: NDArray[np.generic]) -> NDArray[np.generic]:
        return np.concatenate([empty, *(getattr(block, name) for block in blocks)])

    return Predictions(
        image_ids=truth.arrays.image_ids,
        image_row=column("image_row", np.zeros(0, np.int64)),
        instance_row=rows,
        keypoints=column("keypoints", np.zeros((0, num_keypoints, 2))),
        keypoint_scores=column("keypoint_scores", np.zeros((0, num_keypoints))),
        scores=column("scores", np.zeros(0)),
        category_id=column("category_id", np.zeros(0, np.int64)),
        crop_area=np.full(len(rows), np.nan),
    )
