"""SimCC: a keypoint is a class on each image axis, half a crop pixel wide, instead of a place on a map.

Source: open-mmlab/mmpose @ 759b39c, ``mmpose/codecs/simcc_label.py`` (targets, decoding) and
``mmpose/models/utils/tta.py`` (flip); the settings are those of every published RTMPose and DWPose. Idea: Li et al.,
arXiv 2107.03332.

Targets and outputs are one tensor, the bins of x first, then those of y: (n, k, bins_x + bins_y).
"""

from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor

from posecore.codecs.codec import Codec, mean_place
from posecore.codecs.spread import REACH, ROUNDED
from posecore.counting import counted
from posecore.geometry import CropConvention

SHARPNESS = 10.0
"""What logits and targets are multiplied by before the softmax.

So the target distribution is that of ``exp(10 g)`` for a Gaussian g with peak 1: half as high as its peak only 0.38 of
the Gaussian's spread away from it, upon a floor of e^-10 of the peak everywhere.
"""

_LEAST_MASS = 1e-12


class SimccCodec(Codec):
    """One way to draw a keypoint as two lines and to read it back.

    Attributes:
        kind: names this codec.
        input_size: (height, width) of the crop in pixels.
        split_ratio: bins per crop pixel.
    """

    kind: Literal["simcc"] = "simcc"
    input_size: tuple[int, int] = (256, 192)
    split_ratio: int = Field(default=2, gt=0)
    loss: ClassVar[str] = "simcc_divergence"

    @property
    def crop(self) -> CropConvention:
        """The affine map that crops are cut with; the published models know no other."""
        return "msra"

    @property
    def frame_size(self) -> tuple[int, int]:
        """(height, width) in bins of the frame that decoded points live in."""
        height, width = self.input_size
        return height * self.split_ratio, width * self.split_ratio

    @property
    def outputs_per_point(self) -> float:
        """Bins of an axis, on average of both."""
        height, width = self.frame_size
        return (height + width) / 2

    @property
    def sigmas(self) -> tuple[float, float]:
        """Spread of the targets along y and x in bins: the root of an eighth of the side in pixels, in hundredths."""
        height, width = self.input_size
        return round((height / 8) ** 0.5, 2), round((width / 8) ** 0.5, 2)

    def encode(
        self, keypoints_crop: Float[Tensor, "n k 2"], weights: Float[Tensor, "n k"]
    ) -> tuple[Float[Tensor, "n k bins"], Float[Tensor, "n k"]]:
        """Draws one Gaussian with peak 1 per keypoint and axis, around the nearest bin.

        Args:
            keypoints_crop: x, y in crop pixels.
            weights: 0 for points that do not count; above 0.5 for points to draw.

        Returns:
            Float32 targets, all zero where nothing is drawn, and the weights, zeroed where the window of three sigmas
            lies wholly beyond a side of the crop.
        """
        bins = torch.round(keypoints_crop.double() * self.split_ratio)
        lines = []
        for axis, length, sigma in zip((0, 1), self.frame_size[::-1], self.sigmas[::-1], strict=True):
            center, reach = bins[..., axis], 3 * sigma
            weights = weights * ((center - reach < length) & (center + reach + 1 >= 0))
            distance = torch.arange(length, device=bins.device) - center[..., None]
            lines.append(torch.exp(-(distance**2) / (2 * sigma**2)).float())
        return torch.where((weights > 0.5)[..., None], torch.cat(lines, dim=-1), 0.0), weights

    def decode(self, outputs: Float[Tensor, "n k bins"]) -> tuple[Float[Tensor, "n k 2"], Float[Tensor, "n k"]]:
        """Reads the bin with the largest value on each axis.

        Args:
            outputs: logits; a flip test averages them before this.

        Returns:
            Float32 x, y in bins, and as scores the smaller of the two largest logits, which are no probabilities: they
            may exceed 1. A score that is not positive gives (-1, -1).

        Raises:
            ValueError: the number of bins is not that of this codec's input size.
        """
        (score_x, x), (score_y, y) = (line.float().max(dim=-1) for line in self.split(outputs))
        scores = torch.minimum(score_x, score_y)
        return torch.where((scores > 0)[..., None], torch.stack([x, y], dim=-1).float(), -1.0), scores

    def covariances(
        self, outputs: Float[Tensor, "n k bins"], points: Float[Tensor, "n k 2"]
    ) -> Float[Tensor, "n k 2 2"]:
        """Variance of each axis' distribution about the point, less that of the target drawn there.

        The divergence asks for the mean of the targets of all places where the point may be, and its variance is that
        of the places plus a target's own. Only :data:`~posecore.codecs.spread.REACH` sigmas of the target on both
        sides count. Two axes say nothing of their correlation, which is 0.

        Args:
            outputs: logits.
            points: as :meth:`decode` found them, in bins.

        Returns:
            Float32, bins², no axis below that of a rounded bin; NaN where there is no point.
        """
        variances = []
        for axis, (line, sigma) in enumerate(zip(self.split(outputs), self.sigmas[::-1], strict=True)):
            distance = torch.arange(line.shape[-1], device=line.device) - points[..., axis, None]
            near = distance.abs() <= REACH * sigma
            drawn = torch.exp(-(distance**2) / (2 * sigma**2))
            of_line, of_drawn = (
                ((SHARPNESS * each).softmax(dim=-1) * near * distance**2).sum(dim=-1)
                / ((SHARPNESS * each).softmax(dim=-1) * near).sum(dim=-1).clamp(min=_LEAST_MASS)
                for each in (line.float(), drawn)
            )
            variances.append(of_line - of_drawn)
        spread = torch.diag_embed(torch.stack(variances, dim=-1).clamp(min=ROUNDED))
        return torch.where((points >= 0).all(dim=-1)[..., None, None], spread, torch.nan)

    def flip_back(
        self, outputs: Float[Tensor, "n k bins"], flip_indices: Int[Tensor, " k"], shift: bool
    ) -> Float[Tensor, "n k bins"]:
        """Logits of the mirrored crop in the frame of the original one: sides swapped, the bins of x reversed.

        Args:
            outputs: predictions for the mirrored crop.
            flip_indices: mirror partner of every keypoint.
            shift: move x by a pixel's bins but one to the left, which aligns the two exactly; the published models are
                judged without.

        Raises:
            ValueError: the number of bins is not that of this codec's input size.
        """
        x, y = self.split(outputs[:, flip_indices])
        restored = x.flip(-1)
        # The centre of pixel i is bin ratio·i, and of its mirror image bin ratio·(w - 1 - i): reversing the bins lands
        # ratio - 1 bins too far right.
        gap = self.split_ratio - 1 if shift else 0
        restored = torch.cat([restored[..., gap:], restored[..., restored.shape[-1] - gap :]], dim=-1)
        return torch.cat([restored, y], dim=-1)

    def expect(self, outputs: Float[Tensor, "n k bins"]) -> tuple[Float[Tensor, "n k 2"], Float[Tensor, "n k"]]:
        """Means of the lines' softmax, in bins, and the smaller of their two maxima, without gradient."""
        lines = [line.float() for line in self.split(outputs)]
        means = [mean_place((SHARPNESS * line).softmax(dim=-1)) for line in lines]
        return torch.stack(means, dim=-1), torch.minimum(*(line.detach().amax(dim=-1) for line in lines))

    def split(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """The (n, k, bins_x) and (n, k, bins_y) parts of targets or outputs.

        Raises:
            ValueError: the number of bins is not that of this codec's input size.
        """
        height, width = self.frame_size
        if outputs.shape[-1] != height + width:
            raise ValueError(
                f"SimCC outputs have {counted(outputs.shape[-1], 'bin')} per keypoint, but a crop of {self.input_size} "
                f"(height, width) with {counted(self.split_ratio, 'bin')} per pixel has {width} + {height}; use the "
                "input size that the head was made for."
            )
        x, y = outputs.split((width, height), dim=-1)
        return x, y
