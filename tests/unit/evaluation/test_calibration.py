import numpy as np
import pytest

from posecore.evaluation.bootstrap import bootstrap_by_subject
from posecore.evaluation.calibration import bin_sums, calibration_errors, reliability_bins


def test_a_case_done_by_hand():
    confidence = np.array([0.05, 0.15, 0.15, 0.85, 0.95, 1.0])
    right = np.array([False, True, False, True, True, False])
    sums = bin_sums(confidence, right, np.zeros(6, np.int64), 1)
    # |0 - 0.05| · 1 + |1 - 0.30| + |1 - 0.85| + |1 - 1.95|, over six points.
    expected = (0.05 + 0.70 + 0.15 + 0.95) / 6
    surplus = (confidence.sum() - 3) / 6
    assert calibration_errors(sums)[0] == pytest.approx([expected, surplus])
    bins = reliability_bins(sums[0])
    assert [b.points for b in bins] == [1, 2, 0, 0, 0, 0, 0, 0, 1, 2]
    assert (bins[1].low, bins[1].high, bins[1].confidence, bins[1].right) == pytest.approx((0.1, 0.2, 0.15, 0.5))
    assert np.isnan(bins[4].right)
    assert np.isnan(bins[4].confidence)


def test_the_error_is_that_of_a_loop_over_bins_and_adds_up_over_groups():
    rng = np.random.default_rng(0)
    confidence, group = rng.random(500), rng.integers(0, 7, 500)
    right = rng.random(500) < confidence**2
    sums = bin_sums(confidence, right, group, 7, num_bins=15)
    loop = 0.0
    for number in range(15):
        inside = np.floor(confidence * 15) == number
        loop += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    assert calibration_errors(sums.sum(axis=0, keepdims=True))[0, 0] == pytest.approx(loop)
    for number in range(7):
        own = group == number
        np.testing.assert_allclose(sums[number], bin_sums(confidence[own], right[own], group[own] * 0, 1, 15)[0])


def test_edges_belong_to_the_bin_above_and_one_to_the_last():
    confidence = np.array([0.0, 0.1, 0.3, 0.7, 1.0, -0.2, 1.3])
    counts = bin_sums(confidence, np.ones(7, bool), np.zeros(7, np.int64), 1)[0, :10]
    assert counts.tolist() == [2, 1, 0, 1, 0, 0, 0, 1, 0, 2]


def test_honest_confidences_have_a_small_error_and_boastful_ones_a_large_one():
    rng = np.random.default_rng(1)
    chance = rng.random(20_000)
    right = rng.random(20_000) < chance
    one = np.zeros(20_000, np.int64)
    honest = calibration_errors(bin_sums(chance, right, one, 1))[0]
    assert honest == pytest.approx([0, 0], abs=0.02)
    # Always sure: the error is the share that is wrong, all of it surplus.
    boastful = calibration_errors(bin_sums(np.ones(20_000), right, one, 1))[0]
    assert boastful == pytest.approx([1 - right.mean()] * 2)


def test_nothing_has_no_error():
    (error, surplus) = bootstrap_by_subject(np.zeros((0, 30)), calibration_errors)
    assert np.isnan([error.value, surplus.value]).all()
