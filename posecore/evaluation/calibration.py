"""Whether a confidence means what it says: of points with confidence 0.8, are 80 % right?

"Right" is for the caller to define; :mod:`posecore.evaluation.clinical` takes a point as right if it lies within a
stated share of the body's torso length. Bins are of equal width over [0, 1], closed below and open above, but for the
last, which holds 1 too. The expected calibration error is the mean over points of |share right - mean confidence| of
the point's bin (Naeini et al., AAAI 2015; Guo et al., ICML 2017).
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from posecore.evaluation.bootstrap import Number

NUM_BINS = 10


@dataclass(frozen=True, slots=True)
class ReliabilityBin:
    """Points of one range of confidence.

    Attributes:
        low: least confidence.
        high: confidence the bin ends at.
        points: how many there are.
        confidence: mean confidence, NaN if there is no point.
        right: share of points that are right, NaN if there is no point.
    """

    low: float
    high: float
    points: int
    confidence: Number
    right: Number


def bin_sums(
    confidence: Float[np.ndarray, " P"],
    right: Bool[np.ndarray, " P"],
    group: Int[np.ndarray, " P"],
    num_groups: int,
    num_bins: int = NUM_BINS,
) -> Float[np.ndarray, "S C"]:
    """Per group, the number of points, the sum of their confidences and the number right, of each bin.

    Args:
        confidence: of each point; below 0 counts as 0 and above 1 as 1.
        right: of each point.
        group: of each point, in [0, S).
        num_groups: S.
        num_bins: bins.

    Returns:
        (S, 3 · bins): all counts, then all sums of confidence, then all numbers right; it adds up over groups.
    """
    confidence = confidence.clip(0.0, 1.0)
    # Edges are compared, not multiplied: 0.29 · 100 is less than 29.
    place = np.searchsorted(np.arange(num_bins) / num_bins, confidence, side="right") - 1
    cell = group * num_bins + place
    columns = [
        np.bincount(cell, weights, num_groups * num_bins).reshape(num_groups, num_bins)
        for weights in (None, confidence, right.astype(np.float64))
    ]
    return np.concatenate(columns, axis=1).astype(np.float64)


def calibration_errors(sums: Float[np.ndarray, "B C"]) -> Float[np.ndarray, "B 2"]:
    """Expected calibration error, and mean confidence minus share right (above 0: too sure), of each row of sums.

    A row without points gives 0 / 0.
    """
    points, confidence, right = np.split(sums, 3, axis=1)
    total = points.sum(axis=1)
    expected = np.abs(confidence - right).sum(axis=1) / total
    surplus = (confidence - right).sum(axis=1) / total
    return np.stack([expected, surplus], axis=1)


def reliability_bins(sums: Float[np.ndarray, " C"]) -> list[ReliabilityBin]:
    """The diagram's bins, from the sums of the whole sample."""
    points, confidence, right = np.split(sums, 3)
    num_bins = len(points)
    return [
        ReliabilityBin(
            low=number / num_bins,
            high=(number + 1) / num_bins,
            points=int(points[number]),
            confidence=_ratio(float(confidence[number]), float(points[number])),
            right=_ratio(float(right[number]), float(points[number])),
        )
        for number in range(num_bins)
    ]


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else np.nan
