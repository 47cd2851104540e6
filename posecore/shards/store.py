"""Random access to an ingested split: any sample by one ``pread``, checked against its 64-bit XXH3.

The check of a 160 KB image costs 3 µs; CRC-32 would cost 37 µs and SHA-256 90 µs, and :meth:`ShardStore.verify` is
there for that.
"""

import hashlib
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NoReturn

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest

from posecore.counting import counted
from posecore.errors import ConfigError, IntegrityError
from posecore.schema import Record, record_from_json
from posecore.shards.cache import CacheConfig, ShardCache
from posecore.shards.corrections import Corrections
from posecore.shards.index import with_present_names
from posecore.shards.labels import Labels, with_fewer_labels
from posecore.shards.manifest import IMAGES_NAME, INSTANCES_NAME, MANIFEST_NAME, Manifest, ShardEntry, read_manifest
from posecore.shards.mapped import LEAST_ROWS, MappedTable, mapped_table
from posecore.shards.masks import UnifiedMasks, decode_state
from posecore.shards.open_files import OpenFiles
from posecore.shards.precut import FOLDER_NAME as PRECUT_FOLDER
from posecore.shards.precut import PrecutStore
from posecore.shards.remote import read_whole
from posecore.shards.tar import has_tar_digest, stored_size
from posecore.storage import AnyPath, as_path, file_content
from posecore.tables.parquet import read_parquet

REPAIR = "ingest the split again, which writes anew what is damaged and nothing else (in a job: run it with --verify)"
"""What to do about a file that is not what was written."""

DEPTH_EXTENSION = "depth.png"
"""Of the member, after the masks, that holds the depth picture of an image that has one."""


@dataclass(slots=True, frozen=True, eq=False)
class Sample:
    """One image as stored.

    Attributes:
        key: name within the split.
        image_bytes: the source file, untouched.
        record: its annotations.
        masks: its unified masks, over the names of ``store.manifest.vocabulary``; regions are drawn when asked for.
        depth_bytes: the PNG of ``record.depth``, untouched; None where the record has none.
    """

    key: str
    image_bytes: bytes
    record: Record
    masks: UnifiedMasks
    depth_bytes: bytes | None = None


def open_store(
    location: str | os.PathLike[str] | AnyPath,
    cache: CacheConfig | None = None,
    corrections: Corrections | None = None,
) -> "ShardStore":
    """Opens an ingested split.

    Args:
        location: the split's folder, local or any fsspec URL.
        cache: where the shards of a remote split are kept while they are read.
        corrections: labels to read as unlabelled.

    Raises:
        IntegrityError: no finished split is there, or its tables are not those its manifest names.
        DatasetError: the corrections are of another split, or drop a label that there is not.
        ConfigError: the cache could not hold a single shard of it.
        StorageError: a remote store does not answer.
    """
    return ShardStore(as_path(location), cache or CacheConfig(), corrections)


class ShardStore:
    """An ingested split, read by row number. Safe to use from several threads; may be pickled to other processes.

    Attributes:
        location: the split's folder.
        manifest: what it was made of, and its digest.
        images: a row per image (:data:`~posecore.shards.index.IMAGE_SCHEMA`).
        instances: a row per instance (:func:`~posecore.shards.index.instance_schema`).
        corrections: labels that are read as unlabelled, or None.
    """

    def __init__(self, location: AnyPath, cache: CacheConfig, corrections: Corrections | None = None) -> None:
        self.location = location
        self.manifest: Manifest = read_manifest(location)
        self._mapped: list[MappedTable] = []
        self.images: pa.Table = self._read_table(IMAGES_NAME, self.manifest.num_images, cache)
        self.instances: pa.Table = self._read_table(INSTANCES_NAME, self.manifest.num_instances, cache)
        self.corrections = corrections
        if corrections is not None:
            corrections.check(self.manifest)
            self.instances = with_fewer_labels(self.instances, *corrections.dropped(self.instances, self.manifest))
        self._cache_config = cache
        self._cache = None if isinstance(location, Path) else ShardCache(cache)
        self._files = OpenFiles(self._local_path)
        self._check_cache()
        self._shards: NDArray[np.int32] = self.images["shard"].to_numpy()
        self._members = {
            member: tuple(self.images[f"{member}_{what}"].to_numpy() for what in ("offset", "size", "xxh3"))
            for member in ("image", "json", "masks")
        }
        self._sides = self.images["height"].to_numpy(), self.images["width"].to_numpy()
        self._samples = tuple(self.images[f"sample_{what}"].to_numpy() for what in ("offset", "size"))
        self._keys = self.images["key"]  # to look a column of a table up by its name takes longer than to read from it

    def __reduce__(self) -> tuple[object, ...]:
        return open_store, (self.location, self._cache_config, self.corrections)

    def __repr__(self) -> str:
        of = f"{self.manifest.dataset} {self.manifest.split}"
        return f"ShardStore({of}: {counted(self.num_images, 'image')}, {counted(len(self), 'instance')})"

    def _check_cache(self) -> None:
        largest = max((entry.size_bytes for entry in self.manifest.shards), default=0)
        if self._cache is not None and largest > self._cache.max_bytes:
            raise ConfigError(
                f"{self.location}: a shard has {largest} bytes, and the cache holds {self._cache.max_bytes}; allow it "
                "more (POSECORE_CACHE_BYTES), or ingest with fewer images_per_shard."
            )

    @property
    def cache(self) -> ShardCache | None:
        """Through which a remote split is read; None of a local one."""
        return self._cache

    def fetch(self, shard: int, precut: bool = False) -> None:
        """Brings a shard of a remote split to this machine, ahead of its samples.

        Args:
            shard: its number.
            precut: that of the pictures of its bodies.

        Raises:
            IntegrityError: it is missing, or has other bytes than the manifest names.
            StorageError: the store does not answer, or there is no room for the shard.
        """
        if self._cache is not None:
            try:
                self._cache.fetch(*(self.precut.place(shard) if precut else self._shard(shard)))
            except FileNotFoundError:
                raise self._missing(shard) from None

    @cached_property
    def precut(self) -> PrecutStore:
        """The pictures of single bodies.

        Raises:
            IntegrityError: there are none, or they are not of this edition.
        """
        return PrecutStore(self.location, self.manifest.digest, self._cache)

    @cached_property
    def shard_of_image(self) -> NDArray[np.int64]:
        """(num_images,) shard of each image."""
        return self._shards.astype(np.int64)

    @cached_property
    def labels(self) -> Labels:
        """The points of every instance, corrections applied."""
        return Labels(self.instances)

    def __len__(self) -> int:
        """Number of instances."""
        return int(self.instances.num_rows)

    @property
    def num_images(self) -> int:
        """Number of images."""
        return int(self.images.num_rows)

    def key(self, image_row: int) -> str:
        """Name of one image within the split."""
        return str(self._keys[image_row])

    def image_size(self, image_row: int) -> tuple[int, int]:
        """(height, width) of one image, as its header states it."""
        height, width = self._sides
        return height.item(image_row), width.item(image_row)

    def read_sample(self, image_row: int) -> Sample:
        """One image with its record and masks.

        Args:
            image_row: row of :attr:`images`.

        Raises:
            IntegrityError: the stored bytes are not those that were written; names the shard and the offset.
        """
        start, size = (column.item(image_row) for column in self._samples)
        data = self._read(image_row, start, size)
        masks = self._masks(image_row, data, start)
        return Sample(
            key=self.key(image_row),
            image_bytes=self._member(image_row, "image", data, start),
            record=masks.record,
            masks=masks,
            depth_bytes=self._depth(image_row, masks.record, data, start),
        )

    def read_image_bytes(self, image_row: int) -> bytes:
        """The source file of one image, untouched.

        Raises:
            IntegrityError: as :meth:`read_sample`.
        """
        start, size = self._place(image_row, "image")
        return self._intact(image_row, "image", self._read(image_row, start, size), start)

    def read_record(self, image_row: int) -> Record:
        """The annotations of one image.

        Raises:
            IntegrityError: as :meth:`read_sample`.
        """
        start, size = self._place(image_row, "json")
        record = record_from_json(self._member(image_row, "json", self._read(image_row, start, size), start))
        if self.corrections is not None:
            self.corrections.applied(record, self.manifest)
        return record

    def read_masks(self, image_row: int) -> UnifiedMasks:
        """The unified masks of one image, without the image.

        Raises:
            IntegrityError: as :meth:`read_sample`.
        """
        (start, _), (last, size) = self._place(image_row, "json"), self._place(image_row, "masks")
        return self._masks(image_row, self._read(image_row, start, last + size - start), start)

    def verify(self) -> None:
        """Reads every file of the split and compares it with the manifest: tars, index, quarantine.

        Raises:
            IntegrityError: a file is missing, or has other bytes than were written; names it and, where the damage
                lies within a sample, the byte offset of that sample.
        """
        for name in self.manifest.files:
            self._read_file(name)
        if (self.location / PRECUT_FOLDER / MANIFEST_NAME).exists():
            self.precut.verify()
        for number, entry in enumerate(self.manifest.shards):
            path = self.location / entry.name
            if not path.exists():
                raise IntegrityError(f"{path}: the shard is missing; {REPAIR}.")
            with file_content(path) as data:
                intact = has_tar_digest(data, entry.digest, str(path))
            if intact:
                continue
            for row in np.flatnonzero(self._shards == number).tolist():
                self.read_sample(row)
            raise IntegrityError(f"{path}: the shard's bytes are not those that were written; {REPAIR}.")

    def _masks(self, image_row: int, data: bytes, data_offset: int) -> UnifiedMasks:
        """Record and states, corrected."""
        record = record_from_json(self._member(image_row, "json", data, data_offset))
        state = decode_state(self._member(image_row, "masks", data, data_offset))
        if self.corrections is not None:
            changed = self.corrections.applied(record, self.manifest)
            state = self.corrections.corrected_state(state, changed, self.manifest)
        return UnifiedMasks(state, record)

    def _place(self, image_row: int, member: str) -> tuple[int, int]:
        offsets, sizes, _ = self._members[member]
        return offsets.item(image_row), sizes.item(image_row)

    def _member(self, image_row: int, member: str, data: bytes, data_offset: int) -> bytes:
        offset, size = self._place(image_row, member)
        return self._intact(image_row, member, data[offset - data_offset : offset - data_offset + size], offset)

    def _intact(self, image_row: int, member: str, content: bytes, offset: int) -> bytes:
        """A member's bytes, which are those that were written."""
        if xxh3_64_intdigest(content) != self._members[member][2].item(image_row):
            self._damaged(
                image_row, f"the {member} of sample {self.key(image_row)} at byte {offset} is not what was written"
            )
        return content

    def _depth(self, image_row: int, record: Record, data: bytes, data_offset: int) -> bytes | None:
        """The depth picture, which follows the masks; the record says how large it is and what its checksum is."""
        if record.depth is None:
            return None
        masks_offset, masks_size = self._place(image_row, "masks")
        start = masks_offset + stored_size(masks_size)
        content = data[start - data_offset : start - data_offset + record.depth.size_bytes]
        if f"{xxh3_64_intdigest(content):016x}" != record.depth.xxh3:
            self._damaged(
                image_row, f"the depth of sample {self.key(image_row)} at byte {start} is not what was written"
            )
        return content

    def _read(self, image_row: int, offset: int, size: int) -> bytes:
        shard = self._shards.item(image_row)
        try:
            if self._cache is None:
                data = self._files.read(shard, offset, size)
            else:
                data = self._cache.read(*self._shard(shard), offset, size)
        except FileNotFoundError:
            raise self._missing(shard) from None
        if len(data) != size:
            self._damaged(image_row, f"the shard ends at byte {offset + len(data)}, within a sample")
        return data

    def _missing(self, shard: int) -> IntegrityError:
        return IntegrityError(f"{self._shard(shard)[0]}: the shard is missing; {REPAIR}.")

    def _shard(self, number: int) -> tuple[AnyPath, ShardEntry]:
        entry = self.manifest.shards[number]
        return self.location / entry.name, entry

    def _damaged(self, image_row: int, what: str) -> NoReturn:
        entry = self.manifest.shards[self._shards.item(image_row)]
        raise IntegrityError(f"{self.location / entry.name}: {what}; {REPAIR}.")

    def _local_path(self, number: int) -> Path:
        path = self._shard(number)[0]
        assert isinstance(path, Path), path
        return path

    def _read_table(self, name: str, num_rows: int, cache: CacheConfig) -> pa.Table:
        if num_rows < LEAST_ROWS:
            return with_present_names(read_parquet(self._read_file(name)).combine_chunks())
        path = self.location / name
        try:
            self._mapped.append(mapped_table(path, self.manifest.files[name], cache.scratch / "tables"))
        except FileNotFoundError:
            raise IntegrityError(f"{path}: the table is missing; {REPAIR}.") from None
        return with_present_names(self._mapped[-1].table)

    def _read_file(self, name: str) -> bytes:
        path = self.location / name
        try:
            data = read_whole(path)
        except FileNotFoundError:
            raise IntegrityError(f"{path}: the table is missing; {REPAIR}.") from None
        if hashlib.sha256(data).hexdigest() != self.manifest.files[name]:
            raise IntegrityError(f"{path}: not the table that its manifest names; {REPAIR}.")
        return data
