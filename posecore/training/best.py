"""Which of a run's checkpoints is its result: the last, or the best by a metric; and when to end without a better."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from pydantic import Field

from posecore.config import Config
from posecore.errors import CheckpointError, ConfigError
from posecore.storage import AnyPath
from posecore.training.checkpoint import Checkpoint, Progress
from posecore.training.checkpoint_store import CheckpointStore
from posecore.training.context import first_said


class BestConfig(Config):
    """Keep the best checkpoint of a run and not the last, and end the run when nothing gets better.

    Attributes:
        metric: as the evaluation names it, ``set/metric``, such as ``coco/AP``.
        better: whether more or less of it is.
        least_change: what is better by no more than this, in the metric's own unit, is not better.
        patience: the run ends after so many evaluations in a row that found nothing better; None goes on to the end.
    """

    metric: str
    better: Literal["more", "less"] = "more"
    least_change: float = Field(default=0.0, ge=0)
    patience: int | None = Field(default=None, gt=0)


@dataclass(frozen=True, slots=True)
class Best:
    """The best that a run has seen so far.

    Attributes:
        value: of the metric.
        step: optimiser steps done then.
        waited: evaluations since.
    """

    value: float
    step: int
    waited: int = 0


class BestSoFar:
    """Takes in evaluations; says the same on every rank.

    Args:
        config: what is looked at; None looks at nothing.
        before: where the run stood, or None.

    Attributes:
        best: what was best, or None while there is nothing.
    """

    def __init__(self, config: BestConfig | None, before: Progress | None) -> None:
        self._config = config
        self.best = None if before is None or before.best is None or config is None else Best(*before.best)

    def take(self, metrics: Mapping[str, float], step: int) -> bool:
        """Whether this is the best so far. Collective.

        Args:
            metrics: of the evaluation; only rank 0's are looked at.
            step: optimiser steps done.

        Raises:
            ConfigError: there is no such metric.
        """
        if self._config is None:
            return False
        value = first_said(metrics.get(self._config.metric) if metrics else None)
        if value is None:
            named = first_said(", ".join(sorted(metrics)) or None) or "none"
            raise ConfigError(f"training.best.metric: there is no {self._config.metric}; there are: {named}.")
        if self._is_better(value):
            self.best = Best(value, step)
            return True
        if self.best is not None:
            self.best = replace(self.best, waited=self.best.waited + 1)
        return False

    @property
    def has_lost_patience(self) -> bool:
        """Whether the run should end."""
        patience = None if self._config is None else self._config.patience
        return patience is not None and self.best is not None and self.best.waited >= patience

    def _is_better(self, value: float) -> bool:
        assert self._config is not None
        if not math.isfinite(value) or self.best is None:
            return math.isfinite(value)
        gain = value - self.best.value if self._config.better == "more" else self.best.value - value
        return gain > self._config.least_change


def result_of(store: CheckpointStore) -> tuple[AnyPath, AnyPath]:
    """Folders of the checkpoint that a finished run's model is read from, and of the last.

    Raises:
        CheckpointError: the best one is gone.
    """
    newest = store.newest()
    assert newest is not None, "the last step always writes a checkpoint"
    best = Checkpoint(newest).progress.best
    if best is None:
        return newest, newest
    found = store.of_step(best[1])
    if found is None:
        raise CheckpointError(
            f"{store.folder}: the best checkpoint, of step {best[1]}, is gone; put it back from a copy, or start anew "
            "(of a job: --no-reuse)."
        )
    return found, newest
