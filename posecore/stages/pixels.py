"""Pictures to pixels and back, as stages that change them do it."""

from dataclasses import replace
from typing import Any, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from posecore.image_header import ImageFormat, image_size
from posecore.schema import Record, Reject
from posecore.stages.protocol import ImageStage, Picture
from posecore.stages.rejects import reject_image

Pixels: TypeAlias = NDArray[Any]
"""(H, W) or (H, W, C), uint8 or uint16, as stored: grey, BGR or BGRA."""


_COLOUR_AS_FINE_AS_BRIGHTNESS = (cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444)
"""What a picture loses in one more encoding is then less than half, in files about as large as COCO's."""


class PixelStage(ImageStage):
    """Base of the stages that change pixels. A changed picture keeps its format, and loses metadata such as EXIF.

    Attributes:
        quality: of JPEG files, from 1 to 100.
    """

    quality: int = Field(default=95, ge=1, le=100)

    def changed(self, picture: Picture, pixels: Pixels, record: Record, depth: Pixels | None = None) -> Picture:
        """A picture of other pixels, in the format it had."""
        data = encoded(pixels, image_size(picture.data).format, self.quality)
        return replace(
            picture,
            data=data,
            record=replace(record, width=pixels.shape[1], height=pixels.shape[0]),
            depth=picture.depth if depth is None else encoded(depth, "png", self.quality),
        )


def decoded(data: bytes) -> Pixels | None:
    """The pixels as stored, EXIF orientation ignored; None if they cannot be had."""
    try:
        return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        return None


def undecodable(record: Record, of_depth: bool = False) -> Reject:
    """The reject of a picture of which :func:`decoded` gave nothing, or of its depth picture."""
    prefix, what = ("depth-", "the depth picture of ") if of_depth else ("", "")
    return reject_image(
        record, f"{prefix}undecodable-image", f"{what}{record.image} cannot be decoded (no decoder reads it)."
    )


def encoded(pixels: Pixels, kind: ImageFormat, quality: int) -> bytes:
    """The file of some pixels; equal pixels give equal bytes.

    Args:
        pixels: of 8 bits for a JPEG, whose transparency is left out.
        kind: of file.
        quality: of a JPEG.
    """
    if kind == "png":
        return cv2.imencode(".png", pixels)[1].tobytes()
    assert pixels.dtype == np.uint8, pixels.dtype
    opaque = np.ascontiguousarray(pixels[:, :, :3]) if pixels.ndim == 3 else pixels
    return cv2.imencode(".jpg", opaque, [*_COLOUR_AS_FINE_AS_BRIGHTNESS, cv2.IMWRITE_JPEG_QUALITY, quality])[
        1
    ].tobytes()
