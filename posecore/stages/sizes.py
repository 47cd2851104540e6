"""Stages that change the size or the file format of pictures."""

from dataclasses import replace
from typing import Literal

import cv2
import numpy as np
from pydantic import Field

from posecore.image_header import image_size
from posecore.schema import Reject
from posecore.skeletons.skeleton import Skeleton
from posecore.stages.moved import Move, moved
from posecore.stages.pixels import Pixels, PixelStage, decoded, encoded, undecodable
from posecore.stages.protocol import Picture
from posecore.stages.rejects import reject_image


class Resize(PixelStage):
    """Gives pictures a longer side of so many pixels, and moves what is annotated; sides are rounded to whole pixels.

    Depth takes the nearest value, so that near and far never mix.

    Attributes:
        longer_side_px: of the result.
        enlarge: also pictures that are smaller; otherwise they stay as they are, byte for byte.
    """

    longer_side_px: int = Field(ge=8, le=1 << 15)
    enlarge: bool = False
    skeleton: Skeleton = Field(exclude=True)

    def __call__(self, picture: Picture) -> Picture | Reject:
        """Returns the picture in its new size."""
        size = image_size(picture.data)
        factor = self.longer_side_px / max(size.width, size.height)
        if factor == 1 or (factor > 1 and not self.enlarge):
            return picture
        pixels = decoded(picture.data)
        depth = None if picture.depth is None else decoded(picture.depth)
        if pixels is None or (depth is None) != (picture.depth is None):
            return undecodable(picture.record)
        width, height = max(1, round(size.width * factor)), max(1, round(size.height * factor))

        def nearest(given: Pixels) -> Pixels:
            return cv2.resize(given, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)

        matrix = np.array([[width / size.width, 0, 0], [0, height / size.height, 0]])
        record = moved(picture.record, Move(matrix, nearest), self.skeleton)
        kind = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
        smaller = cv2.resize(pixels, (width, height), interpolation=kind)
        return self.changed(picture, smaller, record, None if depth is None else nearest(depth))


class Reencode(PixelStage):
    """Stores pictures as files of one format, without metadata such as EXIF; what is annotated stays.

    A PNG that shall be one stays as it is, byte for byte; a JPEG is encoded again.

    Attributes:
        format: ``jpeg`` (a picture of 16 bits is taken out, ``not-8-bit``; transparency is left out) or ``png``.
    """

    format: Literal["jpeg", "png"] = "jpeg"

    def __call__(self, picture: Picture) -> Picture | Reject:
        """Returns the picture in its new format."""
        if self.format == "png" and image_size(picture.data).format == "png":
            return picture
        pixels = decoded(picture.data)
        if pixels is None:
            return undecodable(picture.record)
        if self.format == "jpeg" and pixels.dtype != np.uint8:
            detail = f"{picture.record.image} has 16 bits, a JPEG 8; use scale_range before."
            return reject_image(picture.record, "not-8-bit", detail)
        return replace(picture, data=encoded(pixels, self.format, self.quality))
