import struct
import zlib

import cv2
import numpy as np
import pytest

from posecore.errors import ImageHeaderError, IngestError
from posecore.image_header import HEADER_BYTES, has_end_mark, image_size


def encode(extension: str, height: int, width: int, channels: int = 3) -> bytes:
    pixels = np.random.default_rng(height * width).integers(0, 255, (height, width, channels), np.uint8)
    return cv2.imencode(extension, pixels)[1].tobytes()


def with_segment(jpeg: bytes, marker: int, payload: bytes) -> bytes:
    return jpeg[:2] + bytes([0xFF, marker]) + struct.pack(">H", len(payload) + 2) + payload + jpeg[2:]


@pytest.mark.parametrize(("height", "width"), [(1, 1), (7, 300), (480, 641)])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_png_and_jpeg_sizes_are_those_encoded(height: int, width: int, channels: int) -> None:
    assert image_size(encode(".png", height, width, channels)) == (height, width, "png")
    if channels != 4:
        assert image_size(encode(".jpg", height, width, channels)) == (height, width, "jpeg")


def test_progressive_jpeg() -> None:
    pixels = np.zeros((9, 5, 3), np.uint8)
    data = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes()
    assert b"\xff\xc2" in data
    assert image_size(data) == (9, 5, "jpeg")


def test_size_in_an_embedded_preview_is_not_taken() -> None:
    preview = encode(".jpg", 16, 16)
    data = with_segment(encode(".jpg", 60, 80), 0xE1, b"Exif\0\0" + preview)
    assert image_size(data) == (60, 80, "jpeg")


def test_fill_bytes_before_a_marker_are_allowed() -> None:
    data = encode(".jpg", 6, 8)
    assert image_size(data[:2] + b"\xff\xff\xff" + data[2:]) == (6, 8, "jpeg")


def test_metadata_larger_than_the_first_read() -> None:
    data = encode(".jpg", 6, 8)
    for _ in range(2):
        data = with_segment(data, 0xE2, bytes(60_000))
    with pytest.raises(ImageHeaderError, match="cut before it states its size"):
        image_size(data[:HEADER_BYTES])
    assert image_size(data) == (6, 8, "jpeg")


@pytest.mark.parametrize("extension", [".jpg", ".png"])
def test_every_prefix_is_right_or_refused(extension: str) -> None:
    data = encode(extension, 12, 34)
    outcomes = set()
    for length in range(len(data)):
        try:
            outcomes.add(image_size(data[:length])[:2])
        except ImageHeaderError:
            outcomes.add(None)
    assert outcomes == {None, (12, 34)}


def jpeg_frame(height: int, width: int, components: int, length: int) -> bytes:
    return b"\xff\xd8\xff\xc0" + struct.pack(">HBHHB", length, 8, height, width, components) + bytes(40)


def png_header(width: int, height: int, depth: int = 8, colour: int = 2, interlace: int = 0) -> bytes:
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlace)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "empty"),
        (b"GIF89a....", "neither a JPEG nor a PNG"),
        (b"\xff\xd8\xff\xd9..", "marker ffd9"),
        (b"\xff\xd8\xff\xda\x00\x08....", "marker ffda"),
        (b"\xff\xd8abcd", "no marker at byte 2"),
        (b"\xff\xd8\xff\xe0\x00\x01....", "impossible length 1"),
        (jpeg_frame(0, 5, 3, 17), "impossible size 5x0"),
        (jpeg_frame(5, 5, 0, 8), "contradicts its own length"),
        (jpeg_frame(5, 5, 3, 11), "contradicts its own length"),
        (png_header(0, 4), "impossible size 0x4"),
        (png_header(1 << 31, 4), "impossible size"),
        (png_header(4, 4, depth=3), "pixel layout"),
        (png_header(4, 4, colour=5), "pixel layout"),
        (png_header(4, 4, interlace=2), "pixel layout"),
        (png_header(4, 4)[:-1] + b"\0", "IHDR"),
        (png_header(4, 4)[:20], "cut within its header"),
    ],
)
def test_refusals_say_what_is_wrong(data: bytes, message: str) -> None:
    with pytest.raises(ImageHeaderError, match=message) as caught:
        image_size(data)
    assert isinstance(caught.value, IngestError)


@pytest.mark.parametrize("extension", [".jpg", ".png"])
def test_end_mark_is_missed_in_a_cut_file_and_found_before_appended_bytes(extension: str) -> None:
    data = encode(extension, 40, 40)
    image_format = image_size(data).format
    assert has_end_mark(data, image_format)
    assert has_end_mark(data + b"appended", image_format)
    assert not has_end_mark(data[: len(data) // 2], image_format)


def test_end_mark_of_an_embedded_preview_does_not_count() -> None:
    data = with_segment(encode(".jpg", 60, 80), 0xE1, b"Exif\0\0" + encode(".jpg", 16, 16))
    assert has_end_mark(data, "jpeg")
    assert not has_end_mark(data[:-100], "jpeg")
