"""The head of RTMPose: one token per keypoint, gated attention among the tokens, a line of logits per image axis.

Names and layouts are those of open-mmlab/mmpose @ 759b39c,
``mmpose/models/heads/coord_cls_heads/rtmcc_head.py`` and ``mmpose/models/utils/rtmcc_block.py``, so that published
weights load by name. :class:`posecore.codecs.simcc.SimccCodec` draws its targets and reads its output.

Unlike a heatmap head it is tied to the input size: ``mlp`` takes as many numbers per keypoint as the feature grid has
places, and the number of bins follows the sides of the crop.

Shape suffixes: B crops, K keypoints, D features, h w feature grid, C token width, E gated width, S width of queries and
keys, X bins of both axes together.
"""

from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from posecore.codecs.simcc import SimccCodec
from posecore.geometry import CropConvention
from posecore.models.bounds import MAX_RATIO, MAX_WIDTH
from posecore.models.head import Head, Surroundings

_NORM_FLOOR = 1e-5


class RtmccHeadConfig(Head):
    """Coordinate classification with gated attention.

    Attributes:
        kind: names this head.
        token_dim: width of a keypoint's token.
        attention_dim: width of its query and key.
        expansion: gated width as a multiple of ``token_dim``.
        kernel: side of the convolution that makes one map per keypoint.
        split_ratio: bins per crop pixel.
    """

    kind: Literal["rtmcc"] = "rtmcc"
    crop: ClassVar[CropConvention | None] = "msra"
    token_dim: int = Field(default=256, gt=0, le=MAX_WIDTH)
    attention_dim: int = Field(default=128, gt=0, le=MAX_WIDTH)
    expansion: int = Field(default=2, gt=0, le=MAX_RATIO)
    kernel: Literal[1, 3, 5, 7] = 7
    split_ratio: int = Field(default=2, gt=0, le=MAX_RATIO)

    @property
    def upsampling(self) -> int:
        """1, since there are no heatmaps to enlarge: the output is two lines of bins per keypoint."""
        return 1

    def build(
        self, num_features: int, num_keypoints: int, feature_size: tuple[int, int], input_size: tuple[int, int]
    ) -> "RtmccHead":
        """A freshly initialised head.

        Args:
            num_features: D.
            num_keypoints: K.
            feature_size: (height, width) of the feature grid.
            input_size: (height, width) of the crop in pixels.
        """
        return RtmccHead(self, num_features, num_keypoints, feature_size, input_size)

    def codec(self, convention: CropConvention, model: Surroundings) -> SimccCodec:
        """SimCC's, of this many bins per pixel."""
        return SimccCodec(input_size=model.input_size, split_ratio=self.split_ratio)


class RtmccHead(nn.Module):
    """See the module's description; arguments as :meth:`RtmccHeadConfig.build`."""

    def __init__(
        self,
        config: RtmccHeadConfig,
        num_features: int,
        num_keypoints: int,
        feature_size: tuple[int, int],
        input_size: tuple[int, int],
    ) -> None:
        super().__init__()
        num_places = feature_size[0] * feature_size[1]
        height, width = (side * config.split_ratio for side in input_size)
        self.final_layer = nn.Conv2d(num_features, num_keypoints, config.kernel, padding=config.kernel // 2)
        self.mlp = nn.Sequential(ScaleNorm(num_places), nn.Linear(num_places, config.token_dim, bias=False))
        self.gau = GatedAttention(config.token_dim, config.attention_dim, config.expansion)
        self.cls_x = nn.Linear(config.token_dim, width, bias=False)
        self.cls_y = nn.Linear(config.token_dim, height, bias=False)
        _initialise(self)

    def forward(self, features_BDhw: Tensor) -> Tensor:
        """(B, D, h, w) features to (B, K, X) logits: the bins of x first, then those of y; no activation."""
        tokens_BKC = self.gau(self.mlp(self.final_layer(features_BDhw).flatten(2)))
        return torch.cat([self.cls_x(tokens_BKC), self.cls_y(tokens_BKC)], dim=-1)


class ScaleNorm(nn.Module):
    """Divides a vector by its root mean square and multiplies it by one learned number.

    Source: Nguyen and Salazar, arXiv 1910.05895, with the root of the width moved into the norm.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.g = nn.Parameter(torch.ones(1))
        self._scale = dim**-0.5

    def forward(self, x: Tensor) -> Tensor:
        """Normalises the last axis."""
        root_mean_square = torch.linalg.vector_norm(x, dim=-1, keepdim=True) * self._scale
        return x / root_mean_square.clamp(min=_NORM_FLOOR) * self.g


class ChannelScale(nn.Module):
    """Multiplies every channel by a learned number."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        """Same shape out as in."""
        return x * self.scale


class GatedAttention(nn.Module):
    """Gated attention unit over the keypoints' tokens, with squared ReLU instead of softmax.

    Source: Hua et al., arXiv 2202.10447, without relative bias and position encoding, as in every RTMPose.
    """

    def __init__(self, dim: int, attention_dim: int, expansion: int) -> None:
        super().__init__()
        self._widths = (expansion * dim, expansion * dim, attention_dim)
        self.ln = ScaleNorm(dim)
        self.uv = nn.Linear(dim, sum(self._widths), bias=False)
        self.gamma = nn.Parameter(torch.rand(2, attention_dim))
        self.beta = nn.Parameter(torch.rand(2, attention_dim))
        self.o = nn.Linear(expansion * dim, dim, bias=False)
        self.res_scale = ChannelScale(dim)

    def forward(self, x_BKC: Tensor) -> Tensor:
        """(B, K, C) tokens to (B, K, C) tokens."""
        gate_BKE, value_BKE, base_BKS = F.silu(self.uv(self.ln(x_BKC))).split(self._widths, dim=-1)
        query_BKS, key_BKS = (base_BKS[:, :, None] * self.gamma + self.beta).unbind(dim=2)
        weight_BKK = F.relu(query_BKS @ key_BKS.transpose(-1, -2) / base_BKS.shape[-1] ** 0.5).square()
        return self.res_scale(x_BKC) + self.o(gate_BKE * (weight_BKK @ value_BKE))


def _initialise(head: RtmccHead) -> None:
    nn.init.normal_(head.final_layer.weight, std=0.001)
    assert head.final_layer.bias is not None
    nn.init.zeros_(head.final_layer.bias)
    for module in head.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.01)
