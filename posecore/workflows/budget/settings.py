"""What a search for a strategy may spend, and among what it chooses."""

import re
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from posecore.config import NAME_PATTERN, Config
from posecore.methods.strategies import StrategyConfig

_SECONDS = {"s": 1.0, "min": 60.0, "h": 3600.0}
_BYTES = {"MiB": 1 << 20, "GiB": 1 << 30}
_BUDGET = re.compile(r"\s*(?P<number>\d+(\.\d+)?)\s*(?P<unit>steps|s|min|h)\s*")
_MEMORY = re.compile(r"\s*(?P<number>\d+(\.\d+)?)\s*(?P<unit>MiB|GiB)\s*")

_TAKEN = {"parent", "tune"}


class Candidate(Config):
    """A way of adapting that is tried.

    Attributes:
        name: of its trial.
        strategy: what learns.
        replay: share of the crops from kept sets; None is the run file's, or what that leaves to the strategy.
        rate: the learning rate as a multiple of the run file's: what learns little may learn faster.
    """

    name: str = Field(pattern=NAME_PATTERN)
    strategy: StrategyConfig
    replay: float | None = Field(default=None, ge=0, lt=1)
    rate: float = Field(default=1.0, gt=0)


class SearchConfig(Config):
    """Which strategies are tried, and for how long.

    Attributes:
        budget: of all trials, of which the chosen one becomes the adaptation: ``600steps``, or ``90s``, ``20min`` or
            ``2h``, which become steps once the first steps were measured. Left out of a run file it is
            ``training.steps``.
        memory: what one training process may hold, such as ``8GiB``; None does not ask.
        labels: labelled bodies of the target that are learned and chosen from at the most; None takes all.
        candidates: what is tried; empty for the usual ones (:func:`~posecore.workflows.budget.candidates.usual`). The
            first is taken unless another is clearly better, and the last are left out where there is no room for all.
        order: of ``candidates``: ``known`` has those first whose strategy ended best where all were measured
            (:func:`~posecore.workflows.budget.candidates.by_what_is_known`), ``listed`` takes them as they are written.
        eta: of so many trials one goes on after each rung, for so many times the steps.
        tried_share: of the budget at the most that trials take which are not gone on with.
        least_steps: of a trial before it is compared with others. What adapts is at first worse than its parent, and
            what learns little looks best then: of rendered infants 70 steps misled a search that 210 did not
            (docs/benchmarks/adapt_budget_2cpu_2026-11-30.md).
        validation_share: of the target's subjects (or videos, or images, where none are named) that no trial learns
            from, and all are judged on.
        scheduler: ``halving`` compares all trials of a rung, so that a budget in steps always gives the same answer;
            ``asha`` has Ray Tune start the next rung of a trial without waiting for the others.
        at_once: trials at a time; more than one needs a cluster.
    """

    budget: str
    memory: str | None = None
    labels: int | None = Field(default=None, gt=0)
    candidates: tuple[Candidate, ...] = ()
    order: Literal["known", "listed"] = "known"
    eta: Literal[2, 3, 4] = 3
    tried_share: float = Field(default=0.2, gt=0, le=0.5)
    least_steps: int = Field(default=200, gt=0)
    validation_share: float = Field(default=0.25, gt=0, lt=1)
    scheduler: Literal["halving", "asha"] = "halving"
    at_once: int = Field(default=1, gt=0)

    @field_validator("budget")
    @classmethod
    def _read_budget(cls, text: str) -> str:
        match = _BUDGET.fullmatch(text)
        if match is None or not float(match["number"]):
            raise ValueError(f"{text!r} is no budget; give steps or time, such as 600steps, 90s, 20min or 2h.")
        if match["unit"] == "steps" and not float(match["number"]).is_integer():
            raise ValueError(f"{text!r}: steps are whole; give a number without a fraction.")
        return text

    @field_validator("memory")
    @classmethod
    def _read_memory(cls, text: str | None) -> str | None:
        if text is not None and _MEMORY.fullmatch(text) is None:
            raise ValueError(f"{text!r} is no size of memory; give one such as 8GiB or 600MiB.")
        return text

    @model_validator(mode="after")
    def _check_names(self) -> Self:
        names = [candidate.name for candidate in self.candidates]
        if doubled := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"candidates: named twice: {', '.join(doubled)}.")
        if taken := sorted(_TAKEN & {*names}):
            raise ValueError(
                f"candidates: {taken[0]} is the name of something else in the search's folder; take another."
            )
        return self

    @property
    def steps(self) -> int | None:
        """The budget in steps; None for one in time."""
        match = _BUDGET.fullmatch(self.budget)
        assert match is not None
        return int(float(match["number"])) if match["unit"] == "steps" else None

    @property
    def seconds(self) -> float | None:
        """The budget in seconds; None for one in steps."""
        match = _BUDGET.fullmatch(self.budget)
        assert match is not None
        return None if match["unit"] == "steps" else float(match["number"]) * _SECONDS[match["unit"]]

    @property
    def memory_bytes(self) -> float | None:
        """The bound on memory; None for none."""
        match = None if self.memory is None else _MEMORY.fullmatch(self.memory)
        return None if match is None else float(match["number"]) * _BYTES[match["unit"]]
