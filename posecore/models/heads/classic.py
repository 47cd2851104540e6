"""Decoders of ViTPose: features at 1/16 of the input become one heatmap per keypoint at 1/4.

Names and layouts are those of ViTAE-Transformer/ViTPose @ c050ed2,
``mmpose/models/heads/topdown_heatmap_simple_head.py``, so that published weights load by name.
"""

from typing import ClassVar, Literal

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from posecore.codecs.places import PlacesCodec
from posecore.geometry import CropConvention
from posecore.models.bounds import MAX_WIDTH
from posecore.models.head import Head, Surroundings
from posecore.models.heads.deconvolution import deconv_layers, initialise_convolutions


class _Deconvolving(Head):
    """What heads with the layers of :class:`ClassicHead` have in common."""

    channels: int = Field(default=256, gt=0, le=MAX_WIDTH)

    @property
    def upsampling(self) -> int:
        """Maps are this many times larger than the feature grid, in each direction."""
        return 4

    def build(
        self, num_features: int, num_keypoints: int, feature_size: tuple[int, int], input_size: tuple[int, int]
    ) -> "ClassicHead":
        """A freshly initialised head; it serves features of any size."""
        return ClassicHead(num_features, self.channels, num_keypoints)


class ClassicHeadConfig(_Deconvolving):
    """Two 2× transposed convolutions with BatchNorm and ReLU, then a 1×1 convolution.

    Attributes:
        kind: names this head.
        channels: width of the two up-sampling layers.
    """

    kind: Literal["classic"] = "classic"


class SimpleHeadConfig(Head):
    """ReLU, 4× bilinear up-sampling, one 3×3 convolution: no BatchNorm, almost no parameters."""

    kind: Literal["simple"] = "simple"

    @property
    def upsampling(self) -> int:
        """Heatmaps are this many times larger than the feature grid, in each direction."""
        return 4

    def build(
        self, num_features: int, num_keypoints: int, feature_size: tuple[int, int], input_size: tuple[int, int]
    ) -> "SimpleHead":
        """A freshly initialised head; it serves features of any size."""
        return SimpleHead(num_features, num_keypoints)


class PlacesHeadConfig(_Deconvolving):
    """The layers of :class:`ClassicHeadConfig`, read as distributions over places, which learn how far off they are.

    Attributes:
        kind: names this head.
        channels: width of the two up-sampling layers.
    """

    kind: Literal["places"] = "places"
    crop: ClassVar[CropConvention | None] = "udp"

    def codec(self, convention: CropConvention, model: Surroundings) -> PlacesCodec:
        """Distributions over the map's pixels."""
        return PlacesCodec(
            input_size=model.input_size, heatmap_size=model.heatmap_size, heatmap_sigma=model.heatmap_sigma
        )


class ClassicHead(nn.Module):
    """The deconvolution decoder (equation 2 of arXiv 2204.12484)."""

    def __init__(self, num_features: int, channels: int, num_keypoints: int) -> None:
        super().__init__()
        self.deconv_layers = deconv_layers(num_features, channels)
        self.final_layer = nn.Conv2d(channels, num_keypoints, kernel_size=1)
        initialise_convolutions(self)

    def forward(self, features: Tensor) -> Tensor:
        """(B, D, h, w) features to (B, K, 4h, 4w) heatmaps, without any final activation."""
        return self.final_layer(self.deconv_layers(features))


class SimpleHead(nn.Module):
    """The bilinear decoder (equation 3 of arXiv 2204.12484): ReLU comes before the up-sampling."""

    def __init__(self, num_features: int, num_keypoints: int) -> None:
        super().__init__()
        self.final_layer = nn.Conv2d(num_features, num_keypoints, kernel_size=3, padding=1)
        initialise_convolutions(self)

    def forward(self, features: Tensor) -> Tensor:
        """(B, D, h, w) features to (B, K, 4h, 4w) heatmaps, without any final activation."""
        upsampled = F.interpolate(F.relu(features), scale_factor=4, mode="bilinear", align_corners=False)
        return self.final_layer(upsampled)
