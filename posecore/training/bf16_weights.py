"""Layers with bfloat16 weights, whatever they are given.

Under autocast a layer rounds its float32 weights in every step. With ``precision: bf16-weights`` it has them rounded
once an update, and the optimiser alone keeps float32. What has no weights of its own, such as a loss, stays in float32
where it is given that.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

_LAYERS = (nn.Linear, _ConvNd, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


def round_weights(method: nn.Module, dtype: torch.dtype = torch.bfloat16) -> dict[str, Tensor]:
    """Makes the weights of a method bfloat16, in place, and its layers take input of any precision.

    BatchNorm is given float32 weights, as its statistics are: what a step adds to them is lost in bfloat16.

    Args:
        method: whose layers are changed.
        dtype: another of two bytes, where only memory is asked for.

    Returns:
        The values before, by name; none of those on the meta device, which have no values.
    """
    exact = {name: parameter.detach() for name, parameter in method.named_parameters() if not parameter.is_meta}
    for parameter in method.parameters():
        parameter.data = parameter.data.to(dtype)
    for module in method.modules():
        if isinstance(module, _BatchNorm):
            module.forward = partial(_normalise, module)  # type: ignore[method-assign]
        elif isinstance(module, _LAYERS):
            module.register_forward_pre_hook(_round_input)
    return exact


def _round_input(module: Any, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(tensor if module.weight is None else tensor.to(module.weight.dtype) for tensor in inputs)


def _normalise(norm: Any, rows: Tensor) -> Tensor:
    own = norm._parameters
    norm._parameters = {name: None if tensor is None else tensor.float() for name, tensor in own.items()}
    try:
        normalised: Tensor = type(norm).forward(norm, rows)
    finally:
        norm._parameters = own
    return normalised
