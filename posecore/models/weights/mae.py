"""The layout of masked-autoencoder ViTs (facebookresearch/mae), read the way ViTPose reads them for pre-training.

ViTPose's loader (ViTAE-Transformer/ViTPose @ c050ed2, ``mmcv_custom/checkpoint.py``) does three things that the names
do not show: a kernel of 14 (ViT-H/14) is padded with zeros to 16; slot 0 of the positional embedding stays, to be added
to every token; and MAE's final norm is called ``norm`` where the model's is ``last_norm``, so it is not transferred and
the model's starts at weight 1 and bias 0. We do the same, and leave the grid as it is: a model read from such a file is
square, and :func:`~posecore.models.warm_start.warm_start` resizes its positional embedding to the child's.
"""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from posecore.errors import CheckpointError
from posecore.models.backbones.vit import VitConfig
from posecore.models.pose_model import PoseModel
from posecore.models.weights.layout import (
    Layout,
    Translated,
    Written,
    refuse_unpublished,
    refuse_unused,
    token_grid,
)

_PATCH = 16
_KERNEL = "patch_embed.proj.weight"
_ENCODER = ("patch_embed.proj.", "blocks.")
_DROPPED = {
    "cls_token": "pose models have no class token",
    "mask_token": "belongs to the decoder of the pre-training",
    "decoder_": "belongs to the decoder of the pre-training",
    "norm.": "the published loader does not transfer the final norm either; it starts at weight 1 and bias 0",
    "head.": "classifies images",
}


def _recognises(tensors: Mapping[str, Tensor]) -> bool:
    return {"pos_embed", "cls_token", _KERNEL, "blocks.0.attn.qkv.weight"} <= tensors.keys()


def _read(tensors: Mapping[str, Tensor], datasets: Sequence[str]) -> Translated:
    if datasets:
        raise CheckpointError(f"a masked autoencoder has no heads, but {', '.join(datasets)} are named.")
    dropped = {}
    translated = {"backbone.pos_embed": tensors["pos_embed"]}
    for name, tensor in tensors.items():
        if name.startswith(_ENCODER):
            translated[f"backbone.{name}"] = tensor
        elif reason := next((reason for start, reason in _DROPPED.items() if name.startswith(start)), None):
            dropped[name] = reason
    refuse_unused("mae", [name for name in tensors if name not in dropped and f"backbone.{name}" not in translated])
    kernel = tensors[_KERNEL]
    margin = _PATCH - kernel.shape[-1]
    if margin < 0 or margin % 2:
        raise CheckpointError(f"{_KERNEL} has patches of {kernel.shape[-1]} pixels, which do not centre in {_PATCH}.")
    translated[f"backbone.{_KERNEL}"] = F.pad(kernel, [margin // 2] * 4)
    width = kernel.shape[0]
    translated |= {"backbone.last_norm.weight": torch.ones(width), "backbone.last_norm.bias": torch.zeros(width)}
    rows, columns = token_grid(tensors["pos_embed"].shape[1] - 1)
    architecture = {"input_size": (rows * _PATCH, columns * _PATCH), "backbone": {"patch_padding": 0}}
    return Translated(translated, {}, architecture, dropped)


def _write(model: PoseModel) -> Written:
    backbone = model.config.backbone
    if not isinstance(backbone, VitConfig) or backbone.position != "with_slot" or backbone.expert_dim:
        raise CheckpointError("layout mae holds dense vision transformers with a class slot; this model is another.")
    refuse_unpublished("mae", backbone)
    tensors = {"cls_token": torch.zeros(1, 1, backbone.embed_dim)}
    dropped = {}
    for name, tensor in model.state_dict().items():
        ours = name.removeprefix("backbone.")
        if name.startswith("heads."):
            dropped[name] = "a masked autoencoder has no heads"
        else:
            tensors[ours.replace("last_norm.", "norm.")] = tensor
    return Written(tensors, dropped)


MAE = Layout(
    name="mae",
    title="ViT pre-trained as a masked autoencoder (facebookresearch/mae)",
    backbone="vit",
    license="CC-BY-NC-4.0",
    recognises=_recognises,
    read=_read,
    write=_write,
)
"""A backbone without heads."""
