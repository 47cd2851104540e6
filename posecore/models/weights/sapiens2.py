"""The layout of Sapiens2 (facebookresearch/sapiens2 @ 3098c14), in which ``transformers`` publishes and saves it too.

Our names are the authors'. Their files differ in the prefixes, in ``conv_pose`` for the last layer of the head, and in
``rope_embed.periods``, a buffer that is a formula of the width of a head and that ``transformers`` leaves out.
"""

import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from posecore.errors import CheckpointError
from posecore.models.backbones.sapiens2 import ROPE_BASE, Sapiens2Config, rotation_periods
from posecore.models.pose_model import PoseModel
from posecore.models.weights.layout import Layout, Translated, Written, name_heads, refuse_unused
from posecore.models.weights.sapiens import head_widths, num_points, write_one_head

_PREFIX = "backbone."
_HEAD = "decode_head."
_LAST = "conv_pose."
_PERIODS = "rope_embed.periods"
_BLOCK = re.compile(r"(?P<tokenizer>tokenizer\.)?blocks\.(?P<index>\d+)\.(?P<part>.+)")
_NORMS = ("attn.q_norm.weight", "attn.k_norm.weight", "attn.gamma.weight")
_BLOCK_PARTS = {
    f"{part}.{kind}"
    for part in ("attn.wq", "attn.wk", "attn.wv", "attn.proj", "ffn.w12", "ffn.w3")
    for kind in ("weight", "bias")
} | {"ln1.weight", "ln2.weight", *_NORMS}
_OTHER_PARTS = {
    "cls_token",
    "storage_tokens",
    "patch_embed.projection.weight",
    "patch_embed.projection.bias",
    "ln1.weight",
    "tokenizer.w_cls",
    "tokenizer.local_pos_embed",
}


def _recognises(tensors: Mapping[str, Tensor]) -> bool:
    if any(name.startswith("heads.") for name in tensors):
        return False
    return {"storage_tokens", "blocks.0.ffn.w12.weight"} <= {name.removeprefix(_PREFIX) for name in tensors}


def _read(tensors: Mapping[str, Tensor], datasets: Sequence[str]) -> Translated:
    encoder = {name.removeprefix(_PREFIX): name for name in tensors if not name.startswith(_HEAD)}
    head = {name.removeprefix(_HEAD): tensor for name, tensor in tensors.items() if name.startswith(_HEAD)}
    dropped = {}
    if _PERIODS in encoder:
        name = encoder.pop(_PERIODS)
        _check_periods(tensors[name])
        dropped[name] = "a formula of the width of a head, computed where it is used"
    if not any(name.startswith(_LAST) for name in head):
        dropped |= {_HEAD + name: "a pose model has no decoder of that kind" for name in head}
        head = {}
    refuse_unused("sapiens2", [name for ours, name in encoder.items() if not _is_known(ours)])
    translated = {f"backbone.{ours}": tensors[name] for ours, name in encoder.items()}
    if not head:
        return Translated(translated, {}, {}, dropped)
    head = {name.replace(_LAST, "final_layer.", 1): tensor for name, tensor in head.items()}
    heads = name_heads([num_points(head)], datasets)
    translated |= {f"heads.{dataset}.{rest}": tensor for dataset in heads for rest, tensor in head.items()}
    return Translated(translated, heads, {"head": head_widths(head) | {"initialisation": "kaiming"}}, dropped)


def _is_known(name: str) -> bool:
    match = _BLOCK.fullmatch(name)
    if match is None:
        return name in _OTHER_PARTS
    return match["part"] in _BLOCK_PARTS and not (match["tokenizer"] and match["part"] in _NORMS)


def _check_periods(periods: Tensor) -> None:
    ours = rotation_periods(4 * periods.numel(), torch.bfloat16)
    if not torch.equal(periods.to(torch.bfloat16), ours):
        raise CheckpointError(
            f"the file's {_PERIODS} are not those of base {ROPE_BASE:g} in bfloat16; it is of another architecture."
        )


def _write(model: PoseModel) -> Written:
    config = model.config.backbone
    if not isinstance(config, Sapiens2Config):
        raise CheckpointError(f"layout sapiens2 holds Sapiens2 encoders, not {config.kind}.")
    written = write_one_head("sapiens2", model, _PREFIX, _HEAD)
    tensors = {
        name.replace(f"{_HEAD}final_layer.", _HEAD + _LAST, 1): tensor for name, tensor in written.tensors.items()
    }
    tensors[_PREFIX + _PERIODS] = rotation_periods(config.embed_dim // config.num_heads, torch.bfloat16)
    return Written(tensors, written.dropped)


SAPIENS2 = Layout(
    name="sapiens2",
    title="Sapiens2 as published by its authors and saved by transformers (.safetensors)",
    backbone="sapiens2",
    license="Sapiens2",
    recognises=_recognises,
    read=_read,
    write=_write,
)
"""Sapiens2 0.1B to 5B and 1B-4K: pre-training and pose; of the other tasks the encoder."""
