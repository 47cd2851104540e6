"""Successive halving: all trials make a few steps, and the better ones go on for some times as many.

Karnin et al., ICML 2013; Jamieson and Talwalkar, AISTATS 2016. Trials follow one schedule, which ends at the last rung:
what goes on resumes from where it was, and what is chosen among has come to rest.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from posecore.errors import ConfigError

FEWEST_STEPS = 10
"""Of the first rung; what fewer steps say of a strategy is noise."""
_RESERVE = 0.05  # of a budget in time: what was measured in a few steps may be wrong by so much


@dataclass(frozen=True)
class Halving:
    """How long trials are, and how many go on.

    Attributes:
        rungs: steps after which the trials that are left are compared, ascending.
        counts: how many of them are left at each.
        final: steps of the adaptation by what was chosen.
    """

    rungs: tuple[int, ...]
    counts: tuple[int, ...]
    final: int

    @property
    def search_steps(self) -> int:
        """Steps of all trials together."""
        return _steps(self.counts, self.rungs)

    @property
    def total_steps(self) -> int:
        """Those of the adaptation included."""
        return self.search_steps + self.final


@dataclass(frozen=True)
class Measured:
    """What a trial takes.

    Attributes:
        step_s: seconds a step.
        start_s: seconds before the first one, of each piece that is trained.
    """

    step_s: float
    start_s: float


def survivors(count: int, eta: int) -> tuple[int, ...]:
    """How many trials each rung has, until no more than ``eta`` are left, which the last one chooses among."""
    counts = [count]
    while counts[-1] > eta:
        counts.append(-(-counts[-1] // eta))
    return tuple(counts)


def halving_of_steps(count: int, eta: int, steps: int) -> Halving:
    """The rungs of a budget in steps, all of which are used.

    Args:
        count: trials.
        eta: see :class:`~posecore.workflows.budget.settings.SearchConfig`.
        steps: of all trials and of the adaptation that follows.

    Raises:
        ConfigError: the first rung would have too few.
    """
    counts = survivors(count, eta)
    units = [eta**rung for rung in range(len(counts))]
    each = _steps(counts, units) + units[-1] * eta
    first = steps // each
    if first < FEWEST_STEPS:
        raise ConfigError(
            f"search.budget: {steps} steps are too few for {count} strategies: each needs {FEWEST_STEPS} steps before "
            f"any can be told from another, which makes {each * FEWEST_STEPS} with those that go on; give as many, or "
            "fewer candidates."
        )
    rungs = tuple(first * unit for unit in units)
    return Halving(rungs, counts, steps - _steps(counts, rungs))


def halving_of_time(measured: Sequence[Measured], judge_s: float, eta: int, seconds: float, spent_s: float) -> Halving:
    """The rungs of a budget in time, if the dearest trials are those that go on.

    Args:
        measured: of every trial.
        judge_s: seconds that judging one takes.
        eta: see :class:`~posecore.workflows.budget.settings.SearchConfig`.
        seconds: of all trials and of the adaptation that follows.
        spent_s: what was spent on measuring.

    Raises:
        ConfigError: the first rung would have too few steps.
    """
    counts = survivors(len(measured), eta)
    units = [eta**rung for rung in range(len(counts))]
    dearest = sorted(measured, key=lambda each: -each.step_s)
    slope = fixed = 0.0
    for count, unit, before in zip(counts, units, [0, *units], strict=False):
        slope += (unit - before) * sum(each.step_s for each in dearest[:count])
        fixed += sum(sorted((each.start_s for each in measured), reverse=True)[:count]) + count * judge_s
    slope += units[-1] * eta * dearest[0].step_s
    fixed += max(each.start_s for each in measured)
    left = (1 - _RESERVE) * seconds - spent_s - fixed
    first = int(left / slope) if left > 0 else 0
    if first < FEWEST_STEPS:
        needed = (spent_s + fixed + FEWEST_STEPS * slope) / (1 - _RESERVE)
        raise ConfigError(
            f"search.budget: {seconds:g} s are too few for {len(measured)} strategies: judging them and {FEWEST_STEPS} "
            f"steps of each, more of those that go on, take about {needed:.0f} s here; give as many, or fewer "
            "candidates."
        )
    rungs = tuple(first * unit for unit in units)
    return Halving(rungs, counts, rungs[-1] * eta)


def _steps(counts: Sequence[int], rungs: Sequence[int]) -> int:
    return sum(count * (rung - before) for count, rung, before in zip(counts, rungs, [0, *rungs], strict=False))
