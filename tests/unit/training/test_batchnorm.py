"""What a frozen layer has learned is not touched by an average over ranks; whole batches are those of all ranks."""

from pathlib import Path

import pytest
import torch
from torch import nn

from posecore.training.batchnorm import normalise_whole_batches, synchronise_batchnorm
from tests.support.whole_batches import PIECES, Holder, run_rank, whole_batch


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


def test_a_batch_in_pieces_is_normalised_as_a_whole(tmp_path: Path) -> None:
    """Two real ranks, one of them later without a crop, against torch's BatchNorm on all crops at once."""
    torch.multiprocessing.spawn(run_rank, (str(tmp_path),), nprocs=len(PIECES))
    ranks = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(len(PIECES))]
    inputs, weights = whole_batch()
    reference = nn.BatchNorm2d(3)
    rows = inputs.clone().requires_grad_(True)
    outputs = reference(rows)
    (outputs * weights).sum().backward()
    reference(inputs)
    for name, expected in (("outputs", outputs.detach()), ("input", rows.grad)):
        torch.testing.assert_close(torch.cat([rank[name] for rank in ranks]), expected, rtol=1e-4, atol=1e-4)
    for name, expected in (("weight", reference.weight.grad), ("bias", reference.bias.grad)):
        torch.testing.assert_close(sum(rank[name] for rank in ranks), expected, rtol=1e-4, atol=1e-4)
    for rank in ranks:
        torch.testing.assert_close(rank["mean"], reference.running_mean, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(rank["variance"], reference.running_var, rtol=1e-5, atol=1e-6)
        assert rank["steps"] == 2


def test_one_rank_alone_has_batchnorm_to_the_bit() -> None:
    inputs, _ = whole_batch()
    method, plain = Holder(), Holder()
    normalise_whole_batches(method)
    assert torch.equal(method.backbone(inputs), plain.backbone(inputs))
    assert method.state_dict().keys() == plain.state_dict().keys()
