"""BatchNorm over several ranks: statistics of the whole batch, or statistics made equal before they are used.

Neither DeepSpeed nor gradient averaging touches buffers, so :func:`synchronise_batchnorm` averages what each rank has
seen. RTMPose and DWPose were trained with more than that: every layer normalises by the statistics of all ranks' crops
(:class:`WholeBatchNorm`). torch's own layer of that kind works on GPUs only, and so can be tested on no CPU.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


@torch.no_grad()
def synchronise_batchnorm(module: nn.Module) -> None:
    """Replaces every running mean and variance by the average over ranks, weighted by the batches each has seen.

    A rank whose slice of a rare dataset was always empty still holds the initial 0 and 1; its weight is 0. Collective:
    every rank must call it, before anything is evaluated or saved. Frozen layers are in evaluation mode and left alone:
    an average of equal numbers may differ from them in the last bit.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return
    for norm in module.modules():
        if not isinstance(norm, _BatchNorm) or not norm.track_running_stats or not norm.training:
            continue
        assert norm.running_mean is not None
        assert norm.running_var is not None
        assert norm.num_batches_tracked is not None
        seen = norm.num_batches_tracked
        weight = seen.float()
        sums = torch.cat([norm.running_mean * weight, norm.running_var * weight, weight[None]])
        dist.all_reduce(sums)
        dist.all_reduce(seen, op=dist.ReduceOp.MAX)
        if sums[-1] > 0:
            mean, variance = (sums[:-1] / sums[-1]).chunk(2)
            norm.running_mean.copy_(mean)
            norm.running_var.copy_(variance)


class WholeBatchNorm(nn.BatchNorm2d):
    """BatchNorm whose statistics in training are those of all ranks' crops; without other ranks, BatchNorm itself.

    As torch's :class:`~torch.nn.SyncBatchNorm`: the mean and the biased variance over all ranks normalise, the unbiased
    variance is kept. Every rank must run the layer equally often; one may have no crops.
    """

    def forward(self, input: Tensor) -> Tensor:
        """(n, C, h, w) to the same; n may differ between ranks."""
        alone = not dist.is_initialized() or dist.get_world_size() == 1
        if alone or not self.training:
            return super().forward(input)
        rows = input.float()
        size = rows.new_tensor([rows.numel() / self.num_features])
        *sums, count = _SumOfRanks.apply(torch.cat([rows.sum((0, 2, 3)), size])).split([self.num_features, 1])
        mean = sums[0] / count
        variance = _SumOfRanks.apply((rows - mean[:, None, None]).square().sum((0, 2, 3))) / count
        self._follow(mean.detach(), variance.detach(), count.detach())
        scale = torch.rsqrt(variance + self.eps)
        if self.weight is not None:
            scale = scale * self.weight
        shift = -mean * scale
        if self.bias is not None:
            shift = shift + self.bias
        return (rows * scale[:, None, None] + shift[:, None, None]).to(input.dtype)

    @torch.no_grad()
    def _follow(self, mean: Tensor, variance: Tensor, count: Tensor) -> None:
        assert self.num_batches_tracked is not None
        assert self.running_mean is not None
        assert self.running_var is not None
        self.num_batches_tracked += 1
        share = 1 / self.num_batches_tracked.item() if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(variance * count / (count - 1), share)


class _SumOfRanks(torch.autograd.Function):
    """The sum over ranks of a vector that every rank uses: so every rank's gradient of it counts, too."""

    @staticmethod
    def forward(ctx: Any, local: Tensor) -> Tensor:
        total = local.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone()
        dist.all_reduce(total)
        return total


def normalise_whole_batches(method: nn.Module) -> None:
    """Turns every BatchNorm of a method's backbones into a :class:`WholeBatchNorm`, in place; names and weights stay.

    Heads keep theirs: a head runs on its own dataset's crops, and a rank without any does not use its statistics. Those
    of RTMPose have no BatchNorm.
    """
    for name, backbone in method.named_modules():
        if name.rpartition(".")[2] == "backbone":
            for norm in backbone.modules():
                if type(norm) is nn.BatchNorm2d:
                    norm.__class__ = WholeBatchNorm
