"""ViTPose as mmpose 1.x has it (open-mmlab/mmpose @ 759b39c): mmpretrain's names for the encoder, and ``head.``.

The positional embedding has no slot for a class token: what the authors' own code adds to every token is in it. Sapiens
has the same names for its encoder; its head has two transposed convolutions with norms that have no tensors, and its
grid of tokens is larger than any ViTPose's.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from posecore.errors import CheckpointError
from posecore.models.backbones.vit import VitConfig
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
from posecore.models.weights.sapiens import encoder_name, published_encoder_name

_PATCH = 16
_BACKBONE, _HEAD = "backbone.", "head."
_POSITIONS = "backbone.pos_embed"
_LAST = "head.final_layer.weight"
_MOST_TOKENS = 1024
_HEAD_PART = re.compile(r"(?:deconv_layers\.\d{1,3}|final_layer)\.\w+")


def _recognises(tensors: Mapping[str, Tensor]) -> bool:
    if not {"backbone.patch_embed.projection.weight", "backbone.layers.0.ffn.layers.0.0.weight", _POSITIONS} <= set(
        tensors
    ):
        return False
    if any(name.startswith((_HEAD, "decode_head.")) for name in tensors):
        is_simple = not any(name.startswith("head.deconv_layers.") for name in tensors)
        return "head.deconv_layers.1.running_mean" in tensors or (is_simple and _LAST in tensors)
    return tensors[_POSITIONS].ndim == 3 and tensors[_POSITIONS].shape[1] <= _MOST_TOKENS


def _read(tensors: Mapping[str, Tensor], datasets: Sequence[str]) -> Translated:
    head = {name.removeprefix(_HEAD): tensor for name, tensor in tensors.items() if name.startswith(_HEAD)}
    encoder = {name: tensor for name, tensor in tensors.items() if not name.startswith(_HEAD)}
    names = {name: encoder_name(name.removeprefix(_BACKBONE)) for name in encoder}
    unused = [name for name, ours in names.items() if ours is None or not name.startswith(_BACKBONE)]
    refuse_unused("mmpose-vitpose", [*unused, *(_HEAD + name for name in head if not _HEAD_PART.fullmatch(name))])
    translated = {f"{_BACKBONE}{names[name]}": tensor for name, tensor in encoder.items()}
    positions = tensors[_POSITIONS]
    rows, columns = token_grid(positions.shape[1])
    architecture: dict[str, Any] = {
        "input_size": (rows * _PATCH, columns * _PATCH),
        "backbone": {"position": "plain"},
    }
    heads: dict[str, int] = {}
    if head:
        if "final_layer.weight" not in head:
            raise CheckpointError("the head of the file has no final_layer.weight; the file is incomplete.")
        heads = name_heads([len(head["final_layer.weight"])], datasets)
        translated |= {f"heads.{dataset}.{rest}": tensor for dataset in heads for rest, tensor in head.items()}
        first = head.get("deconv_layers.0.weight")
        architecture["head"] = {"kind": "simple"} if first is None else {"kind": "classic", "channels": first.shape[1]}
    return Translated(translated, heads, architecture)


def _write(model: PoseModel) -> Written:
    backbone, head = model.config.backbone, model.config.head.kind
    if not isinstance(backbone, VitConfig) or backbone.expert_share:
        raise CheckpointError(
            f"layout mmpose-vitpose holds vision transformers without experts; this is {backbone.kind}."
        )
    if model.heads and (head not in ("classic", "simple") or len(model.heads) > 1):
        raise CheckpointError(
            f"layout mmpose-vitpose holds one classic or simple head, not {len(model.heads)} of kind {head}."
        )
    refuse_other_padding("mmpose-vitpose", model, backbone)
    refuse_unpublished("mmpose-vitpose", backbone)
    first = next(iter(model.heads), None)
    tensors, dropped = {}, {}
    for name, tensor in model.state_dict().items():
        if name == _POSITIONS and backbone.position == "with_slot":
            tensors[name] = tensor[:, 1:] + tensor[:, :1]
        elif name.startswith(_BACKBONE):
            tensors[_BACKBONE + published_encoder_name(name.removeprefix(_BACKBONE))] = tensor
        elif name.startswith(f"heads.{first}."):
            tensors[_HEAD + name.removeprefix(f"heads.{first}.")] = tensor
        else:
            dropped[name] = "the layout has room for one head, and for nothing else"
    return Written(tensors, dropped)


MMPOSE_VITPOSE = Layout(
    name="mmpose-vitpose",
    title="ViTPose as mmpose 1.x trains and publishes it (.pth), also its training files",
    backbone="vit",
    license="Apache-2.0",
    recognises=_recognises,
    read=_read,
    write=_write,
)
"""ViTPose, classic and simple, with mmpretrain's names."""
