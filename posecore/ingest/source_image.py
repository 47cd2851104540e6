"""Reading one source image: whole, bounded, and judged by its header and its end before anything decodes it."""

import hashlib
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import simplejpeg
from xxhash import xxh3_64_intdigest

from posecore.errors import ImageHeaderError
from posecore.image_header import ImageFormat, has_end_mark, image_size
from posecore.ingest.plan import IngestSettings
from posecore.storage import AnyPath

EXTENSIONS: dict[ImageFormat, str] = {"jpeg": "jpg", "png": "png"}
"""Member extension by format, so that any WebDataset reader picks the right decoder, whatever the file was called."""

_JPEG_SCAN = b"\xff\xda"
_PNG_PIXELS = slice(24, 26)  # bit depth and colour type, within the IHDR chunk
_GREY_OF_16_BITS = b"\x10\x00"


@dataclass(slots=True, frozen=True, eq=False)
class SourceImage:
    """An accepted image file.

    Attributes:
        data: the file's bytes.
        format: ``jpeg`` or ``png``.
        width: pixels, as stored; EXIF orientation is ignored.
        height: pixels.
        sha256: of the bytes, 64 hexadecimal digits.
        xxh3: 64-bit XXH3 of the bytes, which every later read is checked against.
    """

    data: bytes
    format: ImageFormat
    width: int
    height: int
    sha256: str
    xxh3: int


class Unusable(NamedTuple):
    """Why an image file cannot be taken.

    Attributes:
        reason: kebab-case code.
        detail: one sentence.
    """

    reason: str
    detail: str


def read_source_image(path: AnyPath, width: int, height: int, settings: IngestSettings) -> SourceImage | Unusable:
    """Reads and judges one image file.

    Args:
        path: the file.
        width: pixels the annotation states; 0 if it does not.
        height: likewise.
        settings: limits, and whether to decode.

    Returns:
        The image, or the reason: ``missing-image``, ``unreadable-image``, ``empty-image``, ``too-large``,
        ``not-an-image``, ``too-many-pixels``, ``size-mismatch``, ``truncated-image``, ``undecodable-image``.
    """
    try:
        data = _read_at_most(path, settings.max_image_bytes + 1)
    except (FileNotFoundError, NotADirectoryError):
        return Unusable("missing-image", f"{path} does not exist.")
    except OSError as error:
        return Unusable("unreadable-image", f"{path} cannot be read ({error.strerror or error}).")
    if not data:
        return Unusable("empty-image", f"{path} has 0 bytes.")
    if len(data) > settings.max_image_bytes:
        return Unusable("too-large", f"{path} has more than the {settings.max_image_bytes} bytes allowed.")
    try:
        size = image_size(data)
    except ImageHeaderError as error:
        return Unusable("not-an-image", f"{path}: {error}")
    if size.width * size.height > settings.max_image_pixels:
        return Unusable("too-many-pixels", f"{path} states {size.width}x{size.height} pixels.")
    if (width and size.width != width) or (height and size.height != height):
        stored = f"{size.width}x{size.height}"
        return Unusable("size-mismatch", f"{path} is {stored} pixels, the annotation says {width}x{height}.")
    if not _is_whole(data, size.format):
        return Unusable("truncated-image", f"{path} ends before its {size.format.upper()} end mark.")
    if settings.decode == "full" and not _decodes(data, size.width, size.height):
        return Unusable("undecodable-image", f"{path} cannot be decoded.")
    sha256 = hashlib.sha256(data).hexdigest()
    return SourceImage(data, size.format, size.width, size.height, sha256, xxh3_64_intdigest(data))


def read_depth_image(path: AnyPath, width: int, height: int, settings: IngestSettings) -> SourceImage | Unusable:
    """Reads and judges one depth picture.

    Args:
        path: the file.
        width: pixels of the image it belongs to.
        height: likewise.
        settings: limits, and whether to decode.

    Returns:
        The picture, or the reason: those of :func:`read_source_image` with ``depth-`` before them, and
        ``depth-not-16-bit``.
    """
    depth = read_source_image(path, width, height, settings)
    if isinstance(depth, Unusable):
        return Unusable(f"depth-{depth.reason}", depth.detail)
    if depth.format != "png" or depth.data[_PNG_PIXELS] != _GREY_OF_16_BITS:
        return Unusable("depth-not-16-bit", f"{path} is not a PNG of one channel of 16 bits.")
    return depth


def _read_at_most(path: AnyPath, num_bytes: int) -> bytes:
    if not isinstance(path, Path):
        with path.open("rb") as file:
            return file.read(num_bytes)
    descriptor = os.open(path, os.O_RDONLY)  # a buffered file would cost as much as hashing the content
    try:
        return os.read(descriptor, min(os.fstat(descriptor).st_size, num_bytes))
    finally:
        os.close(descriptor)


def _is_whole(data: bytes, image_format: ImageFormat) -> bool:
    if image_format == "jpeg":
        # Metadata may hold a preview with an end mark of its own, so only what follows the first scan counts.
        return data.endswith(b"\xff\xd9") or has_end_mark(data[data.rfind(_JPEG_SCAN) :], image_format)
    return has_end_mark(data[-(1 << 16) :], image_format)


def _decodes(data: bytes, width: int, height: int) -> bool:
    with suppress(ValueError):  # no JPEG, or anything odd in it; then OpenCV decides whether it is an image
        # Every coefficient is read, but the pixels of one channel are enough to know that it can be.
        return bool(simplejpeg.decode_jpeg(data, "GRAY").shape[:2] == (height, width))
    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:
        return False
    return image is not None and image.shape[:2] == (height, width)
