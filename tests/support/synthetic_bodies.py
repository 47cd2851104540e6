"""Points of rendered adults and infants, without their pictures."""

from functools import cache

import numpy as np
from numpy.typing import NDArray

from posecore.synth.landmarks import COCO_17
from posecore.synth.scene import Kind, render


@cache
def synthetic_bodies(kind: Kind, count: int, seed: int = 0) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """(count, 17, 2) x, y in pixels of 96x96 pictures, and (count, 17) which are labelled: read-only."""
    points, labelled, number = [], [], 0
    while len(points) < count:
        number += 1
        for body in render(kind, seed, number, (96, 96)).bodies:
            if body.role == "labelled":
                keypoints = body.keypoints(COCO_17)
                points.append(keypoints[:, :2])
                labelled.append(keypoints[:, 2] > 0)
    arrays = np.array(points[:count], np.float64), np.array(labelled[:count])
    for array in arrays:
        array.flags.writeable = False
    return arrays


def diagonals(keypoints: NDArray[np.float64], labelled: NDArray[np.bool_]) -> NDArray[np.float64]:
    """(N,) diagonal of the box around each body's labelled points."""
    low = np.where(labelled[..., None], keypoints, np.inf).min(axis=1)
    high = np.where(labelled[..., None], keypoints, -np.inf).max(axis=1)
    return np.hypot(*(high - low).T)


def area_under_curve(scores: NDArray[np.floating], positive: NDArray[np.bool_]) -> float:
    """Chance that a positive's score is above a negative's, ties counting half."""
    above = scores[positive][:, None] - scores[~positive][None]
    return float((above > 0).mean() + 0.5 * (above == 0).mean())
