"""Numerator and denominator of the utilisation a run reports."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from posecore.methods.supervised import SupervisedHeads
from posecore.models.cost import model_cost
from posecore.training import utilisation
from posecore.training.gpus import GPUS, present_gpu
from posecore.training.utilisation import flops_per_crop, measured_flops, peak_flops
from tests.support.tiny_training import POINTS, tiny_model


def test_a_step_costs_three_forward_passes() -> None:
    model = tiny_model()
    assert flops_per_crop(SupervisedHeads(model)) == 3 * model_cost(model.config, POINTS).flops


def test_a_method_without_heads_has_no_figure() -> None:
    assert flops_per_crop(nn.Linear(2, 2)) is None


def test_a_cpu_is_measured() -> None:
    rate = measured_flops(torch.device("cpu"), torch.float32)
    assert 1e8 < rate < 1e14
    assert peak_flops(torch.device("cpu"), "fp32") == rate, "the machine is measured once"


def test_the_fastest_of_a_warm_up_and_three_products_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two matrices of 1024 by 1024: two operations for each of 1024³ products of two numbers."""
    clock = iter([0.0, 4.0, 10.0, 13.0, 20.0, 25.0, 30.0, 32.0])
    monkeypatch.setattr(utilisation, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    assert measured_flops.__wrapped__(torch.device("cpu"), torch.float32) == 2 * 1024**3 / 2.0
    assert next(clock, None) is None


@pytest.mark.parametrize(
    ("device_name", "short"),
    [
        ("NVIDIA H200", "h200"),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA A100-SXM4-80GB", "a100-80"),
        ("NVIDIA A100-SXM4-40GB", "a100-40"),
        ("NVIDIA L40S", "l40s"),
        ("NVIDIA L4", "l4"),
        ("NVIDIA A10", "a10"),
        ("NVIDIA GeForce RTX 4090", "rtx4090"),
        ("NVIDIA A10G", None),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
    ],
)
def test_a_gpu_is_known_by_its_name(device_name: str, short: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: device_name)
    found = present_gpu(torch.device("cuda"))
    assert found is (None if short is None else GPUS[short])
