"""Pictures with captions as one HTML file that needs nothing else, and as one contact sheet."""

import base64
from collections.abc import Iterable
from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from posecore.image_header import JPEG_START
from posecore.storage import AnyPath, as_path, write_atomically
from posecore.viz.encoded import contact_sheet, encode_jpeg, encode_png
from posecore.viz.page import render

Picture: TypeAlias = bytes | NDArray[np.uint8]
"""PNG or JPEG bytes, or an (H, W, 3) uint8 RGB array."""

_MOST_THUMBNAILS = 64


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
    figures: list[tuple[str, str]] = []
    thumbnails: list[NDArray[np.uint8]] = []
    for picture, caption in items:
        data = picture if isinstance(picture, bytes) else encode_jpeg(picture)
        if len(thumbnails) < _MOST_THUMBNAILS:
            thumbnails.append(_decode(data, caption) if isinstance(picture, bytes) else picture)
        source = f"data:{_media_type(data, caption)};base64,{base64.b64encode(data).decode('ascii')}"
        figures.append((source, caption))
    folder = as_path(out_dir)
    if thumbnails:
        write_atomically(folder / "contact_sheet.png", encode_png(contact_sheet(thumbnails, columns)))
    write_atomically(folder / "index.html", render("gallery.html.j2", title=title, figures=figures))
    return folder / "index.html"


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
