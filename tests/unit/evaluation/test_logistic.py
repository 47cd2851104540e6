import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit

from posecore.evaluation.logistic import fit_logistic


def test_the_curve_is_the_likeliest() -> None:
    random = np.random.default_rng(0)
    scores = random.normal(size=400)
    positive = random.random(400) < expit(1.7 * scores - 0.4)
    yes, no = positive.sum(), (~positive).sum()
    target = np.where(positive, (yes + 1) / (yes + 2), 1 / (no + 2))

    def cost(at: np.ndarray) -> float:
        logit = at[0] * scores + at[1]
        return float((np.logaddexp(0, logit) - target * logit).sum())

    expected = minimize(cost, np.zeros(2), method="BFGS", options={"gtol": 1e-6}).x
    np.testing.assert_allclose(fit_logistic(scores, positive), expected, atol=1e-4)


def test_a_score_that_says_nothing_gives_the_share() -> None:
    slope, intercept = fit_logistic(np.full(30, 0.7), np.arange(30) < 20)
    assert expit(slope * 0.7 + intercept) == pytest.approx((20 * 21 / 22 + 10 * 1 / 12) / 30, abs=1e-6)


def test_a_score_that_divides_wholly_does_not_give_certainty() -> None:
    scores = np.linspace(0, 1, 40)
    slope, intercept = fit_logistic(scores, scores > 0.5)
    chance = expit(slope * scores + intercept)
    assert 0 < chance[0] < 0.06
    assert 0.94 < chance[-1] < 1
    assert slope > 0
