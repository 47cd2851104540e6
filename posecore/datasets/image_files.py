"""What image files say of themselves and of their labels: size, whether they are whole, orientation, depth."""

from typing import NamedTuple

import cv2
import numpy as np

from posecore.errors import ImageHeaderError
from posecore.image_header import (
    HEADER_BYTES,
    ImageSize,
    bits_per_sample,
    exif_orientation,
    has_end_mark,
    image_size,
)
from posecore.schema import Record
from posecore.storage import AnyPath
from posecore.tar_members import TarMember, open_picture

TRANSPOSED = frozenset({5, 6, 7, 8})
"""EXIF orientations whose rows are the scene's columns."""
_TOLERANCE_PX = 2.0


def fitting_reading(record: Record, size: ImageSize, orientation: int) -> str:
    """Which pixels the labels of a turned image fit by its size: ``stored``, ``upright``, ``either`` or ``neither``."""
    stored = np.array([size.width, size.height], np.float64)
    if orientation not in TRANSPOSED or size.width == size.height:
        return "either"
    if (record.width, record.height) == (size.height, size.width):
        return "upright"
    corners = [np.add(body.bbox_xywh[:2], body.bbox_xywh[2:]) for body in record.instances]
    labelled = [body.keypoints[body.keypoints[:, 2] > 0, :2].reshape(-1, 2) for body in record.instances]
    reached = np.max([*corners, *(points.max(axis=0) for points in labelled if len(points)), np.zeros(2)], axis=0)
    fits, fits_upright = (bool((reached <= side + _TOLERANCE_PX).all()) for side in (stored, stored[::-1]))
    return {(True, True): "either", (True, False): "stored", (False, True): "upright"}.get(
        (fits, fits_upright), "neither"
    )


class Examined(NamedTuple):
    """What an image file says of itself.

    Attributes:
        size: None if the end of the file is missing.
        orientation: of EXIF, 1 to 8.
        bits: per value.
    """

    size: ImageSize | None
    orientation: int
    bits: int


def examine(path: AnyPath | TarMember) -> Examined:
    """An image file's header.

    Raises:
        ImageHeaderError: no size can be read.
        OSError: no file can be read.
    """
    with open_picture(path) as file:
        head = file.read(HEADER_BYTES)
        tail = head
        if len(head) == HEADER_BYTES:
            length = file.seek(0, 2)
            file.seek(max(0, length - HEADER_BYTES))
            tail = file.read()
        try:
            size = image_size(head)
        except ImageHeaderError:
            if len(head) < HEADER_BYTES:
                raise
            file.seek(0)
            head = file.read()
            size = image_size(head)
    whole = size if has_end_mark(tail, size.format) else None
    return Examined(whole, exif_orientation(head), bits_per_sample(head))


def value_range(path: AnyPath | TarMember) -> tuple[int, int] | None:
    """Least and greatest value of an image; None if it cannot be decoded."""
    with open_picture(path) as file:
        data = np.frombuffer(file.read(), np.uint8)
    try:
        pixels = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
    except cv2.error:
        return None
    return None if pixels is None else (int(pixels.min()), int(pixels.max()))
