"""An exponential moving average of tensors, for weights that are kept and for a teacher's."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn


@torch.no_grad()
def follow(average: Mapping[str, Tensor], present: Iterable[tuple[str, Tensor]], decay: float) -> None:
    """``average = decay · average + (1 − decay) · present``, in place and in the average's own precision.

    Whole numbers, such as BatchNorm's count of batches, have no mean and are copied.

    Args:
        average: by name.
        present: what is followed, of the same shapes; every name is one of the average's.
        decay: share of the old average.
    """
    olds: list[Tensor] = []
    news: list[Tensor] = []
    for name, tensor in present:
        if tensor.is_floating_point():
            olds.append(average[name])
            news.append(tensor.detach().to(average[name].dtype))
        else:
            average[name].copy_(tensor)
    if olds:
        get_ema_multi_avg_fn(decay)(olds, news, 0)
