"""The layout of PoseBH (uyoung-jeong/PoseBH @ 8f03438): that of ViTPose++ with an embedding head and prototypes.

``proto_head.kpt_prototype.prototypes`` holds the prototypes of all datasets one after the other, in the order of the
heads. Files whose prototypes were taken away (``tools/remove_proto.py`` there, named ``…_no_proto.pth``), and files
with one head that was split off from the prototypes' other datasets, are read without the embedding: regression, which
is all the publisher's own inference uses, works as before.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from posecore.counting import counted
from posecore.errors import CheckpointError
from posecore.models.pose_model import PoseModel
from posecore.models.weights.layout import Layout, Translated, Written, refuse_unused
from posecore.models.weights.vitpose import VITPOSE

_PREFIX = "proto_head."
_OURS = "embedding_head."
_PARTS = ("deconv_layers.", "neck.", "head.")
_PROTOTYPES = "proto_head.kpt_prototype.prototypes"
_CLUSTERS = "proto_head.cluster_prototype.prototypes"


def _recognises(tensors: Mapping[str, Tensor]) -> bool:
    return any(name.startswith(_PREFIX) for name in tensors)


def _read(tensors: Mapping[str, Tensor], datasets: Sequence[str]) -> Translated:
    plain = VITPOSE.read({name: t for name, t in tensors.items() if not name.startswith(_PREFIX)}, datasets)
    ours = {name: name.removeprefix(_PREFIX) for name in tensors if name.startswith(_PREFIX)}
    convolutions = {name: rest for name, rest in ours.items() if rest.startswith(_PARTS)}
    refuse_unused("posebh", [name for name in ours if name not in {*convolutions, _PROTOTYPES, _CLUSTERS}])
    dropped = dict(plain.dropped)
    if _CLUSTERS in tensors:
        dropped[_CLUSTERS] = "clusters of prototypes serve a further training loss, not the model"
    if reason := _why_without_embedding(tensors, plain.heads):
        dropped |= {name: reason for name in ours if name not in dropped}
        return Translated(plain.tensors, plain.heads, plain.architecture, dropped)
    parts = tensors[_PROTOTYPES].split(list(plain.heads.values()))
    translated = plain.tensors | {_OURS + rest: tensors[name] for name, rest in convolutions.items()}
    translated |= {f"prototypes.{dataset}": part for dataset, part in zip(plain.heads, parts, strict=True)}
    architecture = {**plain.architecture, "embedding": _embedding(tensors)}
    return Translated(translated, plain.heads, architecture, dropped)


def _why_without_embedding(tensors: Mapping[str, Tensor], heads: Mapping[str, int]) -> str:
    if _PROTOTYPES not in tensors:
        return "the file's prototypes were taken away, and an embedding head says nothing without them"
    known, needed = len(tensors[_PROTOTYPES]), sum(heads.values())
    if known == needed:
        return ""
    of = counted(known, "point")
    return f"the file's prototypes are of {of}, its heads of {needed}: they were split; read the whole file"


def _embedding(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    deconvolution = tensors.get(f"{_PREFIX}deconv_layers.0.weight")
    prototypes = tensors[_PROTOTYPES]
    if deconvolution is None or deconvolution.dim() != 4 or prototypes.dim() != 3:
        raise CheckpointError("the file has prototypes but no whole embedding head to compare with them.")
    per_point, dim = prototypes.shape[1:]
    return {"dim": dim, "channels": deconvolution.shape[1], "prototypes_per_point": per_point}


def _write(model: PoseModel) -> Written:
    if model.config.embedding is None:
        raise CheckpointError("layout posebh holds models with an embedding; write this one in layout vitpose.")
    plain = VITPOSE.write(model)
    state = model.state_dict()
    tensors = dict(plain.tensors)
    for name, tensor in state.items():
        if name.startswith(_OURS):
            tensors[_PREFIX + name.removeprefix(_OURS)] = tensor
    tensors[_PROTOTYPES] = torch.cat([state[f"prototypes.{dataset}"] for dataset in model.heads])
    return Written(tensors)


POSEBH = Layout(
    name="posebh",
    title="PoseBH as published by its authors (.pth)",
    backbone="vit",
    license="Apache-2.0",
    recognises=_recognises,
    read=_read,
    write=_write,
    presets=VITPOSE.presets,
)
"""ViTPose++ with an embedding head and prototypes."""
