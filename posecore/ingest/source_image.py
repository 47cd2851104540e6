"""Reading one source image: whole, bounded, and judged by its structure before anything decodes it."""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest

from posecore.errors import ImageHeaderError, IngestError, StorageError
from posecore.image_header import ImageFormat, image_size
from posecore.image_structure import find_damage
from posecore.ingest.job import IngestSettings
from posecore.shards.digests import content_digest
from posecore.shards.remote import asked_again
from posecore.storage import AnyPath, ExpectedFile, TooLarge, read_at_most
from posecore.tar_members import TarMember, picture_at

EXTENSIONS: dict[ImageFormat, str] = {"jpeg": "jpg", "png": "png"}
"""Member extension by format, so that any WebDataset reader picks the right decoder, whatever the file was called."""

_CORRUPT = ("Corrupt JPEG data", "Premature end of JPEG file")
"""What libjpeg says of a picture that it goes on to fill with whatever comes out."""
_LEAVE = "leave the download as it is until the ingestion has ended, and run it again."
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
        digest: of the bytes.
        xxh3: 64-bit XXH3 of the bytes, which every later read is checked against.
    """

    data: bytes
    format: ImageFormat
    width: int
    height: int
    digest: str
    xxh3: int


class Unusable(NamedTuple):
    """Why an image file cannot be taken.

    Attributes:
        reason: kebab-case code.
        detail: one sentence.
    """

    reason: str
    detail: str


def read_source_image(
    path: AnyPath | ExpectedFile | TarMember, width: int, height: int, settings: IngestSettings
) -> SourceImage | Unusable:
    """Reads and judges one image file.

    Args:
        path: the file; one that is opened already is read and closed.
        width: pixels the annotation states; 0 if it does not.
        height: likewise.
        settings: limits, and what to decode.

    Returns:
        The image, or the reason: ``missing-image``, ``unreadable-image``, ``empty-image``, ``too-large``,
        ``not-an-image``, ``too-many-pixels``, ``size-mismatch``, ``truncated-image``, ``damaged-image``,
        ``undecodable-image``.

    Raises:
        StorageError: a remote store does not answer, however often it is asked.
    """
    try:
        data = _read(path, settings.max_image_bytes)
    except StorageError:  # says nothing of the image
        raise
    except (FileNotFoundError, NotADirectoryError):
        return Unusable("missing-image", f"{path} does not exist.")
    except TooLarge as error:
        return Unusable("too-large", f"{path}: {error.strerror}.")
    except OSError as error:
        return Unusable("unreadable-image", f"{path} cannot be read ({error.strerror or error}).")
    if not data:
        return Unusable("empty-image", f"{path} has 0 bytes.")
    try:
        size = image_size(data)
    except ImageHeaderError as error:
        return Unusable("not-an-image", f"{path}: {error}")
    if size.width * size.height > settings.max_image_pixels:
        return Unusable("too-many-pixels", f"{path} states {size.width}x{size.height} pixels.")
    if (width and size.width != width) or (height and size.height != height):
        stored = f"{size.width}x{size.height}"
        return Unusable("size-mismatch", f"{path} is {stored} pixels, the annotation says {width}x{height}.")
    damage = find_damage(data, size.format)
    if damage is not None:
        return Unusable("truncated-image" if damage.is_cut else "damaged-image", f"{path} {damage.what}.")
    digest = content_digest(data)
    if settings.decode == "full" or int(digest[-8:], 16) < settings.decode_share * (1 << 32):
        problem = _decoding_problem(data, size.width, size.height)
        if problem is not None:
            return Unusable("undecodable-image", f"{path} cannot be decoded ({problem}).")
    return SourceImage(data, size.format, size.width, size.height, digest, xxh3_64_intdigest(data))


def read_again(root: AnyPath, image: str, xxh3: int, settings: IngestSettings) -> bytes:
    """A picture that was read and judged a moment ago.

    Args:
        root: folder of the download.
        image: what the record says of it.
        xxh3: 64-bit XXH3 of what was read.
        settings: its limit.

    Raises:
        IngestError: it is not there any more, or another.
    """
    path = picture_at(root, image)
    try:
        data = _read(path, settings.max_image_bytes)
    except OSError as error:
        raise IngestError(f"{path} could be read and cannot any more ({error.strerror or error}); {_LEAVE}") from None
    if xxh3_64_intdigest(data) != xxh3:
        raise IngestError(f"{path} was changed while it was ingested; {_LEAVE}")
    return data


def _read(path: AnyPath | ExpectedFile | TarMember, max_bytes: int) -> bytes:
    if isinstance(path, ExpectedFile):
        return path.read(max_bytes)
    if isinstance(path, TarMember):
        local = isinstance(path.archive, Path)
        return path.read(max_bytes) if local else asked_again(path.archive, lambda: path.read(max_bytes))
    if isinstance(path, Path):
        return read_at_most(path, max_bytes)
    return asked_again(path, lambda: read_at_most(path, max_bytes))


def read_depth_image(
    path: AnyPath | TarMember, width: int, height: int, settings: IngestSettings
) -> SourceImage | Unusable:
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


def _decoding_problem(data: bytes, width: int, height: int) -> str | None:
    try:
        # Every coefficient is read, but the pixels of one channel are enough to know that it can be.
        image = simplejpeg.decode_jpeg(data, "GRAY")
    except ValueError as error:  # no JPEG, one of colours that have no grey, or one whose coefficients are damaged
        said = str(error)
        if said.startswith(_CORRUPT):
            return said
        image = _decoded_by_opencv(data)
    if image is None:
        return "no decoder reads it"
    found = image.shape[:2]
    return None if found == (height, width) else f"its pixels are {found[1]}x{found[0]}"


def _decoded_by_opencv(data: bytes) -> NDArray[np.uint8] | None:
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error:
        return None
    return None if image is None else np.asarray(image)
