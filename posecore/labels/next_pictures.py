"""Which pictures to label next: those a model is least sure of, and no two of them alike.

A picture counts by its least sure body: one less the mean score of the less sure half of its points; or, of a
calibrated model, the mean radius of the wider half of them as a share of √(w·h) of its box, one at most. Pictures are
taken one after the other, each time the one whose doubt, times how far it is from what is taken already, is largest.
Far is measured by poses within their boxes, by the size of the body in the picture, and, within one film, by time.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from posecore.errors import DatasetError
from posecore.formats.named_points import RADII, SCORES
from posecore.schema import Instance, Record

_FAR = 0.3
"""Poses whose points lie apart by this share of the box are as unlike as any."""
_FAR_FRAMES = 60.0
_NOBODY = 0.5
"""Doubt of a picture in which a model finds nobody: half of what it could be."""


@dataclass(frozen=True, slots=True)
class Choice:
    """A picture to label.

    Attributes:
        row: of the records.
        doubt: of its least sure body, from 0 to 1.
        distance: from the nearest one that was taken before, from 0 to 1.
    """

    row: int
    doubt: float
    distance: float


By: TypeAlias = Literal["score", "radius"]
"""What a doubt comes from."""


def next_pictures(records: Sequence[Record], count: int, by: By = "score") -> list[Choice]:
    """The pictures to label next, the first first.

    Args:
        records: predicted, with scores by point in the extras of their bodies.
        count: how many; fewer where there are fewer.
        by: what says how sure a model is: its scores, or the radii of one that was calibrated.

    Raises:
        DatasetError: there is no picture, or there are no radii.
    """
    if not records:
        raise DatasetError("there is no picture to choose from.")
    if by == "radius" and any(RADII not in body.extras for record in records for body in record.instances):
        raise DatasetError("nothing says how far off the points are; calibrate the model and predict again.")
    doubt = {"score": _doubt, "radius": _doubt_of_radii}[by]
    bodies = [_least_sure(record, doubt) for record in records]
    doubts = np.array([_NOBODY if body is None else doubt(body) for body in bodies])
    poses = _poses(records, bodies)
    nearest = np.ones(len(records))
    chosen: list[Choice] = []
    for _ in range(min(count, len(records))):
        worth = doubts * nearest
        worth[[choice.row for choice in chosen]] = -1
        row = int(worth.argmax())
        chosen.append(Choice(row, float(doubts[row]), float(nearest[row])))
        nearest = np.minimum(nearest, _distances(records, poses, row))
    return chosen


def _least_sure(record: Record, doubt: Callable[[Instance], float]) -> Instance | None:
    scored = [body for body in record.instances if body.extras.get(SCORES)]
    return max(scored, key=doubt, default=None)


def _doubt(body: Instance) -> float:
    scores = np.sort(np.clip(np.array(list(body.extras[SCORES].values()), np.float64), 0, 1))
    return float(1 - scores[: max(1, len(scores) // 2)].mean())


def _doubt_of_radii(body: Instance) -> float:
    size = np.sqrt(max(body.bbox_xywh[2] * body.bbox_xywh[3], 1.0))
    shares = np.sort(np.minimum(np.array(list(body.extras[RADII].values()), np.float64) / size, 1.0))
    return float(shares[len(shares) // 2 :].mean())


def _poses(records: Sequence[Record], bodies: Sequence[Instance | None]) -> NDArray[np.float64]:
    """(N, 2K + 1) points within the box, and the body's size in its picture; NaN where there is nobody."""
    width = 2 * max((len(body.keypoints) for body in bodies if body is not None), default=0) + 1
    poses = np.full((len(records), width), np.nan)
    for row, (record, body) in enumerate(zip(records, bodies, strict=True)):
        if body is None:
            continue
        x, y, w, h = body.bbox_xywh
        points = (body.keypoints[:, :2].astype(np.float64) - (x, y)) / (max(w, 1e-6), max(h, 1e-6))
        size = np.sqrt(w * h / max(record.width * record.height, 1))
        poses[row] = [*points.ravel(), size]
    return poses


def _distances(records: Sequence[Record], poses: NDArray[np.float64], row: int) -> NDArray[np.float64]:
    """(N,) how far each picture is from one, from 0 to 1."""
    nobody = np.isnan(poses[:, 0])
    difference = np.nan_to_num(poses - poses[row])
    apart = np.sqrt((difference**2).mean(axis=1) * 2) / _FAR
    apart[nobody != nobody[row]] = 1  # somebody and nobody are unlike; two pictures of nobody are alike
    one = records[row]
    for place, record in enumerate(records):
        if one.video_id is None or record.video_id != one.video_id:
            continue
        if one.frame_index is not None and record.frame_index is not None:
            apart[place] = min(apart[place], abs(record.frame_index - one.frame_index) / _FAR_FRAMES)
    return np.clip(apart, 0, 1)
