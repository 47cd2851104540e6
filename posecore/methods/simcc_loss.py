"""The loss of SimCC: on each axis, how far the predicted distribution over bins is from the target's.

Source: open-mmlab/mmpose @ 759b39c, ``mmpose/models/losses/classification_loss.py`` (``KLDiscretLoss``) with the
settings of every published RTMPose and DWPose.
"""

import torch.nn.functional as F
from torch import Tensor

from posecore.codecs.simcc import SimccCodec

SHARPNESS = 10.0
"""What logits and targets are multiplied by before the softmax.

So the target distribution is that of ``exp(10 g)`` for a Gaussian g with peak 1: half as high as its peak only 0.38 of
the Gaussian's spread away from it, upon a floor of e^-10 of the peak everywhere.
"""


def simcc_loss(codec: SimccCodec, outputs: Tensor, targets: Tensor, weights: Tensor, num_samples: int) -> Tensor:
    """Kullback-Leibler divergence from target to prediction, ``(1/(B·K)) Σ_axes Σ_nk w_nk mean_bins q (ln q − ln p)``.

    Args:
        codec: says which bins are whose.
        outputs: (n, K, bins) logits of any float type.
        targets: (n, K, bins) float32 Gaussians with peak 1.
        weights: (n, K) float32 in [0, 1].
        num_samples: B. The published loss is a sum over the samples, which is this with B = 1.
    """
    divergences = point_divergences(codec, outputs, targets)
    return (divergences * weights).sum() / (outputs.shape[1] * num_samples)


def point_divergences(codec: SimccCodec, outputs: Tensor, targets: Tensor) -> Tensor:
    """(n, K) float32 of every point, ``Σ_axes mean_bins q (ln q − ln p)``; arguments as :func:`simcc_loss`."""
    axes = []
    for predicted, wanted in zip(codec.split(outputs), codec.split(targets), strict=True):
        log_p = F.log_softmax(SHARPNESS * predicted.float(), dim=-1)
        q = F.softmax(SHARPNESS * wanted, dim=-1)
        axes.append(F.kl_div(log_p, q, reduction="none").mean(dim=-1))
    return axes[0] + axes[1]
