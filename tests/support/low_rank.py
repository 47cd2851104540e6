"""Low-rank updates merged in memory, all at once."""

import torch
from torch import nn

from posecore.models.low_rank import is_low_rank


@torch.no_grad()
def merge_low_rank(model: nn.Module) -> None:
    """Adds every update into its weight and takes it out, in place; nothing happens to a model without any."""
    if not any(is_low_rank(name) for name, _ in model.named_parameters()):
        return  # without importing peft
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, layer in [item for item in model.named_modules() if isinstance(item[1], BaseTunerLayer)]:
        layer.merge()
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, layer.get_base_layer())
    if hasattr(model, "peft_config"):
        del model.peft_config
