"""Where a head expects its points, as a differentiable function of its outputs."""

from torch import Tensor

from posecore.codecs.codec import Codec

LEAST_CONFIDENCE = 0.1
"""A point that a head is less sure of than this has no expected place worth looking at."""


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
    means, confidence = codec.expect(outputs)
    height, width = codec.frame_size
    shorten = 1 if codec.crop == "udp" else 0
    steps = scale.new_tensor([width - shorten, height - shorten])
    return means * (scale / steps)[:, None], confidence.clamp(0, 1)


def extent(points: Tensor, known: Tensor) -> Tensor:
    """(n,) twice the largest distance of a body's known points from their mean, without gradient.

    Args:
        points: (n, K, 2) x, y.
        known: (n, K) which count.
    """
    places = points.detach()
    mean = (places * known[..., None]).sum(dim=1, keepdim=True) / known.sum(dim=1).clamp(min=1)[:, None, None]
    return 2 * ((places - mean).square().sum(dim=-1).sqrt() * known).amax(dim=1)
