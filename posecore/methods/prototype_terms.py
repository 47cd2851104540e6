"""The arithmetic of learning prototypes: sampled pixels, balanced assignment, contrast, distance and the update.

Source: PoseBH (arXiv 2505.17475) and uyoung-jeong/PoseBH @ 8f03438, ``mmpose/models/heads/kpt_proto_module.py`` and
``mmpose/models/losses/ppce_loss.py``; they follow ProtoSeg (arXiv 2203.15102). Everything here looks at one dataset's
pixels and at that dataset's prototypes only. The released code looks elsewhere for all datasets but the first: it takes
columns of other datasets as logits, and compares a keypoint's number within its dataset with its number among all, so
that hardly any but the first dataset's prototypes ever move.
"""

from typing import Literal, NamedTuple, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from posecore.models.prototypes import similarity

PixelWeighting: TypeAlias = Literal["confidence", "equal"]
"""What a pixel weighs when it pulls at its prototype: its confidence, or 1."""

_EPSILON = 0.05
_ITERATIONS = 3


class Pixels(NamedTuple):
    """Pixels of which it is known which keypoint they show.

    Attributes:
        embeddings: (n, C).
        labels: (n,) int64, number of the keypoint within its dataset.
        confidence: (n,) float32, height of the keypoint's target there, in (0, 1].
    """

    embeddings: Tensor
    labels: Tensor
    confidence: Tensor


class Assigned(NamedTuple):
    """Pixels compared with their dataset's prototypes.

    Attributes:
        pixels: n of them.
        similarities: (n, K, M) with every prototype.
        shares: (n, M) how much of a pixel goes to each prototype of its own keypoint; a constant.
    """

    pixels: Pixels
    similarities: Tensor
    shares: Tensor

    @property
    def nearest(self) -> Tensor:
        """(n,) which of its keypoint's prototypes is each pixel's own."""
        return self.shares.argmax(dim=1)


def labelled_pixels(embeddings: Tensor, targets: Tensor, threshold: float) -> Pixels:
    """Pixels where a target is above the threshold; they show the keypoint whose target is the highest.

    A keypoint that is not labelled has an empty target: it gives no pixels, and says of none that it is background.

    Args:
        embeddings: (n, C, h, w).
        targets: (n, K, h, w) Gaussians, zero for points that do not count.
        threshold: in [0, 1).
    """
    confidence, labels = targets.max(dim=1)
    chosen = confidence > threshold
    return Pixels(embeddings.float().permute(0, 2, 3, 1)[chosen], labels[chosen], confidence[chosen])


def assign(pixels: Pixels, prototypes: Tensor) -> Assigned:
    """Finds every pixel's own prototype.

    Args:
        pixels: of one dataset.
        prototypes: (K, M, C) unit vectors of that dataset.
    """
    similarities = similarity(pixels.embeddings, prototypes)
    own = similarities.detach()[torch.arange(len(pixels.labels), device=pixels.labels.device), pixels.labels]
    return Assigned(pixels, similarities, balanced_shares(own, pixels.labels, len(prototypes)))


def balanced_shares(similarities: Tensor, labels: Tensor, num_keypoints: int) -> Tensor:
    """Shares every keypoint's pixels out among its prototypes so that each gets about equally much (Sinkhorn-Knopp).

    ``exp(s / 0.05)`` is normalised three times over each keypoint's pixels, then over each pixel's prototypes.

    Args:
        similarities: (n, M) of every pixel with the prototypes of its own keypoint.
        labels: (n,) keypoint of every pixel.
        num_keypoints: K.

    Returns:
        (n, M), every row sums to 1.
    """
    members = F.one_hot(labels, num_keypoints).to(similarities.dtype)
    shares = torch.exp(similarities / _EPSILON)
    for _ in range(_ITERATIONS):
        # A product with the membership matrix, not an indexed sum: it adds up in the same order on every device.
        shares = shares / (members.T @ shares)[labels]
        shares = shares / shares.sum(dim=1, keepdim=True)
    return shares


def contrast(assigned: Assigned) -> Tensor:
    """Pixel-prototype contrast: cross-entropy of every pixel's own prototype among all of the dataset's.

    Similarities are the logits as they are, without a temperature, as published: from about ln(K·M) at the start the
    loss can fall by no more than 1.

    Returns:
        The mean over pixels; 0 without any.
    """
    labels, per_point = assigned.pixels.labels, assigned.similarities.shape[2]
    own = labels * per_point + assigned.nearest
    return F.cross_entropy(assigned.similarities.flatten(1), own, reduction="sum") / max(1, len(labels))


def distance(assigned: Assigned) -> Tensor:
    """Pixel-prototype distance: mean over pixels of ``(1 − s)²`` to every pixel's own prototype; 0 without any."""
    labels = assigned.pixels.labels
    own = assigned.similarities[torch.arange(len(labels), device=labels.device), labels, assigned.nearest]
    return (1 - own).square().sum() / max(1, len(labels))


@torch.no_grad()
def pulls(assigned: Assigned, prototypes: Tensor, weighting: PixelWeighting) -> tuple[Tensor, Tensor]:
    """How one rank's pixels pull at a dataset's prototypes; sums, so that ranks can be added up.

    Only pixels that already look most like their own keypoint pull, each at one prototype: the one with the largest
    share after Gumbel noise is added (the published temperature of 0.5 does not change which that is). A pixel counts
    by its confidence, squared as in the released code. A pixel that lies opposite to its prototype pulls with its sign
    turned, because the similarity ignores the sign: with its own sign, as released, it would push the prototype away
    from the pixels it stands for.

    Args:
        assigned: pixels of one dataset.
        prototypes: (K, M, C) unit vectors they were compared with.
        weighting: what a pixel weighs.

    Returns:
        (K, M, C) sums of unit vectors, and (K, M) the weights behind them.
    """
    pixels, similarities, shares = assigned
    num_keypoints, per_point, _ = prototypes.shape
    correct = similarities.amax(dim=2).argmax(dim=1) == pixels.labels
    weights = correct * (pixels.confidence if weighting == "confidence" else torch.ones_like(pixels.confidence))
    noise = -torch.empty_like(shares).exponential_().log()
    drawn = (shares + noise).argmax(dim=1)
    directions = F.normalize(pixels.embeddings, dim=1)
    turned = directions * (directions * prototypes[pixels.labels, drawn]).sum(dim=1, keepdim=True).sign()
    slots = F.one_hot(pixels.labels * per_point + drawn, num_keypoints * per_point).float()
    sums = (slots * weights.square()[:, None]).T @ turned
    return sums.view_as(prototypes), (weights @ slots).view(num_keypoints, per_point)


def moved(prototypes: Tensor, sums: Tensor, weights: Tensor, momentum: float) -> Tensor:
    """Prototypes after an update, ``normalise(γ p + (1 − γ) normalise(Σ))``; where nothing pulls they stay as they are.

    Args:
        prototypes: (K, M, C).
        sums: (K, M, C), see :func:`pulls`.
        weights: (K, M), likewise.
        momentum: γ.
    """
    directions = F.normalize(prototypes, dim=-1)
    updated = F.normalize(torch.lerp(F.normalize(sums, dim=-1), directions, momentum), dim=-1)
    return torch.where((weights > 0)[..., None], updated, prototypes)
