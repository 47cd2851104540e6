"""A score to a probability: Platt's logistic curve, by Newton's method.

Source: Platt, Advances in Large Margin Classifiers, 1999; Lin, Lin and Weng, Machine Learning 68:267, 2007. Targets
are not 0 and 1 but what a uniform prior makes of their numbers, so that a sample that a score divides wholly does not
give certainty.
"""

import numpy as np
from jaxtyping import Bool, Float
from scipy.special import expit

_MOST_STEPS = 100
_RIDGE = 1e-12
_CLOSE = 1e-9


def fit_logistic(scores: Float[np.ndarray, " n"], positive: Bool[np.ndarray, " n"]) -> tuple[float, float]:
    """Slope a and intercept b with which 1 / (1 + exp(−(a·score + b))) is likeliest.

    Args:
        scores: finite.
        positive: whether it was so; both must occur.
    """
    yes = int(positive.sum())
    no = len(positive) - yes
    assert yes > 0, "a curve needs both"
    assert no > 0, "a curve needs both"
    target = np.where(positive, (yes + 1) / (yes + 2), 1 / (no + 2))
    design = np.stack([scores, np.ones(len(scores))], axis=1)
    found = np.array([0.0, np.log((yes + 1) / (no + 1))])

    def cost(at: Float[np.ndarray, " 2"]) -> float:
        logit = design @ at
        return float((np.logaddexp(0, logit) - target * logit).sum())

    for _ in range(_MOST_STEPS):
        chance = expit(design @ found)
        gradient = design.T @ (chance - target)
        if np.abs(gradient).max() < _CLOSE * len(scores):
            break
        curvature = (design * (chance * (1 - chance))[:, None]).T @ design + _RIDGE * np.eye(2)
        step = np.linalg.solve(curvature, gradient)
        length, before, slope = 1.0, cost(found), gradient @ step
        while length > _RIDGE and cost(found - length * step) > before - 1e-4 * length * slope:
            length /= 2
        found = found - length * step
    return float(found[0]), float(found[1])
