"""What every head is: features of a crop to what its codec reads, as a configuration that builds the module."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, TypeAlias

from torch import nn

from posecore.codecs.codec import Codec
from posecore.codecs.heatmap import HeatmapCodec
from posecore.config import Extension
from posecore.geometry import CropConvention

Approach: TypeAlias = Literal["top-down", "bottom-up", "one-stage"]
"""From boxes to points; from points to bodies; or both at once."""


@dataclass(frozen=True)
class Surroundings:
    """What a model says about all its heads.

    Attributes:
        input_size: (height, width) of the crops in pixels.
        heatmap_size: (height, width) of the heatmaps.
        heatmap_sigma: spread of their Gaussians in heatmap pixels.
        blur_kernel: side of the blur in decoding, in heatmap pixels.
        blur_border: what that blur sees beyond the map.
    """

    input_size: tuple[int, int]
    heatmap_size: tuple[int, int]
    heatmap_sigma: float
    blur_kernel: int
    blur_border: Literal["mirror", "zero"]


class Head(Extension):
    """The protocol of heads.

    The module that :meth:`build` returns takes (B, D, h, w) features, and gives (B, K, …) outputs that :meth:`codec`
    reads, without any final activation.

    Attributes:
        upsampling: heatmaps are this many times larger than the feature grid, in each direction; 1 where there are
            none.
        crop: the one convention of crops that it reads, with which it shifts nothing; None of a head of heatmaps, whose
            conventions say it.
        whole_scenes: whether it finds all bodies of a whole picture, and no box is needed; its codec is then a
            :class:`~posecore.codecs.scene.SceneCodec`, and its outputs are (B, …).
        approach: what the field calls models with it.
    """

    crop: ClassVar[CropConvention | None] = None
    whole_scenes: ClassVar[bool] = False
    approach: ClassVar[Approach] = "top-down"

    if TYPE_CHECKING:  # a field, a constant or a property

        @property
        def upsampling(self) -> int:
            """Side of the heatmaps by that of the features."""

    def build(
        self, num_features: int, num_keypoints: int, feature_size: tuple[int, int], input_size: tuple[int, int]
    ) -> nn.Module:
        """A freshly initialised head.

        Args:
            num_features: D.
            num_keypoints: K.
            feature_size: (height, width) of the feature grid.
            input_size: (height, width) of the crop in pixels.
        """
        raise NotImplementedError(f"{type(self).__name__} has to build its module")

    def codec(self, convention: CropConvention, model: Surroundings) -> Codec:
        """How its targets are drawn and its outputs decoded; as heatmaps unless a head says otherwise."""
        return HeatmapCodec(
            kind=convention,
            input_size=model.input_size,
            heatmap_size=model.heatmap_size,
            heatmap_sigma=model.heatmap_sigma,
            blur_kernel=model.blur_kernel,
            blur_border=model.blur_border,
        )
