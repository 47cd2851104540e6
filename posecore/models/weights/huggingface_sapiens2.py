"""The layout of Sapiens2 in the names of Hugging Face's modules (``transformers`` 5.23, ``models/sapiens2``).

``transformers`` publishes and, unless told ``save_original_format=False``, saves the authors' names
(:mod:`posecore.models.weights.sapiens2`); these are the others. ``w12`` is in two tensors, the gate first. The library
has no tokenizer, and computes the rotation in float32, where the authors compute it in bfloat16.

The config written beside the weights states everything the forward pass depends on: the library's defaults are of no
published model. In particular they stretch the positions at random in training, which the authors do not.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from posecore.errors import CheckpointError
from posecore.models.backbones.sapiens2 import LAYER_SCALE, RMS_NORM_EPS, ROPE_BASE, Sapiens2Config
from posecore.models.heads.instance_norm import InstanceNormHeadConfig
from posecore.models.pose_model import PoseModel
from posecore.models.weights.layout import Layout, Translated, Written, refuse_unused
from posecore.models.weights.sapiens2 import SAPIENS2

_PREFIX = "model."
_GATE, _UP, _GATED = "mlp.gate_proj", "mlp.up_proj", "ffn.w12"
_IN_BLOCK = {
    "norm1": "ln1",
    "attention.q_proj": "attn.wq",
    "attention.k_proj": "attn.wk",
    "attention.v_proj": "attn.wv",
    "attention.q_norm": "attn.q_norm",
    "attention.k_norm": "attn.k_norm",
    "attention.o_proj": "attn.proj",
    "norm2": "ln2",
    _GATE: _GATED,
    "mlp.down_proj": "ffn.w3",
}
_TENSORS = {
    "embeddings.cls_token": "backbone.cls_token",
    "embeddings.register_tokens": "backbone.storage_tokens",
    "embeddings.patch_embeddings.weight": "backbone.patch_embed.projection.weight",
    "embeddings.patch_embeddings.bias": "backbone.patch_embed.projection.bias",
    "norm.weight": "backbone.ln1.weight",
    "decode_head.predictor.weight": "decode_head.conv_pose.weight",
    "decode_head.predictor.bias": "decode_head.conv_pose.bias",
}
_BLOCK = re.compile(r"model\.layer\.(\d+)\.(.+)\.(weight|bias)")
_SCALE = re.compile(r"model\.layer\.(\d+)\.layer_scale1\.lambda1")
_CONVOLUTION = re.compile(r"decode_head\.(upsample|conv)_layers\.(\d{1,3})\.convolution\.(weight|bias)")
_LAYERS = {"upsample": "deconv", "conv": "conv"}


def _recognises(tensors: Mapping[str, Tensor]) -> bool:
    return any(
        {f"{prefix}embeddings.register_tokens", f"{prefix}model.layer.0.{_GATE}.weight"} <= tensors.keys()
        for prefix in ("", _PREFIX)
    )


def _read(tensors: Mapping[str, Tensor], datasets: Sequence[str]) -> Translated:
    prefix = _PREFIX if f"{_PREFIX}embeddings.register_tokens" in tensors else ""
    authors: dict[str, Tensor] = {}
    unused = set(tensors)
    for name, tensor in tensors.items():
        theirs = _authors(name.removeprefix(prefix))
        if theirs is not None:
            unused.remove(name)
            authors[theirs] = tensor
        if _GATE in name and theirs is not None:
            up = name.replace(_GATE, _UP)
            if up not in tensors:
                raise CheckpointError(f"{name} comes without {up}; the file is incomplete.")
            unused.remove(up)
            authors[theirs] = torch.cat([tensor, tensors[up]])
    refuse_unused("huggingface-sapiens2", sorted(unused))
    return SAPIENS2.read(authors, datasets)


def _authors(name: str) -> str | None:
    """The authors' name of a module's tensor, or None if it has none; of a gate's, the whole ``w12``."""
    if match := _CONVOLUTION.fullmatch(name):
        part, index, kind = match.groups()
        # The authors count a norm and an activation behind each convolution.
        return f"decode_head.{_LAYERS[part]}_layers.{3 * int(index)}.{kind}"
    if match := _SCALE.fullmatch(name):
        return f"backbone.blocks.{match[1]}.attn.gamma.weight"
    match = _BLOCK.fullmatch(name)
    if match and match[2] in _IN_BLOCK:
        return f"backbone.blocks.{match[1]}.{_IN_BLOCK[match[2]]}.{match[3]}"
    return _TENSORS.get(name)


def _write(model: PoseModel) -> Written:
    config = model.config.backbone
    written = SAPIENS2.write(model)
    if not isinstance(config, Sapiens2Config) or config.tokenizer_depth:
        raise CheckpointError("layout huggingface-sapiens2 has no tokenizer, so it cannot hold a model for 4K images.")
    prefix = _PREFIX if model.heads else ""
    tensors: dict[str, Tensor] = {}
    for name in _modules(config, model):
        theirs = _authors(name)
        tensor = written.tensors[str(theirs)]
        name = name if name.startswith("decode_head.") else prefix + name
        if _GATE in name:
            tensors[name], tensors[name.replace(_GATE, _UP)] = (half.contiguous() for half in tensor.chunk(2))
        else:
            tensors[name] = tensor
    return Written(tensors, written.dropped, _config(config, model))


def _modules(config: Sapiens2Config, model: PoseModel) -> list[str]:
    """The modules' names of every tensor of a model, without prefix and without the second half of ``w12``."""
    names = [name for name in _TENSORS if model.heads or not name.startswith("decode_head.")]
    for block in range(config.depth):
        names.append(f"model.layer.{block}.layer_scale1.lambda1")
        for part in _IN_BLOCK:
            kinds = ("weight",) if "norm" in part else ("weight", "bias")
            names += [f"model.layer.{block}.{part}.{kind}" for kind in kinds]
    head = model.config.head
    if model.heads and isinstance(head, InstanceNormHeadConfig):
        for index in range(len(head.deconv_channels)):
            names.append(f"decode_head.upsample_layers.{index}.convolution.weight")
        for index in range(len(head.conv_channels)):
            names += [f"decode_head.conv_layers.{index}.convolution.{kind}" for kind in ("weight", "bias")]
    return names


def _config(config: Sapiens2Config, model: PoseModel) -> dict[str, Any]:
    """What ``from_pretrained`` needs beside the weights."""
    values: dict[str, Any] = {
        "model_type": "sapiens2",
        "architectures": ["Sapiens2ForPoseEstimation" if model.heads else "Sapiens2Model"],
        "hidden_size": config.embed_dim,
        "intermediate_size": round(config.embed_dim * config.mlp_ratio),
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads_per_layer": [config.num_key_heads(block) for block in range(config.depth)],
        "num_register_tokens": config.num_storage_tokens,
        "image_size": list(model.input_size),
        "patch_size": config.patch_size,
        "layerscale_value": LAYER_SCALE,
        "rms_norm_eps": RMS_NORM_EPS,
        "rope_theta": ROPE_BASE,
        "use_gated_mlp": True,
        "use_qk_norm": True,
        "query_bias": True,
        "key_bias": True,
        "value_bias": True,
        "proj_bias": True,
        "mlp_bias": True,
        "pos_embed_shift": None,
        "pos_embed_jitter": None,
        "pos_embed_rescale": None,
    }
    head = model.config.head
    if model.heads and isinstance(head, InstanceNormHeadConfig):
        skeleton = model.skeletons[next(iter(model.heads))]
        values["id2label"] = {str(index): name for index, name in enumerate(skeleton.names)}
        values["label2id"] = {name: index for index, name in enumerate(skeleton.names)}
        values["flip_pairs"] = [list(pair) for pair in skeleton.flip_pairs]
        values["head_config"] = {
            "model_type": "sapiens2_head",
            "upsample_out_channels": list(head.deconv_channels),
            "conv_out_channels": list(head.conv_channels),
        }
    return values


HUGGINGFACE_SAPIENS2 = Layout(
    name="huggingface-sapiens2",
    title="Sapiens2 in the names of transformers' modules: weights and config.json",
    backbone="sapiens2",
    license="Sapiens2",
    recognises=_recognises,
    read=_read,
    write=_write,
)
"""Sapiens2 0.1B to 5B, pre-training and pose."""
