"""A head for whole pictures: heatmaps and tags of all bodies, from a grid of features that knows of no box.

Source: Cheng et al., HigherHRNet (arXiv 1908.10357), whose second resolution is kept, on ViTPose's decoder (arXiv
2204.12484). The finer maps see the decoder's features alone, not the coarser maps as well: so every layer but the last
ones is of any skeleton. Tags are given their place in the picture beside the features (Liu et al., CoordConv, arXiv
1807.03247): as long as the tags of all bodies are alike, their loss hardly says how they are to differ, and from place
alone they can begin to.
"""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from posecore.codecs.associative import AssociativeCodec
from posecore.geometry import CropConvention
from posecore.models.bounds import MAX_WIDTH
from posecore.models.head import Approach, Head, Surroundings
from posecore.models.heads.deconvolution import deconv_layers, initialise_convolutions


class AssociativeHeadConfig(Head):
    """Heatmaps and tags at four times the feature grid, heatmaps at eight times.

    Attributes:
        kind: names this head.
        channels: width of the two up-sampling layers.
        fine_channels: width of the third, and of the blocks behind it.
        fine_blocks: residual blocks at the finer resolution.
    """

    kind: Literal["associative"] = "associative"
    channels: int = Field(default=256, gt=0, le=MAX_WIDTH)
    fine_channels: int = Field(default=32, gt=0, le=MAX_WIDTH)
    fine_blocks: int = Field(default=4, ge=0, le=64)
    crop: ClassVar[CropConvention | None] = "udp"
    whole_scenes: ClassVar[bool] = True
    approach: ClassVar[Approach] = "bottom-up"

    @property
    def upsampling(self) -> int:
        """The coarser maps are this many times larger than the feature grid, in each direction."""
        return 4

    def build(
        self, num_features: int, num_keypoints: int, feature_size: tuple[int, int], input_size: tuple[int, int]
    ) -> "AssociativeHead":
        """A freshly initialised head; it serves features of any size."""
        return AssociativeHead(self, num_features, num_keypoints)

    def codec(self, convention: CropConvention, model: Surroundings) -> AssociativeCodec:
        """Maps of the model's size and spread."""
        return AssociativeCodec(
            input_size=model.input_size, heatmap_size=model.heatmap_size, heatmap_sigma=model.heatmap_sigma
        )


class AssociativeHead(nn.Module):
    """See the module's description; arguments as :meth:`AssociativeHeadConfig.build`."""

    def __init__(self, config: AssociativeHeadConfig, num_features: int, num_keypoints: int) -> None:
        super().__init__()
        self.deconv_layers = deconv_layers(num_features, config.channels)
        self.final_layer = nn.Conv2d(config.channels, num_keypoints, kernel_size=1)
        self.tag_layer = nn.Conv2d(config.channels + 2, num_keypoints, kernel_size=1)
        self.fine_layers = nn.Sequential(
            nn.ConvTranspose2d(config.channels, config.fine_channels, kernel_size=4, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(config.fine_channels),
            nn.ReLU(),
            *(ResidualBlock(config.fine_channels) for _ in range(config.fine_blocks)),
        )
        self.fine_layer = nn.Conv2d(config.fine_channels, num_keypoints, kernel_size=1)
        initialise_convolutions(self)

    def forward(self, features: Tensor) -> Tensor:
        """(B, D, h, w) features to (B, K, 16hw + 16hw + 64hw): coarser heatmaps, tags, finer heatmaps."""
        decoded = self.deconv_layers(features)
        tags = self.tag_layer(torch.cat([decoded, places_beside(decoded)], dim=1))
        maps = self.final_layer(decoded), tags, self.fine_layer(self.fine_layers(decoded))
        return torch.cat([each.flatten(2) for each in maps], dim=2)


def places_beside(maps_BDhw: Tensor) -> Tensor:
    """(B, 2, h, w) x and y of every pixel, from -1 to 1."""
    batch, _, height, width = maps_BDhw.shape
    y, x = (torch.linspace(-1, 1, side, dtype=maps_BDhw.dtype, device=maps_BDhw.device) for side in (height, width))
    return torch.stack([x.expand(height, width), y[:, None].expand(height, width)]).expand(batch, -1, -1, -1)


class ResidualBlock(nn.Module):
    """Two 3×3 convolutions with BatchNorm around which the input is led (He et al., arXiv 1512.03385)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(channels, channels, kernel_size=3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, kernel_size=3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x_BChw: Tensor) -> Tensor:
        """Same shape out as in."""
        return torch.relu(x_BChw + self.layers(x_BChw))
