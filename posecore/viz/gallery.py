"""Pictures with captions as one HTML file that needs nothing else, and as one contact sheet."""

import base64
import html
import math
from collections.abc import Iterable
from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from posecore.image_header import JPEG_START
from posecore.storage import AnyPath, as_path, write_atomically

Picture: TypeAlias = bytes | NDArray[np.uint8]
"""PNG or JPEG bytes, or an (H, W, 3) uint8 RGB array."""

_THUMBNAIL_PX = 256
_MOST_THUMBNAILS = 64
_JPEG_QUALITY = 90

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; font: 15px/1.45 system-ui, sans-serif; }}
body {{ margin: 1.5rem; }}
h1 {{ font-size: 1.35rem; margin: 0 0 0.25rem; }}
.grid {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(16rem, 1fr)); gap: 1rem; margin-top: 1rem; }}
figure {{ margin: 0; border: 1px solid #8886; border-radius: 6px; overflow: hidden; }}
img {{ display: block; width: 100%; height: auto; }}
figcaption {{ padding: 0.4rem 0.6rem; white-space: pre-line; overflow-wrap: anywhere; }}
</style>
</head>
<body>
<h1>{title}</h1>
<p>{count}</p>
<main class="grid">
{figures}
</main>
</body>
</html>
"""


def write_gallery(
    items: Iterable[tuple[Picture, str]], out_dir: str | AnyPath, title: str, columns: int | None = None
) -> AnyPath:
    """Writes ``index.html`` with all pictures embedded and ``contact_sheet.png`` with the first 64 of them.

    Args:
        items: pictures with their captions, shown in this order; captions are plain text.
        out_dir: folder, made if missing.
        title: heading, plain text.
        columns: of the contact sheet; left out, it is about square.

    Returns:
        Path of ``index.html``.

    Raises:
        ValueError: a picture's bytes are neither PNG nor JPEG.
    """
    figures: list[str] = []
    thumbnails: list[NDArray[np.uint8]] = []
    for picture, caption in items:
        data = picture if isinstance(picture, bytes) else encode_jpeg(picture)
        if len(thumbnails) < _MOST_THUMBNAILS:
            thumbnails.append(_decode(data, caption) if isinstance(picture, bytes) else picture)
        text = html.escape(caption)
        source = f"data:{_media_type(data, caption)};base64,{base64.b64encode(data).decode('ascii')}"
        figures.append(f'<figure><img src="{source}" alt="{text}"><figcaption>{text}</figcaption></figure>')
    folder = as_path(out_dir)
    count = "1 picture" if len(figures) == 1 else f"{len(figures)} pictures"
    page = _PAGE.format(title=html.escape(title), count=count, figures="\n".join(figures))
    if thumbnails:
        write_atomically(folder / "contact_sheet.png", encode_png(contact_sheet(thumbnails, columns)))
    write_atomically(folder / "index.html", page.encode())
    return folder / "index.html"


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


def _decode(data: bytes, caption: str) -> NDArray[np.uint8]:
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    if image is None:
        raise ValueError(f"the picture captioned {caption!r} does not decode; give whole PNG or JPEG bytes.")
    return np.asarray(image, np.uint8)


def _media_type(data: bytes, caption: str) -> str:
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if data.startswith(JPEG_START):
        return "image/jpeg"
    raise ValueError(f"the picture captioned {caption!r} is neither PNG nor JPEG; give one of the two, or an array.")


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
