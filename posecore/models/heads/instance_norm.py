"""The decoder of Sapiens and Sapiens2: transposed convolutions, then 1×1 convolutions, all with InstanceNorm and SiLU.

The norm has neither weights nor running statistics: it leaves no trace in a checkpoint, and works on each crop alone,
in training as in evaluation, so a prediction depends on everything in the crop, its padding included.

Sources: facebookresearch/sapiens @ 3e829ac, ``pose/mmpose/models/heads/heatmap_heads/heatmap_head.py`` (whose
parameter names these are), and facebookresearch/sapiens2 @ 3098c14,
``sapiens/pose/src/models/heads/pose_heatmap_head.py``, where ``final_layer`` is called ``conv_pose``.
"""

from collections.abc import Iterable
from itertools import pairwise
from typing import Annotated, Literal, TypeAlias

from pydantic import Field
from torch import Tensor, nn

from posecore.models.bounds import MAX_LAYERS, MAX_WIDTH
from posecore.models.head import Head
from posecore.models.heads.deconvolution import initialise_convolutions

Width: TypeAlias = Annotated[int, Field(gt=0, le=MAX_WIDTH)]


class InstanceNormHeadConfig(Head):
    """Up-sampling by two per transposed convolution, then 1×1 convolutions; every layer but the last is normalised.

    Attributes:
        kind: names this head.
        deconv_channels: widths of the 4×4 transposed convolutions.
        conv_channels: widths of the 1×1 convolutions before the last one.
        initialisation: ``normal`` draws all weights with a spread of 0.001, as Sapiens; ``kaiming`` by the number of
            outputs, as Sapiens2.
    """

    kind: Literal["instance_norm"] = "instance_norm"
    deconv_channels: tuple[Width, ...] = Field(default=(768, 768), max_length=MAX_LAYERS)
    conv_channels: tuple[Width, ...] = Field(default=(768, 768), max_length=MAX_LAYERS)
    initialisation: Literal["normal", "kaiming"] = "normal"

    @property
    def upsampling(self) -> int:
        """Heatmaps are this many times larger than the feature grid, in each direction."""
        return 2 ** len(self.deconv_channels)

    def build(
        self, num_features: int, num_keypoints: int, feature_size: tuple[int, int], input_size: tuple[int, int]
    ) -> "InstanceNormHead":
        """A freshly initialised head; it serves features of any size."""
        return InstanceNormHead(self, num_features, num_keypoints)


class InstanceNormHead(nn.Module):
    """Features to one heatmap per keypoint.

    Args:
        config: widths of the layers.
        num_features: channels of the features.
        num_keypoints: K.
    """

    def __init__(self, config: InstanceNormHeadConfig, num_features: int, num_keypoints: int) -> None:
        super().__init__()
        deconv_widths = (num_features, *config.deconv_channels)
        conv_widths = (deconv_widths[-1], *config.conv_channels)
        self.deconv_layers = _normalised(
            nn.ConvTranspose2d(before, after, kernel_size=4, stride=2, padding=1, bias=False)
            for before, after in pairwise(deconv_widths)
        )
        self.conv_layers = _normalised(
            nn.Conv2d(before, after, kernel_size=1) for before, after in pairwise(conv_widths)
        )
        self.final_layer = nn.Conv2d(conv_widths[-1], num_keypoints, kernel_size=1)
        initialise_convolutions(self, config.initialisation)

    def forward(self, features: Tensor) -> Tensor:
        """(B, D, h, w) features to (B, K, 2ⁿh, 2ⁿw) heatmaps for n transposed convolutions, without activation."""
        return self.final_layer(self.conv_layers(self.deconv_layers(features)))


def _normalised(convolutions: Iterable[nn.Conv2d | nn.ConvTranspose2d]) -> nn.Sequential:
    """Each convolution, then InstanceNorm, then SiLU: convolutions have the indices 0, 3, 6 … as published."""
    layers: list[nn.Module] = []
    for convolution in convolutions:
        layers += [convolution, nn.InstanceNorm2d(convolution.out_channels), nn.SiLU()]
    return nn.Sequential(*layers)
