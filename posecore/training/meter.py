"""What the loop measures: loss terms, gradient, rate, speed, waiting, memory; averaged between two records."""

import resource
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor

from posecore.training.context import TrainContext
from posecore.training.engine import Update


@dataclass
class Meter:
    """Averages over the steps since the last record and hands them to the context on rank 0.

    Attributes:
        context: where the run runs.
        global_batch: crops per step over all ranks.
        learning_rate: peak rate in a 0-based step.
        flops_per_crop: of a step, or None where nobody knows.
        peak_flops: of a rank's device.
        counts: further numbers to record, such as steps that were skipped; none of 0.
        latest: the newest value of every metric, on rank 0.
    """

    context: TrainContext
    global_batch: int
    learning_rate: Callable[[int], float]
    flops_per_crop: float | None
    peak_flops: float
    counts: dict[str, int] = field(default_factory=dict)
    latest: dict[str, float] = field(default_factory=dict)
    _losses: dict[str, Tensor] = field(default_factory=dict)
    _observed: dict[str, Tensor] = field(default_factory=dict)
    _norms: list[float] = field(default_factory=list)
    _waited_s: float = 0.0
    _steps: int = 0
    _began: float = field(default_factory=time.perf_counter)

    def add(self, update: Update, observed: Mapping[str, Tensor], waited_s: float) -> None:
        """Takes in a step: what became of it, this rank's sums and numbers of observations, its wait for the data."""
        for totals, values in ((self._losses, update.losses), (self._observed, observed)):
            for name, value in values.items():
                totals[name] = totals.get(name, torch.zeros_like(value)) + value
        self._waited_s += waited_s
        self._steps += 1
        if update.made:
            self._norms.append(update.gradient_norm)

    def record(self, step: int) -> None:
        """Publishes all since the last time, if there was a step. Collective: losses are averaged over ranks."""
        values: dict[str, float] = {}
        if self._steps:
            means = torch.stack(list(self._losses.values())) / self._steps
            if self.context.world_size > 1:
                dist.all_reduce(means)
                means /= self.context.world_size
            elapsed_s = time.perf_counter() - self._began
            values |= dict(zip(self._losses, means.tolist(), strict=True))
            values["loss"] = sum(values.values())
            values["lr"] = self.learning_rate(step - 1)
            if self._norms:
                values["gradient_norm"] = sum(self._norms) / len(self._norms)
            values |= self._observed_means()
            values["samples_per_s"] = self.global_batch * self._steps / elapsed_s
            if self.flops_per_crop is not None:
                rate = self.flops_per_crop * values["samples_per_s"] / self.context.world_size
                values["mfu"] = rate / self.peak_flops
            values["data_wait_share"] = self._waited_s / elapsed_s
            values["memory_bytes"] = _memory_bytes(self.context.device)
        self._losses, self._observed, self._norms = {}, {}, []
        self._waited_s, self._steps, self._began = 0.0, 0, time.perf_counter()
        self._publish(values | {name: float(count) for name, count in self.counts.items() if count}, step)

    def _observed_means(self) -> dict[str, float]:
        """Over all values that any rank has seen; nothing of what none has."""
        if not self._observed:
            return {}
        pairs = torch.stack(list(self._observed.values()))
        if self.context.world_size > 1:
            dist.all_reduce(pairs)
        return {
            name: total / number for name, (total, number) in zip(self._observed, pairs.tolist(), strict=True) if number
        }

    def record_evaluation(self, metrics: Mapping[str, float], step: int) -> None:
        """Publishes what an evaluation found."""
        self._publish(dict(metrics), step)

    def summary(self) -> dict[str, str]:
        """What a progress bar shows."""
        return {name: f"{self.latest[name]:.3g}" for name in ("loss", "samples_per_s") if name in self.latest}

    def _publish(self, values: dict[str, float], step: int) -> None:
        if self.context.rank == 0:
            self.latest |= values
            self.context.log(values, step)


def _memory_bytes(device: torch.device) -> float:
    """Peak memory so far: of the GPU, or of the process where there is none."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0
