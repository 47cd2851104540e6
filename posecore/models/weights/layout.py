"""What a published checkpoint layout is: the names and shapes a family of files uses, translated to ours and back.

A layout only renames, reshapes and slices tensors, and says what it leaves out and why. It never looks at files, never
builds a model and never guesses a size it cannot see: which preset the tensors fit is found by comparing shapes
(:mod:`posecore.models.weights.fit`). Each layout is a module of its own in this room; the closed list of them is
``LAYOUTS`` in :mod:`posecore.models.weights.layouts`.

Our names: ``backbone.*``; per dataset ``heads.<dataset>.*``; experts ``backbone.blocks.<i>.mlp.experts.<dataset>.*``.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from posecore.counting import counted
from posecore.errors import CheckpointError
from posecore.models.backbones.vit import VitConfig
from posecore.models.pose_model import PoseModel
from posecore.models.weights.published_heads import DATASETS_BY_POINTS, SKELETONS, VITPOSE_MULTI, VITPOSE_PLUS

CONFIG_FILE = "config.json"
"""Name of the file beside the weights in which Hugging Face's folders say what they hold."""
PROCESSOR_FILE = "preprocessor_config.json"
"""Name of the file there that says how pictures become inputs."""

_PUBLISHED_TOGETHER = (VITPOSE_MULTI, (*VITPOSE_MULTI, "crowdpose"), VITPOSE_PLUS)
_POSE_PADDING = 2
_HEADS = re.compile(
    r"(?:teacher\.|student\.)?(?:keypoint_head|associate_keypoint_heads|head|heads|decode_head|proto_head)\."
)
_EXPERTS = re.compile(r"\.mlp\.experts\.")


@dataclass(frozen=True, slots=True)
class Translated:
    """A published file in our words.

    Attributes:
        tensors: by our parameter and buffer names; together with ``dropped`` they account for the whole file.
        heads: number of points by dataset, in the file's order; empty if the file holds a backbone only.
        architecture: fields of :class:`~posecore.models.architecture.ModelConfig` that the tensors decide, such as
            ``{"head": {"kind": "simple"}}``, ``{"input_size": (384, 288)}`` or ``{"backbone": {"patch_padding": 0}}``;
            every other field is the preset's.
        dropped: name in the file of each tensor deliberately left out, with the reason in half a sentence.
    """

    tensors: dict[str, Tensor]
    heads: dict[str, int]
    architecture: dict[str, Any] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Written:
    """A model of ours in a layout's words.

    Attributes:
        tensors: by the layout's names.
        dropped: our name of each tensor the layout has no place for, with the reason in half a sentence.
        config: content of the ``config.json`` that belongs beside the weights, for layouts that are folders.
        processor: content of the ``preprocessor_config.json`` beside it, where the layout has one.
    """

    tensors: dict[str, Tensor]
    dropped: dict[str, str] = field(default_factory=dict)
    config: dict[str, Any] | None = None
    processor: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Layout:
    """One family of published files.

    Attributes:
        name: how the command line calls it, such as ``vitpose``.
        title: what it is, in half a sentence.
        backbone: ``kind`` of the backbones it can hold; presets of that kind are tried.
        presets: what the names of those presets start with. Shapes alone do not tell a Sapiens from a ViTPose of the
            same width and depth, and their targets differ.
        license: id of the terms its files are published under, a key of
            :data:`~posecore.models.weights.licenses.LICENSES`.
        recognises: whether a file's names are this layout's; False for the files of every other layout. Tensors come
            with wrappers such as ``state_dict`` and ``module.`` already removed, here and below.
        read: translates a file; its second argument names the heads in the file's order and is empty for the published
            names (:func:`name_heads`). Raises :class:`~posecore.errors.CheckpointError` where a tensor is neither used
            nor known to be left out, or where shapes contradict each other.
        write: a model under this layout's names. Raises :class:`~posecore.errors.CheckpointError` where
            the layout cannot hold the model.
        states: the datasets of the heads, in their order, as the ``config.json`` beside the weights has them; empty
            where it does not say.
    """

    name: str
    title: str
    backbone: str
    license: str
    recognises: Callable[[Mapping[str, Tensor]], bool]
    read: Callable[[Mapping[str, Tensor], Sequence[str]], Translated]
    write: Callable[[PoseModel], Written]
    presets: str = ""
    states: Callable[[Mapping[str, Any]], tuple[str, ...]] = lambda config: ()


def name_heads(points: Sequence[int], datasets: Sequence[str]) -> dict[str, int]:
    """Names a file's heads.

    Args:
        points: number of points of each head, in the file's order.
        datasets: the names a user states; empty to know them by their numbers of points: the heads are those of a model
            that was published with several, or there is one published head of each number.

    Returns:
        Number of points by dataset, in the file's order.

    Raises:
        CheckpointError: another number of names is stated; or none is, and no published head has that many points, or
            more than one has.
    """
    if datasets:
        if len(datasets) != len(points):
            raise CheckpointError(
                f"the file holds {counted(len(points), 'head')} ({', '.join(map(str, points))} points) but "
                f"{len(datasets)} are named ({', '.join(datasets)}); name each once, in the file's order."
            )
        return dict(zip(datasets, points, strict=True))
    possible = [DATASETS_BY_POINTS.get(count, ()) for count in points]
    for together in _PUBLISHED_TOGETHER:
        if len(together) == len(points) and all(name in some for name, some in zip(together, possible, strict=True)):
            return dict(zip(together, points, strict=True))
    for count, candidates in zip(points, possible, strict=True):
        if not candidates:
            raise CheckpointError(
                f"the file has a head of {counted(count, 'point')}, which is no published one; state its skeleton with "
                "--heads NAME=SKELETON, such as your own (posecore datasets new), or take the backbone alone: --heads "
                "none (in a run file heads: {NAME: SKELETON}, or backbone_only: true)."
            )
        if len(candidates) > 1 or points.count(count) > 1:
            raise CheckpointError(
                f"the file has {'heads' if points.count(count) > 1 else 'a head'} of {counted(count, 'point')}, and "
                f"nothing in it says whose: the candidates are {', '.join(candidates)}, and each means other points; "
                f"name the {'datasets of all heads in its order' if len(points) > 1 else 'dataset'} with --heads "
                f"({candidates[0]}, or NAME=SKELETON; in a run file heads: {{{candidates[0]}: "
                f"{SKELETONS[candidates[0]]}}}), the published model it is with --expect (preset: in a run file), or "
                "take the backbone alone: --heads none (backbone_only: true)."
            )
    return {name: count for (name,), count in zip(possible, points, strict=True)}


def without_heads(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """A file without its heads, whatever its layout, and what was left out.

    Raises:
        CheckpointError: its backbone has experts, each of which belongs to a head.
    """
    if any(_EXPERTS.search(name) for name in tensors):
        raise CheckpointError(
            "the backbone of the file has experts, and each belongs to a head; name the heads, and merge one expert "
            "(posecore models convert --expert)."
        )
    heads = [name for name in tensors if _HEADS.match(name)]
    kept = {name: tensor for name, tensor in tensors.items() if not _HEADS.match(name)}
    return kept, dict.fromkeys(heads, "the backbone alone was wanted")


def refuse_unused(layout: str, unused: Sequence[str]) -> None:
    """Refuses a file with tensors that are neither used nor known to be left out.

    Raises:
        CheckpointError: there are any.
    """
    if unused:
        more = f" and {len(unused) - 3} more" if len(unused) > 3 else ""
        raise CheckpointError(
            f"the file looks like {layout} but holds tensors that layout does not know: {', '.join(unused[:3])}{more}."
        )


def refuse_other_padding(layout: str, model: PoseModel, backbone: VitConfig) -> None:
    """Refuses a pose model that would compute something else when it is read again: files do not hold the padding.

    Raises:
        CheckpointError: it has heads, and a patch padding other than the published 2.
    """
    if model.heads and backbone.patch_padding != _POSE_PADDING:
        raise CheckpointError(
            f"layout {layout} holds pose models with patch padding {_POSE_PADDING}, which its files do not say; this "
            f"model's is {backbone.patch_padding}."
        )


def refuse_unpublished(layout: str, backbone: VitConfig) -> None:
    """Refuses a model with parts, or a way to compute, that no published layout knows.

    Raises:
        CheckpointError: it has adapters, windows, or tokens that a teacher has learned.
    """
    if backbone.adapter_dim:
        raise CheckpointError(f"layout {layout} has no place for adapters, which this model's backbone has.")
    if backbone.window:
        raise CheckpointError(
            f"layout {layout} holds transformers that attend to the whole image, and this model's attends within "
            f"windows of {backbone.window}×{counted(backbone.window, 'token')}, which the file could not say; write it "
            "in layout posecore, or as ONNX."
        )
    if backbone.knowledge_tokens:
        raise CheckpointError(
            f"layout {layout} has no place for knowledge tokens, and without its {backbone.knowledge_tokens} this "
            "model computes something else; write it in layout posecore, or as ONNX."
        )


def token_grid(num_tokens: int) -> tuple[int, int]:
    """(rows, columns) of the patches behind a positional embedding: 4:3 as every published pose model, else square.

    Args:
        num_tokens: patches, class token not counted.

    Raises:
        CheckpointError: the number is neither.
    """
    width = math.isqrt(num_tokens * 3 // 4)
    if 3 * num_tokens == 4 * width * width and width % 3 == 0:
        return width * 4 // 3, width
    side = math.isqrt(num_tokens)
    if side * side == num_tokens:
        return side, side
    raise CheckpointError(
        f"the positional embedding covers {counted(num_tokens, 'patch')}, neither a 4:3 (height to width) nor a square "
        "grid."
    )
