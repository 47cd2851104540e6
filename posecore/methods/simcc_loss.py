"""The loss of SimCC: on each axis, how far the predicted distribution over bins is from the target's.

Source: open-mmlab/mmpose @ 759b39c, ``mmpose/models/losses/classification_loss.py`` (``KLDiscretLoss``) with the
settings of every published RTMPose and DWPose.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from posecore.codecs.codec import Codec
from posecore.codecs.simcc import SHARPNESS, SimccCodec
from posecore.methods.loss import Loss
from posecore.skeletons.skeleton import Skeleton


class SimccDivergence(Loss):
    """Kullback-Leibler divergence of SimCC's two distributions.

    Attributes:
        kind: names this loss.
        reduction: ``mean`` divides by the number of crops; ``sum`` leaves that out, as published.
    """

    kind: Literal["simcc_divergence"] = "simcc_divergence"
    reduction: Literal["mean", "sum"] = "mean"

    def points(self, codec: Codec, outputs: Tensor, targets: Tensor) -> Tensor:
        """See :func:`point_divergences`."""
        return point_divergences(_simcc(codec), outputs, targets)

    def __call__(self, codec: Codec, outputs: Tensor, targets: Tensor, weights: Tensor, num_samples: int) -> Tensor:
        """See :func:`simcc_loss`."""
        return simcc_loss(_simcc(codec), outputs, targets, weights, num_samples if self.reduction == "mean" else 1)

    def belief(self, codec: Codec, outputs: Tensor, belief: Tensor, num_samples: int) -> Tensor:
        """``(1/(B·K)) Σ_axes Σ_nk Σ_bins t (ln t − ln s)``, where both are softmax of ten times the lines (``KDLoss``).

        A sum over the bins, although the loss of labels is a mean.
        """
        total, split = outputs.new_zeros((), dtype=torch.float32), _simcc(codec).split
        for line, wanted in zip(split(outputs), split(belief), strict=True):
            log_s, log_t = (F.log_softmax(SHARPNESS * logits.float(), dim=-1) for logits in (line, wanted))
            total = total + F.kl_div(log_s, log_t, reduction="sum", log_target=True)
        return total / (outputs.shape[1] * num_samples)

    def problem(self, codec: Codec, skeleton: Skeleton) -> str | None:
        """It needs SimCC's outputs."""
        wrong = f"simcc_divergence is of SimCC outputs, and its head has {codec.kind} maps; leave the loss out."
        return None if isinstance(codec, SimccCodec) else wrong


def _simcc(codec: Codec) -> SimccCodec:
    assert isinstance(codec, SimccCodec), codec
    return codec


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
