"""The layout of Sapiens (facebookresearch/sapiens @ 3e829ac): mmpretrain's names for the encoder, mmpose's for heads.

Three kinds of file share it: pre-training (no ``backbone.`` before its names, a class token, a square positional
embedding with a slot for it), pose (``head.``) and depth or surface normals (``decode_head.``, whose decoder has no
place in a pose model). The patch padding is not in the file: pre-training and depth pad by 0, pose and normals by 2.
The norms of the head have no tensors.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from posecore.counting import counted
from posecore.errors import CheckpointError
from posecore.models.backbones.vit import VitConfig
from posecore.models.heads.instance_norm import InstanceNormHeadConfig
from posecore.models.pose_model import PoseModel
from posecore.models.weights.layout import (
    Layout,
    Translated,
    Written,
    name_heads,
    refuse_other_padding,
    refuse_unpublished,
    refuse_unused,
    token_grid,
)

_PATCH = 16
_PREFIX = "backbone."
_HEAD = "head."
_OTHER_HEAD = "decode_head."
_CLASS_TOKEN = "cls_token"
_POSITIONS = "pos_embed"
_IN_BLOCK = re.compile(r"(?:layers|blocks)\.(\d+)\.(.+)\.(weight|bias)")
_CONVOLUTION = re.compile(r"(deconv|conv)_layers\.(\d{1,3})\.weight")
_BLOCK_PARTS = {
    "ln1": "norm1",
    "attn.qkv": "attn.qkv",
    "attn.proj": "attn.proj",
    "ln2": "norm2",
    "ffn.layers.0.0": "mlp.fc1",
    "ffn.layers.1": "mlp.fc2",
}
_OTHER_PARTS = {
    _POSITIONS: _POSITIONS,
    "patch_embed.projection.weight": "patch_embed.proj.weight",
    "patch_embed.projection.bias": "patch_embed.proj.bias",
    "ln1.weight": "last_norm.weight",
    "ln1.bias": "last_norm.bias",
}
_OUR_BLOCK_PARTS = {ours: published for published, ours in _BLOCK_PARTS.items()}
_OUR_OTHER_PARTS = {ours: published for published, ours in _OTHER_PARTS.items()}
_DECONVOLUTIONS = 2
_PADDING_BY_CHANNELS = {1: 0, 3: 2}
"""Depth has one output channel, surface normals have three."""


def _recognises(tensors: Mapping[str, Tensor]) -> bool:
    names = {name.removeprefix(_PREFIX) for name in tensors}
    return {"patch_embed.projection.weight", "layers.0.ffn.layers.0.0.weight"} <= names


def _read(tensors: Mapping[str, Tensor], datasets: Sequence[str]) -> Translated:
    encoder = {name.removeprefix(_PREFIX): tensor for name, tensor in tensors.items() if not _is_head(name)}
    head = {name.removeprefix(_HEAD): tensor for name, tensor in tensors.items() if name.startswith(_HEAD)}
    prefix = _PREFIX if f"{_PREFIX}{_POSITIONS}" in tensors else ""
    dropped = {name: "a pose model has no decoder of that kind" for name in tensors if name.startswith(_OTHER_HEAD)}
    if encoder.pop(_CLASS_TOKEN, None) is not None:
        dropped[prefix + _CLASS_TOKEN] = "published fine-tuning leaves the class token and its position out"
    positions = encoder.get(_POSITIONS)
    if positions is None or positions.ndim != 3:
        raise CheckpointError("the file looks like sapiens but has no pos_embed of three axes; it is incomplete.")
    if prefix + _CLASS_TOKEN in dropped or positions.shape[1] % 2:
        positions = encoder[_POSITIONS] = positions[:, 1:]
    names = {name: encoder_name(name) for name in encoder}
    refuse_unused("sapiens", [prefix + name for name, ours in names.items() if ours is None])
    translated = {f"backbone.{ours}": encoder[name] for name, ours in names.items()}
    rows, columns = token_grid(positions.shape[1])
    architecture: dict[str, Any] = {
        "input_size": (rows * _PATCH, columns * _PATCH),
        "backbone": {"position": "plain", "patch_padding": _patch_padding(tensors)},
    }
    heads: dict[str, int] = {}
    if head:
        heads = name_heads([num_points(head)], datasets)
        translated |= {f"heads.{dataset}.{rest}": tensor for dataset in heads for rest, tensor in head.items()}
        architecture["head"] = head_widths(head) | {"initialisation": "normal"}
    return Translated(translated, heads, architecture, dropped)


def encoder_name(name: str) -> str | None:
    """Our name of mmpretrain's, both without ``backbone.``; None for none of an encoder."""
    return _renamed(name, "blocks", _BLOCK_PARTS, _OTHER_PARTS)


def published_encoder_name(name: str) -> str:
    """The inverse of :func:`encoder_name`."""
    return str(_renamed(name, "layers", _OUR_BLOCK_PARTS, _OUR_OTHER_PARTS))


def _is_head(name: str) -> bool:
    return name.startswith((_HEAD, _OTHER_HEAD))


def _patch_padding(tensors: Mapping[str, Tensor]) -> int:
    if any(name.startswith(_HEAD) for name in tensors):
        return 2
    last = tensors.get(f"{_OTHER_HEAD}conv_seg.weight")
    if last is None:
        return 0
    if len(last) not in _PADDING_BY_CHANNELS:
        raise CheckpointError(
            f"the decoder has {counted(len(last), 'channel')}, so it segments; with which patch padding it was trained "
            "differs between published sizes and is not in the file: start from the pre-trained, pose or depth "
            "checkpoint."
        )
    return _PADDING_BY_CHANNELS[len(last)]


def num_points(head: Mapping[str, Tensor]) -> int:
    """Outputs of an InstanceNorm head, from its tensors named as in our modules.

    Raises:
        CheckpointError: its last layer is missing.
    """
    last = head.get("final_layer.weight")
    if last is None or last.ndim != 4:
        raise CheckpointError("the file has a head without a last convolution; it is incomplete.")
    return len(last)


def head_widths(head: Mapping[str, Tensor]) -> dict[str, Any]:
    """Fields of an InstanceNorm head's configuration, from its tensors named as in our modules.

    Raises:
        CheckpointError: it has not two transposed convolutions. They have no biases: if one of equal width before and
            after were missing, the rest would pass for a smaller head.
    """
    widths: dict[str, dict[int, int]] = {"deconv": {}, "conv": {}}
    for name, tensor in head.items():
        match = _CONVOLUTION.fullmatch(name)
        if match and tensor.ndim == 4:
            kind, index = match.groups()
            widths[kind][int(index)] = tensor.shape[1 if kind == "deconv" else 0]
    deconv, conv = (tuple(found[index] for index in sorted(found)) for found in widths.values())
    if len(deconv) != _DECONVOLUTIONS:
        raise CheckpointError(
            f"the file's head has {len(deconv)} transposed convolutions instead of {_DECONVOLUTIONS}; it is incomplete."
        )
    return {"kind": "instance_norm", "deconv_channels": deconv, "conv_channels": conv}


def _renamed(name: str, blocks: str, block_parts: Mapping[str, str], other_parts: Mapping[str, str]) -> str | None:
    match = _IN_BLOCK.fullmatch(name)
    if match is None:
        return other_parts.get(name)
    index, part, kind = match.groups()
    return f"{blocks}.{index}.{block_parts[part]}.{kind}" if part in block_parts else None


def _write(model: PoseModel) -> Written:
    backbone = model.config.backbone
    if not isinstance(backbone, VitConfig) or backbone.position != "plain" or backbone.expert_share:
        raise CheckpointError(
            "layout sapiens holds plain vision transformers without experts, whose positional embedding has no slot "
            f"for a class token; this model's {backbone.kind} is not one."
        )
    refuse_other_padding("sapiens", model, backbone)
    refuse_unpublished("sapiens", backbone)
    written = write_one_head("sapiens", model, _PREFIX, _HEAD)
    names = {
        name: name if _is_head(name) else f"{_PREFIX}{published_encoder_name(name.removeprefix(_PREFIX))}"
        for name in written.tensors
    }
    return Written({names[name]: tensor for name, tensor in written.tensors.items()}, written.dropped)


def write_one_head(layout: str, model: PoseModel, backbone: str, head: str) -> Written:
    """A model's backbone and its first head, with other words before their names; the rest is left out.

    Args:
        layout: its name, for the messages.
        model: what to write.
        backbone: replaces ``backbone.``.
        head: replaces ``heads.<dataset>.``.

    Raises:
        CheckpointError: the model's heads are not InstanceNorm heads of two transposed convolutions.
    """
    config = model.config.head
    fits = isinstance(config, InstanceNormHeadConfig) and len(config.deconv_channels) == _DECONVOLUTIONS
    if model.heads and not fits:
        raise CheckpointError(
            f"layout {layout} holds instance_norm heads with two transposed convolutions; this model has {config!r}."
        )
    first = next(iter(model.heads), None)
    tensors, dropped = {}, {}
    for name, tensor in model.state_dict().items():
        if name.startswith(_PREFIX):
            tensors[backbone + name.removeprefix(_PREFIX)] = tensor
        elif name.startswith(f"heads.{first}."):
            tensors[head + name.removeprefix(f"heads.{first}.")] = tensor
        else:
            dropped[name] = f"the layout has room for one head, that of {first}, and for nothing else"
    return Written(tensors, dropped)


SAPIENS = Layout(
    name="sapiens",
    title="Sapiens as published by its authors: pre-training, pose, depth and normals (.pth)",
    backbone="vit",
    license="CC-BY-NC-4.0",
    recognises=_recognises,
    read=_read,
    write=_write,
    presets="sapiens-",
)
"""Sapiens 0.3B to 2B."""
