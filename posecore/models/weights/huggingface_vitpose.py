"""The layout of ViTPose in Hugging Face ``transformers`` (5.23, ``models/vitpose``): a folder, weights and config.json.

It is the published layout under other names, with query, key and value in three tensors. It holds one head: of a
ViTPose++ model only COCO's, although every expert is in the file. We read such a file as what it computes, the dense
model of the COCO expert. ``transformers`` itself defaults to a LayerNorm eps of 1e-12; the weights were trained with
1e-6, which is what we use and what we write into the config.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from posecore.errors import CheckpointError
from posecore.models.backbones.vit import VitConfig
from posecore.models.pixel_values import IMAGENET_MEAN, IMAGENET_STD
from posecore.models.pose_model import PoseModel
from posecore.models.weights.layout import Layout, Translated, Written, refuse_unused
from posecore.models.weights.published_heads import SKELETONS
from posecore.models.weights.vitpose import VITPOSE
from posecore.skeletons.library import load_skeleton

_EMBEDDINGS = "backbone.embeddings."
_LAYER = "backbone.encoder.layer."
_PLAIN = {
    f"{_EMBEDDINGS}position_embeddings": "backbone.pos_embed",
    f"{_EMBEDDINGS}patch_embeddings.projection.": "backbone.patch_embed.proj.",
    "backbone.layernorm.": "backbone.last_norm.",
    "head.deconv1.": "keypoint_head.deconv_layers.0.",
    "head.batchnorm1.": "keypoint_head.deconv_layers.1.",
    "head.deconv2.": "keypoint_head.deconv_layers.3.",
    "head.batchnorm2.": "keypoint_head.deconv_layers.4.",
    "head.conv.": "keypoint_head.final_layer.",
}
_IN_LAYER = {
    "layernorm_before.": "norm1.",
    "layernorm_after.": "norm2.",
    "attention.output.dense.": "attn.proj.",
    "mlp.": "mlp.",
}
_PARTS = ("query", "key", "value")
_QUERY = re.compile(rf"({re.escape(_LAYER)}\d+\.attention\.attention\.)query(\.\w+)")
_SIDE = re.compile(r"^([lr])(?=_)")
_SIDES = {"l": "left", "r": "right"}
_EXPERT = re.compile(r"(backbone\.blocks\.\d+\.mlp\.)experts\.(\d+)(\.\w+)")


def _recognises(tensors: Mapping[str, Tensor]) -> bool:
    return {f"{_EMBEDDINGS}position_embeddings", f"{_LAYER}0.attention.attention.query.weight"} <= tensors.keys()


def _read(tensors: Mapping[str, Tensor], datasets: Sequence[str]) -> Translated:
    published: dict[str, Tensor] = {}
    fused: set[str] = set()
    for name in tensors:
        if match := _QUERY.fullmatch(name):
            before, after = match.groups()
            parts = [f"{before}{part}{after}" for part in _PARTS]
            if missing := [part for part in parts if part not in tensors]:
                raise CheckpointError(f"{name} comes without {missing[0]}; the file is incomplete.")
            published[_published(f"{before}qkv{after}")] = torch.cat([tensors[part] for part in parts])
            fused.update(parts)
    plain = [name for name in tensors if name not in fused]
    refuse_unused("huggingface-vitpose", [name for name in plain if not _published(name)])
    published |= {_published(name): tensors[name] for name in plain}
    dropped = _merge_first_expert(published)
    translated = VITPOSE.read(published, datasets)
    return Translated(translated.tensors, translated.heads, translated.architecture, dropped | translated.dropped)


def _merge_first_expert(tensors: dict[str, Tensor]) -> dict[str, str]:
    """Makes a model with experts a dense one in place and says what that left out, by the names in the file."""
    dropped = {}
    for name in list(tensors):
        if match := _EXPERT.fullmatch(name):
            before, number, after = match.groups()
            expert = tensors.pop(name)
            if number == "0":
                tensors[f"{before}fc2{after}"] = torch.cat([tensors[f"{before}fc2{after}"], expert])
            else:
                dropped[_theirs(name)] = "an expert whose head is not in the file"
    return dropped


def _write(model: PoseModel) -> Written:
    written = VITPOSE.write(model)
    tensors: dict[str, Tensor] = {}
    dropped = {}
    first, *others = model.heads
    for name, tensor in written.tensors.items():
        if name.startswith("associate_keypoint_heads."):
            continue
        if ".attn.qkv." in name:
            fused = _theirs(name)
            for part, rows in zip(_PARTS, tensor.chunk(len(_PARTS)), strict=True):
                tensors[fused.replace("qkv", part)] = rows.contiguous()
        else:
            tensors[_theirs(name)] = tensor
    for dataset in others:
        for name in model.heads[dataset].state_dict():
            dropped[f"heads.{dataset}.{name}"] = f"the layout has room for one head, that of {first}"
    return Written(tensors, dropped, _config(model), _processor(model))


def _config(model: PoseModel) -> dict[str, Any]:
    """What ``VitPoseForPoseEstimation.from_pretrained`` needs beside the weights."""
    backbone = model.config.backbone
    if not isinstance(backbone, VitConfig) or not model.heads:
        raise CheckpointError("layout huggingface-vitpose holds a vision transformer with a head; this model is not.")
    if not backbone.mlp_ratio.is_integer():
        raise CheckpointError(
            f"layout huggingface-vitpose holds a whole mlp_ratio only, and the model's is {backbone.mlp_ratio:g}."
        )
    skeleton = model.skeletons[next(iter(model.heads))]
    names = [keypoint.name for keypoint in skeleton.keypoints]
    return {
        "architectures": ["VitPoseForPoseEstimation"],
        "model_type": "vitpose",
        "use_simple_decoder": model.config.head.kind == "simple",
        "scale_factor": model.config.head.upsampling,
        "id2label": {str(number): name for number, name in enumerate(names)},
        "label2id": {name: number for number, name in enumerate(names)},
        "backbone_config": {
            "model_type": "vitpose_backbone",
            "image_size": list(model.input_size),
            "patch_size": [backbone.patch_size, backbone.patch_size],
            "hidden_size": backbone.embed_dim,
            "num_hidden_layers": backbone.depth,
            "num_attention_heads": backbone.num_heads,
            "mlp_ratio": int(backbone.mlp_ratio),
            "num_experts": len(model.heads) if backbone.expert_dim else 1,
            "part_features": backbone.expert_dim,
            "layer_norm_eps": backbone.layer_norm_eps,
            "out_indices": [backbone.depth],
        },
    }


def _processor(model: PoseModel) -> dict[str, Any]:
    """What ``AutoImageProcessor.from_pretrained`` needs; how far boxes are enlarged, 1.25, it cannot be told."""
    height, width = model.input_size
    return {
        "image_processor_type": "VitPoseImageProcessor",
        "do_affine_transform": True,
        "do_normalize": True,
        "do_rescale": True,
        "image_mean": list(IMAGENET_MEAN),
        "image_std": list(IMAGENET_STD),
        "normalize_factor": 200.0,
        "rescale_factor": 1 / 255,
        "size": {"height": height, "width": width},
    }


def _states(config: Mapping[str, Any]) -> tuple[str, ...]:
    """The published head whose points ``id2label`` lists, whoever wrote it: ``L_Eye`` or ``left_eye``."""
    labels = config.get("id2label")
    if not isinstance(labels, Mapping):
        return ()
    names = [_SIDE.sub(lambda side: _SIDES[side[1]], str(labels.get(str(i))).lower()) for i in range(len(labels))]
    return next(((dataset,) for dataset, name in SKELETONS.items() if load_skeleton(name).names == tuple(names)), ())


def _published(name: str) -> str:
    """The publisher's name of a tensor, or "" if the layout does not know it."""
    for theirs, published in _PLAIN.items():
        if name.startswith(theirs):
            return published + name.removeprefix(theirs)
    if not name.startswith(_LAYER):
        return ""
    number, _, rest = name.removeprefix(_LAYER).partition(".")
    for theirs, published in (*_IN_LAYER.items(), ("attention.attention.qkv.", "attn.qkv.")):
        if rest.startswith(theirs):
            return f"backbone.blocks.{number}.{published}{rest.removeprefix(theirs)}"
    return ""


def _theirs(name: str) -> str:
    """Hugging Face's name of a tensor, query, key and value still being one."""
    for theirs, published in _PLAIN.items():
        if name.startswith(published):
            return theirs + name.removeprefix(published)
    number, _, rest = name.removeprefix("backbone.blocks.").partition(".")
    for theirs, published in (*_IN_LAYER.items(), ("attention.attention.qkv.", "attn.qkv.")):
        if rest.startswith(published):
            return f"{_LAYER}{number}.{theirs}{rest.removeprefix(published)}"
    raise CheckpointError(f"layout huggingface-vitpose has no place for {name}.")


HUGGINGFACE_VITPOSE = Layout(
    name="huggingface-vitpose",
    title="ViTPose of Hugging Face transformers (folder with config.json)",
    backbone="vit",
    license="Apache-2.0",
    recognises=_recognises,
    read=_read,
    write=_write,
    states=_states,
)
"""One head, dense or with the experts of ViTPose++."""
