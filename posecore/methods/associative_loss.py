"""What whole pictures are trained with: the squared error of their heatmaps, and tags alike within bodies alone.

Source: Newell et al., Associative Embedding (arXiv 1611.05424), section 3.2, with the squared exponential and the
weights of HigherHRNet (arXiv 1908.10357).
"""

from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from posecore.codecs.associative import AssociativeCodec
from posecore.codecs.codec import Codec
from posecore.methods.batch import DeviceGroup
from posecore.methods.loss import Loss
from posecore.skeletons.skeleton import Skeleton


class AssociativeEmbedding(Loss):
    """Squared error of heatmaps at both resolutions, and of tags a term that pulls and one that pushes.

    Attributes:
        kind: names this loss.
        pull_weight: of the variance of the tags within a body.
        push_weight: of how near the mean tags of two bodies are to each other.
    """

    kind: Literal["associative_embedding"] = "associative_embedding"
    pull_weight: float = Field(default=1e-3, ge=0)
    push_weight: float = Field(default=1e-3, ge=0)
    of_scenes: ClassVar[bool] = True

    def problem(self, codec: Codec, skeleton: Skeleton) -> str | None:
        """It needs tags."""
        if isinstance(codec, AssociativeCodec):
            return None
        return f"associative_embedding is of whole pictures, and its head has {codec.kind} outputs; leave the loss out."

    def scene(
        self,
        codec: Codec,
        outputs: Tensor,
        group: DeviceGroup,
        num_samples: int,
        skeleton: Skeleton,
        factors: Tensor | None = None,
        hints: Tensor | None = None,
    ) -> Tensor:
        """See :meth:`~posecore.methods.loss.Loss.scene`; outputs are (n, K, …), and ``factors`` are of heatmaps."""
        assert isinstance(codec, AssociativeCodec), codec.kind
        coarse, tags, fine = codec.split(outputs.float())
        weight = outputs.new_ones(outputs.shape[1]).float() if factors is None else factors.to(outputs.device)
        loss = outputs.new_zeros((), dtype=torch.float32)
        for maps, targets in zip((coarse, fine), codec.draw(group.keypoints_crop, group.weights), strict=True):
            error = (maps - targets).square() * counted_pixels(codec, group, targets)
            loss = loss + (error.mean((2, 3)) * weight).sum() / (outputs.shape[1] * num_samples)
        pull, push = tag_losses(tags, *codec.places(group.keypoints_crop, group.weights))
        return loss + (self.pull_weight * pull + self.push_weight * push).sum() / num_samples

    def belief(self, codec: Codec, outputs: Tensor, belief: Tensor, num_samples: int) -> Tensor:
        """Squared errors of the heatmaps and, weighed as the term that pulls, of the tags of every pixel."""
        assert isinstance(codec, AssociativeCodec), codec.kind
        weights = (1.0, self.pull_weight, 1.0)
        errors = [
            weight * (ours - theirs).square().mean((2, 3)).sum()
            for weight, ours, theirs in zip(weights, codec.split(outputs.float()), codec.split(belief), strict=True)
        ]
        return torch.stack(errors).sum() / (outputs.shape[1] * num_samples)


def counted_pixels(codec: AssociativeCodec, group: DeviceGroup, targets: Tensor) -> Tensor:
    """(n, K, h, w) bool, which pixels of the heatmaps are trained.

    Not those of crowds and of bodies without labels, nor, on the map of a point that some body has no label of, those
    of that body's box, unless another body has that point there.

    Args:
        codec: of the maps.
        group: with what is known of the pictures.
        targets: (n, K, h, w) as drawn.
    """
    size = (targets.shape[2], targets.shape[3])
    assert group.ignored is not None
    assert group.bbox_crop is not None
    assert group.unstated is not None
    ignored = group.ignored[:, None].float()
    if ignored.shape[2:] != targets.shape[2:] and len(ignored):
        ignored = F.interpolate(ignored, size, mode="bilinear", align_corners=True)
    elif not len(ignored):
        ignored = ignored.new_zeros(0, 1, *size)
    corners = codec.on_map(group.bbox_crop.unflatten(-1, (2, 2)), size)
    within = []
    for axis, length in ((1, size[0]), (0, size[1])):
        grid = torch.arange(length, device=targets.device)
        within.append(((grid >= corners[..., 0, axis, None]) & (grid <= corners[..., 1, axis, None])).float())
    of_body = torch.einsum("nmk,nmh,nmw->nkhw", group.unstated.float(), *within) > 0
    return (ignored <= 0.5) & ~(of_body & (targets <= 0))


def tag_losses(tags: Tensor, places: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """How far the tags of a body are from their mean, and how near the means of two bodies are to each other.

    ``pull = 1/M Σ_m 1/K_m Σ_k (t_mk − t̄_m)²`` and ``push = 1/(2 M (M − 1)) Σ_m≠l exp(−(t̄_m − t̄_l)²)``, of the M bodies
    of a picture that have a point on the map, K_m each; 0 where there is no body, or no other.

    Args:
        tags: (n, K, h, w).
        places: (n, m, K) index into the flattened map.
        counts: (n, m, K) bool, which points there are.

    Returns:
        Both (n,).
    """
    num_points = tags.shape[1]
    flat = tags.flatten(1)
    size = tags.shape[2] * tags.shape[3]
    offsets = size * torch.arange(num_points, device=tags.device)
    taken = flat.gather(1, (places + offsets).flatten(1)).view(places.shape)
    per_body = counts.sum(2)
    is_body = per_body > 0
    num_bodies = is_body.sum(1)
    mean = (taken * counts).sum(2) / per_body.clamp(min=1)
    spread = ((taken - mean[..., None]).square() * counts).sum(2) / per_body.clamp(min=1)
    pull = spread.sum(1) / num_bodies.clamp(min=1)
    pairs = is_body[:, :, None] & is_body[:, None] & ~torch.eye(places.shape[1], dtype=torch.bool, device=tags.device)
    near = torch.exp(-(mean[:, :, None] - mean[:, None]).square()) * pairs
    push = near.sum((1, 2)) / (2 * num_bodies * (num_bodies - 1)).clamp(min=1)
    return pull, push
