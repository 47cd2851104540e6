"""A stage that turns pictures as their EXIF orientation says, and what is annotated with them."""

from typing import Literal

import numpy as np
from pydantic import Field

from posecore.image_header import exif_orientation
from posecore.schema import Reject
from posecore.skeletons.skeleton import Skeleton
from posecore.stages.moved import Move, moved
from posecore.stages.pixels import Pixels, PixelStage, decoded, undecodable
from posecore.stages.protocol import Picture

_TRANSPOSED = frozenset({5, 6, 7, 8})
_FROM_RIGHT = frozenset({2, 3, 6, 7})
_FROM_BELOW = frozenset({3, 4, 7, 8})


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
