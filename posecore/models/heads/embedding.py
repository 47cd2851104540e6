"""The embedding head of PoseBH (arXiv 2505.17475): features at 1/16 of the input become one vector per pixel at 1/4.

Keypoints of every skeleton live in one space of these vectors, each near its prototypes
(:mod:`posecore.models.prototypes`). Names and layouts are those of uyoung-jeong/PoseBH @ 8f03438,
``mmpose/models/heads/kpt_proto_head.py`` with neck ``res``, head kernel 3 and SiLU, so that published weights load by
name.
"""

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from posecore.config import Config
from posecore.models.bounds import MAX_TOKENS, MAX_WIDTH
from posecore.models.heads.deconvolution import deconv_layers, initialise_convolutions


class EmbeddingConfig(Config):
    """Embedding head and prototypes, beside the heads of a model.

    Attributes:
        dim: length of an embedding and of a prototype.
        channels: width of the two up-sampling layers.
        prototypes_per_point: M, unit vectors that stand for one keypoint.
    """

    dim: int = Field(default=64, gt=0, le=MAX_WIDTH)
    channels: int = Field(default=256, gt=0, le=MAX_WIDTH)
    prototypes_per_point: int = Field(default=3, gt=0, le=MAX_TOKENS)

    @property
    def upsampling(self) -> int:
        """Embedding maps are this many times larger than the feature grid, in each direction."""
        return 4

    def build(self, num_features: int) -> "EmbeddingHead":
        """A freshly initialised embedding head."""
        return EmbeddingHead(num_features, self.channels, self.dim)


class EmbeddingHead(nn.Module):
    """Two 2× transposed convolutions, a residual block, a convolution and a projection."""

    def __init__(self, num_features: int, channels: int, dim: int) -> None:
        super().__init__()
        self.deconv_layers = deconv_layers(num_features, channels)
        self.neck = _ResidualBlock(channels, dim)
        self.head = nn.Sequential(
            nn.Conv2d(dim, dim, kernel_size=3, padding=1),
            nn.BatchNorm2d(dim),
            nn.SiLU(),
            nn.Conv2d(dim, dim, kernel_size=1),
        )
        initialise_convolutions(self)

    def forward(self, features: Tensor) -> Tensor:
        """(B, D, h, w) features to (B, C, 4h, 4w) embeddings of any length; only their direction has a meaning."""
        return self.head(self.neck(self.deconv_layers(features)))


class _ResidualBlock(nn.Module):
    """Two 3×3 convolutions beside a projected shortcut, with SiLU."""

    def __init__(self, channels: int, dim: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, dim, kernel_size=3, padding=1)
        self.bn1 = nn.BatchNorm2d(dim)
        self.conv2 = nn.Conv2d(dim, dim, kernel_size=3, padding=1)
        self.bn2 = nn.BatchNorm2d(dim)
        self.downsample = nn.Sequential(nn.Conv2d(channels, dim, kernel_size=1, bias=False), nn.BatchNorm2d(dim))

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, h, w) to (B, dim, h, w)."""
        residual = self.bn2(self.conv2(F.silu(self.bn1(self.conv1(x)))))
        return F.silu(residual + self.downsample(x))
