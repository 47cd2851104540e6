"""Energy is what the kernel counts, or unknown."""

from pathlib import Path

import pytest
import torch

from posecore.training.checkpoint import Progress
from posecore.training.energy import EnergyMeter
from posecore.training.spent import Spent, hardware_of_all

CPU = torch.device("cpu")
RANGE_UJ = 262_143_328_850


def _zone(powercap: Path, zone: str, name: str, microjoules: int) -> Path:
    """As the kernel lays it out: all zones in one folder, and the files of each."""
    folder = powercap / zone
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "name").write_text(f"{name}\n")
    (folder / "max_energy_range_uj").write_text(f"{RANGE_UJ}\n")
    (folder / "energy_uj").write_text(f"{microjoules}\n")
    return folder


@pytest.fixture
def powercap(tmp_path: Path) -> Path:
    folder = tmp_path / "powercap"
    for zone, name in (
        ("intel-rapl:0", "package-0"),
        ("intel-rapl:0:0", "core"),
        ("intel-rapl:0:1", "dram"),
        ("intel-rapl:1", "psys"),
        ("intel-rapl:2", "package-1"),
    ):
        _zone(folder, zone, name, 1_000_000)
    (folder / "intel-rapl").mkdir()  # the driver itself, which counts nothing
    return folder


def test_packages_and_memory_are_counted_once(powercap: Path) -> None:
    meter = EnergyMeter(True, CPU, powercap)
    assert meter.joules() == 0
    for zone, name in (("0", "package-0"), ("0:0", "core"), ("0:1", "dram"), ("1", "psys"), ("2", "package-1")):
        _zone(powercap, f"intel-rapl:{zone}", name, 3_500_000)
    assert meter.joules() == pytest.approx(3 * 2.5)
    assert EnergyMeter(False, CPU, powercap).joules() == 0, "another process of this host counts"


def test_a_counter_that_begins_again_goes_on(powercap: Path) -> None:
    meter = EnergyMeter(True, CPU, powercap)
    _zone(powercap, "intel-rapl:0", "package-0", RANGE_UJ - 2_000_000)
    meter.joules()
    _zone(powercap, "intel-rapl:0", "package-0", 3_000_000)
    assert meter.joules() == pytest.approx((RANGE_UJ - 1_000_000 + 3_000_000) / 1e6)


def test_what_is_not_counted_is_unknown_and_stays_so(powercap: Path, tmp_path: Path) -> None:
    assert EnergyMeter(True, CPU, tmp_path / "none").joules() is None
    meter = EnergyMeter(True, CPU, powercap)
    file = powercap / "intel-rapl:2" / "energy_uj"
    file.unlink()
    assert meter.joules() is None
    _zone(powercap, "intel-rapl:2", "package-1", 9_000_000)
    assert meter.joules() is None
    (powercap / "intel-rapl:0" / "energy_uj").write_text("")
    assert EnergyMeter(True, CPU, powercap).joules() is None


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about machines without")
def test_a_gpu_that_nvml_does_not_count_leaves_all_unknown(powercap: Path) -> None:
    assert EnergyMeter(True, torch.device("cuda"), powercap).joules() is None


def test_attempts_are_added_up_unless_one_did_not_count(powercap: Path, tmp_path: Path) -> None:
    def after(before: float | None, powercap: Path) -> float | None:
        progress = Progress(step=3, seed=0, world_size=1, config={}, joules=before)
        spent = Spent(progress, CPU, powercap)
        assert list(spent.hardware(5)) == [hardware_of_all(CPU)]
        _zone(powercap, "intel-rapl:0", "package-0", 5_000_000)
        spent.look()
        return spent.joules()

    assert after(10.0, powercap) == pytest.approx(14.0)
    assert after(None, powercap) is None
    _zone(tmp_path / "other", "intel-rapl:0", "package-0", 1_000_000)
    assert after(0.0, tmp_path / "other") == pytest.approx(4.0)
    assert Spent(Progress(step=3, seed=0, world_size=1, config={}, joules=1.0), CPU, tmp_path / "none").joules() is None
    assert Spent(None, CPU, tmp_path / "none").joules() is None
