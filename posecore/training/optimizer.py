"""AdamW parameter groups with layer-wise learning-rate decay, exactly as ViTPose was trained.

Source: ViTAE-Transformer/ViTPose @ c050ed2, ``mmcv_custom/layer_decay_optimizer_constructor.py``; that code ignores the
``custom_keys`` of its configuration files, and so does this.
"""

import re
from typing import Any, Literal

from pydantic import Field
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from posecore.config import Config
from posecore.methods.staged import StagedMethod

_BACKBONE = re.compile(r"(?:^|\.)backbone\.(.+)$")
_BLOCK = re.compile(r"blocks\.(\d+)\.")
_NORMS = (_BatchNorm, nn.GroupNorm, nn.LayerNorm)
_EMBEDDINGS = ("pos_embed", "cls_token", "storage_tokens", "mask_token", "patch_embed.", "tokenizer.")
_STARTS_AT_ZERO = "patch_embed.depth_proj."


class OptimizerConfig(Config):
    """AdamW.

    Attributes:
        lr: peak learning rate of the heads; published: 5e-4 at a global batch of 512, 1e-3 at 1024.
        weight_decay: of what ``undecayed`` leaves.
        undecayed: ``vectors`` spares every vector, every bias and the positional embedding, as ViTPose does.
            ``norms_and_biases`` spares normalisation layers and biases only, as RTMPose does: the scales and offsets of
            its attention, which are parameters of no such layer, are decayed.
        betas: decay of the two running moments.
        eps: added to the root of the second moment.
        layer_decay: learning rate of a block relative to the block above it; 1 switches it off. Published: 0.8, 0.75,
            0.8, 0.85 for S, B, L, H.
        clip_norm: largest L2 norm of the gradient of all parameters together; None switches clipping off.
    """

    lr: float = Field(default=5e-4, gt=0)
    weight_decay: float = Field(default=0.1, ge=0)
    undecayed: Literal["vectors", "norms_and_biases"] = "vectors"
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = Field(default=1e-8, gt=0)
    layer_decay: float = Field(default=0.75, gt=0, le=1)
    clip_norm: float | None = Field(default=1.0, gt=0)


def parameter_groups(method: nn.Module, config: OptimizerConfig) -> list[dict[str, Any]]:
    """Groups of trainable parameters that share a learning rate and a weight decay, the lowest layer first.

    With ``n`` blocks, embeddings get ``rate^(n+1)``, block ``i`` gets ``rate^(n-i)``, everything else (last norm,
    heads, the projection of depth) gets 1. What is not decayed is a matter of ``config.undecayed``.

    Args:
        method: its backbone's parameters are named ``…backbone.*``.
        config: learning rate, decay and layer decay.

    Returns:
        Groups for :class:`torch.optim.AdamW`; ``lr_scale`` is what a schedule multiplies the peak rate by, ``part`` the
        part of a :class:`~posecore.methods.staged.StagedMethod` that the group belongs to, or "".
    """
    trainable = [(name, parameter) for name, parameter in method.named_parameters() if parameter.requires_grad]
    depth = 1 + max((_block_index(name) for name, _ in trainable), default=-1)
    parts = method.parts if isinstance(method, StagedMethod) else ()
    of_norms = {id(p) for m in method.modules() if isinstance(m, _NORMS) for p in m.parameters(recurse=False)}
    groups: dict[tuple[int, str, bool], dict[str, Any]] = {}
    for name, parameter in trainable:
        layer = _layer(name, depth)
        if config.undecayed == "vectors":
            shape = getattr(parameter, "ds_shape", parameter.shape)  # under ZeRO-3 the local shape is (0,)
            decayed = len(shape) > 1 and not name.endswith(".bias") and "pos_embed" not in name
        else:
            decayed = id(parameter) not in of_norms and not name.endswith(".bias")
        part = next((prefix for prefix in parts if name.startswith(prefix)), "")
        if (layer, part, decayed) not in groups:
            scale = config.layer_decay ** (depth + 1 - layer)
            groups[layer, part, decayed] = {
                "params": [],
                "lr": config.lr * scale,
                "lr_scale": scale,
                "part": part,
                "weight_decay": config.weight_decay if decayed else 0.0,
            }
        groups[layer, part, decayed]["params"].append(parameter)
    return [groups[key] for key in sorted(groups)]


def _block_index(name: str) -> int:
    inside = _BACKBONE.search(name)
    block = _BLOCK.match(inside.group(1)) if inside else None
    return int(block.group(1)) if block else -1


def _layer(name: str, depth: int) -> int:
    """0 for embeddings, i + 1 for block i, depth + 1 for everything above, and for weights that start from nothing.

    Layer decay spares what a trained model knows; the projection of depth knows nothing yet, and at the pace of the
    embeddings (0.02 of the peak rate in a base model) it would not learn either.
    """
    inside = _BACKBONE.search(name)
    if inside and inside.group(1).startswith(_STARTS_AT_ZERO):
        return depth + 1
    if inside and inside.group(1).startswith(_EMBEDDINGS):
        return 0
    block = _block_index(name)
    return block + 1 if block >= 0 else depth + 1
