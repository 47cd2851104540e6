"""Two files of results on the same annotations: the difference of each metric, on the same resamples of subjects.

What makes a picture hard makes it hard for both, so the interval of a difference is narrower than either's own.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from posecore.evaluation.bootstrap import BootstrapSettings, Estimate
from posecore.evaluation.image_units import intervals
from posecore.scoring.score import Scored


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Second minus first.

    Attributes:
        first: a results file.
        second: another.
        differences: metric name → difference of all metrics that both have.
        intervals: of those that resamples tell.
    """

    first: str
    second: str
    differences: Mapping[str, float]
    intervals: Mapping[str, Estimate]

    def verdict(self, metric: str, *, higher_is_better: bool) -> str:
        """Whether the resamples tell the two apart, in words."""
        estimate = self.intervals.get(metric)
        if estimate is None:
            return f"{metric}: no interval, so nothing can be said beyond the difference itself"
        if estimate.low <= 0 <= estimate.high:
            return f"{metric}: the two are not told apart (the interval of the difference holds 0)"
        better = (estimate.low > 0) == higher_is_better
        return (
            f"{metric}: the second is {'better' if better else 'worse'} (the interval of the difference leaves 0 out)"
        )


def compare(first: Scored, second: Scored, bootstrap: BootstrapSettings | None) -> Comparison:
    """Both on the same annotations by the same protocol."""

    def difference(images: NDArray[np.float64]) -> dict[str, float]:
        before, after = first.measure(images), second.measure(images)
        return {name: after[name] - before[name] for name in before}

    one, other = first.score, second.score
    shared = [name for name in one.judged if name in other.judged]
    return Comparison(
        first=one.results,
        second=other.results,
        differences={name: other.metrics[name] - one.metrics[name] for name in shared},
        intervals=intervals(difference, first.units, bootstrap),
    )
