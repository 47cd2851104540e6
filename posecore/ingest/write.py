"""Writing one planned shard: whole under its final name, or not there; the same bytes whoever writes it.

Two threads run ahead to read, hash and check the images (more for remote sources, where waiting dominates), because
reading and hashing leave the interpreter lock free; a third writes the tar, a fourth brings to disk what has been
written so far. The calling thread is left with masks, JSON and index rows.
"""

import errno
import hashlib
import os
import re
import tempfile
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from io import FileIO
from itertools import groupby
from pathlib import Path
from typing import Literal

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from xxhash import xxh3_64_intdigest

from posecore.asides import aside_file
from posecore.config import Config
from posecore.errors import IngestError, IntegrityError
from posecore.ingest.job import IMAGE_STAGE, IngestJob
from posecore.ingest.plan import PlannedShard, planned_annotations
from posecore.ingest.reach import without_far_instances
from posecore.ingest.source_image import (
    EXTENSIONS,
    SourceImage,
    Unusable,
    read_depth_image,
    read_source_image,
)
from posecore.ingest.stages import load_stages, reject_image, run_stages
from posecore.ingest.tally import Tally
from posecore.schema import Record, record_from_json, record_to_json
from posecore.shards.index import IndexRows, IndexTables, SamplePlace
from posecore.shards.manifest import ShardEntry, StageCounts
from posecore.shards.masks import encode_masks, unify
from posecore.shards.store import DEPTH_EXTENSION
from posecore.shards.tar import BLOCK_BYTES, Member, TarWriter, members, stored_size, tar_digest
from posecore.storage import AnyPath, file_content, write_atomically
from posecore.tables.records import to_records

LOCAL_READERS = 2
_REMOTE_READERS = 16
_READ_BATCH = 8
_FLUSH_SECONDS = 0.1
_UNSAFE = re.compile(r"[^A-Za-z0-9_-]")
_MAX_ID_CHARACTERS = 64
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Commit(Config):
    """The side-car of a shard: it says that the tar is whole, and what it was made from.

    Attributes:
        planned: fingerprint of the planned shard.
        shard: the tar.
        stages: counts of this shard's records.
        rejects: quarantine rows of this shard's records.
    """

    planned: str
    shard: ShardEntry
    stages: tuple[StageCounts, ...]
    rejects: tuple[dict[str, str], ...]


@dataclass(frozen=True, slots=True, eq=False)
class WrittenShard:
    """A shard that is whole.

    Attributes:
        number: position among the split's shards.
        commit: its side-car.
        reused: it was there already, and verified.
    """

    number: int
    commit: Commit
    reused: bool


def write_shard(job: IngestJob, scratch: AnyPath, shard: PlannedShard) -> WrittenShard:
    """Writes one shard and its side-car, or keeps the one that is there if every byte of it is as it should be.

    The shard's index rows go to the scratch folder, from where :func:`shard_rows` has them. A kept shard has the
    plan's fingerprint, the hash its side-car states, and no image that was rejected for its file: those files may have
    been repaired since, so their shard is made again.

    Raises:
        IngestError: the disk is full; nothing is left under the shard's name.
    """
    with no_space_is_an_ingest_error(job.folder / shard.name):
        kept = _kept(job, shard)
        commit, rows = kept or _write(job, scratch, shard)
        for name, table in (("images", rows.images), ("instances", rows.instances)):
            with (scratch / _rows_name(shard.number, name)).open("wb") as file:
                pq.write_table(table, file, compression="lz4")
    return WrittenShard(shard.number, commit, reused=kept is not None)


def shard_rows(scratch: AnyPath, number: int, name: Literal["images", "instances"]) -> pa.Table:
    """The index rows of a written shard; ``image_row`` counts from the shard's first image."""
    with (scratch / _rows_name(number, name)).open("rb") as file:
        return pq.read_table(file)


def sample_key(source_id: str) -> str:
    """A source id as a WebDataset key: no dot, slash or blank, at most 81 characters, different for different ids."""
    safe = _UNSAFE.sub("_", source_id)[:_MAX_ID_CHARACTERS]
    if safe == source_id and safe:
        return safe
    return f"{safe}-{hashlib.sha256(source_id.encode()).hexdigest()[:16]}"


def _rows_name(number: int, table: str) -> str:
    return f"rows-{number:06d}.{table}.parquet"


def commit_name(shard_name: str) -> str:
    """File name of a shard's side-car."""
    return f"{shard_name.removesuffix('.tar')}.json"


@contextmanager
def no_space_is_an_ingest_error(path: AnyPath) -> Iterator[None]:
    """Turns the operating system's ways to say "full" into one sentence."""
    try:
        yield
    except OSError as error:
        if error.errno not in _NO_SPACE:
            raise
        raise IngestError(
            f"{path}: no room to write it ({error.strerror}); free space there and run again. "
            "Nothing half-written was left, and the finished shards are kept."
        ) from None


def _write(job: IngestJob, scratch: AnyPath, shard: PlannedShard) -> tuple[Commit, IndexTables]:
    tally = Tally(job.stage_names)
    rows = IndexRows()
    annotations = planned_annotations(scratch, shard)
    records = _staged(job, to_records(annotations, job.definition.name, job.split), tally)
    with whole_file(job.folder / shard.name) as file, TarWriter(file) as tar:
        num_images = num_instances = 0
        for key, record, pictures in _with_images(job, records):
            tally.enter(IMAGE_STAGE, record)
            if isinstance(pictures, Unusable):
                tally.reject_image(IMAGE_STAGE, reject_image(record, pictures.reason, pictures.detail), record)
                continue
            record, far = without_far_instances(pictures.described(record))
            for reject in far:
                tally.reject_instance(IMAGE_STAGE, reject)
            try:
                masks = encode_masks(unify(record, job.definition.skeleton, job.vocabulary))
            except (ValueError, TypeError, KeyError) as error:
                problem = reject_image(record, "bad-segmentation", f"a segmentation cannot be read ({error}).")
                tally.reject_image(IMAGE_STAGE, problem, record)
                continue
            rows.add(key, record, _add_sample(tar, shard.number, key, pictures, record_to_json(record), masks))
            num_images += 1
            num_instances += len(record.instances)
        digest = tar.finish()
    entry = ShardEntry(
        name=shard.name, digest=digest, size_bytes=tar.position, num_images=num_images, num_instances=num_instances
    )
    commit = Commit(planned=shard.fingerprint, shard=entry, stages=tally.counts(), rejects=tally.rejects())
    write_atomically(job.folder / commit_name(shard.name), orjson.dumps(commit.model_dump(mode="json")))
    return commit, rows.tables()


@dataclass(frozen=True, slots=True, eq=False)
class _Pictures:
    """What is stored of one record's files."""

    image: SourceImage
    depth: SourceImage | None

    def described(self, record: Record) -> Record:
        """The record with what only the files say."""
        image, depth = self.image, record.depth
        if self.depth is not None and depth is not None:
            depth = replace(depth, size_bytes=len(self.depth.data), xxh3=f"{self.depth.xxh3:016x}")
        return replace(record, width=image.width, height=image.height, sha256=image.sha256, depth=depth)


def _staged(job: IngestJob, records: list[Record], tally: Tally) -> list[tuple[str, Record]]:
    stages = load_stages(job.definition.stages)
    staged = ((sample_key(record.source_id), run_stages(record, stages, tally)) for record in records)
    return [(key, record) for key, record in staged if record is not None]


def _with_images(
    job: IngestJob, records: list[tuple[str, Record]]
) -> Iterator[tuple[str, Record, _Pictures | Unusable]]:
    """The records in order, each with its files, read ahead by threads."""
    readers = LOCAL_READERS if isinstance(job.root, Path) else _REMOTE_READERS
    batches = [records[start : start + _READ_BATCH] for start in range(0, len(records), _READ_BATCH)]
    waiting: deque[Future[list[_Pictures | Unusable]]] = deque()
    with ThreadPoolExecutor(readers, "ingest-read") as pool:
        for number, batch in enumerate(batches):
            while len(waiting) < 2 * readers and number + len(waiting) < len(batches):
                waiting.append(pool.submit(_read_images, job, batches[number + len(waiting)]))
            for (key, record), pictures in zip(batch, waiting.popleft().result(), strict=True):
                yield key, record, pictures


def _read_images(job: IngestJob, records: list[tuple[str, Record]]) -> list[_Pictures | Unusable]:
    return [_read_pictures(job, record) for _, record in records]


def _read_pictures(job: IngestJob, record: Record) -> _Pictures | Unusable:
    image = read_source_image(job.root / record.image, record.width, record.height, job.settings)
    if isinstance(image, Unusable) or record.depth is None:
        return image if isinstance(image, Unusable) else _Pictures(image, None)
    depth = read_depth_image(job.root / record.depth.image, image.width, image.height, job.settings)
    return depth if isinstance(depth, Unusable) else _Pictures(image, depth)


def _add_sample(tar: TarWriter, number: int, key: str, pictures: _Pictures, text: bytes, masks: bytes) -> SamplePlace:
    image, depth = pictures.image, pictures.depth
    members = [
        tar.add(f"{key}.{EXTENSIONS[image.format]}", image.data, image.sha256),
        tar.add(f"{key}.json", text, hashlib.sha256(text).hexdigest()),
        tar.add(f"{key}.masks.npz", masks, hashlib.sha256(masks).hexdigest()),
    ]
    if depth is not None:
        members.append(tar.add(f"{key}.{DEPTH_EXTENSION}", depth.data, depth.sha256))
    return _place(number, members, (image.xxh3, xxh3_64_intdigest(text), xxh3_64_intdigest(masks)))


def _place(number: int, members: list[Member], checksums: tuple[int, int, int]) -> SamplePlace:
    """Where the members of one sample lie: image, record, masks, and the depth picture if there is one."""
    image, text, masks, last = *members[:3], members[-1]
    start = image.offset - BLOCK_BYTES
    return SamplePlace(
        shard=number,
        sample_offset=start,
        sample_size=last.offset - BLOCK_BYTES + stored_size(last.size) - start,
        image_offset=image.offset,
        image_size=image.size,
        image_xxh3=checksums[0],
        json_offset=text.offset,
        json_size=text.size,
        json_xxh3=checksums[1],
        masks_offset=masks.offset,
        masks_size=masks.size,
        masks_xxh3=checksums[2],
    )


@contextmanager
def whole_file(path: AnyPath) -> Iterator[FileIO]:
    """A file that gets its name only when it is complete and on disk; for an object store, one put of a local copy."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(path, Path):
        with aside_file(path.parent) as aside:
            with FileIO(aside, "wb") as file:
                with _flushing(file):
                    yield file
                os.fsync(file.fileno())
            aside.replace(path)
        return
    with tempfile.TemporaryDirectory(prefix="posecore-ingest-") as folder:
        local = Path(folder) / path.name
        with FileIO(local, "wb") as file:
            yield file
        path.fs.put_file(str(local), path.path)


@contextmanager
def _flushing(file: FileIO) -> Iterator[None]:
    """Brings a growing file to disk again and again, so that the last flush, which is waited for, is short.

    Raises:
        OSError: a flush failed; the system reports it to that flush only.
    """
    closing = threading.Event()

    def flush() -> None:
        while not closing.wait(_FLUSH_SECONDS):
            os.fsync(file.fileno())

    with ThreadPoolExecutor(1, "ingest-flush") as pool:
        flushed = pool.submit(flush)
        try:
            yield
        finally:
            closing.set()
        flushed.result()


def _kept(job: IngestJob, shard: PlannedShard) -> tuple[Commit, IndexTables] | None:
    path = job.folder / shard.name
    try:
        commit = Commit.model_validate_json((job.folder / commit_name(shard.name)).read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    if commit.planned != shard.fingerprint or any(
        row["stage"] == IMAGE_STAGE and not row["instance_id"] for row in commit.rejects
    ):
        return None
    try:
        with file_content(path) as data:
            if tar_digest(data, str(path)) != commit.shard.digest:
                return None
            rows, sources = _rows(data, shard.number, str(path))
    except (FileNotFoundError, IntegrityError):
        return None
    if isinstance(job.root, Path) and not _sources_unchanged(job.root, sources):
        return None
    return commit, rows.tables()


def _sources_unchanged(root: Path, sources: list[tuple[str, int]]) -> bool:
    """Whether every source still has the size that was stored: a look-up each, cheap on a mounted file system only."""
    try:
        return all((root / name).stat().st_size == size for name, size in sources)
    except OSError:
        return False


def _rows(data: bytes | memoryview, number: int, origin: str) -> tuple[IndexRows, list[tuple[str, int]]]:
    """The index rows of an existing shard and the sizes of its sources, read back from the tar alone."""
    rows = IndexRows()
    sources: list[tuple[str, int]] = []
    for key, of_sample in groupby(members(data, origin), key=lambda member: member.name.partition(".")[0]):
        found = list(of_sample)
        in_image, in_text, in_masks = (data[part.offset : part.offset + part.size] for part in found[:3])
        checksums = (xxh3_64_intdigest(in_image), xxh3_64_intdigest(in_text), xxh3_64_intdigest(in_masks))
        record = record_from_json(in_text)
        sources.append((record.image, found[0].size))
        if record.depth is not None:
            sources.append((record.depth.image, record.depth.size_bytes))
        rows.add(key, record, _place(number, found, checksums))
    return rows, sources
