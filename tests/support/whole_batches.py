"""One rank of several that share a batch: its piece through a layer that normalises by the whole of it."""

from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

from posecore.training.batchnorm import WholeBatchNorm, normalise_whole_batches

PIECES = ((0, 5), (5, 8))
"""Rows of each rank in the first step; in the second the first has all of them and the other none."""


class Holder(nn.Module):
    """A method with a backbone of one layer, and a head whose BatchNorm is its own."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.BatchNorm2d(3))
        self.head = nn.BatchNorm2d(3)


def whole_batch() -> tuple[Tensor, Tensor]:
    """(8, 3, 4, 2) inputs far from zero mean, and what the loss is weighed with."""
    random = torch.Generator().manual_seed(0)
    rows = torch.randn(8, 3, 4, 2, generator=random) * torch.tensor([1.0, 5.0, 0.1])[:, None, None] + 30.0
    return rows, torch.randn(8, 3, 4, 2, generator=random)


def run_rank(rank: int, folder: str) -> None:
    """Two steps of a rank; writes what it saw to ``<folder>/<rank>.pt``."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=len(PIECES))
    method = Holder()
    normalise_whole_batches(method)
    layer = method.backbone[0]
    assert isinstance(layer, WholeBatchNorm)
    assert type(method.head) is nn.BatchNorm2d
    inputs, weights = (tensor[slice(*PIECES[rank])] for tensor in whole_batch())
    rows = inputs.clone().requires_grad_(True)
    outputs = layer(rows)
    (outputs * weights).sum().backward()
    layer(whole_batch()[0] if rank == 0 else inputs[:0])
    found = {"outputs": outputs.detach(), "input": rows.grad, "mean": layer.running_mean, "variance": layer.running_var}
    found |= {"weight": layer.weight.grad, "bias": layer.bias.grad, "steps": layer.num_batches_tracked}
    torch.save(found, Path(folder) / f"{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()
