"""Successive halving in which what wins has lost nothing: its trial is the beginning of its run.

All trials make the same few steps, and the better ones go on for some times as many, each on the schedule of the whole
run that it would be; what is chosen at the last rung is carried to its end. So a budget loses what the other trials
took, which is bounded; where that bound allows fewer trials, the last ones are left out. After Karnin et al., ICML
2013, and Jamieson and Talwalkar, AISTATS 2016, whose trials all end at rungs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from posecore.config import Config
from posecore.counting import counted
from posecore.errors import ConfigError
from posecore.workflows.budget.settings import SearchConfig

_RESERVE = 0.05  # of a budget in time: what was measured in a few steps may be wrong by so much


class Halving(Config):
    """How long trials are, and how many go on.

    Attributes:
        lengths: by name of the trials that there is room for, steps of the run that each would be.
        rungs: steps after which the trials that are left are compared, ascending; none where there is one trial.
        counts: how many of them are left at each.
    """

    lengths: dict[str, int]
    rungs: tuple[int, ...] = ()
    counts: tuple[int, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The trials that there is room for."""
        return tuple(self.lengths)

    @property
    def search_steps(self) -> int:
        """Steps of all trials together, those of the one that goes on among them."""
        return int(_sum(self.counts, self.rungs))


@dataclass(frozen=True)
class Cost:
    """What a trial takes, in the unit of the budget.

    Attributes:
        step: a step.
        start: what comes before the first step, of each piece that is trained.
        judge: judging it once.
    """

    step: float = 1.0
    start: float = 0.0
    judge: float = 0.0


def survivors(count: int, eta: int) -> tuple[int, ...]:
    """How many trials each rung has, until no more than ``eta`` are left, which the last one chooses among."""
    counts = [count]
    while counts[-1] > eta:
        counts.append(-(-counts[-1] // eta))
    return tuple(counts)


def halving_of_steps(names: Sequence[str], settings: SearchConfig, steps: int) -> Halving:
    """The rungs of a budget in steps, all of which are used.

    Args:
        names: of the candidates, those first that are tried where there is no room for all.
        settings: of the search.
        steps: the budget.

    Raises:
        ConfigError: they are too few for one.
    """
    return _halving({name: Cost() for name in names}, settings, steps)


def halving_of_time(costs: Mapping[str, Cost], settings: SearchConfig, seconds: float, spent: float) -> Halving:
    """The rungs of a budget in time, if the dearest trials are those that go on.

    Args:
        costs: by name of the candidate, as it was measured; those first that are tried where there is no room for all.
        settings: of the search.
        seconds: the budget.
        spent: what was spent on measuring.

    Raises:
        ConfigError: they are too few for one.
    """
    return _halving(costs, settings, (1 - _RESERVE) * seconds - spent)


def _halving(costs: Mapping[str, Cost], settings: SearchConfig, budget: float) -> Halving:
    for count in range(len(costs), 1, -1):
        some = dict(list(costs.items())[:count])
        if (found := _with_rungs(some, settings, budget)) is not None:
            return found
    name, cost = next(iter(costs.items()))
    length = int((budget - cost.start) / cost.step)
    if length < settings.least_steps:
        raise ConfigError(
            f"search.budget: {settings.budget} has no room for one strategy: {name} makes "
            f"{counted(max(length, 0), 'step')} in it, and search.least_steps are {settings.least_steps}; give more, "
            "or ask for fewer."
        )
    return Halving(lengths={name: length})


def _with_rungs(costs: Mapping[str, Cost], settings: SearchConfig, budget: float) -> Halving | None:
    """The rungs that leave the winner its share; None if that, or the first rung, would be too short."""
    counts = survivors(len(costs), settings.eta)
    units = [settings.eta**rung for rung in range(len(counts))]
    dearest = sorted(costs.values(), key=lambda cost: -cost.step)
    slope = _sum(counts, units, [cost.step for cost in dearest])
    fixed = sum(counts) * max(cost.start + cost.judge for cost in costs.values())
    lost = slope - units[-1] * dearest[-1].step  # whoever wins keeps its own
    first = int((settings.tried_share * budget - fixed) / lost)
    if first < settings.least_steps:
        return None
    last, left = units[-1] * first, budget - slope * first - fixed
    lengths = {name: last + int((left - cost.start) / cost.step) for name, cost in costs.items()}
    if min(lengths.values()) <= last:  # the winner would be at its end, and never see those who were held out
        return None
    return Halving(lengths=lengths, rungs=tuple(first * unit for unit in units), counts=counts)


def _sum(counts: Sequence[int], rungs: Sequence[int], costs: Sequence[float] | None = None) -> float:
    """Of the steps that lead to every rung, over the trials that get there; the first ones go on."""
    of_a_step = [count if costs is None else sum(costs[:count]) for count in counts]
    return sum(cost * (rung - before) for cost, rung, before in zip(of_a_step, rungs, [0, *rungs], strict=False))
