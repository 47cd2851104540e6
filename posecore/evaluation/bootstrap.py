"""Confidence intervals from a sample of subjects, each with as many frames as it happens to have.

Frames of one body are nearly equal, so an interval from resampled frames is far too narrow. Here whole subjects are
drawn with replacement (the cluster bootstrap of Field and Welsh, JRSS B 69:369, 2007). Every metric of interest is a
function of sums over subjects (errors, hits, counts), so a subject is one row of sums and a resample is one row of
counts times those: nothing is computed from frames again.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, Literal, TypeAlias

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from pydantic import BeforeValidator, Field
from scipy.special import ndtr, ndtri, stdtrit

from posecore.config import Config

FEW_SUBJECTS = 10
"""Below this many subjects intervals hold the truth clearly less often than they say (docs/clinical_evaluation.md)."""

_CHUNK = 1 << 22  # subjects × resamples drawn at a time
_ALIKE = 1e-12  # of the estimate's size: a resample that differs by less differs by rounding only

Number: TypeAlias = Annotated[
    float, Field(allow_inf_nan=True), BeforeValidator(lambda value: np.nan if value is None else value)
]
"""A number that need not exist: NaN, which JSON writes as null."""

Statistic = Callable[[NDArray[np.float64]], NDArray[np.float64]]
"""(B, C) sums to (B, M) values; NaN, as 0 / 0 is, where a value does not exist, such as a mean of nothing."""


class BootstrapSettings(Config):
    """How intervals are made.

    Attributes:
        resamples: B, how often the subjects are drawn.
        level: share of repeated studies whose interval should hold the true value.
        seed: of the draws; equal seeds and data give equal intervals.
        method: ``percentile`` takes the quantiles of the resampled values; ``expanded`` takes quantiles farther out, as
            Student's t is wider than the normal for few subjects (Hesterberg, Am. Stat. 69:371, 2015); ``bca`` moves
            them for bias and skewness (bias-corrected and accelerated; Efron, JASA 82:171, 1987).
    """

    resamples: int = Field(default=2000, ge=100)
    level: float = Field(default=0.95, gt=0, lt=1)
    seed: int = Field(default=0, ge=0)
    method: Literal["expanded", "percentile", "bca"] = "expanded"


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value and its confidence interval.

    Attributes:
        value: on the whole sample; NaN if there is nothing to take it from.
        low: lower end; NaN where the sample cannot tell: fewer than two subjects, or no resample differs.
        high: upper end, likewise.
    """

    value: Number
    low: Number = np.nan
    high: Number = np.nan


def bootstrap_by_subject(
    sums: Float[np.ndarray, "S C"], statistic: Statistic, settings: BootstrapSettings | None = None
) -> list[Estimate]:
    """Values of a statistic with intervals from resampled subjects.

    A resample for which a value does not exist (no subject with that joint was drawn) is left out for that value. Where
    all resamples give the same value, as for "none of 12 missed", there is no interval: its width would be zero, which
    says more than is known.

    Args:
        sums: a row per subject, of whatever adds up over subjects.
        statistic: sums to values, row by row.
        settings: how.

    Returns:
        One estimate per value of the statistic.
    """
    settings = settings or BootstrapSettings()
    total = sums.sum(axis=0, keepdims=True)
    with np.errstate(invalid="ignore"):
        values = statistic(total)[0]
        if len(sums) < 2:
            return [Estimate(float(value)) for value in values]
        resampled = np.concatenate([statistic(counts @ sums) for counts in _draws(len(sums), settings)])
        without_one = statistic(total - sums)
    tails = _tails(len(sums), settings)
    return [
        _estimate(float(value), resampled[:, column], without_one[:, column], tails, settings)
        for column, value in enumerate(values)
    ]


def estimate_of_draws(
    value: float, resampled: NDArray[np.float64], num_subjects: int, settings: BootstrapSettings
) -> Estimate:
    """A value with its interval, where the resampled values were had by other means than sums, so never by ``bca``.

    Args:
        value: on the whole sample.
        resampled: (B,) on each resample, NaN where it does not exist.
        num_subjects: that were drawn each time.
        settings: how.
    """
    assert settings.method != "bca", settings
    if num_subjects < 2:
        return Estimate(value)
    return _estimate(value, resampled, np.zeros(0), _tails(num_subjects, settings), settings)


def _tails(num_subjects: int, settings: BootstrapSettings) -> NDArray[np.float64]:
    """The two quantiles of resampled values that the interval ends at."""
    tails = np.array([(1 - settings.level) / 2, (1 + settings.level) / 2])
    if settings.method == "expanded":
        tails = ndtr(np.sqrt(num_subjects / (num_subjects - 1)) * stdtrit(num_subjects - 1, tails))
    return tails


def _draws(num_subjects: int, settings: BootstrapSettings) -> Iterator[NDArray[np.float64]]:
    """Blocks of (b, S): how often each subject is in each resample. The blocks do not change what is drawn."""
    rng = np.random.default_rng(settings.seed)
    at_a_time = max(1, _CHUNK // num_subjects)
    for start in range(0, settings.resamples, at_a_time):
        number = min(at_a_time, settings.resamples - start)
        drawn = rng.integers(0, num_subjects, (number, num_subjects))
        cell = drawn + num_subjects * np.arange(number)[:, None]
        counts = np.bincount(cell.ravel(), minlength=number * num_subjects)
        yield counts.reshape(number, num_subjects).astype(np.float64)


def _estimate(
    value: float,
    resampled: NDArray[np.float64],
    without_one: NDArray[np.float64],
    tails: NDArray[np.float64],
    settings: BootstrapSettings,
) -> Estimate:
    resampled = resampled[np.isfinite(resampled)]
    if not len(resampled) or np.ptp(resampled) <= _ALIKE * max(1.0, abs(value)):
        return Estimate(value)
    if settings.method == "bca":
        tails = _corrected(tails, value, resampled, without_one[np.isfinite(without_one)])
    low, high = np.quantile(resampled, tails)
    return Estimate(value, float(low), float(high))


def _corrected(
    tails: NDArray[np.float64], value: float, resampled: NDArray[np.float64], without_one: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The quantiles to take instead of ``tails``; those themselves where the estimate lies beyond every resample."""
    below = (np.mean(resampled < value) + np.mean(resampled <= value)) / 2
    difference = without_one.sum() / max(len(without_one), 1) - without_one
    spread = (difference**2).sum()
    if not 0 < below < 1 or not spread > 0:
        return tails
    bias = ndtri(below)
    acceleration = (difference**3).sum() / (6 * spread**1.5)
    shifted = bias + ndtri(tails)
    corrected: NDArray[np.float64] = ndtr(bias + shifted / (1 - acceleration * shifted))
    return corrected
