"""A mean teacher: what the student was on average labels pictures that nobody has labelled.

The teacher is an exponential moving average of the student (Tarvainen & Valpola, arXiv 1703.01780). It sees a crop as
the loader cut it, the student a further view of the crop (:mod:`posecore.methods.further_view`). Where the teacher puts
a point is read to fractions of a pixel, carried into the view and drawn as a label is: a *rectified* target, as sharp
as a label however flat the teacher's map was. Points of which the teacher is less sure do not count.

Source of the recipe: SHIFT, arXiv 2504.05789, the part of it that its results rest on. Different from its released
code: the average includes BatchNorm's statistics, and the teacher computes with them; nothing of it is in training
mode; what it sees is easier than what the student sees; and no label of the target has any part in it.
"""

import copy
import math
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Self

import torch
import torch.distributed as dist
from pydantic import Field
from torch import Tensor, nn

from posecore.codecs.codec import Codec
from posecore.codecs.scene import SceneReading
from posecore.config import Config
from posecore.methods.batch import DeviceBatch, DeviceGroup
from posecore.methods.belief import pixels_per_unit
from posecore.methods.further_view import ViewConfig, Views
from posecore.models.groups import Group
from posecore.models.moving_average import follow
from posecore.models.pose_model import PoseModel
from posecore.models.sharded import let_go, own_weights

_STEEPNESS = 5.0


class MeanTeacherConfig(Config):
    """What a mean teacher's labels count.

    Attributes:
        weight: of a point that it labels, relative to one that a person has labelled.
        ramp_up: share of the run over which the weight grows from next to nothing, ``exp(-5 (1 - x)²)``, so that a
            teacher that knows nothing yet does no harm.
        ema_decay: share of the old teacher after each step; less in the first 1 / (1 - ema_decay) steps, in which the
            teacher is the plain mean of all students so far.
        confidence: the least maximum of a heatmap, or of both SimCC lines, at which a point counts.
        most_sigma: the largest standard deviation of its place at which a point counts, as a share of the crop's longer
            side; None asks for no such thing. It is what the outputs' shape says, scaled by the calibration of the head
            where the model that the run starts from has one.
        mask_share: this share of a data set's points in the micro-batch, the least sure ones, never counts.
        view: what the student sees.
    """

    weight: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    ramp_up: float = Field(default=0.2, ge=0, le=1)
    ema_decay: float = Field(default=0.999, gt=0, lt=1)
    confidence: float = 0.2
    most_sigma: float | None = Field(default=None, gt=0)
    mask_share: float = Field(default=0.5, ge=0, lt=1)
    view: ViewConfig = ViewConfig()

    def strength(self, step: int, total_steps: int) -> float:
        """What a label of the teacher counts in the 0-based ``step`` of ``total_steps``."""
        length = self.ramp_up * total_steps
        grown = 1.0 if step >= length else step / length
        return self.weight * math.exp(-_STEEPNESS * (1 - grown) ** 2)

    def decay(self, steps: int) -> float:
        """Share of the old teacher when the student after ``steps`` optimiser steps is taken in."""
        return min(self.ema_decay, steps / (steps + 1))


@dataclass(frozen=True, slots=True, eq=False)
class Taught:
    """A micro-batch with a teacher's labels in place of unlabelled pictures.

    Attributes:
        batch: all crops; those without labels are further views, and belong to the head that is taught.
        labelled: the same crops, of which only those have a group that people have labelled.
        groups: by name of the unlabelled dataset, its rows with the teacher's labels.
    """

    batch: DeviceBatch
    labelled: DeviceBatch
    groups: dict[str, DeviceGroup]


class MeanTeacher(nn.Module):
    """Holds the average and labels with it. Part of a method, so that checkpoints hold it and runs resume exactly.

    Its weights are parameters that do not learn: an engine shards them as it does the student's, and then every rank
    averages the run that it keeps. It is in float32.

    Args:
        student: is copied as it is now.
        config: what labels count.
        head: of the student that is taught.
        datasets: of unlabelled pictures.
    """

    def __init__(self, student: PoseModel, config: MeanTeacherConfig, head: str, datasets: Collection[str]) -> None:
        super().__init__()
        student.refuse_scenes("a mean teacher (method.unlabelled)")
        self.config = config
        self.model = copy.deepcopy(student).float().requires_grad_(False)
        self._head = head
        self._datasets = frozenset(datasets)
        self._codec = student.codec(head)
        promised = student.card.uncertainty_of(head, False, "regression", SceneReading())
        self._scale = 1.0 if promised is None else promised.whole.scale or 1.0
        self._strength = 0.0
        self._flip_indices = torch.from_numpy(student.skeletons[head].flip_indices)
        self._observed: dict[str, Tensor] = {}
        self.eval()

    def train(self, mode: bool = True) -> Self:
        """Stays in evaluation mode: no statistic moves but by the average, and no path is dropped."""
        return super().train(False)

    def begin_step(self, student: PoseModel, step: int, total_steps: int) -> None:
        """Takes in the student as the steps before the 0-based ``step`` of ``total_steps`` left it.

        Collective where there are several ranks: BatchNorm's statistics, which each has of its own crops, are averaged,
        or every rank would have a teacher of its own.
        """
        self._strength = self.config.strength(step, total_steps)
        decay = self.config.decay(step)
        follow(own_weights(self.model), own_weights(student).items(), decay)
        follow(dict(self.model.named_buffers()), _over_ranks(dict(student.named_buffers())).items(), decay)
        let_go(self.model)

    @torch.no_grad()
    def teach(self, batch: DeviceBatch) -> Taught:
        """Replaces unlabelled crops by further views, and what their groups say of points by the teacher's labels.

        Args:
            batch: the micro-batch. Labels of unlabelled groups, if there are any, are not looked at.
        """
        images, depth = batch.images.clone(), None if batch.depth is None else batch.depth.clone()
        taught = {}
        for group in batch.groups:
            if group.dataset in self._datasets:
                rows = slice(group.start, group.stop)
                taught[group.dataset] = self._label(group, images[rows], None if depth is None else depth[rows])
        groups = tuple(taught.get(group.dataset, group) for group in batch.groups)
        labelled = tuple(group for group in batch.groups if group.dataset not in taught)
        seen = replace(batch, images=images, depth=depth, groups=groups)
        return Taught(seen, replace(seen, groups=labelled), taught)

    def weigh(self, loss: Tensor) -> Tensor:
        """A loss of the teacher's labels as it counts in this step."""
        return self._strength * loss

    def observations(self) -> dict[str, Tensor]:
        """Since the last call, (2,) sum and number of what the log shows the mean of.

        ``unlabelled/used_share`` of all points that count, ``unlabelled/confidence`` of all points.
        """
        observed, self._observed = self._observed, {}
        return observed

    def _label(self, group: DeviceGroup, crops: Tensor, depth: Tensor | None) -> DeviceGroup:
        """The teacher's labels of a group, whose crops and their depth become the views of them, in place."""
        rows: list[Group] = [(self._head, 0, len(crops))]
        features = self.model.features(crops, rows, depth if self.model.takes_depth else None)
        outputs = self.model.run_head(self._head, features)
        if not len(crops):  # where weights are sharded, a rank without crops is asked for its part of them all the same
            self._observe(group.weights, group.weights)
            return replace(group, dataset=self._head)
        with torch.autocast(crops.device.type, enabled=False):  # in bfloat16 a place would be off by a pixel
            places, confidence = self._codec.decode(outputs.float())
            counts = (self._sure(confidence) & self._narrow(outputs.float(), places)).float()
            views = Views.drawn(group.seeds, (crops.shape[2], crops.shape[3]), self.config.view)
            points, weights = views.carry(
                places * _pixels_per_place(self._codec, places), counts, self._flip_indices.to(crops.device)
            )
            crops.copy_(views.paint(crops, points, weights))
            if depth is not None:
                depth.copy_(views.carry_depth(depth))
        self._observe(counts, confidence)
        return replace(group, dataset=self._head, keypoints_crop=points, weights=weights)

    def _sure(self, confidence: Tensor) -> Tensor:
        """(n, K) confidence to which points count."""
        order = confidence.flatten().argsort(stable=True)
        rank = torch.empty_like(order)
        rank[order] = torch.arange(len(order), device=order.device)
        among_the_sure = rank.view_as(confidence) >= self.config.mask_share * len(order)
        # A map without a positive value has no place.
        return among_the_sure & (confidence >= self.config.confidence) & (confidence > 0)

    def _narrow(self, outputs: Tensor, places: Tensor) -> Tensor:
        """(n, K) whether points may be so little off that they count."""
        if self.config.most_sigma is None:
            return torch.ones(places.shape[:2], dtype=torch.bool, device=places.device)
        variances = self._codec.covariances(outputs, places).diagonal(dim1=2, dim2=3) * self._scale
        pixels = (variances * _pixels_per_place(self._codec, places) ** 2).mean(dim=-1).sqrt()
        return pixels <= self.config.most_sigma * max(self._codec.input_size)  # NaN, where there is no place, is not

    def _observe(self, counts: Tensor, confidence: Tensor) -> None:
        for name, values in (("used_share", counts), ("confidence", confidence.float())):
            pair = torch.stack([values.sum(), values.new_tensor(float(values.numel()))])
            key = f"unlabelled/{name}"
            self._observed[key] = self._observed[key] + pair if key in self._observed else pair


def _pixels_per_place(codec: Codec, like: Tensor) -> Tensor:
    """(2,) crop pixels per step, along x and y, of the frame that a codec's decoded points live in."""
    return like.new_tensor([pixels_per_unit(codec, axis) for axis in (1, 0)])


def _over_ranks(buffers: dict[str, Tensor]) -> dict[str, Tensor]:
    """Buffers whose floating-point values are the mean over all ranks, which then hold the same ones."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return buffers
    names = [name for name, buffer in buffers.items() if buffer.is_floating_point()]
    if not names:
        return buffers
    flat = torch.cat([buffers[name].float().flatten() for name in names])
    dist.all_reduce(flat)
    parts = (flat / dist.get_world_size()).split([buffers[name].numel() for name in names])
    return buffers | {name: part.view_as(buffers[name]) for name, part in zip(names, parts, strict=True)}
