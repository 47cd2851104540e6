"""Pictures of single bodies, cut beforehand from those of a split, at the scale of training, uncompressed.

::

    crops/crops-000000.tar   per body of shard-000000.tar <row>.npy, (H, W, 3) uint8 RGB; row is that of index.parquet
    crops/index.parquet      a row per body of the split: where its picture lies, and which part of the image it shows
    crops/manifest.json      of which split, for which crops, digests of all files; written last

A picture holds all that the stated augmentation can show of its body. Labels stay where they are, in the split's index
and in pixels of the image; :meth:`PrecutStore.from_image` leads from these to pixels of the picture.
"""

import hashlib
import json
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field
from xxhash import xxh3_64_intdigest

from posecore.config import Config, digest_json
from posecore.conventions import STORED, Conventions
from posecore.errors import IntegrityError
from posecore.shards.cache import ShardCache
from posecore.shards.manifest import INSTANCES_NAME, MANIFEST_NAME, ShardEntry
from posecore.shards.npy import npy_header
from posecore.shards.open_files import OpenFiles
from posecore.shards.remote import read_whole
from posecore.shards.tar import has_tar_digest
from posecore.storage import AnyPath, file_content
from posecore.tables.parquet import read_parquet

FOLDER_NAME = "crops"
AGAIN = "ingest the split again with --precut"

INDEX_SCHEMA = pa.schema(
    [
        pa.field("shard", pa.int32(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("xxh3", pa.uint64(), nullable=False),
        *(pa.field(name, pa.int32(), nullable=False) for name in ("left", "top", "right", "bottom", "width", "height")),
    ]
)
"""``left`` to ``bottom`` bound the part of the image in its pixels, ``width`` and ``height`` are the picture's; 0 where
a body has none."""


class Reach(Config):
    """How far from its box augmentation may take a crop.

    Attributes:
        scale: largest size of a region, relative to the un-augmented one.
        turns: whether regions turn.
        half_bodies: whether upper or lower halves are cropped; by which rule, None never.
        half_body_padding: their size relative to the points' extent, ``scale`` excepted.
        jitter: largest move of a centre, relative to the box, or
        padded_jitter: relative to the padded box, or to the half body.
    """

    scale: float = Field(ge=1)
    turns: bool
    half_bodies: str | None
    half_body_padding: float = 1.0
    jitter: float = Field(default=0.0, ge=0)
    padded_jitter: float = Field(default=0.0, ge=0)

    def lacks(self, wanted: "Reach") -> list[str]:
        """What of a wanted reach is beyond this one, for a message."""
        found = [
            f"{name} {getattr(wanted, name)} (cut for {getattr(self, name)})"
            for name in ("scale", "turns", "half_body_padding", "jitter", "padded_jitter")
            if getattr(wanted, name) > getattr(self, name)
        ]
        if wanted.half_bodies not in (None, self.half_bodies):
            found.append(f"half_bodies {wanted.half_bodies} (cut for {self.half_bodies})")
        return found


class PrecutTerms(Config):
    """For which crops pictures are cut.

    Attributes:
        input_size: (height, width) of the crops in pixels.
        conventions: by which they are cut.
        reach: of the augmentation.
        resolution: pixels of a picture per pixel of an un-augmented crop, at most; the image's own are never enlarged.
    """

    input_size: tuple[int, int]
    conventions: Conventions
    reach: Reach
    resolution: float = Field(default=1.0, gt=0)


class PrecutManifest(Config):
    """Everything that names the pictures of a split.

    Attributes:
        format: of the folder.
        dataset: digest of the split.
        terms: for which crops.
        shards: the tars in order.
        index: SHA-256 of the index.
    """

    format: Literal["posecore-precut-1"] = "posecore-precut-1"
    dataset: str
    terms: PrecutTerms
    shards: tuple[ShardEntry, ...]
    index: str


class PrecutStore:
    """The cut pictures of a split, read by row of its index. Safe to use from several threads.

    Attributes:
        location: their folder.
        manifest: for which crops they are.
        cache: through which remote ones are read; None of local ones.
        sizes: (n, 2) width, height of each picture.

    Args:
        split: folder of the split.
        dataset: its digest.
        cache: of remote shards.

    Raises:
        IntegrityError: there are none, they are of another edition of the split, or the index was altered.
    """

    def __init__(self, split: AnyPath, dataset: str, cache: ShardCache | None) -> None:
        self.location = split / FOLDER_NAME
        self.cache = cache
        self.manifest = _read_manifest(self.location)
        if self.manifest.dataset != dataset:
            raise IntegrityError(f"{self.location}: cut from another edition of the split; {AGAIN}.")
        data = read_whole(self.location / INSTANCES_NAME)
        if hashlib.sha256(data).hexdigest() != self.manifest.index:
            raise IntegrityError(f"{self.location / INSTANCES_NAME}: not the table its manifest names; {AGAIN}.")
        table = read_parquet(data).combine_chunks()
        self.shard, self._offset, self._xxh3 = (table[name].to_numpy() for name in ("shard", "offset", "xxh3"))
        self.sizes = np.stack([table[name].to_numpy() for name in ("width", "height")], axis=-1)
        self._begin = np.stack([table[name].to_numpy() for name in ("left", "top")], axis=-1)
        self._end = np.stack([table[name].to_numpy() for name in ("right", "bottom")], axis=-1)
        self._files = OpenFiles(self._local_path)

    def read(self, row: int) -> NDArray[np.uint8]:
        """(H, W, 3) uint8 RGB of one body.

        Args:
            row: of ``index.parquet`` of the split, with a picture.

        Raises:
            IntegrityError: the stored bytes are not those that were written; names the file and the offset.
        """
        width, height = self.sizes[row].tolist()
        shard, offset, size = int(self.shard[row]), int(self._offset[row]), 3 * width * height
        path, entry = self.place(shard)
        try:
            if self.cache is None:
                data = self._files.read(shard, offset, size)
            else:
                data = self.cache.read(path, entry, offset, size)
        except FileNotFoundError:
            raise IntegrityError(f"{path}: the shard is missing; {AGAIN}.") from None
        if len(data) != size or xxh3_64_intdigest(data) != self._xxh3[row]:
            raise IntegrityError(f"{path}: the picture of body {row} at byte {offset} is not what was cut; {AGAIN}.")
        return np.frombuffer(data, np.uint8).reshape(height, width, 3)

    def from_image(self, rows: NDArray[np.int64], matrix: NDArray[np.float64]) -> NDArray[np.float64]:
        """(n, 2, 3) maps from pixels of the pictures, for maps from pixels of the images.

        Args:
            rows: (n,) of the index.
            matrix: (n, 2, 3).
        """
        factor = self.sizes[rows] / (self._end[rows] - self._begin[rows])
        # A pixel's centre is at a whole number: x of the image is (x + 0.5) / factor + left - 0.5.
        begin = 0.5 / factor + self._begin[rows] - 0.5
        shifted = matrix[..., 2] + (matrix[..., :2] @ begin[..., None])[..., 0]
        return np.concatenate([matrix[..., :2] / factor[:, None, :], shifted[..., None]], axis=-1)

    def place(self, shard: int) -> tuple[AnyPath, ShardEntry]:
        """Path and entry of a tar."""
        entry = self.manifest.shards[shard]
        return self.location / entry.name, entry

    def verify(self) -> None:
        """Compares every tar with the manifest.

        Raises:
            IntegrityError: one is missing or has other bytes than were written.
        """
        for number in range(len(self.manifest.shards)):
            path, entry = self.place(number)
            if not path.exists():
                raise IntegrityError(f"{path}: the shard is missing; {AGAIN}.")
            with file_content(path) as data:
                if not has_tar_digest(data, entry.digest, str(path)):
                    raise IntegrityError(f"{path}: the shard's bytes are not those that were written; {AGAIN}.")

    def _local_path(self, number: int) -> Path:
        path = self.place(number)[0]
        assert isinstance(path, Path), path
        return path


def picture_header(width: int, height: int) -> bytes:
    """What precedes the pixels in a member."""
    return npy_header("|u1", (height, width, 3))


def manifest_text(manifest: PrecutManifest) -> bytes:
    """The content of ``manifest.json``."""
    value = manifest.model_dump(mode="json")
    return (json.dumps({"digest": digest_json(value), **value}, indent=1) + "\n").encode()


def _read_manifest(folder: AnyPath) -> PrecutManifest:
    path = folder / MANIFEST_NAME
    try:
        value = json.loads(read_whole(path))
        stated = value.pop("digest")
        manifest = PrecutManifest.model_validate(value, context=STORED)
    except FileNotFoundError:
        raise IntegrityError(f"{folder}: no finished crops are here; {AGAIN}.") from None
    except (ValueError, KeyError, AttributeError) as error:
        reason = " ".join(str(error).split())
        raise IntegrityError(f"{path}: not a manifest of crops ({reason}); {AGAIN}.") from None
    if digest_json(manifest.model_dump(mode="json")) != stated:
        raise IntegrityError(f"{path}: its content does not have the digest it states; {AGAIN}.")
    return manifest
