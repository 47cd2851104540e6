"""A 64-bit hash of what an image shows, which survives re-encoding and resizing.

The hash is the sign pattern of the lowest 8x8 DCT coefficients of the 32x32 grey image against their median (the
"pHash" of Zauner, Implementation and Benchmarking of Perceptual Image Hash Functions, 2010, section 3.2.1), the
terms that are constant along an axis left out. It is decoded at reduced scale, 1.7 ms for a COCO photo.

A hash alone would confuse unrelated pictures in large sets, so a pair of near hashes is confirmed by the correlation of
two 16x16 thumbnails. Almost uniform images have no meaningful hash and never match.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from posecore.config import Config

HASH_BITS = 64
THUMBNAIL_SIDE = 16

_DCT_SIDE = 32
_MIN_CONTRAST = 4.0
"""Standard deviation of the 32x32 grey values (0 to 255) below which an image shows nothing."""


class Likeness(Config):
    """How alike two images must be to count as one.

    The defaults find every one of 795 re-encoded or resized copies of 159 COCO photos (distance at most 8, correlation
    at least 0.987) and none of their 12,561 pairs of different photos (at least 18; at most 0.80).

    Attributes:
        max_distance: hash bits that may differ, of 64.
        min_correlation: least correlation of the 16x16 thumbnails.
    """

    max_distance: int = Field(8, ge=0, le=11)
    min_correlation: float = Field(0.97, ge=-1, le=1)


class PerceptualHash(NamedTuple):
    """What the search needs of an image.

    Attributes:
        bits: the 64-bit hash.
        thumbnail: 256 bytes, 16x16 grey values.
        usable: False for an image without contrast, or one that cannot be decoded.
    """

    bits: int
    thumbnail: bytes
    usable: bool


@dataclass(frozen=True, slots=True, eq=False)
class PerceptualHashes:
    """Those of N images, as columns.

    Attributes:
        bits: (N,) uint64.
        thumbnails: (N, 256) uint8.
        usable: (N,) bool.
    """

    bits: NDArray[np.uint64]
    thumbnails: NDArray[np.uint8]
    usable: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.bits)

    @classmethod
    def of(cls, hashes: Sequence[PerceptualHash]) -> "PerceptualHashes":
        """Columns of some hashes."""
        thumbnails = np.frombuffer(b"".join(item.thumbnail for item in hashes), np.uint8)
        return cls(
            np.array([item.bits for item in hashes], np.uint64),
            thumbnails.reshape(-1, THUMBNAIL_SIDE**2),
            np.array([item.usable for item in hashes], np.bool_),
        )

    @classmethod
    def joined(cls, parts: Sequence["PerceptualHashes"]) -> "PerceptualHashes":
        """Those of several sets, at least one, one after the other."""
        columns = ([getattr(part, name) for part in parts] for name in ("bits", "thumbnails", "usable"))
        return cls(*(np.concatenate(column) for column in columns))

    def take(self, rows: NDArray[np.int64]) -> "PerceptualHashes":
        """Those of some rows, in that order."""
        return PerceptualHashes(self.bits[rows], self.thumbnails[rows], self.usable[rows])


UNUSABLE = PerceptualHash(0, bytes(THUMBNAIL_SIDE**2), False)
"""Of a picture that is like none."""


def perceptual_hash(image_bytes: bytes, width: int, height: int) -> PerceptualHash:
    """The hash of an encoded image of ``width`` x ``height`` pixels; EXIF orientation is ignored."""
    try:
        grey = cv2.imdecode(np.frombuffer(image_bytes, np.uint8), _reading_flags(min(width, height)))
    except cv2.error:
        return UNUSABLE
    return UNUSABLE if grey is None else perceptual_hash_of_pixels(grey)


def perceptual_hash_of_pixels(grey: NDArray[np.uint8]) -> PerceptualHash:
    """The hash of (H, W) grey values."""
    small = cv2.resize(grey, (_DCT_SIDE, _DCT_SIDE), interpolation=cv2.INTER_AREA).astype(np.float32)
    if small.std() < _MIN_CONTRAST:
        return UNUSABLE
    low = cv2.dct(small)[1:9, 1:9].ravel()
    bits = np.packbits(low > np.median(low))
    thumbnail = cv2.resize(small, (THUMBNAIL_SIDE, THUMBNAIL_SIDE), interpolation=cv2.INTER_AREA)
    return PerceptualHash(int.from_bytes(bits.tobytes(), "big"), np.rint(thumbnail).astype(np.uint8).tobytes(), True)


def _reading_flags(shorter_side: int) -> int:
    for reduction, flag in ((8, cv2.IMREAD_REDUCED_GRAYSCALE_8), (4, cv2.IMREAD_REDUCED_GRAYSCALE_4)):
        if shorter_side >= 2 * _DCT_SIDE * reduction:
            return int(flag | cv2.IMREAD_IGNORE_ORIENTATION)
    return int(cv2.IMREAD_GRAYSCALE | cv2.IMREAD_IGNORE_ORIENTATION)
