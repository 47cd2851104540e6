"""Quantiles of finite samples against the closed form, and what they promise."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from posecore.evaluation.conformal import conformal_quantile, least_units


@pytest.mark.parametrize(("level", "least"), [(0.9, 9), (0.95, 19), (0.8, 4), (0.5, 1), (0.99, 99)])
def test_the_fewest_units_that_can_promise(level: float, least: int) -> None:
    assert least_units(level) == least
    assert math.isfinite(conformal_quantile(np.arange(float(least)), np.arange(least), level))
    assert math.isinf(conformal_quantile(np.arange(float(least - 1)), np.arange(least - 1), level))


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=60), st.sampled_from([0.5, 0.8, 0.9, 0.95]))
def test_one_score_per_unit_gives_the_order_statistic(scores: list[float], level: float) -> None:
    count = len(scores)
    place = math.ceil((count + 1) * level - 1e-9)
    expected = sorted(scores)[place - 1] if place <= count else np.inf
    assert conformal_quantile(np.array(scores), np.arange(count), level) == expected


def test_a_unit_of_many_scores_counts_as_one() -> None:
    few = np.arange(1.0, 11.0)
    unit = np.concatenate([np.arange(10), np.full(1000, 10)])
    scores = np.concatenate([few, np.full(1000, 0.5)])
    # 11 units weigh 1/12 each: the thousand small ones together 1/12, so 0.9 takes ten more of twelve.
    assert conformal_quantile(scores, unit, 0.9) == 10.0
    assert conformal_quantile(scores, np.arange(len(scores)), 0.9) == 0.5


def test_scores_of_no_answer_are_infinite_and_count() -> None:
    scores = np.concatenate([np.full(5, np.inf), np.arange(15.0)])
    assert math.isinf(conformal_quantile(scores, np.arange(20), 0.9))
    assert conformal_quantile(scores, np.arange(20), 0.6) == 12.0
    assert math.isinf(conformal_quantile(np.zeros(0), np.zeros(0, np.int64), 0.9))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31), st.integers(9, 40), st.sampled_from([0.8, 0.9]))
def test_a_score_of_a_new_unit_is_covered_as_promised(seed: int, units: int, level: float) -> None:
    """Subjects differ, in how hard they are and in how often they were seen; the promise is for a point of a new one.

    Coverage over draws of calibration sets is a mean of 400 chances, known to within its standard error.
    """
    random = np.random.default_rng(seed)
    covered = []
    for _ in range(400):
        hard = np.exp(random.normal(size=units + 1))
        count = random.integers(1, 12, units)
        unit = np.repeat(np.arange(units), count)
        limit = conformal_quantile(hard[unit] * random.exponential(size=len(unit)), unit, level)
        covered.append(1 - np.exp(-limit / hard[-1]))
    spread = np.std(covered) / 20
    assert np.mean(covered) >= level - 4 * spread
