"""What a frozen layer has learned is not touched by an average over ranks."""

import pytest
import torch
from torch import nn

from posecore.training.batchnorm import synchronise_batchnorm


def test_statistics_of_frozen_layers_keep_every_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three ranks with equal statistics: the sum over ranks divided by their weights is off by rounding."""
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    monkeypatch.setattr("torch.distributed.get_world_size", lambda: 3)
    monkeypatch.setattr(
        "torch.distributed.all_reduce", lambda tensor, op=None: tensor.mul_(3) if op is None else tensor
    )
    torch.manual_seed(0)
    trained, frozen = nn.BatchNorm1d(64), nn.BatchNorm1d(64)
    for norm in (trained, frozen):
        for _ in range(7):
            norm(torch.randn(5, 64))
    frozen.eval()
    before = [norm.running_mean.clone() for norm in (trained, frozen)]
    synchronise_batchnorm(nn.ModuleList([trained, frozen]))
    torch.testing.assert_close(trained.running_mean, before[0])
    assert not torch.equal(trained.running_mean, before[0])
    assert torch.equal(frozen.running_mean, before[1])
