"""The table of accelerators: a slip of a unit would plan runs that cannot be."""

import pytest

from posecore.training.gpus import GPUS


@pytest.mark.parametrize("name", GPUS)
def test_memory_and_speeds_are_those_of_a_real_card(name: str) -> None:
    gpu = GPUS[name]
    assert 6 * 2**30 < gpu.memory_bytes < 300 * 2**30
    assert 1e12 < gpu.fp32_flops < 2e14
    assert gpu.bf16_flops is None or gpu.fp32_flops <= gpu.bf16_flops < 5e15
