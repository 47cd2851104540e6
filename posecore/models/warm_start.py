"""A new model starts from what another one knows, and says what came from where.

Points are matched by their names in the union vocabulary, so a skeleton that the parent has never seen still finds its
shoulders. What has no counterpart keeps its fresh initial values.
"""

from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import Any

import torch
from rich.table import Table
from torch import nn

from posecore.config import Config
from posecore.conventions import Conventions
from posecore.counting import counted
from posecore.errors import ConfigError
from posecore.models.backbones.door import BackboneConfig
from posecore.models.backbones.position import resize_position_embedding
from posecore.models.backbones.vit import DEPTH_WEIGHT
from posecore.models.pose_model import PoseModel
from posecore.models.presets import PRESETS
from posecore.schema import Json

_MAY_DIFFER = {
    "adapter_dim",
    "activation_checkpointing",
    "depth_input",
    "drop_path",
    "expert_share",
    "global_blocks",
    "layer_norm_eps",
    "patch_padding",
    "rope_dtype",
    "window",
}
"""Fields of a backbone that do not change what its weights are."""

_TOKENS = frozenset({"knowledge_tokens", "knowledge_width"})
"""Fields of a backbone that a parent without tokens says nothing about."""

_FINAL = ("final_layer.", "tag_layer.", "fine_layer.", "point_")
"""The layers and queries of heads whose rows are points; the rest of a head is common to all its points."""


class WarmStartConfig(Config):
    """What a dataset that the parent does not know takes from it; switching a part off shows what it is worth.

    The backbone, the embedding head and whatever the parent has under a dataset's own name are always taken.

    Attributes:
        experts: the expert of the nearest skeleton, or the rows of a dense layer.
        points: the head of the nearest skeleton: the common part and the rows of points with the same union name.
        prototypes: the prototypes of points with the same union name.
    """

    experts: bool = True
    points: bool = True
    prototypes: bool = True


@dataclass(frozen=True, slots=True)
class Copied:
    """One part of a model and where it came from.

    Attributes:
        what: the part, such as ``backbone`` or ``head infants``.
        source: the part of the parent, such as ``head coco``; empty if nothing was copied.
        copied: how much was copied.
        total: how much there is.
        unit: of both numbers, in the singular.
        fresh: points that keep their initial values.
    """

    what: str
    source: str
    copied: int
    total: int
    unit: str
    fresh: tuple[str, ...] = ()

    def __str__(self) -> str:
        """In one line."""
        return f"{self.copied} of {counted(self.total, self.unit)}" + (f" from {self.source}" if self.source else "")


@dataclass(frozen=True, slots=True)
class WarmStart:
    """Everything that was copied.

    Attributes:
        rows: one per part of the model, in its order.
    """

    rows: tuple[Copied, ...]

    def table(self) -> Table:
        """To be printed."""
        table = Table(title="warm start")
        for column in ("part", "from", "copied", "freshly initialised"):
            table.add_column(column, overflow="fold")
        for row in self.rows:
            table.add_row(
                row.what,
                row.source or "–",
                f"{row.copied} of {counted(row.total, row.unit)}",
                ", ".join(row.fresh) or "–",
            )
        return table

    def as_dict(self) -> dict[str, Json]:
        """To be logged: part to one line about it."""
        return {row.what: str(row) for row in self.rows}

    def fresh(self) -> dict[str, Json]:
        """To be logged: part to the points of it that keep their initial values, where there are any."""
        return {row.what: list(row.fresh) for row in self.rows if row.fresh}


@torch.no_grad()
def warm_start(model: PoseModel, parent: PoseModel, config: WarmStartConfig | None = None) -> WarmStart:
    """Copies into a fresh model whatever a parent has for it.

    The backbone is copied whole, its positional embedding resampled to the model's input size. Knowledge tokens that
    the parent has not are left as they are; those that it has, the model must have, too. An expert comes from the
    parent's expert of the same name, else from that of the dataset which shares most points; from a dense parent all
    experts get the same rows, so that the network computes at first what the parent does, as the published ViTPose++
    started from a masked autoencoder (ViTAE-Transformer/ViTPose @ c050ed2, ``mmcv_custom/checkpoint.py``). A head comes
    from one head of the parent, chosen likewise: its last layer's rows read the features of its own layers below and
    mean nothing on another head's; with it come the conventions it was trained under. Prototypes live in one space;
    each point takes those of whichever dataset has it.

    Args:
        model: receives the weights, on whatever device it is; its card takes on the parent's licences.
        parent: any model with a backbone of the same widths.
        config: what to take; None takes all.

    Raises:
        ConfigError: the backbones have other widths; the sentence names the preset that fits. Or the parent has experts
            of another share, which only a merge can turn into something else.
    """
    config = config or WarmStartConfig()
    _check_backbones(model.config.backbone, parent.config.backbone)
    rows = [*_copy_backbone(model, parent), *_copy_experts(model, parent, config.experts)]
    rows += [_copy_head(model, parent, dataset, config.points) for dataset in model.heads]
    if model.config.embedding is not None:
        rows += _copy_prototypes(model, parent, config.prototypes)
    licenses = {**parent.card.licenses, **model.card.licenses}
    conventions = inherited_conventions(model, parent, config)
    model.card = model.card.model_copy(update={"licenses": licenses, "conventions": conventions})
    return WarmStart(tuple(rows))


def inherited_conventions(
    model: PoseModel, parent: PoseModel, config: WarmStartConfig | None = None
) -> dict[str, Conventions]:
    """The conventions of a model whose heads come from a parent's: a head is read as it was trained.

    Args:
        model: may be on the meta device: nothing is copied.
        parent: whose heads it starts from.
        config: what is taken; None takes all.

    Raises:
        ConfigError: the model's configuration says otherwise of a head that knows something already.
    """
    conventions = dict(model.card.conventions)
    for dataset, own in conventions.items():
        origin = _head_origin(model, parent, model.owner(dataset), (config or WarmStartConfig()).points)
        if origin is None:
            continue
        theirs = parent.conventions[origin]
        differing = [name for name, value in theirs.reading.items() if value != own.reading[name]]
        if differing and model.config.states(model.owner(dataset)):
            name = differing[0]
            raise ConfigError(
                f"head {dataset} starts from the parent's {origin}, which was trained with {name} "
                f"{theirs.reading[name]}, and model.conventions says {own.reading[name]}: leave it out, or start this "
                "head afresh (weights.take.points: false, or another name)."
            )
        padding = own.padding if own.padding == 1.0 else theirs.padding
        conventions[dataset] = own.model_copy(
            update={"codec": theirs.codec, "flip_shift": theirs.flip_shift, "padding": padding}
        )
    return conventions


def _check_backbones(ours: BackboneConfig, theirs: BackboneConfig) -> None:
    ignored = _MAY_DIFFER if getattr(theirs, "knowledge_tokens", 0) else _MAY_DIFFER | _TOKENS
    have, want = (_weight_fields(backbone, ignored) for backbone in (ours, theirs))
    if have != want:
        differing = [name for name in {**have, **want} if have.get(name) != want.get(name)]
        fitting = [name for name, preset in PRESETS.items() if _weight_fields(preset["backbone"], ignored) == want]
        advice = f"backbone: {fitting[0]}" if fitting else "the parent's own backbone"
        raise ConfigError(
            f"the parent's backbone has {_listed(want, differing)}, the model's {_listed(have, differing)}; "
            f"use {advice}."
        )
    share, parents_share = (getattr(backbone, "expert_share", 0.0) for backbone in (ours, theirs))
    if parents_share not in (0.0, share):
        raise ConfigError(
            f"the parent's experts are {parents_share:g} of every feed-forward output, the model's {share:g}; "
            f"set expert_share to {parents_share:g}, or merge one expert of the parent first."
        )
    width, parents_width = (getattr(backbone, "adapter_dim", 0) for backbone in (ours, theirs))
    if parents_width not in (0, width):
        raise ConfigError(
            f"the parent's adapters are {parents_width} wide, the model's {width}; set adapter_dim to {parents_width}."
        )


def _weight_fields(backbone: BackboneConfig, ignored: Set[str]) -> dict[str, Any]:
    return {name: value for name, value in backbone.model_dump().items() if name not in ignored}


def _listed(fields: Mapping[str, Any], names: list[str]) -> str:
    return ", ".join(f"{name} {fields[name]}" for name in names if name in fields)


def _copy_backbone(model: PoseModel, parent: PoseModel) -> list[Copied]:
    """All but experts; of a dense layer, the rows that are shared in a model with experts.

    Knowledge tokens come with a parent that has them; without, the model's own keep their initial values.
    """
    ours, theirs = model.backbone.state_dict(), parent.backbone.state_dict()
    new = {name for name in ours if ".adapter." in name} - theirs.keys()  # which add nothing before they have learned
    shared = {name: tensor for name, tensor in ours.items() if ".experts." not in name and name not in new}
    rows = []
    if "knowledge_tokens" in shared.keys() - theirs.keys():
        number = len(shared["knowledge_tokens"])
        rows.append(Copied("knowledge tokens", "", 0, number, "token"))
        shared = {name: tensor for name, tensor in shared.items() if not name.startswith("knowledge_")}
    if "pos_embed" in shared:
        grid, source_grid = model.config.feature_size, parent.config.feature_size
        shared.pop("pos_embed").copy_(resize_position_embedding(theirs["pos_embed"], grid, source_grid))
        resized = "" if grid == source_grid else ", resampled from {}×{}".format(*source_grid)
        tokens = grid[0] * grid[1]
        rows.append(Copied("positions", f"backbone{resized}", tokens, tokens, "token"))
    if DEPTH_WEIGHT in shared and DEPTH_WEIGHT not in theirs:
        fresh = shared.pop(
            DEPTH_WEIGHT
        ).numel()  # zeros: with depth or without, the model computes what its parent does
        rows.append(Copied("depth input", "", 0, fresh, "number"))
    for name, tensor in shared.items():
        tensor.copy_(theirs[name][: len(tensor)] if tensor.ndim else theirs[name])
    count = sum(tensor.numel() for tensor in shared.values())
    return [Copied("backbone", "backbone", count, count, "number"), *rows]


def _copy_experts(model: PoseModel, parent: PoseModel, wanted: bool) -> list[Copied]:
    backbone = model.config.backbone
    if not backbone.has_experts:
        return []
    ours, theirs = model.backbone.state_dict(), parent.backbone.state_dict()
    total = backbone.expert_channels
    rows = []
    for task in model.heads:
        if not (wanted or task in parent.heads):
            rows.append(Copied(f"expert {task}", "", 0, total, "row"))
            continue
        from_experts = any(".experts." in name for name in theirs)
        origin = _nearest(model, parent, task) if from_experts else None
        for name, mine in ours.items():
            layer, is_of_task, kind = name.partition(f".experts.{task}.")
            if is_of_task:
                dense = theirs[f"{layer}.fc2.{kind}"]
                mine.copy_(theirs[f"{layer}.experts.{origin}.{kind}"] if origin else dense[-len(mine) :])
        rows.append(Copied(f"expert {task}", f"expert {origin}" if origin else "dense layers", total, total, "row"))
    return rows


def _copy_head(model: PoseModel, parent: PoseModel, dataset: str, wanted: bool) -> Copied:
    names = model.skeletons[dataset].union_names
    origin = _head_origin(model, parent, dataset, wanted)
    if origin is None:
        return Copied(f"head {dataset}", "", 0, len(names), "point", names)
    have = parent.skeletons[origin].union_names
    pairs = [(i, have.index(name)) for i, name in enumerate(names) if name in have]
    mine, its = (list(column) for column in zip(*pairs, strict=True))
    theirs = parent.heads[origin].state_dict()
    for name, tensor in model.heads[dataset].state_dict().items():
        if name.startswith(_FINAL):
            tensor[mine] = theirs[name][its].to(tensor)
        else:
            tensor.copy_(theirs[name])
    fresh = tuple(name for name in names if name not in have)
    return Copied(f"head {dataset}", f"head {origin}", len(pairs), len(names), "point", fresh)


def _head_origin(model: PoseModel, parent: PoseModel, dataset: str, wanted: bool) -> str | None:
    """The parent's head that a head is copied from, or None for a fresh one."""
    origin = _nearest(model, parent, dataset)
    if origin is None or not (wanted or dataset in parent.heads):
        return None
    shares = not set(model.skeletons[dataset].union_names).isdisjoint(parent.skeletons[origin].union_names)
    return origin if shares and _same_trunk(model.heads[dataset], parent.heads[origin]) else None


def _same_trunk(ours: nn.Module, theirs: nn.Module) -> bool:
    def shapes(head: nn.Module) -> dict[str, tuple[int, ...]]:
        # Rows of the final layer are points; what is below them must fit, too.
        return {
            name: tuple(tensor.shape[1:] if name.startswith(_FINAL) else tensor.shape)
            for name, tensor in head.state_dict().items()
        }

    return shapes(ours) == shapes(theirs)


def _copy_prototypes(model: PoseModel, parent: PoseModel, wanted: bool) -> list[Copied]:
    fits = model.config.embedding == parent.config.embedding
    head = model.embedding_head.state_dict()
    count = sum(tensor.numel() for tensor in head.values())
    if fits:
        model.embedding_head.load_state_dict(parent.embedding_head.state_dict())
    source = "embedding head" if fits else ""
    rows = [Copied("embedding head", source, count if fits else 0, count, "number")]
    for dataset in model.heads:
        names = model.skeletons[dataset].union_names
        ours = model.prototypes.get_buffer(dataset)
        used: dict[str, int] = {}
        fresh = []
        for row, name in enumerate(names):
            known = fits and (wanted or dataset in parent.heads)
            origin = _nearest(model, parent, dataset, having=name) if known else None
            if origin is None:
                fresh.append(name)
                continue
            ours[row] = parent.prototypes.get_buffer(origin)[parent.skeletons[origin].union_names.index(name)].to(ours)
            used[origin] = used.get(origin, 0) + 1
        source = ", ".join(f"{origin} ({number})" for origin, number in used.items())
        copied = sum(used.values())
        rows.append(Copied(f"prototypes {dataset}", source, copied, len(names), "point", tuple(fresh)))
    return rows


def _nearest(model: PoseModel, parent: PoseModel, dataset: str, having: str | None = None) -> str | None:
    """The parent's dataset of that name, else the one that shares most points; the first of equals.

    Args:
        model: has the dataset.
        parent: whose datasets are chosen from.
        dataset: name in the model.
        having: only datasets with the point of this union name will do.
    """
    names = set(model.skeletons[dataset].union_names)
    candidates = [name for name in parent.heads if having is None or having in parent.skeletons[name].union_names]
    if dataset in parent.skeletons and parent.owner(dataset) in candidates:
        return parent.owner(dataset)
    return max(candidates, key=lambda name: len(names.intersection(parent.skeletons[name].union_names)), default=None)
