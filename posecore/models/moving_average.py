"""An exponential moving average of tensors, for weights that are kept and for a teacher's."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor


@torch.no_grad()
def follow(average: Mapping[str, Tensor], present: Iterable[tuple[str, Tensor]], decay: float) -> None:
    """``average = decay · average + (1 − decay) · present``, in place and in the average's own precision.

    Whole numbers, such as BatchNorm's count of batches, have no mean and are copied.

    Args:
        average: by name.
        present: what is followed, of the same shapes; every name is one of the average's.
        decay: share of the old average.
    """
    for name, tensor in present:
        if tensor.is_floating_point():
            average[name].lerp_(tensor.to(average[name].dtype), 1 - decay)
        else:
            average[name].copy_(tensor)
