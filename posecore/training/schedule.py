"""Learning-rate schedules as pure functions of the step, so that a resumed run needs no scheduler state."""

import math
from typing import Annotated, Literal, TypeAlias

from pydantic import Field

from posecore.config import Extension
from posecore.doors import Door


class Schedule(Extension):
    """The protocol of schedules."""

    def factor(self, step: int, total_steps: int) -> float:
        """What the peak rate is multiplied by in the 0-based ``step`` of ``total_steps``, a function of these alone."""
        raise NotImplementedError(f"{type(self).__name__} has to say its factor")

    def held(self, total_steps: int) -> "MultiStepSchedule":
        """A constant rate for another, shorter loop, after this schedule's warm-up if it has one."""
        return MultiStepSchedule(warmup_steps=0, milestones=())


class _WarmUp(Schedule):
    """A linear start.

    Attributes:
        warmup_steps: length of the warm-up.
        warmup_start: first factor of the warm-up.
        warmup_reaches: when the rate is whole: ``after`` the steps of the warm-up, as in mmcv 1 (ViTPose) and torch
            (Sapiens2), or in the ``last`` of them, as in mmengine (RTMPose, DWPose, Sapiens).
    """

    warmup_steps: int = Field(default=500, ge=0)
    warmup_start: float = Field(default=0.001, ge=0, le=1)
    warmup_reaches: Literal["after", "last"] = "after"

    def held(self, total_steps: int) -> "MultiStepSchedule":
        """See :class:`Schedule`; the warm-up is a tenth of the loop at most."""
        return MultiStepSchedule(
            warmup_steps=min(self.warmup_steps, total_steps // 10),
            warmup_start=self.warmup_start,
            warmup_reaches=self.warmup_reaches,
            milestones=(),
        )

    def _warmth(self, step: int) -> float:
        length = self.warmup_steps - (self.warmup_reaches == "last")
        if step >= length:
            return 1.0
        return 1 - (1 - step / length) * (1 - self.warmup_start)


class MultiStepSchedule(_WarmUp):
    """Linear warm-up, then a constant rate that drops at milestones.

    Attributes:
        kind: names this schedule.
        milestones: shares of the run after which the rate drops; published: epochs 170 and 200 of 210.
        gamma: factor of each drop.
    """

    kind: Literal["multistep"] = "multistep"
    milestones: tuple[float, ...] = (170 / 210, 200 / 210)
    gamma: float = Field(default=0.1, gt=0, le=1)

    def factor(self, step: int, total_steps: int) -> float:
        """What the peak rate is multiplied by in the 0-based ``step`` of ``total_steps``."""
        drops = sum(step >= milestone * total_steps for milestone in self.milestones)
        return self.gamma**drops * self._warmth(step)


class CosineSchedule(_WarmUp):
    """Linear warm-up, then half a cosine down to a floor.

    Attributes:
        kind: names this schedule.
        begin: share of the run with a constant rate before the cosine begins; RTMPose: 0.5, with a floor of 0.05, a
            warm-up of 1000 steps and its start at 1e-5.
        floor: last factor.
    """

    kind: Literal["cosine"] = "cosine"
    begin: float = Field(default=0.0, ge=0, lt=1)
    floor: float = Field(default=0.0, ge=0, le=1)

    def factor(self, step: int, total_steps: int) -> float:
        """What the peak rate is multiplied by in the 0-based ``step`` of ``total_steps``."""
        begin = max(self.warmup_steps, self.begin * total_steps)
        progress = min(1.0, max(0.0, (step - begin) / max(1, total_steps - begin)))
        cosine = self.floor + (1 - self.floor) * 0.5 * (1 + math.cos(math.pi * progress))
        return cosine * self._warmth(step)


class PolynomialSchedule(_WarmUp):
    """Linear warm-up, then a power of the share of the run that is left, down to a floor.

    Attributes:
        kind: names this schedule.
        power: of the share that is left of what follows the warm-up; Sapiens2: 1, a straight line.
        floor: last factor.
    """

    kind: Literal["polynomial"] = "polynomial"
    power: float = Field(default=1.0, gt=0)
    floor: float = Field(default=0.0, ge=0, le=1)

    def factor(self, step: int, total_steps: int) -> float:
        """What the peak rate is multiplied by in the 0-based ``step`` of ``total_steps``."""
        left = (total_steps - step) / max(1, total_steps - self.warmup_steps)
        decayed = self.floor + (1 - self.floor) * min(1.0, max(0.0, left)) ** self.power
        return decayed * self._warmth(step)


ScheduleConfig: TypeAlias = Annotated[
    MultiStepSchedule | CosineSchedule | PolynomialSchedule | Schedule, Door("schedule", "posecore.schedules")
]
"""Every schedule there is, and whoever comes by."""
