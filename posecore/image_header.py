"""Size, format, depth and orientation of a JPEG or PNG from its first bytes, without decoding a pixel.

Read from the formats' own definitions: ITU-T T.81 annex B (JPEG markers), PNG specification (third edition) §5 and §11.
"""

import struct
import zlib
from typing import Literal, NamedTuple, TypeAlias

from posecore.errors import ImageHeaderError

ImageFormat: TypeAlias = Literal["jpeg", "png"]

HEADER_BYTES = 1 << 16
"""How much of a file to read first. A JPEG with large metadata keeps its size further back: then read it whole."""

MAX_PIXELS = 100_000_000
"""Of a picture that is decoded, unless somebody sets another limit."""

JPEG_START = b"\xff\xd8"
"""What every JPEG begins with."""

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_END = b"\x00\x00\x00\x00IEND\xaeB`\x82"
_PNG_BIT_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
_JPEG_SCAN = b"\xff\xda"
_JPEG_END = b"\xff\xd9"
_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_ORIENTATION, _SHORT = 0x0112, 3
_EXIF = b"Exif\0\0"
_WITHOUT_LENGTH = frozenset({0x01, *range(0xD0, 0xD8)})


class ImageSize(NamedTuple):
    """What a header states.

    Attributes:
        height: pixels.
        width: pixels.
        format: ``jpeg`` or ``png``.
    """

    height: int
    width: int
    format: ImageFormat


def image_size(first_bytes: bytes) -> ImageSize:
    """Height, width and format of an image file.

    EXIF orientation is ignored: annotations mean the stored pixels.

    Args:
        first_bytes: the file's beginning, :data:`HEADER_BYTES` or more; the whole file is fine.

    Raises:
        ImageHeaderError: empty, neither JPEG nor PNG, cut before its size, or contradicting its format.
    """
    if first_bytes.startswith(JPEG_START):
        return _jpeg_size(first_bytes)
    if first_bytes.startswith(_PNG_SIGNATURE):
        return _png_size(first_bytes)
    if not first_bytes:
        raise ImageHeaderError("the image file is empty (0 bytes).")
    raise ImageHeaderError(f"neither a JPEG nor a PNG: the file begins with {first_bytes[:8].hex(' ')}.")


def has_end_mark(last_bytes: bytes, image_format: ImageFormat) -> bool:
    """Whether an image file reaches its end-of-image mark; a cut download does not.

    Bytes after the mark are allowed, cameras and editors append some. In a JPEG only what follows the last start of a
    scan counts, because the metadata may hold a preview with an end mark of its own.

    Args:
        last_bytes: the file's end, :data:`HEADER_BYTES` or more, or the whole file.
        image_format: as :func:`image_size` told.
    """
    if image_format == "png":
        return _PNG_END in last_bytes
    return last_bytes.find(_JPEG_END, max(0, last_bytes.rfind(_JPEG_SCAN))) >= 0


def bits_per_sample(first_bytes: bytes) -> int:
    """Bits of one value of a pixel, 8 or less and 16; asked of a file that :func:`image_size` can read."""
    return first_bytes[24] if first_bytes.startswith(_PNG_SIGNATURE) else 8


def exif_orientation(data: bytes) -> int:
    """The EXIF orientation of a JPEG or PNG file, 1 to 8; 1 where it says nothing that is one."""
    tiff = _exif_of_jpeg(data) if data.startswith(JPEG_START) else _exif_of_png(data)
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


def _png_size(data: bytes) -> ImageSize:
    if len(data) < 33:
        raise ImageHeaderError(f"the PNG is cut within its header ({len(data)} of at least 33 bytes).")
    length, kind, width, height, depth, colour, compression, filtering, interlace = struct.unpack_from(
        ">I4sIIBBBBB", data, 8
    )
    (checksum,) = struct.unpack_from(">I", data, 29)
    if kind != b"IHDR" or length != 13 or checksum != zlib.crc32(data[12:29]):
        raise ImageHeaderError("the PNG does not begin with an intact IHDR chunk.")
    if not (0 < width < 1 << 31 and 0 < height < 1 << 31):
        raise ImageHeaderError(f"the PNG states the impossible size {width}x{height}.")
    if depth not in _PNG_BIT_DEPTHS.get(colour, ()) or compression or filtering or interlace > 1:
        raise ImageHeaderError("the PNG states a pixel layout that the format does not have.")
    return ImageSize(height, width, "png")


def _jpeg_size(data: bytes) -> ImageSize:
    position = 2
    while position + 4 <= len(data):
        if data[position] != 0xFF:
            raise ImageHeaderError(f"the JPEG has no marker at byte {position}, where one must be.")
        marker = data[position + 1]
        if marker == 0xFF:  # any number of fill bytes may precede a marker
            position += 1
            continue
        if marker in _WITHOUT_LENGTH:
            position += 2
            continue
        if marker in (0x00, 0xD8, 0xD9, 0xDA):
            raise ImageHeaderError(f"the JPEG has marker ff{marker:02x} at byte {position} before it states its size.")
        (length,) = struct.unpack_from(">H", data, position + 2)
        if length < 2:
            raise ImageHeaderError(f"the JPEG segment at byte {position} states the impossible length {length}.")
        if marker in _START_OF_FRAME:
            return _jpeg_frame_size(data, position, length)
        position += 2 + length
    raise ImageHeaderError(f"the JPEG is cut before it states its size (within its first {len(data)} bytes).")


def _jpeg_frame_size(data: bytes, position: int, length: int) -> ImageSize:
    if position + 10 > len(data):
        raise ImageHeaderError(f"the JPEG is cut within its frame header at byte {position}.")
    height, width, components = struct.unpack_from(">HHB", data, position + 5)
    if not components or length != 8 + 3 * components:
        raise ImageHeaderError(f"the JPEG frame header at byte {position} contradicts its own length.")
    if not height or not width:
        raise ImageHeaderError(f"the JPEG states the impossible size {width}x{height}.")
    return ImageSize(height, width, "jpeg")


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
