"""How large an error may be, promised for a finite sample and whatever its distribution: split-conformal quantiles.

What is promised holds for a new unit that could as well have been one of those of the sample (exchangeability). Points
of one body, and pictures of one subject, could not: they are alike. So the unit is the subject where subjects are
named. With one score per unit the quantile is the ⌈(n + 1)·level⌉-th smallest of n (Vovk et al., 2005; Angelopoulos
and Bates, arXiv 2107.07511); with several, every unit counts as one, and the promise is the same (hierarchical
conformal prediction; Lee, Barber and Willett, arXiv 2306.06342).
"""

from math import ceil

import numpy as np
from jaxtyping import Float, Int

_ROUNDING = 1e-9


def least_units(level: float) -> int:
    """The fewest units of which a quantile of this level exists: ⌈1 / (1 − level)⌉ − 1; 9 for 90 %."""
    return ceil(1 / (1 - level) - _ROUNDING) - 1


def conformal_quantile(scores: Float[np.ndarray, " n"], unit: Int[np.ndarray, " n"], level: float) -> float:
    """What a score of a new unit exceeds with a probability of at most 1 − level.

    Args:
        scores: of the sample; may be infinite.
        unit: whose each score is, any numbers.
        level: in (0, 1).

    Returns:
        The smallest score that together with all smaller ones has a weight of at least ``level``, where each of K units
        weighs 1 / (K + 1), shared by its scores; infinite where that takes more than all.
    """
    if not len(scores):
        return np.inf
    _, place, count = np.unique(unit, return_inverse=True, return_counts=True)
    order = np.argsort(scores, kind="stable")
    weight = np.cumsum(1 / (count[place[order]] * (len(count) + 1)))
    at = int(np.searchsorted(weight, level - _ROUNDING))
    return float(scores[order[at]]) if at < len(scores) else np.inf
