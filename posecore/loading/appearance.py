"""Random changes of a crop's pixels: colour, blur, and a hole in which the network sees nothing.

As RTMPose and DWPose were trained: open-mmlab/mmpose @ 759b39c, ``configs/wholebody_2d_keypoint/rtmpose``, with
``YOLOXHSVRandomAug`` of mmdetection and ``Blur``, ``MedianBlur`` and ``CoarseDropout`` of albumentations.
Every draw is made whether it is used or not, so that changing one probability leaves the rest as it was.

Measured on a busy core, 256×192 crops: 0.65 ms a crop with the defaults, most of it for colour.
"""

from typing import Annotated, Literal, Self, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from posecore.doors import Door
from posecore.loading.augmentation import Augmentation

_KERNELS = (3, 5, 7)
_HUES = 180  # OpenCV's, of two degrees each
_LEVELS = np.arange(256, dtype=np.int64)


class AppearanceConfig(Augmentation):
    """How the pixels of a crop change; the defaults are the published ones.

    Attributes:
        kind: names this change.
        hue_shift: hue turns by up to this many steps of two degrees, either way, in every other crop.
        saturation_shift: saturation, of 255, changes by up to this much, either way, in every other crop.
        value_shift: so does brightness.
        blur_probability: of a box blur of 3, 5 or 7 pixels.
        median_blur_probability: of a median blur of the same sizes.
        hole_probability: of a black rectangle somewhere in the crop; points under it stay labelled.
        hole_extent: smallest and largest side of the rectangle, relative to the crop's.
    """

    kind: Literal["appearance"] = "appearance"
    hue_shift: int = Field(default=5, ge=0, le=90)
    saturation_shift: int = Field(default=30, ge=0, le=255)
    value_shift: int = Field(default=30, ge=0, le=255)
    blur_probability: float = Field(default=0.1, ge=0, le=1)
    median_blur_probability: float = Field(default=0.1, ge=0, le=1)
    hole_probability: float = Field(default=1.0, ge=0, le=1)
    hole_extent: tuple[float, float] = (0.2, 0.4)

    def __call__(self, crop: NDArray[np.uint8], random: np.random.Generator) -> NDArray[np.uint8]:
        """See :func:`change_appearance`."""
        change_appearance(crop, self, random)
        return crop

    @model_validator(mode="after")
    def _check(self) -> Self:
        least, most = self.hole_extent
        if not 0 < least <= most <= 1:
            raise ValueError(f"hole_extent {self.hole_extent} must be two shares of the crop, the smaller one first.")
        return self


AugmentationConfig: TypeAlias = Annotated[
    AppearanceConfig | Augmentation, Door("augmentation", "posecore.augmentations")
]
"""Every change of a crop's pixels that goes by its name, and whoever comes by."""


def change_appearance(crop: NDArray[np.uint8], config: AppearanceConfig, random: np.random.Generator) -> None:
    """Changes a crop in place.

    Args:
        crop: (h, w, 3) uint8 RGB, contiguous.
        config: how much.
        random: of this sample.
    """
    amounts = 2 * random.random(3) - 1
    chosen = random.random(3) < 0.5
    blurs, medians, holed = random.random(3).tolist()
    blur_kernel, median_kernel = (_KERNELS[index] for index in random.integers(len(_KERNELS), size=2))
    hole = random.random(4)

    limits = np.array([config.hue_shift, config.saturation_shift, config.value_shift])
    hue, saturation, value = np.trunc(amounts * limits * chosen).astype(int).tolist()
    if hue or saturation or value:
        _shift_colour(crop, hue, saturation, value)
    if blurs < config.blur_probability:
        cv2.blur(crop, (blur_kernel, blur_kernel), dst=crop)
    if medians < config.median_blur_probability:
        cv2.medianBlur(crop, median_kernel, dst=crop)
    if holed < config.hole_probability:
        _cut_hole(crop, config.hole_extent, hole)


def _shift_colour(crop: NDArray[np.uint8], hue: int, saturation: int, value: int) -> None:
    table = np.stack(
        [(_LEVELS + hue) % _HUES, np.clip(_LEVELS + saturation, 0, 255), np.clip(_LEVELS + value, 0, 255)], axis=-1
    )
    hsv = cv2.cvtColor(crop, cv2.COLOR_RGB2HSV)
    cv2.cvtColor(cv2.LUT(hsv, table[None].astype(np.uint8)), cv2.COLOR_HSV2RGB, dst=crop)


def _cut_hole(crop: NDArray[np.uint8], extent: tuple[float, float], draws: NDArray[np.float64]) -> None:
    sides = np.array(crop.shape[:2])
    least, most = np.floor(sides * extent[0]), np.floor(sides * extent[1])
    size = least + np.floor(draws[:2] * (most - least + 1))
    top, left = np.floor(draws[2:] * (sides - size + 1)).astype(int).tolist()
    height, width = size.astype(int).tolist()
    crop[top : top + height, left : left + width] = 0
