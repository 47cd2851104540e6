"""Where a head expects its points, as a differentiable function of its outputs."""

import torch
from torch import Tensor

from posecore.codecs.codec import Codec
from posecore.codecs.simcc import SimccCodec
from posecore.methods.simcc_loss import SHARPNESS

HEATMAP_SHARPNESS = 20.0
"""What a map, divided by its maximum, is multiplied by before the softmax.

All 49,152 empty pixels of a map of 256x192 then weigh 1e-4 of its peak and draw the mean less than a pixel towards the
middle; a Gaussian of sigma 2 keeps a spread of half a pixel. The published 500 is an arg-max whose gradient reaches
hardly any pixel.
"""

LEAST_CONFIDENCE = 0.1
"""A point that a head is less sure of than this has no expected place worth looking at."""

_LEAST_PEAK = 1e-3


def expected_points(codec: Codec, outputs: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Means of the distributions that outputs stand for.

    Args:
        codec: of the head.
        outputs: (n, K, h, w) heatmaps or (n, K, bins) SimCC logits, of any float type.
        scale: (n, 2) width and height of the crops in image pixels.

    Returns:
        (n, K, 2) float32 x, y in the crop's frame, in steps of image pixels along both axes, so that lengths and angles
        are those of the image although a crop may be stretched; and (n, K) confidence, the outputs' maxima cut to
        0 … 1, without gradient.
    """
    if isinstance(codec, SimccCodec):
        lines = [line.float() for line in codec.split(outputs)]
        means = [_mean((SHARPNESS * line).softmax(dim=-1)) for line in lines]
        confidence = torch.minimum(*(line.detach().amax(dim=-1) for line in lines))
    else:
        maps = outputs.float()
        confidence = maps.detach().amax(dim=(2, 3))
        sharpness = HEATMAP_SHARPNESS / confidence.clamp(min=_LEAST_PEAK)
        weights = (sharpness[..., None] * maps.flatten(2)).softmax(dim=-1).unflatten(2, maps.shape[2:])
        means = [_mean(weights.sum(dim=2)), _mean(weights.sum(dim=3))]
    height, width = codec.frame_size
    shorten = 1 if codec.crop == "udp" else 0
    steps = scale.new_tensor([width - shorten, height - shorten])
    return torch.stack(means, dim=-1) * (scale / steps)[:, None], confidence.clamp(0, 1)


def extent(points: Tensor, known: Tensor) -> Tensor:
    """(n,) twice the largest distance of a body's known points from their mean, without gradient.

    Args:
        points: (n, K, 2) x, y.
        known: (n, K) which count.
    """
    places = points.detach()
    mean = (places * known[..., None]).sum(dim=1, keepdim=True) / known.sum(dim=1).clamp(min=1)[:, None, None]
    return 2 * ((places - mean).square().sum(dim=-1).sqrt() * known).amax(dim=1)


def _mean(weights: Tensor) -> Tensor:
    """(..., L) shares of places 0 … L - 1 to their mean place."""
    return weights @ torch.arange(weights.shape[-1], dtype=weights.dtype, device=weights.device)
