"""A micro-batch on the training device: uint8 crops become normalised floats here, not in the loader."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from posecore.counting import counted
from posecore.models.groups import Group
from posecore.models.pixel_values import IMAGENET_MEAN, IMAGENET_STD
from posecore.schema import CropBatch, KeypointState

_ROW_ARRAYS = (
    "keypoints_crop",
    "state",
    "center",
    "scale",
    "rotation",
    "flipped",
    "rows",
    "seeds",
    "taught_outputs",
    "taught_features",
    "ignored",
    "bbox_crop",
)

_UNSTATED = (KeypointState.UNKNOWN, KeypointState.UNLABELLED)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DeviceGroup:
    """The rows of one dataset within a :class:`DeviceBatch`.

    Attributes:
        dataset: name of the mixture entry.
        start: first row.
        stop: one past the last row.
        keypoints_crop: (n, K, 2) float32, x, y in crop pixels; of whole scenes (n, M, K, 2).
        weights: (n, K) float32, 1 for a labelled point (occluded or visible), else 0; likewise (n, M, K).
        scale: (n, 2) float32, width and height of the crops in image pixels.
        seeds: (n,) int64, a random word per crop; see :class:`~posecore.schema.CropGroup`.
        taught_outputs: (n, P, …) as stored, or None; likewise.
        taught_features: (n, D, h, w) as stored, or None; likewise.
        ignored: of whole scenes, (n, H/2, W/2) uint8; likewise.
        bbox_crop: of whole scenes, (n, M, 4) float32; likewise.
        unstated: of whole scenes, (n, M, K) bool, points that a body may have and no label speaks of.
    """

    dataset: str
    start: int
    stop: int
    keypoints_crop: Tensor
    weights: Tensor
    scale: Tensor
    seeds: Tensor
    taught_outputs: Tensor | None = None
    taught_features: Tensor | None = None
    ignored: Tensor | None = None
    bbox_crop: Tensor | None = None
    unstated: Tensor | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DeviceBatch:
    """One rank's micro-batch on its device.

    Attributes:
        images: (B, 3, H, W) float32 RGB, normalised with the ImageNet constants.
        groups: one per dataset, empty ones included, covering all rows in order.
        depth: (B, H, W) float32 metres, 0 where not known; None without depth.
    """

    images: Tensor
    groups: tuple[DeviceGroup, ...]
    depth: Tensor | None = None

    def __len__(self) -> int:
        return len(self.images)

    @property
    def rows(self) -> list[Group]:
        """Name and row range of every group, as the model wants them."""
        return [(group.dataset, group.start, group.stop) for group in self.groups]


def to_device(batch: CropBatch, device: torch.device) -> DeviceBatch:
    """Moves a micro-batch to the device and normalises it there."""

    def moved(array: NDArray[Any] | None) -> Tensor | None:
        return None if array is None else torch.from_numpy(array).to(device, non_blocking=True)

    groups = tuple(
        DeviceGroup(
            dataset=group.dataset,
            start=group.start,
            stop=group.stop,
            keypoints_crop=torch.from_numpy(group.keypoints_crop).to(device, non_blocking=True),
            weights=point_weights(torch.from_numpy(group.state)).to(device, non_blocking=True),
            scale=torch.from_numpy(group.scale).to(device, non_blocking=True),
            seeds=torch.from_numpy(group.seeds).to(device, non_blocking=True),
            taught_outputs=moved(group.taught_outputs),
            taught_features=moved(group.taught_features),
            ignored=moved(group.ignored),
            bbox_crop=moved(group.bbox_crop),
            unstated=None if group.bbox_crop is None else moved(np.isin(group.state, _UNSTATED)),
        )
        for group in batch.groups
    )
    return DeviceBatch(
        images=normalise(torch.from_numpy(batch.images).to(device, non_blocking=True)),
        groups=groups,
        depth=None if batch.depth is None else torch.from_numpy(batch.depth).to(device, non_blocking=True),
    )


def normalise(images: Tensor) -> Tensor:
    """(B, H, W, 3) uint8 RGB to (B, 3, H, W) float32 with ImageNet mean 0 and standard deviation 1 per channel."""
    mean, std = _constants(images.device)
    return images.permute(0, 3, 1, 2).float().div_(255).sub_(mean).div_(std)


def denormalise(images: Tensor) -> Tensor:
    """The inverse of :func:`normalise`, rounded and cut to what a pixel can be."""
    return (to_light(images) * 255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)


def from_light(images: Tensor) -> Tensor:
    """(B, 3, H, W) float RGB in 0 … 1, black to white, to what models see."""
    mean, std = _constants(images.device)
    return (images - mean) / std


def to_light(images: Tensor) -> Tensor:
    """The inverse of :func:`from_light`."""
    mean, std = _constants(images.device)
    return images * std + mean


def _constants(device: torch.device) -> tuple[Tensor, Tensor]:
    mean, std = (torch.tensor(values, device=device).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    return mean, std


def point_weights(state: Tensor) -> Tensor:
    """(…, K) uint8 :class:`KeypointState` to (…, K) float32 loss weights: labelled points count, nothing else does."""
    return ((state == KeypointState.OCCLUDED) | (state == KeypointState.VISIBLE)).float()


def split_batch(batch: CropBatch, parts: int) -> list[CropBatch]:
    """Cuts a micro-batch into equal parts for gradient accumulation.

    Part i takes rows i, i + parts, i + 2·parts …: every part has the same number of crops, nearly the same share of
    every dataset, and crops of a dataset stay contiguous.

    Args:
        batch: B crops.
        parts: must divide B.
    """
    total = len(batch.images)
    if total % parts:
        raise ValueError(
            f"{counted(total, 'crop')} per rank and step cannot be accumulated in {counted(parts, 'equal part')}."
        )
    return [_every(batch, np.arange(first, total, parts)) for first in range(parts)]


def _every(batch: CropBatch, rows: NDArray[np.int64]) -> CropBatch:
    groups = []
    for group in batch.groups:
        start, stop = (int(edge) for edge in np.searchsorted(rows, (group.start, group.stop)))
        chosen = rows[start:stop] - group.start
        arrays = {name: array[chosen] for name in _ROW_ARRAYS if (array := getattr(group, name)) is not None}
        groups.append(replace(group, start=start, stop=stop, **arrays))
    depth = None if batch.depth is None else batch.depth[rows]
    return replace(batch, images=batch.images[rows], groups=tuple(groups), depth=depth)
