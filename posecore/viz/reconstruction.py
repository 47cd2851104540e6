"""What a masked autoencoder sees and what it makes of it, side by side: whether it learns is seen at a glance."""

from collections.abc import Sequence
from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

Reconstruction: TypeAlias = tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8]]
"""One crop three times, each (h, w, 3) uint8 RGB: as it is, with hidden patches grey, with hidden patches predicted."""

_COLUMNS = ("input", "masked", "reconstruction")
_HEADER_PX, _GAP_PX, _LEAST_SIDE_PX = 24, 4, 128


def reconstruction_sheet(rows: Sequence[Reconstruction]) -> NDArray[np.uint8]:
    """One row per crop, with a heading over each column.

    Args:
        rows: crops of one size, at least one; small ones are enlarged without smoothing.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    factor = max(1, -(-_LEAST_SIDE_PX // min(rows[0][0].shape[:2])))
    lines = [np.concatenate([_cell(picture, factor) for picture in row], axis=1) for row in rows]
    header = np.full((_HEADER_PX, lines[0].shape[1], 3), 255, np.uint8)
    for number, title in enumerate(_COLUMNS):
        place = (number * header.shape[1] // 3 + _GAP_PX, _HEADER_PX - 8)
        cv2.putText(header, title, place, cv2.FONT_HERSHEY_SIMPLEX, 0.45, (0, 0, 0), 1, cv2.LINE_AA)
    return np.concatenate([header, *lines], axis=0)


def _cell(picture: NDArray[np.uint8], factor: int) -> NDArray[np.uint8]:
    large = picture.repeat(factor, axis=0).repeat(factor, axis=1)
    return np.pad(large, ((0, _GAP_PX), (0, _GAP_PX), (0, 0)), constant_values=255)
