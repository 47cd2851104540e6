"""Damage that headers do not show: found without decoding, and never where there is none."""

import io
import random
import struct
import zlib
from collections.abc import Callable

import cv2
import numpy as np
import pytest
from PIL import Image

from posecore.errors import ImageHeaderError
from posecore.image_header import image_size
from posecore.image_structure import Damage, find_damage


def pixels(seed: int = 0, channels: int = 3) -> np.ndarray:
    noise = np.random.default_rng(seed).integers(0, 255, (9, 12, channels), np.uint8)
    return cv2.resize(noise, (96, 72), interpolation=cv2.INTER_CUBIC)


def by_opencv(suffix: str, *options: int, image: np.ndarray | None = None) -> bytes:
    return cv2.imencode(suffix, pixels() if image is None else image, options)[1].tobytes()


def by_pillow(kind: str, mode: str = "RGB", **options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels()).convert(mode).save(file, kind, **options)
    return file.getvalue()


HEALTHY: dict[str, Callable[[], bytes]] = {
    "baseline": lambda: by_opencv(".jpg"),
    "optimised": lambda: by_opencv(".jpg", cv2.IMWRITE_JPEG_OPTIMIZE, 1),
    "progressive": lambda: by_opencv(".jpg", cv2.IMWRITE_JPEG_PROGRESSIVE, 1),
    "restarts": lambda: by_opencv(".jpg", cv2.IMWRITE_JPEG_RST_INTERVAL, 2),
    "progressive with restarts": lambda: by_opencv(
        ".jpg", cv2.IMWRITE_JPEG_PROGRESSIVE, 1, cv2.IMWRITE_JPEG_RST_INTERVAL, 3
    ),
    "grey": lambda: by_opencv(".jpg", image=pixels(channels=1)),
    "four inks": lambda: by_pillow("JPEG", "CMYK"),
    "no subsampling": lambda: by_pillow("JPEG", subsampling=0, quality=100),
    "preview in the metadata": lambda: by_pillow("JPEG", exif=b"Exif\0\0" + by_opencv(".jpg")),
    "bytes after the end": lambda: by_opencv(".jpg") + b"\xff\xd8 a second picture \xff\xda",
    "fill bytes": lambda: by_opencv(".jpg").replace(b"\xff\xdb", b"\xff\xff\xff\xdb"),
    "png": lambda: by_opencv(".png"),
    "palette": lambda: by_pillow("PNG", "P"),
    "one bit": lambda: by_pillow("PNG", "1"),
    "alpha": lambda: by_pillow("PNG", "RGBA"),
    "16 bit": lambda: by_opencv(".png", image=pixels(channels=1).astype(np.uint16) * 257),
    "text and time": lambda: by_pillow("PNG", dpi=(72, 72)),
    "png and more": lambda: by_opencv(".png") + bytes(100),
}


def damage(data: bytes) -> Damage | None:
    return find_damage(data, image_size(data).format)


@pytest.mark.parametrize("kind", HEALTHY)
def test_healthy_files_of_every_kind_are_taken(kind: str) -> None:
    assert damage(HEALTHY[kind]()) is None


@pytest.mark.parametrize("kind", HEALTHY)
def test_a_file_that_is_cut_anywhere_is_cut(kind: str) -> None:
    data = HEALTHY[kind]()
    end = data.rindex(b"IEND") + 8 if data.startswith(b"\x89PNG") else None
    for share in (0.5, 0.8, 0.95):
        cut = data[: int(share * len(data[:end]))]
        if "after the end" in kind or "preview" in kind:
            continue  # what is cut there may be no picture yet, or none any more
        found = damage(cut)
        assert found is not None
        assert found.is_cut


def test_every_byte_of_a_png_that_a_decoder_needs_is_covered() -> None:
    data = by_opencv(".png")
    for place in range(8, len(data), 37):
        for change in (1, 0x80):
            changed = bytearray(data)
            changed[place] ^= change
            try:
                assert damage(bytes(changed)) is not None, place
            except ImageHeaderError:
                assert place < 33


def png(*chunks: tuple[bytes, bytes]) -> bytes:
    header = struct.pack(">IIBBBBB", 4, 4, 8, 3, 0, 0, 0)
    whole = [(b"IHDR", header), *chunks, (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in whole
    )


PALETTE, ROWS = (b"PLTE", bytes(6)), zlib.compress(bytes(20))


@pytest.mark.parametrize(
    ("chunks", "message"),
    [
        ([PALETTE], "has no pixels"),
        ([(b"IDAT", ROWS)], "no palette before its pixels"),
        ([(b"IDAT", ROWS), PALETTE], "no palette before its pixels"),
        ([PALETTE, (b"IDAT", ROWS[:9]), (b"tEXt", b"a\0b"), (b"IDAT", ROWS[9:])], "pixels in two places"),
        ([PALETTE, (b"IDAT", b"raw pixels")], "not compressed as a PNG's must be"),
        ([PALETTE, (b"IDAT", b"")], "not compressed"),
        ([(b"NEWS", b""), PALETTE, (b"IDAT", ROWS)], "unknown kind b'NEWS'"),
    ],
)
def test_chunks_that_make_no_picture(chunks: list[tuple[bytes, bytes]], message: str) -> None:
    assert damage(png(PALETTE, (b"IDAT", ROWS[:9]), (b"IDAT", ROWS[9:]))) is None
    found = damage(png(*chunks))
    assert found is not None
    assert message in found.what
    assert not found.is_cut


def test_a_damaged_note_beside_the_pixels_harms_nobody() -> None:
    data = png((b"tEXt", b"key\0value"), PALETTE, (b"IDAT", ROWS)).replace(b"value", b"other")
    assert damage(data) is None
    assert cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) is not None


def changed(data: bytes, marker: bytes, offset: int, value: int) -> bytes:
    """A byte set, counted from the first such marker."""
    place = data.index(marker) + offset
    return data[:place] + bytes([value]) + data[place + 1 :]


@pytest.mark.parametrize(
    ("options", "marker", "offset", "value", "message"),
    [
        ((), b"\xff\xdb", 4, 0x20, "damaged quantisation table"),
        ((), b"\xff\xdb", 4, 4, "damaged quantisation table"),
        ((), b"\xff\xdb", 4, 1, "without its quantisation table"),
        ((), b"\xff\xc4", 4, 0x30, "damaged Huffman table"),
        ((), b"\xff\xc4", 5, 2, "damaged Huffman table"),
        ((), b"\xff\xc4", 20, 200, "damaged Huffman table"),
        ((), b"\xff\xc4", 21, 99, "damaged Huffman table"),
        ((), b"\xff\xc0", 4, 12, "12 bits per sample"),
        ((), b"\xff\xc0", 11, 0x50, "impossible sampling"),
        ((), b"\xff\xc0", 12, 7, "impossible sampling or table"),
        ((), b"\xff\xc0", 1, 0xC3, "a process (ffc3)"),
        ((), b"\xff\xda", 4, 2, "contradicts its own length"),
        ((), b"\xff\xda", 5, 77, "of a component that its frame does not have"),
        ((), b"\xff\xda", 6, 0x44, "of a component that its frame does not have"),
        ((), b"\xff\xda", 1, 0x05, "none of its kind can stand"),
        ((), b"\xff\xda", 1, 0xC0, "second JPEG frame"),
        ((), b"\xff\xda", 1, 0xD9, "no pixels"),
        ((), b"\xff\xda", 6, 0x30, "without its Huffman table"),
        ((cv2.IMWRITE_JPEG_PROGRESSIVE, 1), b"\xff\xda", 12, 7, "no progressive JPEG can have"),
        ((cv2.IMWRITE_JPEG_PROGRESSIVE, 1), b"\xff\xc4", 4, 0x02, "without its Huffman table"),
        ((cv2.IMWRITE_JPEG_RST_INTERVAL, 2), b"\xff\xdd", 5, 0, "and no restart interval"),
    ],
)
def test_headers_that_no_decoder_can_follow(
    options: tuple[int, ...], marker: bytes, offset: int, value: int, message: str
) -> None:
    found = damage(changed(by_opencv(".jpg", *options), marker, offset, value))
    assert found is not None
    assert message in found.what


def test_bytes_between_segments() -> None:
    found = damage(by_opencv(".jpg").replace(b"\xff\xda", b"\0\xff\xda", 1))
    assert found is not None
    assert "has no JPEG marker at byte" in found.what


def test_a_scan_that_is_there_twice() -> None:
    data = by_opencv(".jpg")
    scan = data[data.index(b"\xff\xda") : -2]
    found = damage(data[:-2] + scan + data[-2:])
    assert found is not None
    assert "second scan of a component" in found.what


def test_a_colour_without_its_scan() -> None:
    data = by_opencv(".jpg")
    start = data.index(b"\xff\xda")
    found = damage(data[:start] + b"\xff\xda\0\x08\x01\x01\0\0\x3f\0" + data[start + 14 :])
    assert found is not None
    assert "a component without pixels" in found.what


def mutated(data: bytes, generator: random.Random) -> bytes:
    place, length = generator.randrange(2, len(data)), generator.choice((1, 16, 256))
    part = data[place : place + length]
    kinds = [
        bytes([generator.randrange(256)]) + part[1:],
        bytes(len(part)),
        part + part,
        b"",
        generator.randbytes(len(part)),
    ]
    return data[:place] + generator.choice(kinds) + data[place + len(part) :]


def opens(data: bytes) -> bool:
    """Whether any of two decoders makes a picture of it."""
    if cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) is not None:
        return True
    try:
        Image.open(io.BytesIO(data)).convert("RGB")
    except (OSError, SyntaxError, ValueError):
        return False
    return True


@pytest.mark.parametrize("kind", ["baseline", "progressive", "restarts", "png", "palette"])
def test_no_mutated_file_that_nobody_can_decode_is_taken(kind: str) -> None:
    data, generator = HEALTHY[kind](), random.Random(kind)
    found = 0
    for _ in range(150):
        spoiled = mutated(data, generator)
        try:
            taken = damage(spoiled) is None
        except ImageHeaderError:
            taken = False
        if not taken:
            found += 1
            continue
        assert opens(spoiled), spoiled
    assert found >= (10 if "png" not in kind else 100)
