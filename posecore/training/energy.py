"""What a training draws, where the machine counts it: processors and their memory by RAPL, GPUs by NVML.

Counters of whole packages are read, so what else ran on the machine is in it; power supplies, disks and fans are not.
Linux lets only root read RAPL unless it is told otherwise, and virtual machines mostly have none. What is not counted
is unknown, and so is a sum with an unknown part: half a figure would be taken for the whole.
"""

from collections.abc import Callable
from pathlib import Path

import torch

POWERCAP = Path("/sys/class/powercap")
_COUNTED = ("package", "dram")  # of RAPL's zones; core and uncore are within a package, psys holds all


class EnergyMeter:
    """Joules since it was made.

    A counter of RAPL begins again after 10 minutes of full load or later, so it must be looked at more often than that.

    Args:
        processors: whether this process counts those of its host; one process of each host does.
        device: the GPU that is counted, if it is one.
        powercap: where the kernel shows RAPL's zones.
    """

    def __init__(self, processors: bool, device: torch.device, powercap: Path = POWERCAP) -> None:
        self._counters: list[_Counter] | None = []
        try:
            if processors:
                self._counters += _zones(powercap)
            if device.type == "cuda":
                self._counters.append(_gpu(device))
        except (OSError, ValueError):
            self._counters = None

    def joules(self) -> float | None:
        """So far; None where a counter cannot be read."""
        if self._counters is None:
            return None
        try:
            return sum(counter.joules() for counter in self._counters)
        except (OSError, ValueError):
            self._counters = None
            return None


class _Counter:
    """A counter that only grows, and begins at 0 again beyond its range."""

    def __init__(self, read: Callable[[], float], span: float) -> None:
        self._read, self._span = read, span
        self._last, self._sum = read(), 0.0

    def joules(self) -> float:
        now = self._read()
        step = now - self._last
        self._sum += step if step >= 0 else step + self._span
        self._last = now
        return self._sum


def _zones(powercap: Path) -> list[_Counter]:
    """A counter for each package, and for its memory where that is counted apart.

    Raises:
        OSError: there is none, or it may not be read.
    """
    found = []
    for zone in sorted(powercap.glob("intel-rapl:*")):  # AMD's processors, too
        if (zone / "name").read_text().strip().startswith(_COUNTED):
            span = int((zone / "max_energy_range_uj").read_text()) / 1e6
            file = zone / "energy_uj"
            found.append(_Counter(lambda file=file: int(file.read_text()) / 1e6, span))  # type: ignore[misc]
    if not found:
        raise FileNotFoundError(powercap)
    return found


def _gpu(device: torch.device) -> _Counter:
    """NVML's counter of a GPU, of 64 bits.

    Raises:
        OSError: NVML does not count it.
    """
    try:
        import pynvml

        pynvml.nvmlInit()
        uuid = torch.cuda.get_device_properties(device).uuid
        handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")

        def read() -> float:
            try:
                return float(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)) / 1e3
            except pynvml.NVMLError as error:
                raise OSError(str(error)) from error

        return _Counter(read, 2.0**64 / 1e3)
    except ImportError as error:
        raise OSError(str(error)) from error
    except pynvml.NVMLError as error:
        raise OSError(str(error)) from error
