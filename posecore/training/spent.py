"""What a training has used: time, energy, and the machines it ran on, over all its attempts."""

import math
import platform
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import torch.distributed as dist

from posecore.training.checkpoint import Progress
from posecore.training.energy import POWERCAP, EnergyMeter


class Spent:
    """Time, energy and machines of a run, carried from one attempt to the next by its checkpoints.

    Args:
        before: where the run stood, or None.
        device: of this rank.
        powercap: where this host's kernel shows what its processors drew.
    """

    def __init__(self, before: Progress | None, device: torch.device, powercap: Path = POWERCAP) -> None:
        self._began = time.monotonic()
        self._device = device
        self._joules_before = 0.0 if before is None else before.joules
        names, hosts = _ranks(device)
        rank = dist.get_rank() if len(hosts) > 1 else 0
        self._meter = EnergyMeter(hosts.index(hosts[rank]) == rank, device, powercap)
        self._start = 0 if before is None else before.step
        self._seconds_before = 0.0 if before is None else before.seconds
        self._hardware_before = {} if before is None else dict(before.hardware)
        self._hardware = _told(names, hosts)

    @property
    def seconds(self) -> float:
        """Of all attempts together, as far as their checkpoints say."""
        return self._seconds_before + time.monotonic() - self._began

    def look(self) -> None:
        """Reads the counters of energy, which begin anew now and then."""
        self._meter.joules()

    def joules(self) -> float | None:
        """Energy of all hosts and GPUs over all attempts; None where any is not counted. Collective."""
        own = self._meter.joules()
        total = torch.tensor(math.nan if own is None else own, dtype=torch.float64, device=self._device)
        if dist.is_initialized() and dist.get_world_size() > 1:
            dist.all_reduce(total)
        found = float(total)
        return None if self._joules_before is None or math.isnan(found) else self._joules_before + found

    def hardware(self, step: int) -> Mapping[str, int]:
        """Machines to the steps that were made on them.

        Args:
            step: steps done.
        """
        made = self._hardware_before.get(self._hardware, 0) + step - self._start
        return {**self._hardware_before, self._hardware: made}


def hardware_of_all(device: torch.device) -> str:
    """What all ranks run on, such as ``16 x NVIDIA H100 80GB HBM3 on 2 hosts``. Collective."""
    return _told(*_ranks(device))


def _ranks(device: torch.device) -> tuple[list[str], list[str]]:
    """Names of every rank's device and host. Collective."""
    found = [(device_name(device), platform.node())]
    if dist.is_initialized() and dist.get_world_size() > 1:
        found = [found[0]] * dist.get_world_size()
        dist.all_gather_object(found, (device_name(device), platform.node()))
    return [name for name, _ in found], [host for _, host in found]


def _told(names: Sequence[str], hosts: Sequence[str]) -> str:
    number = len(set(hosts))
    devices = ", ".join(f"{count} x {name}" for name, count in sorted(Counter(names).items()))
    return f"{devices} on {number} host{'s' if number > 1 else ''}"


def device_name(device: torch.device) -> str:
    """The GPU's name, or that of the processor with the threads that this process uses."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{_processor()} ({torch.get_num_threads()} threads)"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())
