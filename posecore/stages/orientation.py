"""A stage that turns pictures as their EXIF orientation says, and what is annotated with them."""

import struct
from typing import Literal

import numpy as np
from pydantic import Field

from posecore.schema import Reject
from posecore.skeletons.skeleton import Skeleton
from posecore.stages.moved import Move, moved
from posecore.stages.pixels import Pixels, PixelStage, decoded, undecodable
from posecore.stages.protocol import Picture

_TRANSPOSED = frozenset({5, 6, 7, 8})
_FROM_RIGHT = frozenset({2, 3, 6, 7})
_FROM_BELOW = frozenset({3, 4, 7, 8})
_ORIENTATION, _SHORT = 0x0112, 3
_EXIF = b"Exif\0\0"


class Orient(PixelStage):
    """Stores pictures the way viewers show them. Everything else here takes pictures as stored, whatever EXIF says.

    A picture that need not be turned stays as it is, byte for byte. Orientations that mirror (2, 4, 5, 7) swap left and
    right of what is annotated.

    Attributes:
        annotated: whether annotations mean the ``stored`` picture and turn with it, or are those of the ``shown`` one
            already, such as from a tool that runs in a browser.
    """

    annotated: Literal["stored", "shown"] = "stored"
    skeleton: Skeleton = Field(exclude=True)

    def __call__(self, picture: Picture) -> Picture | Reject:
        """Returns the picture turned."""
        orientation = exif_orientation(picture.data)
        if orientation == 1:
            return picture
        pixels = decoded(picture.data)
        depth = None if picture.depth is None else decoded(picture.depth)
        if pixels is None or (depth is None) != (picture.depth is None):
            return undecodable(picture.record)
        record = picture.record
        if self.annotated == "stored":
            record = moved(record, turn(orientation, *pixels.shape[:2]), self.skeleton)
        turned = turned_pixels(pixels, orientation)
        return self.changed(picture, turned, record, None if depth is None else turned_pixels(depth, orientation))


def turned_pixels(pixels: Pixels, orientation: int) -> Pixels:
    """Stored pixels as they are to be shown.

    Source: Exif 2.32, tag 0x0112: which sides of the scene the first row and the first column are.
    """
    turned = pixels.swapaxes(0, 1) if orientation in _TRANSPOSED else pixels
    turned = turned[:, ::-1] if orientation in _FROM_RIGHT else turned
    turned = turned[::-1] if orientation in _FROM_BELOW else turned
    return np.ascontiguousarray(turned)


def turn(orientation: int, height: int, width: int) -> Move:
    """The same as a map of a picture's places; height and width are those of the stored one."""
    matrix = np.array([[1.0, 0, 0], [0, 1, 0]])
    if orientation in _TRANSPOSED:
        matrix, height, width = matrix[::-1].copy(), width, height
    if orientation in _FROM_RIGHT:
        matrix[0] = -matrix[0] + [0, 0, width]
    if orientation in _FROM_BELOW:
        matrix[1] = -matrix[1] + [0, 0, height]
    return Move(matrix, lambda pixels: turned_pixels(pixels, orientation))


def exif_orientation(data: bytes) -> int:
    """The EXIF orientation of a JPEG or PNG file, 1 to 8; 1 where it says nothing that is one."""
    tiff = _exif_of_jpeg(data) if data.startswith(b"\xff\xd8") else _exif_of_png(data)
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None or len(tiff) < 8:
        return 1
    (start,) = struct.unpack_from(f"{order}I", tiff, 4)
    if start + 2 > len(tiff):
        return 1
    (entries,) = struct.unpack_from(f"{order}H", tiff, start)
    for place in range(start + 2, min(start + 2 + 12 * entries, len(tiff) - 11), 12):
        tag, kind, count, value = struct.unpack_from(f"{order}HHIH", tiff, place)
        if (tag, kind, count) == (_ORIENTATION, _SHORT, 1):
            return value if 1 <= value <= 8 else 1
    return 1


def _exif_of_jpeg(data: bytes) -> bytes:
    position = 2
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xFF:  # any number of fill bytes may precede a marker
            position += 1
            continue
        if marker in (0xD9, 0xDA):
            break
        (length,) = struct.unpack_from(">H", data, position + 2)
        if marker == 0xE1 and data.startswith(_EXIF, position + 4):
            return data[position + 4 + len(_EXIF) : position + 2 + length]
        position += 2 + length
    return b""


def _exif_of_png(data: bytes) -> bytes:
    position = 8
    while position + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        if kind == b"eXIf":
            return data[position + 8 : position + 8 + length]
        position += 12 + length
    return b""
