"""The table of accelerators against what makers and drivers state: a slip of a unit would plan runs that cannot be."""

import pytest

from posecore.errors import ConfigError
from posecore.training.gpus import GPUS, find_gpu

GIB = 2**30
# NVIDIA's data sheets: dense bfloat16 (V100: float16) and float32 in TFLOP/s; MiB by nvidia-smi, of which a context
# and the driver take some hundred; CUDA cores and boost clock in GHz from the same sheets.
STATED = {
    "b200": (2250, 75, 183359, None),
    "h200": (989, 67, 143771, (16896, 1.98)),
    "h100": (989, 67, 81559, (16896, 1.98)),
    "a100-80": (312, 19.5, 81920, (6912, 1.41)),
    "a100-40": (312, 19.5, 40960, (6912, 1.41)),
    "l40s": (362, 91.6, 46068, (18176, 2.52)),
    "l4": (121, 30.3, 23034, (7424, 2.04)),
    "a10": (125, 31.2, 23028, (9216, 1.695)),
    "v100": (125, 15.7, 32768, (5120, 1.53)),
    "rtx4090": (165, 82.6, 24564, (16384, 2.52)),
    "rtx3090": (71, 35.6, 24576, (10496, 1.695)),
}


def test_every_card_is_stated_here() -> None:
    assert list(STATED) == list(GPUS)


@pytest.mark.parametrize("name", STATED)
def test_memory_and_speeds_are_those_of_the_real_card(name: str) -> None:
    gpu, (half, single, mebibytes, silicon) = GPUS[name], STATED[name]
    assert gpu.peak_flops("fp16") == half * 1e12
    assert gpu.peak_flops("fp32") == single * 1e12
    assert gpu.memory_bytes % GIB == 0, "whole GiB, rounded down"
    assert 0.2 < mebibytes / 1024 - gpu.memory_bytes / GIB < 1.5
    if silicon is not None:  # every core multiplies and adds in every cycle
        cores, clock_ghz = silicon
        assert gpu.fp32_flops == pytest.approx(2 * cores * clock_ghz * 1e9, rel=0.01)


def test_only_what_has_bfloat16_multiplies_in_it() -> None:
    without = [name for name, gpu in GPUS.items() if gpu.bf16_flops is None]
    assert without == ["v100"]
    with pytest.raises(ConfigError, match="V100-SXM2-32GB has no bfloat16; use precision fp32 or another GPU"):
        GPUS["v100"].peak_flops("bf16")
    assert all(gpu.peak_flops("bf16") == gpu.peak_flops("fp16") for name, gpu in GPUS.items() if name != "v100")


def test_a_card_is_found_by_its_name_alone() -> None:
    assert find_gpu("h100") is GPUS["h100"]
    with pytest.raises(ConfigError, match=r"no GPU is called 'h1000'\. Did you mean h100\? There are b200, h200"):
        find_gpu("h1000")
