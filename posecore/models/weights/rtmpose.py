"""The layouts of RTMPose (open-mmlab/mmpose @ 759b39c) and DWPose (IDEA-Research/DWPose @ 3dca5db), our names too.

Four kinds of file share them: a trained pose model (``backbone.``, ``head.``); a backbone's training with heatmaps,
which every RTMPose starts from; and a distillation's whole state, teacher and student side by side, of which the result
is, after the first stage, the student, and after the second the *teacher's* backbone with the student's head, since
that stage trains a head on a frozen backbone and its student's own is never used. The publisher's converter writes the
first kind of both.

The backbone of a second stage comes with the BatchNorm statistics of the file. In the published training they were
updated although the backbone was frozen.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from posecore.counting import counted
from posecore.errors import CheckpointError
from posecore.models.backbones.cspnext import STRIDE
from posecore.models.pose_model import PoseModel
from posecore.models.weights.layout import Layout, Translated, Written, name_heads, refuse_unused

_STEM = "stem.0.conv.weight"
_BACKBONE, _HEAD = "backbone.", "head."
_TEACHER, _STUDENT, _PROJECTIONS = "teacher.", "student.", "distill_losses."
_RTMCC = "cls_x.weight"


def _recognises(tensors: Mapping[str, Tensor]) -> bool:
    return any(f"{owner}{_BACKBONE}{_STEM}" in tensors for owner in ("", _TEACHER, _STUDENT))


def _read(tensors: Mapping[str, Tensor], datasets: Sequence[str]) -> Translated:
    backbone_from, head_from = _owners(tensors)
    backbone = _below(tensors, backbone_from + _BACKBONE)
    head = _below(tensors, head_from + _HEAD)
    dropped = {name: _why_distillation(name) for name in tensors if name.startswith((_TEACHER, _STUDENT, _PROJECTIONS))}
    for name in (
        *(backbone_from + _BACKBONE + rest for rest in backbone),
        *(head_from + _HEAD + rest for rest in head),
    ):
        dropped.pop(name, None)
    if head and _RTMCC not in head:
        dropped |= {head_from + _HEAD + rest: "a heatmap head that only served to train the backbone" for rest in head}
        head = {}
    known = (_BACKBONE, _HEAD, _TEACHER, _STUDENT, _PROJECTIONS)
    refuse_unused("rtmpose", [name for name in tensors if not name.startswith(known)])
    translated = {_BACKBONE + rest: tensor for rest, tensor in backbone.items()}
    if not head:
        return Translated(translated, {}, {}, dropped)
    heads = name_heads([len(head["final_layer.weight"])], datasets)
    translated |= {f"heads.{dataset}.{rest}": tensor for dataset in heads for rest, tensor in head.items()}
    return Translated(translated, heads, _architecture(head), dropped)


def _owners(tensors: Mapping[str, Tensor]) -> tuple[str, str]:
    """Whose backbone and whose head are the result."""
    teacher, student = (tensors.get(f"{owner}{_BACKBONE}{_STEM}") for owner in (_TEACHER, _STUDENT))
    if teacher is None and student is None:
        return "", ""
    if teacher is None:
        return _STUDENT, _STUDENT
    second_stage = student is None or (
        _architecture_of(tensors, _STUDENT) == _architecture_of(tensors, _TEACHER)
        and not any(name.startswith(_PROJECTIONS) for name in tensors)
    )
    return (_TEACHER if second_stage else _STUDENT), _STUDENT


def _architecture_of(tensors: Mapping[str, Tensor], owner: str) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in _below(tensors, owner + _BACKBONE).items()}


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _why_distillation(name: str) -> str:
    if name.startswith(_PROJECTIONS):
        return "a projection between the features of student and teacher, of use in the distillation only"
    if name.startswith(_TEACHER):
        return "a part of the teacher that is not part of the result"
    return "a part of the student that the second stage never used"


def _architecture(head: Mapping[str, Tensor]) -> dict[str, Any]:
    """What a head's shapes say about it and about the input size."""
    shapes = {name: tuple(tensor.shape) for name, tensor in head.items()}
    needed = {"cls_x.weight", "cls_y.weight", "mlp.1.weight", "gau.gamma", "gau.o.weight"}
    if missing := sorted(needed - shapes.keys()):
        raise CheckpointError(f"the head of the file has no {missing[0]}; the file is incomplete.")
    num_x, num_y = shapes["cls_x.weight"][0], shapes["cls_y.weight"][0]
    token_dim, num_places = shapes["mlp.1.weight"]
    split_ratio = round((num_x * num_y / (num_places * STRIDE**2)) ** 0.5)
    if split_ratio**2 * num_places * STRIDE**2 != num_x * num_y:
        raise CheckpointError(
            f"the head of the file has {num_x} and {counted(num_y, 'bin')} for {num_places} places of the feature "
            "grid, which no input size explains; the file is damaged or of another family."
        )
    return {
        "input_size": (num_y // split_ratio, num_x // split_ratio),
        "head": {
            "kind": "rtmcc",
            "token_dim": token_dim,
            "attention_dim": shapes["gau.gamma"][1],
            "expansion": shapes["gau.o.weight"][1] // token_dim,
            "kernel": shapes["final_layer.weight"][-1],
            "split_ratio": split_ratio,
        },
    }


def _write(model: PoseModel) -> Written:
    backbone, head = model.config.backbone.kind, model.config.head.kind
    if backbone != "cspnext" or head != "rtmcc" or len(model.heads) > 1:
        raise CheckpointError(
            f"layout rtmpose holds one CSPNeXt with at most one RTMCC head, not {backbone} with "
            f"{counted(len(model.heads), 'head')} of kind {head}."
        )
    owners = [f"heads.{dataset}." for dataset in model.heads]
    tensors = {}
    for name, tensor in model.state_dict().items():
        owner = next((prefix for prefix in owners if name.startswith(prefix)), None)
        tensors[name if owner is None else _HEAD + name.removeprefix(owner)] = tensor
    return Written(tensors)


RTMPOSE = Layout(
    name="rtmpose",
    title="RTMPose and DWPose as published by their authors (.pth)",
    backbone="cspnext",
    license="Apache-2.0",
    recognises=_recognises,
    read=_read,
    write=_write,
    presets="rtmpose-",
)
"""RTMPose, DWPose, both stages of DWPose's distillation, and backbones trained with heatmaps."""
