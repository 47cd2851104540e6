"""A keypoint as a distribution over the pixels of a map: where it is on average, and how far off it may be.

Outputs are logits of one distribution per point. Its mean is the point (integral regression; Sun et al., arXiv
1711.08229), its variance is learned with it: by the likelihood of the label under the mean and covariance
(:class:`~posecore.methods.likelihood.Likelihood`), with no output added for it.
"""

from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from posecore.codecs.codec import Codec, mean_place
from posecore.codecs.spread import ROUNDED, second_moments
from posecore.geometry import CropConvention


class PlacesCodec(Codec):
    """One way to draw a keypoint as a place among pixels and to read it back.

    Attributes:
        kind: names this codec.
        input_size: (height, width) of the crop in pixels.
        heatmap_size: (height, width) of the map.
        heatmap_sigma: in heatmap pixels; scores compare with those of heatmaps drawn with this spread.
    """

    kind: Literal["places"] = "places"
    input_size: tuple[int, int] = (256, 192)
    heatmap_size: tuple[int, int] = (64, 48)
    heatmap_sigma: float = 2.0
    loss: ClassVar[str] = "likelihood"

    @property
    def crop(self) -> CropConvention:
        """The affine map that crops are cut with: pixel centres of map and crop meet at the borders."""
        return "udp"

    @property
    def frame_size(self) -> tuple[int, int]:
        """(height, width) of the frame that decoded points live in: the map."""
        return self.heatmap_size

    @property
    def outputs_per_point(self) -> float:
        """One: a likelihood is no mean over pixels."""
        return 1.0

    def encode(
        self, keypoints_crop: Float[Tensor, "n k 2"], weights: Float[Tensor, "n k"]
    ) -> tuple[Float[Tensor, "n k h w"], Float[Tensor, "n k"]]:
        """Divides each point among the four pixels around it, so that their mean is the point.

        Args:
            keypoints_crop: x, y in crop pixels.
            weights: 0 for points that do not count; above 0.5 for points to draw.

        Returns:
            Float32 shares that sum to 1, all zero where nothing is drawn, and the weights, zeroed beyond the map.
        """
        height, width = self.heatmap_size
        sizes = keypoints_crop.new_tensor([[width, self.input_size[1]], [height, self.input_size[0]]]) - 1
        points = keypoints_crop * (sizes[:, 0] / sizes[:, 1])
        weights = weights * ((points >= 0) & (points <= sizes[:, 0])).all(dim=-1)
        column, row = (
            (1 - (torch.arange(length, device=points.device) - points[..., axis, None]).abs()).clamp(min=0)
            for axis, length in ((0, width), (1, height))
        )
        row = torch.where((weights > 0.5)[..., None], row, 0.0)
        return (row[..., :, None] * column.nan_to_num()[..., None, :]).float(), weights

    def decode(self, outputs: Float[Tensor, "n k h w"]) -> tuple[Float[Tensor, "n k 2"], Float[Tensor, "n k"]]:
        """Reads the mean of each distribution.

        Args:
            outputs: logits; a flip test averages them before this.

        Returns:
            Float32 x, y in heatmap pixels, and as scores σ² / √det(Σ + σ²I), which is how high a heatmap drawn with
            sigma would be, at the optimum of its squared error, for a point with this covariance.
        """
        points, covariance = moments_of_logits(outputs)
        variance = self.heatmap_sigma**2
        drawn = covariance + variance * torch.eye(2, device=outputs.device)
        return points, variance / _determinant(drawn).sqrt()

    def covariances(
        self, outputs: Float[Tensor, "n k h w"], points: Float[Tensor, "n k 2"]
    ) -> Float[Tensor, "n k 2 2"]:
        """Of each distribution about the point, and that of a rounded pixel besides, as the likelihood has it.

        Args:
            outputs: logits.
            points: as :meth:`decode` found them, in heatmap pixels.

        Returns:
            Float32, px² of the map.
        """
        mean, covariance = moments_of_logits(outputs)
        off = mean - points
        return of_rounded(covariance + off[..., :, None] * off[..., None, :])

    def flip_back(
        self, outputs: Float[Tensor, "n k h w"], flip_indices: Int[Tensor, " k"], shift: bool
    ) -> Float[Tensor, "n k h w"]:
        """Logits of the mirrored crop in the frame of the original one: sides swapped, columns reversed.

        Args:
            outputs: predictions for the mirrored crop.
            flip_indices: mirror partner of every keypoint.
            shift: never, with the one convention that there is.
        """
        return outputs[:, flip_indices].flip(-1)

    def expect(self, outputs: Float[Tensor, "n k h w"]) -> tuple[Float[Tensor, "n k 2"], Float[Tensor, "n k"]]:
        """The means, and the scores of :meth:`decode` without gradient."""
        points, scores = self.decode(outputs)
        return points, scores.detach()


def moments(shares: Float[Tensor, "n k h w"]) -> tuple[Float[Tensor, "n k 2"], Float[Tensor, "n k 2 2"]]:
    """Mean and covariance of distributions over pixels, x before y."""
    lines = shares.sum(dim=2), shares.sum(dim=3)
    mean = torch.stack([mean_place(line) for line in lines], dim=-1)
    x, y = (
        torch.arange(line.shape[-1], device=shares.device) - mean[..., axis, None] for axis, line in enumerate(lines)
    )
    return mean, second_moments(shares, x, y)


def moments_of_logits(outputs: Float[Tensor, "n k h w"]) -> tuple[Float[Tensor, "n k 2"], Float[Tensor, "n k 2 2"]]:
    """Mean and covariance of the distributions that logits stand for, in float32."""
    return moments(outputs.float().flatten(2).softmax(dim=-1).unflatten(2, outputs.shape[2:]))


def of_rounded(covariances: Float[Tensor, "n k 2 2"]) -> Float[Tensor, "n k 2 2"]:
    """Covariances of places of which a label says the pixel."""
    return covariances + ROUNDED * torch.eye(2, device=covariances.device)


def _determinant(matrices: Tensor) -> Tensor:
    return matrices[..., 0, 0] * matrices[..., 1, 1] - matrices[..., 0, 1] * matrices[..., 1, 0]
