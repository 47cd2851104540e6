import numpy as np
import pytest
from scipy import stats

from posecore.evaluation.bootstrap import BootstrapSettings, bootstrap_by_subject


def mean(sums):
    return sums[:, 1:] / sums[:, :1]


def rows(values):
    """A row (1, value) per subject: the mean of the values is then the ratio of the sums."""
    return np.stack([np.ones(len(values)), values], axis=1)


@pytest.mark.parametrize(("method", "name"), [("percentile", "percentile"), ("bca", "BCa")])
@pytest.mark.parametrize("level", [0.95, 0.8])
@pytest.mark.parametrize("unit", [1, 0.01])
def test_intervals_of_a_mean_are_scipys(method, name, level, unit):
    values = np.random.default_rng(3).lognormal(size=23) * unit
    settings = BootstrapSettings(resamples=1000, seed=11, method=method, level=level)
    (ours,) = bootstrap_by_subject(rows(values), mean, settings)
    theirs = stats.bootstrap(
        (values,), np.mean, n_resamples=1000, method=name, confidence_level=level, rng=np.random.default_rng(11)
    ).confidence_interval
    assert ours.value == pytest.approx(values.mean())
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high))


def test_expanded_intervals_take_quantiles_as_far_out_as_students_t():
    values = np.random.default_rng(4).lognormal(size=7)
    (ours,) = bootstrap_by_subject(rows(values), mean, BootstrapSettings(seed=2, method="expanded"))
    drawn = stats.bootstrap((values,), np.mean, n_resamples=2000, rng=np.random.default_rng(2)).bootstrap_distribution
    tail = stats.norm.cdf(np.sqrt(7 / 6) * stats.t.ppf(0.025, df=6))
    assert (ours.low, ours.high) == pytest.approx(tuple(np.quantile(drawn, [tail, 1 - tail])))
    (plain,) = bootstrap_by_subject(rows(values), mean, BootstrapSettings(seed=2, method="percentile"))
    assert ours.low < plain.low < plain.high < ours.high


def test_intervals_hold_the_truth_as_often_as_they_say_and_those_from_frames_do_not():
    """40 studies' worth of subjects with unequal numbers of frames that are nearly equal within a subject."""
    rng = np.random.default_rng(5)
    settings = BootstrapSettings(resamples=300)
    held = {"subjects": 0, "frames": 0}
    studies, subjects = 200, 40
    for _ in range(studies):
        frames = rng.integers(5, 30, subjects)
        own = 1 + rng.normal(size=subjects)  # the true mean over the population is 1
        errors = np.repeat(own, frames) + 0.2 * rng.normal(size=frames.sum())
        subject = np.repeat(np.arange(subjects), frames)
        by_subject = np.stack([frames, np.bincount(subject, errors)], axis=1)
        for kind, sums in (("subjects", by_subject), ("frames", rows(errors))):
            (estimate,) = bootstrap_by_subject(sums, mean, settings)
            held[kind] += estimate.low <= 1 <= estimate.high
    assert 0.90 <= held["subjects"] / studies <= 0.98
    assert held["frames"] / studies < 0.5


def test_equal_seeds_give_equal_intervals_and_the_order_of_work_does_not_matter(monkeypatch):
    sums = rows(np.random.default_rng(0).random(9))
    first = bootstrap_by_subject(sums, mean)
    monkeypatch.setattr("posecore.evaluation.bootstrap._CHUNK", 50)
    assert bootstrap_by_subject(sums, mean) == first
    assert bootstrap_by_subject(sums, mean, BootstrapSettings(seed=1)) != first


def test_no_interval_where_the_sample_cannot_tell():
    (alone,) = bootstrap_by_subject(rows(np.array([0.3])), mean)
    assert alone.value == 0.3
    assert np.isnan([alone.low, alone.high]).all()
    (alike,) = bootstrap_by_subject(rows(np.full(12, 0.1)), mean)
    assert alike.value == pytest.approx(0.1)
    assert np.isnan([alike.low, alike.high]).all()
    (nothing,) = bootstrap_by_subject(np.zeros((0, 2)), mean)
    assert np.isnan(nothing.value)


def test_resamples_without_a_value_are_left_out():
    sums = np.array([[1.0, 2.0], [1.0, 4.0], [0.0, 0.0], [0.0, 0.0]])
    (estimate,) = bootstrap_by_subject(sums, mean, BootstrapSettings(method="percentile"))
    assert (estimate.value, estimate.low, estimate.high) == (3.0, 2.0, 4.0)


def test_an_estimate_beyond_every_resample_falls_back_to_percentiles():
    def distinct(sums):  # a resample of 30 never holds all 30
        return (sums > 0).sum(axis=1, keepdims=True).astype(float)

    (estimate,) = bootstrap_by_subject(np.eye(30), distinct, BootstrapSettings(method="bca"))
    assert estimate.value == 30
    assert [estimate] == bootstrap_by_subject(np.eye(30), distinct, BootstrapSettings(method="percentile"))
    assert 14 <= estimate.low < 19 < estimate.high <= 24  # 30 · (1 - 1/e) = 19 on average
