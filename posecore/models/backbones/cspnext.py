"""CSPNeXt, the backbone of RTMPose and DWPose: a convolutional network, crop to features at 1/32.

Names and layouts are those of open-mmlab/mmpose @ 759b39c, ``mmpose/models/backbones/cspnext.py`` and
``mmpose/models/utils/csp_layer.py``, architecture P5, so that published weights load by name.

BatchNorm has PyTorch's eps 1e-5 and momentum 0.1, as in every published configuration, not the 1e-3 and 0.03 that the
published class has by default. In training it sees all rows of the micro-batch, whatever dataset they come from; across
ranks its running statistics are averaged before they are used (:mod:`posecore.training.batchnorm`).

Shape suffixes: B crops, C channels, H W sides of the input or of an intermediate map, D output channels,
h w = H/32 W/32.
"""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from posecore.models.backbone import Backbone, BackboneModule
from posecore.models.bounds import MAX_RATIO
from posecore.models.groups import Group

STRIDE = 32

_STEM_CHANNELS = 64
_STAGES = ((128, 3), (256, 6), (512, 6), (1024, 3))  # output channels and blocks at width and depth 1
_POOLING_SIZES = (5, 9, 13)


class CspnextConfig(Backbone):
    """A CSPNeXt-P5.

    Attributes:
        kind: names this backbone.
        deepen: factor on the number of blocks of every stage, rounded, at least one block.
        widen: factor on the number of channels of every stage, rounded down.
    """

    kind: Literal["cspnext"] = "cspnext"
    deepen: float = Field(gt=0, le=MAX_RATIO)
    widen: float = Field(gt=0, le=MAX_RATIO)

    @property
    def stride(self) -> int:
        """Input pixels per feature, in each direction."""
        return STRIDE

    @property
    def size_multiple(self) -> int:
        """Both sides of the input must be multiples of this."""
        return STRIDE

    def channels(self, width: int) -> int:
        """Number of channels of a layer that has ``width`` of them at ``widen`` 1."""
        return int(width * self.widen)

    def blocks(self, depth: int) -> int:
        """Number of blocks of a stage that has ``depth`` of them at ``deepen`` 1."""
        return max(round(depth * self.deepen), 1)

    def build(self, input_size: tuple[int, int], tasks: Sequence[str]) -> "Cspnext":
        """A freshly initialised backbone; it has nothing that depends on the input size or on the heads."""
        return Cspnext(self)


class Cspnext(BackboneModule):
    """Image to a grid of features at 1/32 of its size.

    Args:
        config: the architecture.
    """

    def __init__(self, config: CspnextConfig) -> None:
        super().__init__()
        self.config = config
        channels = config.channels(_STEM_CHANNELS)
        half = channels // 2
        self.stem = nn.Sequential(
            ConvNormAct(3, half, 3, stride=2), ConvNormAct(half, half, 3), ConvNormAct(half, channels, 3)
        )
        stages = []
        for number, (width, depth) in enumerate(_STAGES, start=1):
            last = number == len(_STAGES)
            wider = config.channels(width)
            layers: list[nn.Module] = [ConvNormAct(channels, wider, 3, stride=2)]
            if last:
                layers.append(SpatialPyramid(wider))
            layers.append(CrossStagePartial(wider, config.blocks(depth), residual=not last))
            stages.append(nn.Sequential(*layers))
            channels = wider
        self.stage1, self.stage2, self.stage3, self.stage4 = stages
        self.num_features = channels

    def forward(self, x_BCHW: Tensor, groups: Sequence[Group]) -> Tensor:
        """(B, 3, H, W) normalised RGB to (B, D, h, w) features, the same for every group."""
        x_BCHW = self.stage2(self.stage1(self.stem(x_BCHW)))
        return self.stage4(self.stage3(x_BCHW))


class ConvNormAct(nn.Module):
    """Convolution without bias that keeps the size (stride 1) or halves it (stride 2), BatchNorm, SiLU."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(out_channels)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Convolves, normalises, activates."""
        return F.silu(self.bn(self.conv(x_BCHW)))


class SeparableConv(nn.Module):
    """A 5×5 convolution of every channel for itself, then a 1×1 convolution across channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise_conv = ConvNormAct(channels, channels, 5, groups=channels)
        self.pointwise_conv = ConvNormAct(channels, channels, 1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Each half with its own BatchNorm and SiLU."""
        return self.pointwise_conv(self.depthwise_conv(x_BCHW))


class Block(nn.Module):
    """3×3 convolution, separable 5×5 convolution, and the input added where ``residual``."""

    def __init__(self, channels: int, residual: bool) -> None:
        super().__init__()
        self.conv1 = ConvNormAct(channels, channels, 3)
        self.conv2 = SeparableConv(channels)
        self.residual = residual

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Same shape out as in."""
        y_BCHW = self.conv2(self.conv1(x_BCHW))
        return x_BCHW + y_BCHW if self.residual else y_BCHW


class ChannelAttention(nn.Module):
    """Scales every channel by a gate in [0, 1] computed from the means of all channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc = nn.Conv2d(channels, channels, 1)
        assert self.fc.bias is not None
        nn.init.zeros_(self.fc.bias)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Same shape out as in."""
        return x_BCHW * F.hardsigmoid(self.fc(x_BCHW.mean(dim=(2, 3), keepdim=True)))


class CrossStagePartial(nn.Module):
    """Half the channels go through the blocks, the other half past them; joined, gated and mixed."""

    def __init__(self, channels: int, num_blocks: int, residual: bool) -> None:
        super().__init__()
        half = channels // 2
        self.main_conv = ConvNormAct(channels, half, 1)
        self.short_conv = ConvNormAct(channels, half, 1)
        self.blocks = nn.Sequential(*(Block(half, residual) for _ in range(num_blocks)))
        self.attention = ChannelAttention(2 * half)
        self.final_conv = ConvNormAct(2 * half, channels, 1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Same shape out as in; the channels of the blocks come first."""
        joined_BCHW = torch.cat([self.blocks(self.main_conv(x_BCHW)), self.short_conv(x_BCHW)], dim=1)
        return self.final_conv(self.attention(joined_BCHW))


class SpatialPyramid(nn.Module):
    """Half the channels, with their maxima over three neighbourhoods beside them, mixed back to all channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.conv1 = ConvNormAct(channels, half, 1)
        self.conv2 = ConvNormAct((1 + len(_POOLING_SIZES)) * half, channels, 1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Same shape out as in."""
        x_BCHW = self.conv1(x_BCHW)
        pooled = [F.max_pool2d(x_BCHW, size, stride=1, padding=size // 2) for size in _POOLING_SIZES]
        return self.conv2(torch.cat([x_BCHW, *pooled], dim=1))
