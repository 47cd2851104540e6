"""The squared error of heatmaps, of all points or of each crop's worst."""

from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor

from posecore.codecs.codec import Codec
from posecore.methods.loss import Loss
from posecore.skeletons.skeleton import Skeleton


class SquaredError(Loss):
    """The squared error of heatmaps.

    Attributes:
        kind: names this loss.
        hardest_points: so many points per crop count, those with the largest error; None counts all.
    """

    kind: Literal["squared_error"] = "squared_error"
    hardest_points: int | None = Field(default=None, gt=0)
    weight_power: ClassVar[int] = 2

    def points(self, codec: Codec, outputs: Tensor, targets: Tensor) -> Tensor:
        """(n, K) mean over a map's pixels."""
        return (outputs.float() - targets).square().mean((2, 3))

    def __call__(self, codec: Codec, outputs: Tensor, targets: Tensor, weights: Tensor, num_samples: int) -> Tensor:
        """See :func:`heatmap_loss` and :func:`hardest_points_loss`."""
        if self.hardest_points is None:
            return heatmap_loss(outputs, targets, weights, num_samples)
        return hardest_points_loss(outputs, targets, weights, num_samples, self.hardest_points)

    def problem(self, codec: Codec, skeleton: Skeleton) -> str | None:
        """It needs heatmaps, and no fewer points than shall count."""
        if codec.loss != self.kind:
            return f"squared_error is of heatmaps, and its head has {codec.kind} outputs; leave the loss out."
        if self.hardest_points is not None and self.hardest_points > skeleton.num_keypoints:
            return f"hardest_points {self.hardest_points} is more than the {skeleton.num_keypoints} of {skeleton.name}."
        return None


def heatmap_loss(heatmaps: Tensor, targets: Tensor, weights: Tensor, num_samples: int) -> Tensor:
    """Squared error of weighted maps; unlabelled points add nothing but stay in the denominator.

    ``(1/K) Σ_k (1/(B·h·w)) Σ_n Σ_p (w_nk ŷ_nkp − w_nk y_nkp)²``: the weight acts squared (``JointsMSELoss``).

    Args:
        heatmaps: (n, K, h, w) predictions of any float type.
        targets: (n, K, h, w) float32.
        weights: (n, K) float32 in [0, 1].
        num_samples: B, which may exceed n.
    """
    scaled = weights[:, :, None, None]
    error = (heatmaps.float() * scaled - targets * scaled).square().sum()
    num_points, height, width = heatmaps.shape[1:]
    return error / (num_points * num_samples * height * width)


def hardest_points_loss(
    heatmaps: Tensor, targets: Tensor, weights: Tensor, num_samples: int, hardest_points: int
) -> Tensor:
    """Squared error of the maps of each crop's worst points alone (online hard keypoint mining).

    ``(1/B) Σ_n (1/M) Σ_{k ∈ worst M} (1/(h·w)) Σ_p (w_nk ŷ_nkp − w_nk y_nkp)²``. An unlabelled point has no error, so
    it is among the worst only where fewer than M are labelled. Source: facebookresearch/sapiens @ 3e829ac,
    ``pose/mmpose/models/losses/heatmap_loss.py``, ``KeypointOHKMMSELoss``.

    Args:
        heatmaps: (n, K, h, w) predictions of any float type.
        targets: (n, K, h, w) float32.
        weights: (n, K) float32 in [0, 1].
        num_samples: B, which may exceed n.
        hardest_points: M, at most K.
    """
    scaled = weights[:, :, None, None]
    errors = (heatmaps.float() * scaled - targets * scaled).square().mean((2, 3))
    return errors.topk(hardest_points, dim=1).values.sum() / (hardest_points * num_samples)
