"""Pictures as bytes: PNG, JPEG, an address for a page that fetches nothing, and many on one sheet."""

import base64
import math
from collections.abc import Iterable

import cv2
import numpy as np
from numpy.typing import NDArray

_THUMBNAIL_PX = 256
_JPEG_QUALITY = 90


def contact_sheet(
    images: Iterable[NDArray[np.uint8]], columns: int | None = None, cell_px: int = _THUMBNAIL_PX
) -> NDArray[np.uint8]:
    """Puts images into a grid of square cells, each scaled to fit and centred on a light ground.

    Args:
        images: (H, W, 3) uint8 RGB arrays of any sizes, at least one.
        columns: cells per row; left out, the sheet is about square.
        cell_px: side of a cell, px.

    Returns:
        (rows * cell_px, columns * cell_px, 3) uint8 RGB.
    """
    cells = [_fit(image, cell_px) for image in images]
    if not cells:
        raise ValueError("a contact sheet needs at least one image.")
    columns = columns or math.ceil(math.sqrt(len(cells)))
    rows = math.ceil(len(cells) / columns)
    cells += [np.full((cell_px, cell_px, 3), 245, np.uint8)] * (rows * columns - len(cells))
    return np.concatenate(
        [np.concatenate(cells[row * columns : (row + 1) * columns], axis=1) for row in range(rows)], axis=0
    )


def encode_png(image_rgb: NDArray[np.uint8]) -> bytes:
    """The PNG bytes of an (H, W, 3) uint8 RGB image."""
    _, data = cv2.imencode(".png", cv2.cvtColor(image_rgb, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_PNG_COMPRESSION, 6])
    return data.tobytes()


def encode_jpeg(image_rgb: NDArray[np.uint8]) -> bytes:
    """The JPEG bytes (quality 90) of an (H, W, 3) uint8 RGB image."""
    settings = [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]
    _, data = cv2.imencode(".jpg", cv2.cvtColor(image_rgb, cv2.COLOR_RGB2BGR), settings)
    return data.tobytes()


def data_url(image_rgb: NDArray[np.uint8]) -> str:
    """An (H, W, 3) uint8 RGB image as the address of itself, for a page that fetches nothing."""
    return f"data:image/jpeg;base64,{base64.b64encode(encode_jpeg(image_rgb)).decode('ascii')}"


def _fit(image: NDArray[np.uint8], cell_px: int) -> NDArray[np.uint8]:
    height, width = image.shape[:2]
    inner = cell_px - 4
    factor = inner / max(height, width)
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR)
    cell = np.full((cell_px, cell_px, 3), 245, np.uint8)
    top, left = (cell_px - size[1]) // 2, (cell_px - size[0]) // 2
    cell[top : top + size[1], left : left + size[0]] = small
    return cell
