"""Wrong labels betray themselves by how their loss moves in training: a network learns what labels have in common.

For every label the curve of its loss over E passes gives two numbers (REMIND, the label-noise check of NeoPose):
``Δl = (max − min) / (max + min)``, how much of the loss went away, and ``Δt = (argmin − argmax) / E``, how long after
the highest loss the lowest came. Labels are cut into two groups around two means; those with the smaller ones are
suspicious.

Two means cut any cloud into two, a clean set's as well. So the cut states the **distance** of the means and the
**separation**: that distance by the spread within the groups along the line through them. One Gaussian cloud cut
through its middle has a separation of 2.65; curves that all fall and differ by a few passes have a small distance.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import NDArray

from posecore.counting import counted
from posecore.errors import DatasetError
from posecore.labels.suspects import Suspect

LEAST_PASSES = 4
"""Fewer points do not make a curve."""

LEAST_LABELS = 20
"""Fewer labels do not make two groups."""

LEAST_SEPARATION = 3.0
"""A cut with less is that of a cloud without a gap (2.65 for a Gaussian one)."""

LEAST_DISTANCE = 0.25
"""Of the means: a quarter of the loss, or of the training."""

_ROUNDS = 200


@dataclass(frozen=True, kw_only=True, eq=False)
class NoiseCheck:
    """What the curves say of the labels.

    Attributes:
        suspicious: (N, K) labels of the group that was hardly learned.
        scores: (N, K) place along the line from the mean of the learned group (0) to that of the other (1), NaN where
            there is no label.
        distance: of the two groups' means; see the module's description.
        separation: the same in spreads.
        share: of the labels that are suspicious.
    """

    suspicious: Bool[np.ndarray, "N K"]
    scores: Float[np.ndarray, "N K"]
    distance: float
    separation: float
    share: float

    @property
    def is_clear(self) -> bool:
        """Whether there are two groups at all."""
        return self.separation >= LEAST_SEPARATION and self.distance >= LEAST_DISTANCE

    def __str__(self) -> str:
        verdict = "two groups" if self.is_clear else "no two groups, as in a clean set"
        return (
            f"{self.share:.1%} of the labels, in a group {self.distance:.2f} and {self.separation:.2f} spreads apart: "
            f"{verdict}"
        )


def curve_features(losses: Float[np.ndarray, "E L"]) -> NDArray[np.float64]:
    """(L, 2) Δl in [0, 1] and Δt in (-1, 1) of the curves of L labels over E passes.

    Args:
        losses: not negative.
    """
    high, low = losses.max(axis=0), losses.min(axis=0)
    total = high + low
    fallen = np.divide(high - low, total, out=np.zeros_like(total), where=total > 0)
    later = (losses.argmin(axis=0) - losses.argmax(axis=0)) / len(losses)
    return np.stack([fallen, later], axis=-1)


def two_means(points: Float[np.ndarray, "L 2"]) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Lloyd's algorithm with two centres, started from the ends of the longest axis: no randomness.

    Returns:
        (L,) whether a point belongs to the centre with the smaller sum, and (2, 2) the centres, that one second.
    """
    middle = points.mean(axis=0)
    _, _, axes = np.linalg.svd(points - middle, full_matrices=False)
    along = (points - middle) @ axes[0]
    second = along > 0
    for _ in range(_ROUNDS):
        if second.all() or not second.any():
            break
        centres = np.stack([points[~second].mean(axis=0), points[second].mean(axis=0)])
        distances = ((points[:, None] - centres) ** 2).sum(axis=-1)
        nearer = distances[:, 1] < distances[:, 0]
        if (nearer == second).all():
            break
        second = nearer
    if second.all() or not second.any():
        return np.zeros(len(points), np.bool_), np.stack([middle, middle])
    centres = np.stack([points[~second].mean(axis=0), points[second].mean(axis=0)])
    if centres[0].sum() < centres[1].sum():
        return ~second, centres[::-1]
    return second, centres


def find_noisy_labels(losses: Float[np.ndarray, "E N K"]) -> NoiseCheck:
    """Cuts the labels of a split into learned and hardly learned ones.

    Args:
        losses: of every label in E passes in order of training; NaN in all passes where there is no label.

    Raises:
        DatasetError: there are too few passes or labels.
    """
    if len(losses) < LEAST_PASSES:
        raise DatasetError(
            f"losses of {counted(len(losses), 'pass')} are recorded, and a curve needs {LEAST_PASSES}; record more "
            "often."
        )
    labelled = ~np.isnan(losses).any(axis=0)
    if labelled.sum() < LEAST_LABELS:
        raise DatasetError(
            f"losses of {counted(int(labelled.sum()), 'label')} are recorded, and two groups need {LEAST_LABELS}; "
            "label more."
        )
    features = curve_features(losses[:, labelled])
    noisy, centres = two_means(features)
    suspicious = np.zeros(labelled.shape, np.bool_)
    suspicious[labelled] = noisy
    scores = np.full(labelled.shape, np.nan)
    line = centres[1] - centres[0]
    length = float(np.hypot(*line))
    if length == 0:
        scores[labelled] = 0.0
        return NoiseCheck(suspicious=suspicious, scores=scores, distance=0.0, separation=0.0, share=0.0)
    places = (features - centres[0]) @ line / length**2
    scores[labelled] = places
    within = np.sqrt(np.mean((places - noisy) ** 2))
    separation = float(1.0 / within) if within > 0 else np.inf
    return NoiseCheck(
        suspicious=suspicious, scores=scores, distance=length, separation=separation, share=float(noisy.mean())
    )


def noisy_labels(check: NoiseCheck, losses: Float[np.ndarray, "E N K"]) -> list[Suspect]:
    """The suspicious labels, the least learned first.

    Args:
        check: of these losses.
        losses: as given to :func:`find_noisy_labels`.
    """
    places = np.argwhere(check.suspicious)
    order = np.argsort(-check.scores[check.suspicious], kind="stable")
    suspects = []
    for row, point in places[order].tolist():
        curve = losses[:, row, point]
        reason = f"loss {curve[0]:.3g} at first, {curve.min():.3g} at best, {curve[-1]:.3g} at last"
        suspects.append(Suspect(row, point, float(check.scores[row, point]), reason))
    return suspects
