"""Stages for pictures of 16 bits: thermal or infrared ones, and depth."""

from dataclasses import replace
from typing import Self

import numpy as np
from pydantic import Field, model_validator

from posecore.schema import Reject
from posecore.stages.pixels import Pixels, PixelStage, decoded, encoded, undecodable
from posecore.stages.protocol import ImageStage, Picture


class ScaleRange(PixelStage):
    """Makes pictures of 16 bits into such of 8, by a range that is the same for all; those of 8 bits stay.

    Attributes:
        low: value that becomes 0, as all below.
        high: value that becomes 255, as all above.
    """

    low: float = Field(ge=0, le=65535)
    high: float = Field(ge=0, le=65535)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.low >= self.high:
            raise ValueError("low: must be below high.")
        return self

    def __call__(self, picture: Picture) -> Picture | Reject:
        """Returns the picture in 8 bits."""
        pixels = decoded(picture.data)
        if pixels is None:
            return undecodable(picture.record)
        if pixels.dtype == np.uint8:
            return picture
        return self.changed(picture, scaled(pixels, self.low, self.high), picture.record)


class ScaleDepth(ImageStage):
    """Gives depth pictures another unit, and calls unknown (0) what is nearer or further than what is of interest.

    Attributes:
        metres_per_unit: what 1 stands for in the result, 0.001 for millimetres.
        nearest_m: least distance that stays.
        furthest_m: greatest distance that stays; None for all. What does not fit into 16 bits becomes unknown.
    """

    metres_per_unit: float = Field(default=0.001, gt=0)
    nearest_m: float = Field(default=0.0, ge=0)
    furthest_m: float | None = Field(default=None, gt=0)

    def __call__(self, picture: Picture) -> Picture | Reject:
        """Returns the picture with other depth."""
        described = picture.record.depth
        if picture.depth is None or described is None:
            return picture
        depth = decoded(picture.depth)
        if depth is None:
            return undecodable(picture.record, of_depth=True)
        metres = depth * described.metres_per_unit
        units = np.round(metres / self.metres_per_unit)
        known = (metres >= self.nearest_m) & (units <= np.iinfo(np.uint16).max)
        if self.furthest_m is not None:
            known &= metres <= self.furthest_m
        data = encoded(np.where(known, units, 0).astype(np.uint16), "png", 0)
        restated = replace(described, metres_per_unit=self.metres_per_unit)
        return replace(picture, depth=data, record=replace(picture.record, depth=restated))


def scaled(pixels: Pixels, low: float, high: float) -> Pixels:
    """Pixels of 8 bits: ``low`` and all below becomes 0, ``high`` and all above 255."""
    share = (pixels.astype(np.float64) - low) / (high - low)
    return np.round(255 * share.clip(0, 1)).astype(np.uint8)
