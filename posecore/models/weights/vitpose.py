"""The layout of ViTPose and ViTPose++ (ViTAE-Transformer/ViTPose @ c050ed2), which is also the one our names follow.

Four kinds of file share it: one dataset (``keypoint_head``); several datasets with one backbone (further heads under
``associate_keypoint_heads``, and a ``backbone.cls_token`` nobody reads); ViTPose++ (experts besides); and the output
of the publisher's splitting tool, one merged expert with one head, whose file still carries the experts and heads that
no longer belong to anything (``tools/model_split.py`` there does not remove them).
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

_PATCH = 16
_POSITIONS = "backbone.pos_embed"
_CLASS_TOKEN = "backbone.cls_token"
_EMBEDDING = ("embedding_head.", "prototypes.")
_EXPERT = re.compile(r"(backbone\.blocks\.\d+\.mlp\.experts\.)(\d+)(\..+)")
_HEAD = re.compile(r"(?:keypoint_head|associate_keypoint_heads\.(?P<number>\d+))\.(?P<rest>.+)")


def _recognises(tensors: Mapping[str, Tensor]) -> bool:
    essential = {_POSITIONS, "backbone.patch_embed.proj.weight", "backbone.blocks.0.attn.qkv.weight"}
    return essential <= tensors.keys() and not any(name.startswith(("proto_head.", "heads.")) for name in tensors)


def _read(tensors: Mapping[str, Tensor], datasets: Sequence[str]) -> Translated:
    dropped = _left_out(tensors)
    kept = {name: tensor for name, tensor in tensors.items() if name not in dropped}
    by_head: dict[int, dict[str, Tensor]] = {}
    for name, tensor in kept.items():
        if match := _HEAD.fullmatch(name):
            number = 0 if match["number"] is None else int(match["number"]) + 1
            by_head.setdefault(number, {})[match["rest"]] = tensor
    numbers = sorted(by_head)
    if incomplete := [number for number in numbers if "final_layer.weight" not in by_head[number]]:
        raise CheckpointError(f"head {incomplete[0]} of the file has no final_layer.weight; the file is incomplete.")
    heads = name_heads([len(by_head[number]["final_layer.weight"]) for number in numbers], datasets)
    names = dict(zip(numbers, heads, strict=True))
    translated = {
        f"heads.{names[number]}.{rest}": tensor for number in numbers for rest, tensor in by_head[number].items()
    }
    for name, tensor in kept.items():
        if match := _EXPERT.fullmatch(name):
            # Expert e belongs to head e: COCO is expert 0 and ``keypoint_head``, AI Challenger expert 1 and the first
            # associate head, and so on.
            prefix, expert, rest = match.groups()
            if int(expert) not in names:
                raise CheckpointError(f"{name} is an expert without a head; the file has heads {numbers}.")
            translated[f"{prefix}{names[int(expert)]}{rest}"] = tensor
        elif not _HEAD.fullmatch(name):
            translated[name] = tensor
    refuse_unused("vitpose", [name for name in translated if not name.startswith(("backbone.", "heads."))])
    rows, columns = token_grid(tensors[_POSITIONS].shape[1] - 1)
    architecture: dict[str, Any] = {"input_size": (rows * _PATCH, columns * _PATCH)}
    if by_head:
        architecture["head"] = _head(by_head[numbers[0]])
    return Translated(translated, heads, architecture, dropped)


def _left_out(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    dropped = {}
    if _CLASS_TOKEN in tensors:
        dropped[_CLASS_TOKEN] = "the model has no class token, and the publisher's own code ignores it"
    fc2 = tensors.get("backbone.blocks.0.mlp.fc2.weight")
    is_dense = fc2 is not None and len(fc2) == tensors[_POSITIONS].shape[-1]
    if is_dense and any(map(_EXPERT.fullmatch, tensors)):
        for name in tensors:
            if _EXPERT.fullmatch(name) or name.startswith("associate_keypoint_heads."):
                dropped[name] = "left over by the tool that merged one expert into this file"
    return dropped


def _head(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    deconvolution = tensors.get("deconv_layers.0.weight")
    return {"kind": "simple"} if deconvolution is None else {"kind": "classic", "channels": deconvolution.shape[1]}


def _write(model: PoseModel) -> Written:
    backbone, head = model.config.backbone, model.config.head.kind
    if not isinstance(backbone, VitConfig) or head not in ("classic", "simple"):
        raise CheckpointError(
            "layout vitpose holds plain vision transformers with classic or simple heads, not "
            f"{backbone.kind} with {head}."
        )
    if backbone.position != "with_slot":
        raise CheckpointError("layout vitpose holds positional embeddings with a class slot; this model's has none.")
    refuse_other_padding("vitpose", model, backbone)
    refuse_unpublished("vitpose", backbone)
    numbers = {dataset: number for number, dataset in enumerate(model.heads)}
    state = model.state_dict()
    dropped = {name: "only layout posebh holds it" for name in state if name.startswith(_EMBEDDING)}
    tensors = {_published_name(name, numbers): tensor for name, tensor in state.items() if name not in dropped}
    return Written(tensors, dropped)


def _published_name(name: str, numbers: Mapping[str, int]) -> str:
    if name.startswith("heads."):
        _, dataset, rest = name.split(".", 2)
        number = numbers[dataset]
        return f"associate_keypoint_heads.{number - 1}.{rest}" if number else f"keypoint_head.{rest}"
    before, separator, after = name.partition(".mlp.experts.")
    if not separator:
        return name
    dataset, _, rest = after.rpartition(".")
    return f"{before}{separator}{numbers[dataset]}.{rest}"


VITPOSE = Layout(
    name="vitpose",
    title="ViTPose and ViTPose++ as published by their authors (.pth)",
    backbone="vit",
    license="Apache-2.0",
    recognises=_recognises,
    read=_read,
    write=_write,
)
"""ViTPose, classic and simple, one dataset or several, and ViTPose++."""
