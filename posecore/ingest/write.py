"""Writing one planned shard: whole under its final name, or not there; the same bytes whoever writes it.

Two threads run ahead to read, hash and check the images (more for remote sources, where waiting dominates), because
reading and hashing leave the interpreter lock free; a third hashes the tar itself. The writing thread is left with
masks, JSON and index rows.
"""

import errno
import hashlib
import mmap
import os
import tempfile
import uuid
import zlib
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from io import FileIO
from pathlib import Path

import orjson

from posecore.config import Config
from posecore.errors import IngestError, IntegrityError
from posecore.ingest.plan import IMAGE_STAGE, IngestJob, PlannedShard
from posecore.ingest.source_image import EXTENSIONS, SourceImage, Unusable, read_source_image
from posecore.ingest.stages import load_stages, reject_image, run_stages
from posecore.ingest.tally import Tally
from posecore.schema import Json, Record, record_from_json, record_to_json
from posecore.shards.index import IndexRows, IndexTables, SamplePlace
from posecore.shards.manifest import ShardEntry, StageCounts
from posecore.shards.masks import encode_masks, unify
from posecore.shards.tar import BLOCK_BYTES, END_OF_ARCHIVE, member_header, members, padding, stored_size
from posecore.storage import AnyPath, write_atomically

_LOCAL_READERS = 2
_REMOTE_READERS = 16
_READ_BATCH = 8
_WRITE_BYTES = 1 << 20
_WRITE_PARTS = 512
"""Linux takes at most 1024 pieces in one write; a sample adds four."""
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
        tables: its index rows; ``image_row`` counts from the shard's first image.
        reused: it was there already, and verified.
    """

    number: int
    commit: Commit
    tables: IndexTables
    reused: bool


def write_shard(job: IngestJob, shard: PlannedShard) -> WrittenShard:
    """Writes one shard and its side-car, or keeps the one that is there if every byte of it is as it should be.

    A kept shard has the plan's fingerprint, the hash its side-car states, and no reject for an image file: those files
    may have been repaired since, so their shard is made again.

    Raises:
        IngestError: the disk is full; nothing is left under the shard's name.
    """
    kept = _kept(job, shard)
    if kept is not None:
        return kept
    with no_space_is_an_ingest_error(job.folder / shard.name):
        return _write(job, shard)


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


def _write(job: IngestJob, shard: PlannedShard) -> WrittenShard:
    tally = Tally(job.stage_names)
    rows = IndexRows()
    records = _staged(job, shard, tally)
    with _whole_file(job.folder / shard.name) as file, _HashingWriter(file) as writer:
        num_images = num_instances = 0
        for key, record, image in _with_images(job, records):
            tally.enter(IMAGE_STAGE, record)
            if isinstance(image, Unusable):
                tally.reject_image(IMAGE_STAGE, reject_image(record, image.reason, image.detail), record)
                continue
            record = replace(record, width=image.width, height=image.height, sha256=image.sha256)
            try:
                masks = encode_masks(unify(record, job.definition.skeleton, job.vocabulary))
            except (ValueError, TypeError, KeyError) as error:
                problem = reject_image(record, "bad-segmentation", f"a segmentation cannot be read ({error}).")
                tally.reject_image(IMAGE_STAGE, problem, record)
                continue
            text = orjson.dumps(record_to_json(record), option=orjson.OPT_NON_STR_KEYS)
            rows.add(key, record, _write_sample(writer, shard.number, key, image, text, masks))
            num_images += 1
            num_instances += len(record.instances)
        writer.write(END_OF_ARCHIVE)
        sha256, size_bytes = writer.finish()
    entry = ShardEntry(
        name=shard.name, sha256=sha256, size_bytes=size_bytes, num_images=num_images, num_instances=num_instances
    )
    commit = Commit(planned=shard.fingerprint, shard=entry, stages=tally.counts(), rejects=tally.rejects())
    write_atomically(job.folder / commit_name(shard.name), orjson.dumps(commit.model_dump(mode="json")))
    return WrittenShard(shard.number, commit, rows.tables(), reused=False)


def _staged(job: IngestJob, shard: PlannedShard, tally: Tally) -> list[tuple[str, Record]]:
    stages = load_stages(job.definition.stages)
    staged = ((key, run_stages(record, stages, tally)) for key, record in zip(shard.keys, shard.records, strict=True))
    return [(key, record) for key, record in staged if record is not None]


def _with_images(
    job: IngestJob, records: list[tuple[str, Record]]
) -> Iterator[tuple[str, Record, SourceImage | Unusable]]:
    """The records in order, each with its image, read ahead by threads."""
    readers = _LOCAL_READERS if isinstance(job.root, Path) else _REMOTE_READERS
    batches = [records[start : start + _READ_BATCH] for start in range(0, len(records), _READ_BATCH)]
    waiting: deque[Future[list[SourceImage | Unusable]]] = deque()
    with ThreadPoolExecutor(readers, "ingest-read") as pool:
        for number, batch in enumerate(batches):
            while len(waiting) < 2 * readers and number + len(waiting) < len(batches):
                waiting.append(pool.submit(_read_images, job, batches[number + len(waiting)]))
            for (key, record), image in zip(batch, waiting.popleft().result(), strict=True):
                yield key, record, image


def _read_images(job: IngestJob, records: list[tuple[str, Record]]) -> list[SourceImage | Unusable]:
    return [
        read_source_image(job.root / record.image, record.width, record.height, job.settings) for _, record in records
    ]


def _write_sample(
    writer: "_HashingWriter", number: int, key: str, image: SourceImage, text: bytes, masks: bytes
) -> SamplePlace:
    start = writer.position
    image_offset = start + BLOCK_BYTES
    json_offset = start + stored_size(len(image.data)) + BLOCK_BYTES
    masks_offset = json_offset + stored_size(len(text))
    writer.write(
        member_header(f"{key}.{EXTENSIONS[image.format]}", len(image.data)),
        image.data,
        padding(len(image.data)) + member_header(f"{key}.json", len(text)) + text + padding(len(text)),
        member_header(f"{key}.masks.npz", len(masks)) + masks + padding(len(masks)),
    )
    return SamplePlace(
        shard=number,
        sample_offset=start,
        sample_size=writer.position - start,
        image_offset=image_offset,
        image_size=len(image.data),
        image_crc32=image.crc32,
        json_offset=json_offset,
        json_size=len(text),
        json_crc32=zlib.crc32(text),
        masks_offset=masks_offset,
        masks_size=len(masks),
        masks_crc32=zlib.crc32(masks),
    )


class _HashingWriter:
    """Appends to a file in pieces of about a megabyte and hashes them in a thread of its own."""

    def __init__(self, file: FileIO) -> None:
        self._file = file
        self._digest = hashlib.sha256()
        self._hasher = ThreadPoolExecutor(1, "ingest-hash")
        self._hashed: Future[None] | None = None
        self._pending: list[bytes] = []
        self._pending_bytes = 0
        self.position = 0

    def __enter__(self) -> "_HashingWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self._hasher.shutdown()

    def write(self, *parts: bytes) -> None:
        """Appends the parts in order."""
        size = sum(map(len, parts))
        self._pending += parts
        self._pending_bytes += size
        self.position += size
        if self._pending_bytes >= _WRITE_BYTES or len(self._pending) >= _WRITE_PARTS:
            self._flush()

    def finish(self) -> tuple[str, int]:
        """SHA-256 and number of bytes of everything written."""
        self._flush()
        self._hasher.shutdown()
        return self._digest.hexdigest(), self.position

    def _flush(self) -> None:
        parts, size = self._pending, self._pending_bytes
        self._pending, self._pending_bytes = [], 0
        if self._hashed is not None:
            self._hashed.result()  # so that no more than two pieces are held at a time
        self._hashed = self._hasher.submit(self._hash, parts)
        written = os.writev(self._file.fileno(), parts)
        if written < size:  # a signal, or a disk with room for a part only: the next write says which
            rest = memoryview(b"".join(parts))[written:]
            while rest:
                rest = rest[self._file.write(rest) :]

    def _hash(self, parts: list[bytes]) -> None:
        for part in parts:
            self._digest.update(part)


@contextmanager
def _whole_file(path: AnyPath) -> Iterator[FileIO]:
    """A file that gets its name only when it is complete and on disk; for an object store, one put of a local copy."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(path, Path):
        aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
        try:
            with FileIO(aside, "wb") as file:
                yield file
                os.fsync(file.fileno())
            aside.replace(path)
        finally:
            aside.unlink(missing_ok=True)
        return
    with tempfile.TemporaryDirectory(prefix="posecore-ingest-") as folder:
        local = Path(folder) / path.name
        with FileIO(local, "wb") as file:
            yield file
        path.fs.put_file(str(local), path.path)


def _kept(job: IngestJob, shard: PlannedShard) -> WrittenShard | None:
    path = job.folder / shard.name
    try:
        commit = Commit.model_validate_json((job.folder / commit_name(shard.name)).read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    if commit.planned != shard.fingerprint or any(row["stage"] == IMAGE_STAGE for row in commit.rejects):
        return None
    try:
        with _content(path) as data:
            if hashlib.sha256(data).hexdigest() != commit.shard.sha256:
                return None
            rows = _rows(data, shard.number, str(path))
    except (FileNotFoundError, IntegrityError):
        return None
    tables = rows.tables()
    if isinstance(job.root, Path) and not _sources_unchanged(job.root, tables):
        return None
    return WrittenShard(shard.number, commit, tables, reused=True)


def _sources_unchanged(root: Path, tables: IndexTables) -> bool:
    """Whether every source still has the size that was stored: a look-up each, cheap on a mounted file system only."""
    names, sizes = tables.images["image"].to_pylist(), tables.images["image_size"].to_pylist()
    try:
        return all((root / name).stat().st_size == size for name, size in zip(names, sizes, strict=True))
    except OSError:
        return False


@contextmanager
def _content(path: AnyPath) -> Iterator[bytes | memoryview]:
    if not isinstance(path, Path):
        yield path.read_bytes()
        return
    with path.open("rb") as file:
        if not os.fstat(file.fileno()).st_size:
            yield b""
            return
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped, memoryview(mapped) as view:
            yield view


def _rows(data: bytes | memoryview, number: int, origin: str) -> IndexRows:
    """The index rows of an existing shard, read back from the tar alone."""
    rows = IndexRows()
    found = list(members(data, origin))
    for image, text, masks in zip(found[::3], found[1::3], found[2::3], strict=True):
        checksums = {
            name: zlib.crc32(data[member.offset : member.offset + member.size])
            for name, member in (("image", image), ("json", text), ("masks", masks))
        }
        value: Json = orjson.loads(data[text.offset : text.offset + text.size])
        start = image.offset - BLOCK_BYTES
        place = SamplePlace(
            shard=number,
            sample_offset=start,
            sample_size=masks.offset - BLOCK_BYTES + stored_size(masks.size) - start,
            image_offset=image.offset,
            image_size=image.size,
            image_crc32=checksums["image"],
            json_offset=text.offset,
            json_size=text.size,
            json_crc32=checksums["json"],
            masks_offset=masks.offset,
            masks_size=masks.size,
            masks_crc32=checksums["masks"],
        )
        rows.add(text.name.removesuffix(".json"), record_from_json(value), place)
    return rows
