"""BatchNorm statistics, made equal on all ranks: neither DeepSpeed nor gradient averaging touches buffers."""

import torch
import torch.distributed as dist
from torch import nn
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
