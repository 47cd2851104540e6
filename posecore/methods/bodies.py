"""The labelled bodies of whole pictures, as a set that a head's queries are to become."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from posecore.codecs.queries import QueryCodec
from posecore.methods.batch import DeviceGroup

BOX_AREA = 0.53
"""Area of a body by that of its box, where no mask says it (COCO's evaluation of sets without masks)."""


@dataclass(frozen=True, slots=True, eq=False)
class Bodies:
    """The bodies of n pictures, M of each at most.

    Attributes:
        there: (n, M) bool, which rows are bodies.
        boxes: (n, M, 4) x, y of the centre, width, height, shares of the input, cut where it ends.
        points: (n, M, K, 2) x, y, likewise.
        weights: (n, M, K) 1 for labelled points within the input, else 0.
    """

    there: Tensor
    boxes: Tensor
    points: Tensor
    weights: Tensor

    def areas(self, codec: QueryCodec) -> Tensor:
        """(n, M) px² of the input."""
        return BOX_AREA * (self.boxes[..., 2:] * codec.sides(self.boxes)).prod(dim=-1)


def labelled_bodies(codec: QueryCodec, group: DeviceGroup) -> Bodies:
    """The bodies of which at least one labelled point lies within the input."""
    assert group.bbox_crop is not None
    points = codec.shares(group.keypoints_crop)
    inside = ((points >= 0) & (points <= 1)).all(dim=-1)
    weights = group.weights * inside
    low, high = (codec.shares(corner).clamp(0, 1) for corner in group.bbox_crop.split(2, dim=-1))
    sizes = torch.maximum(high - low, 1 / codec.sides(low))
    return Bodies((weights > 0).any(dim=-1), torch.cat([(low + high) / 2, sizes], dim=-1), points, weights)


def excused(codec: QueryCodec, group: DeviceGroup, bodies: Bodies, boxes: Tensor) -> Tensor:
    """Which boxes may be there though no label says so: at least half of them lies where nothing is known.

    That is in crowds and bodies without labels, and in the boxes of bodies whose labelled points are all outside.

    Args:
        codec: of the boxes.
        group: with what is to be ignored.
        bodies: of the same pictures.
        boxes: (n, …, 4) as :attr:`Bodies.boxes`.

    Returns:
        (n, …) bool.
    """
    assert group.ignored is not None
    height, width = group.ignored.shape[1:]
    hidden = ((group.weights > 0).any(dim=-1) & ~bodies.there).float()
    within = []
    for axis, length in ((1, height), (0, width)):
        grid = (torch.arange(length, device=boxes.device) + 0.5) / length
        within.append(((grid - bodies.boxes[..., axis, None]).abs() <= bodies.boxes[..., axis + 2, None] / 2).float())
    unknown = (group.ignored > 0) | (torch.einsum("nm,nmh,nmw->nhw", hidden, *within) > 0)
    sums = F.pad(unknown.double().cumsum(1).cumsum(2), (1, 0, 1, 0)).flatten(1)
    flat = boxes.detach().flatten(1, -2)
    size = flat.new_tensor([width, height])
    low, high = (((flat[..., :2] + sign * flat[..., 2:] / 2).clamp(0, 1) * size).round().long() for sign in (-1, 1))

    def sum_to(x: Tensor, y: Tensor) -> Tensor:
        return sums.gather(1, y * (width + 1) + x)

    (left, top), (right, bottom) = low.unbind(-1), high.unbind(-1)
    covered = sum_to(right, bottom) - sum_to(left, bottom) - sum_to(right, top) + sum_to(left, top)
    area = ((high - low).prod(dim=-1)).clamp(min=1)
    return (2 * covered >= area).unflatten(1, boxes.shape[1:-1])
