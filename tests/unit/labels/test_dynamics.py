"""Loss curves: the published numbers by hand, two means against an exhaustive search, and what is refused."""

import numpy as np
import pytest

from posecore.errors import DatasetError
from posecore.labels.dynamics import curve_features, find_noisy_labels, noisy_labels, two_means


def test_the_published_numbers_of_a_curve():
    losses = np.array([[4.0, 1.0, 2.0], [3.0, 3.0, 2.0], [2.0, 2.0, 2.0], [1.0, 2.0, 2.0]])
    expected = [[3 / 5, 3 / 4], [2 / 4, -1 / 4], [0, 0]]
    np.testing.assert_allclose(curve_features(losses), expected)
    assert curve_features(np.zeros((5, 1))).tolist() == [[0.0, 0.0]]


def test_two_means_are_those_of_the_best_cut():
    rng = np.random.default_rng(0)
    points = np.concatenate([rng.normal((0.8, 0.7), 0.1, (9, 2)), rng.normal((0.3, 0.1), 0.1, (5, 2))])

    def cost(cut):
        return sum(((points[side] - points[side].mean(axis=0)) ** 2).sum() for side in (cut, ~cut))

    cuts = (np.array([number >> bit & 1 for bit in range(14)], bool) for number in range(1, 2**13))
    best = min(cuts, key=cost)
    noisy, centres = two_means(points)
    assert (noisy == best).all() or (noisy == ~best).all()
    assert noisy.tolist() == [False] * 9 + [True] * 5
    assert centres[1].sum() < centres[0].sum()


def test_labels_that_are_not_learned_are_found_and_sorted():
    rng = np.random.default_rng(1)
    passes = np.arange(12)[:, None, None]
    wrong = rng.random((60, 5)) < 0.1
    learned = np.exp(-passes / 3) + 0.1
    stuck = 1.0 - 0.02 * passes
    losses = np.where(wrong, stuck, learned) * rng.uniform(0.5, 2, (60, 5)) + rng.normal(0, 0.01, (12, 60, 5)) ** 2
    losses[:, 0, 0] = np.nan
    wrong[0, 0] = False
    check = find_noisy_labels(losses)
    assert (check.suspicious == wrong).all()
    assert check.is_clear
    assert check.share == pytest.approx(wrong.sum() / 299)
    assert np.isnan(check.scores[0, 0])
    suspects = noisy_labels(check, losses)
    assert {(s.row, s.point) for s in suspects} == set(map(tuple, np.argwhere(wrong).tolist()))
    assert [s.score for s in suspects] == sorted((s.score for s in suspects), reverse=True)
    assert suspects[0].reason.startswith("loss ")


def test_a_clean_set_has_no_two_groups():
    rng = np.random.default_rng(2)
    speed = rng.normal(3, 0.4, (80, 4))
    losses = np.exp(-np.arange(12)[:, None, None] / speed) * np.exp(rng.normal(0, 0.2, (12, 80, 4)))
    check = find_noisy_labels(losses)
    assert check.share > 0.1, "two means cut every cloud"
    assert not check.is_clear
    still = find_noisy_labels(np.ones((6, 10, 5)))
    assert (still.separation, still.share, still.is_clear) == (0.0, 0.0, False)


def test_too_little_is_refused():
    with pytest.raises(DatasetError, match="losses of 3 passes are recorded, and a curve needs 4"):
        find_noisy_labels(np.ones((3, 10, 5)))
    with pytest.raises(DatasetError, match="losses of 10 labels are recorded, and two groups need 20"):
        find_noisy_labels(np.ones((6, 2, 5)))
