"""Which keypoints and whose bodies are hard: the error of each, over all instances of a set."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from posecore.evaluation.arrays import GroundTruth, Predictions
from posecore.evaluation.bootstrap import BootstrapSettings, Estimate, bootstrap_by_subject
from posecore.evaluation.pairing import Distances, nearest_distances, paired_distances
from posecore.evaluation.traits import Traits, Unit
from posecore.skeletons.skeleton import Skeleton

_Key = TypeVar("_Key", str, tuple[Unit, str])

WITHIN_A_SUBJECT = BootstrapSettings(resamples=500)
"""How the pictures of one subject are drawn anew: of those there may be thousands, of subjects too."""


@dataclass(frozen=True, kw_only=True)
class KeypointError:
    """Errors of one keypoint; NaN where it is labelled nowhere.

    Attributes:
        name: native name.
        labelled: how many instances label it.
        mean_px: mean distance in image pixels.
        median_px: median distance in image pixels.
        relative: mean distance as a share of √(w·h) of the instance's box.
        missed: share of points further away than a tenth of √(w·h).
        low: lower end of the interval of ``relative``, NaN where there is none.
        high: its upper end.
    """

    name: str
    labelled: int
    mean_px: float
    median_px: float
    relative: float
    missed: float
    low: float = np.nan
    high: float = np.nan


@dataclass(frozen=True, kw_only=True)
class SubjectError:
    """Errors of the bodies of one subject, or of one video where no subject is stated.

    Attributes:
        kind: ``subject`` or ``video``.
        name: of it.
        bodies: judged.
        error: mean distance of a labelled point as a share of √(w·h) of the body's box, its interval from the subject's
            pictures drawn anew: what it says holds for this subject alone.
    """

    kind: Unit
    name: str
    bodies: int
    error: Estimate


def answered_distances(truth: GroundTruth, predictions: Predictions) -> Distances:
    """Distances by annotated box where the predictions come from such, else to the nearest prediction."""
    from_truth = (predictions.instance_row >= 0).any()
    return paired_distances(truth, predictions) if from_truth else nearest_distances(truth, predictions)


def relative_distances(truth: GroundTruth, distances: Distances) -> Float[np.ndarray, "P K"]:
    """(P, K) distances as a share of √(w·h) of each instance's box."""
    size = truth.bbox_xywh[distances.truth_row, 2:].clip(min=1.0)
    relative: Float[np.ndarray, "P K"] = distances.pixels / np.sqrt(size.prod(axis=1))[:, None]
    return relative


def keypoint_errors(
    truth: GroundTruth, predictions: Predictions, skeleton: Skeleton, traits: Traits | None = None
) -> list[KeypointError]:
    """One row per keypoint of the skeleton, in its order.

    Args:
        truth: annotations.
        predictions: what a model said of them.
        skeleton: names of the points.
        traits: of the same instances: whose body each is, for intervals; None makes none.
    """
    distances = answered_distances(truth, predictions)
    relative = relative_distances(truth, distances)
    intervals = [Estimate(np.nan)] * len(skeleton.names)
    if traits is not None and len(relative):
        units = traits.units()
        rows_of = grouped([units[row] for row in distances.truth_row])
        intervals = mean_errors(_sums(relative, list(rows_of.values())))
    rows: list[KeypointError] = []
    for column, name in enumerate(skeleton.names):
        labelled = np.isfinite(distances.pixels[:, column])
        pixels, share = distances.pixels[labelled, column], relative[labelled, column]
        known = len(pixels) > 0
        rows.append(
            KeypointError(
                name=name,
                labelled=len(pixels),
                mean_px=float(pixels.mean()) if known else np.nan,
                median_px=float(np.median(pixels)) if known else np.nan,
                relative=float(share.mean()) if known else np.nan,
                missed=float((share > 0.1).mean()) if known else np.nan,
                low=intervals[column].low,
                high=intervals[column].high,
            )
        )
    return rows


def whole_error(truth: GroundTruth, predictions: Predictions, traits: Traits) -> tuple[Estimate, dict[str, int]]:
    """The mean error of all labelled points, as a share of √(w·h) of their boxes, and what its interval comes from."""
    distances = answered_distances(truth, predictions)
    relative, units = relative_distances(truth, distances), traits.units()
    rows_of = grouped([units[row] for row in distances.truth_row])
    if not rows_of:
        return Estimate(np.nan), {}
    sums = _sums(relative, list(rows_of.values())).reshape(len(rows_of), 2, -1)
    kinds = [kind for kind, _ in rows_of]
    return mean_errors(sums.sum(axis=2))[0], {kind: kinds.count(kind) for kind in sorted(set(kinds))}


def subject_errors(truth: GroundTruth, predictions: Predictions, traits: Traits) -> list[SubjectError]:
    """One row per subject, or video where none is stated, the largest error first; pictures of nobody are left out."""
    distances = answered_distances(truth, predictions)
    relative, units = relative_distances(truth, distances), traits.units()
    found = []
    for (kind, name), rows in grouped([units[row] for row in distances.truth_row]).items():
        if kind != "image":
            pictures = grouped([traits.image[row] for row in distances.truth_row[rows]])
            sums = _sums(relative[rows].reshape(len(rows), -1), list(pictures.values())).reshape(len(pictures), 2, -1)
            (error,) = mean_errors(sums.sum(axis=2), WITHIN_A_SUBJECT)
            found.append(SubjectError(kind=kind, name=name, bodies=len(rows), error=error))
    return sorted(found, key=lambda each: -each.error.value)


def grouped(keys: Sequence[_Key]) -> dict[_Key, NDArray[np.int64]]:
    """Each key, sorted, and the places at which it stands."""
    places: dict[_Key, list[int]] = {}
    for place, key in enumerate(keys):
        places.setdefault(key, []).append(place)
    return {key: np.array(places[key], np.int64) for key in sorted(places)}


def mean_errors(sums: Float[np.ndarray, "S C"], settings: BootstrapSettings | None = None) -> list[Estimate]:
    """Means with intervals, of a row per unit: sums of errors, and then how many each is the sum of."""
    half = sums.shape[1] // 2
    return bootstrap_by_subject(sums, lambda drawn: drawn[:, :half] / drawn[:, half:], settings)


def _sums(relative: Float[np.ndarray, "P K"], rows: Sequence[NDArray[np.int64]]) -> NDArray[np.float64]:
    """(S, 2·K) by unit: sums of errors, and then numbers of labelled points."""
    parts = [(np.nansum(relative[each], axis=0), np.isfinite(relative[each]).sum(axis=0)) for each in rows]
    return np.stack([np.concatenate(part) for part in parts])
