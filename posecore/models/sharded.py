"""Weights of which every rank has a run only, as DeepSpeed's stage 3 keeps them; of other weights, all."""

from typing import Any, NamedTuple

import torch.distributed as dist
from torch import Tensor, nn


class Run(NamedTuple):
    """Values of a flattened tensor, and the index of the first."""

    start: int
    values: Tensor


def shape_of(parameter: nn.Parameter) -> tuple[int, ...]:
    """Of the whole parameter; the local one is (0,) where it is sharded."""
    return tuple(getattr(parameter, "ds_shape", parameter.shape))


def is_sharded(parameter: nn.Parameter) -> bool:
    """Whether no rank keeps the whole parameter."""
    return hasattr(parameter, "ds_id")


def run_of(parameter: Any, piece: Tensor) -> Run | None:
    """This rank's run of what stage 3 cuts into equal, padded pieces, without the padding; None if it is all padding.

    Args:
        parameter: that is sharded.
        piece: (n,) what this rank keeps of it, or of a moment of it.
    """
    start = dist.get_rank() * len(piece)
    count = min(len(piece), parameter.ds_numel - start)
    return Run(start, piece[:count]) if count > 0 else None


def moment_run(parameter: Any, moment: str | None) -> Run | None:
    """What this rank keeps of a sharded parameter's moment of that name, or of its float32 weights for None."""
    zero = parameter._z3_optimizer
    group, offset, size = zero.grad_position[zero.get_param_id(parameter)]
    flat = zero.fp32_partitioned_groups_flat[group]
    kept = flat.detach() if moment is None else zero.optimizer.state[flat].get(moment)
    return None if kept is None else run_of(parameter, kept.narrow(0, offset, size))


def weight_run(parameter: Any) -> Run | None:
    """What this rank keeps of a parameter: the float32 weights that learn, or all of one that is not sharded."""
    if not is_sharded(parameter):
        return Run(0, parameter.detach().view(-1))
    if parameter.requires_grad:
        return moment_run(parameter, None)
    return run_of(parameter, parameter.ds_tensor.detach())


def own_weights(module: nn.Module) -> dict[str, Tensor]:
    """Name to what this rank keeps of a parameter, (n,), in its own memory; without those that it has nothing of."""
    runs = ((name, weight_run(parameter)) for name, parameter in module.named_parameters())
    return {name: run.values for name, run in runs if run is not None}


def let_go(module: nn.Module) -> None:
    """Frees what a pass has gathered of weights that do not learn: the next one sees what was written to them."""
    for parameter in module.parameters():
        if is_sharded(parameter):
            parameter.partition()  # type: ignore[attr-defined]


def take_over(method: nn.Module) -> None:
    """Lets layers compute with what was written into the runs of :func:`weight_run`.

    What they have gathered, and would keep for the next pass, is let go: a forward pass without gradients keeps much.
    """
    sharded: Any = next((p for p in method.parameters() if is_sharded(p) and p.requires_grad), None)
    if sharded is None:
        return
    zero = sharded._z3_optimizer
    copy_masters(zero)
    zero.empty_partition_cache()


def copy_masters(zero: Any) -> None:
    """Rounds the optimiser's float32 weights to those that layers gather, where they are not the same tensors."""
    pairs = zip(zero.fp16_partitioned_groups_flat, zero.fp32_partitioned_groups_flat, strict=True)
    for index, (own, master) in enumerate(pairs):
        if own is not master:
            zero._reassign_or_swap_out_partitioned_parameters(index)


def drop_copies(zero: Any) -> None:
    """Lets the optimiser work on the weights that layers gather where both are float32 in one place.

    DeepSpeed 0.19 means to, and compares a device with its name, which is never equal; so it keeps them twice.
    """
    for index, (own, master) in enumerate(
        zip(zero.fp16_partitioned_groups_flat, zero.fp32_partitioned_groups_flat, strict=True)
    ):
        if (own.dtype, own.device) == (master.dtype, master.device):
            own.requires_grad, own.ds_id = True, master.ds_id
            zero.fp32_partitioned_groups_flat[index] = own
