"""The likelihood of a label under the place and the covariance that a head says: its uncertainty is learned with it.

Gaussian: ½ (eᵀ Σ⁻¹ e + ln det Σ) + ln 2π. Laplace: of each axis |e| / b + ln 2b with b = σ / √2, whose tails are those
of a wrong label. The residual log-likelihood of Li et al. (arXiv 2107.11291) with its flow left out is the latter.
"""

import math
from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from posecore.codecs.codec import Codec
from posecore.codecs.places import PlacesCodec, moments, moments_of_logits, of_rounded
from posecore.methods.loss import Loss
from posecore.skeletons.skeleton import Skeleton


class Likelihood(Loss):
    """The negative logarithm of it, in nats; it may be below 0.

    Attributes:
        kind: names this loss.
        distribution: of the error.
    """

    kind: Literal["likelihood"] = "likelihood"
    distribution: Literal["gaussian", "laplace"] = "gaussian"

    def points(self, codec: Codec, outputs: Tensor, targets: Tensor) -> Tensor:
        """(n, K) nats of every point, in px of the map."""
        label, _ = moments(targets)
        mean, covariance = moments_of_logits(outputs)
        nats = gaussian_nats if self.distribution == "gaussian" else laplace_nats
        return nats(label - mean, of_rounded(covariance))

    def belief(self, codec: Codec, outputs: Tensor, belief: Tensor, num_samples: int) -> Tensor:
        """``(1/(B·K)) Σ_nk Σ_pixels t (ln t − ln s)``: how far the student's distribution is from the teacher's."""
        log_s, log_t = (each.float().flatten(2).log_softmax(dim=-1) for each in (outputs, belief))
        return F.kl_div(log_s, log_t, reduction="sum", log_target=True) / (outputs.shape[1] * num_samples)

    def problem(self, codec: Codec, skeleton: Skeleton) -> str | None:
        """It needs distributions over places."""
        if isinstance(codec, PlacesCodec):
            return None
        return f"likelihood is of a head of places, and its head has {codec.kind} outputs; choose head places."


def gaussian_nats(error: Tensor, covariance: Tensor) -> Tensor:
    """(…) the negative logarithm of the density of (…, 2) errors under (…, 2, 2) covariances."""
    xx, yy, xy = covariance[..., 0, 0], covariance[..., 1, 1], covariance[..., 0, 1]
    determinant = xx * yy - xy * xy
    x, y = error.unbind(dim=-1)
    distance = (yy * x * x - 2 * xy * x * y + xx * y * y) / determinant
    return (distance + determinant.log()) / 2 + math.log(2 * math.pi)


def laplace_nats(error: Tensor, covariance: Tensor) -> Tensor:
    """The same of two Laplace distributions with the variances of x and y."""
    scale = (covariance.diagonal(dim1=-2, dim2=-1) / 2).sqrt()
    return (error.abs() / scale + (2 * scale).log()).sum(dim=-1)
