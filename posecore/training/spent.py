"""What a training has used: time, and the machines it ran on, over all its attempts."""

import platform
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import torch
import torch.distributed as dist

from posecore.training.checkpoint import Progress


class Spent:
    """Time and machines of a run, carried from one attempt to the next by its checkpoints.

    Args:
        before: where the run stood, or None.
        device: of this rank.
    """

    def __init__(self, before: Progress | None, device: torch.device) -> None:
        self._began = time.monotonic()
        self._start = 0 if before is None else before.step
        self._seconds_before = 0.0 if before is None else before.seconds
        self._hardware_before = {} if before is None else dict(before.hardware)
        self._hardware = hardware_of_all(device)

    @property
    def seconds(self) -> float:
        """Of all attempts together, as far as their checkpoints say."""
        return self._seconds_before + time.monotonic() - self._began

    def hardware(self, step: int) -> Mapping[str, int]:
        """Machines to the steps that were made on them.

        Args:
            step: steps done.
        """
        made = self._hardware_before.get(self._hardware, 0) + step - self._start
        return {**self._hardware_before, self._hardware: made}


def hardware_of_all(device: torch.device) -> str:
    """What all ranks run on, such as ``16 x NVIDIA H100 80GB HBM3 on 2 hosts``. Collective."""
    found = [(device_name(device), platform.node())]
    if dist.is_initialized() and dist.get_world_size() > 1:
        found = [found[0]] * dist.get_world_size()
        dist.all_gather_object(found, (device_name(device), platform.node()))
    hosts = len({host for _, host in found})
    devices = ", ".join(f"{count} x {name}" for name, count in sorted(Counter(name for name, _ in found).items()))
    return f"{devices} on {hosts} host{'s' if hosts > 1 else ''}"


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
