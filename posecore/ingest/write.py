"""Writing one planned shard: whole under its final name, or not there; the same bytes whoever writes it.

One thread does it all, so that as many shards are written at a time as there are cores and none waits for another's
interpreter; a second one only asks the system to bring to disk what has been written so far.
"""

import errno
import hashlib
import os
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from io import FileIO
from itertools import groupby
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from xxhash import xxh3_64_intdigest

from posecore.asides import aside_file
from posecore.config import Config
from posecore.errors import IngestError, IntegrityError
from posecore.ingest.fetch import Samples, ready_stages, record_of, samples, source_file
from posecore.ingest.job import IMAGE_STAGE, IngestJob
from posecore.ingest.plan import PlannedShard, planned_annotations
from posecore.ingest.source_image import EXTENSIONS, SourceImage
from posecore.ingest.tally import Tally
from posecore.ingest.usable import why_unusable
from posecore.schema import DepthImage, Record, record_from_json
from posecore.shards.digests import file_digest
from posecore.shards.index import IndexRows, IndexTables, SamplePlace
from posecore.shards.manifest import ShardEntry, StageCounts
from posecore.shards.masks import encode_state, keypoint_state
from posecore.shards.remote import put_whole
from posecore.shards.store import DEPTH_EXTENSION
from posecore.shards.tar import BLOCK_BYTES, Member, TarWriter, has_tar_digest, members, stored_size
from posecore.stages.load import LoadedStage, load_stages
from posecore.stages.rejects import reject_image
from posecore.storage import AnyPath, file_content, write_atomically
from posecore.tables.columns import keypoints_of
from posecore.tables.json_text import ImageTexts
from posecore.tables.parquet import read_parquet
from posecore.tables.records import to_annotations

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


WrittenRows: TypeAlias = tuple[Commit, IndexTables]
"""A whole shard's side-car and its index rows."""


def write_shard(
    job: IngestJob, scratch: AnyPath, shard: PlannedShard, stages: Callable[[], Sequence[LoadedStage]] | None = None
) -> WrittenShard:
    """Writes one shard and its side-car, or keeps the one that is there if every byte of it is as it should be.

    The shard's index rows go to the scratch folder, from where :func:`shard_rows` has them. A kept shard has the
    plan's fingerprint, the hash its side-car states, and no image that was rejected for its file: those files may have
    been repaired since, so their shard is made again.

    Args:
        job: the split.
        scratch: where the plan's files are.
        shard: of the plan.
        stages: gives the definition's stages, ready; asked only if the shard is to be written. None makes them ready.

    Raises:
        IngestError: the disk is full; nothing is left under the shard's name.
    """
    with no_space_is_an_ingest_error(job.folder / shard.name):
        kept = kept_shard(job, scratch, shard)
        if kept is not None:
            return kept
        tally = Tally(job.stage_names)
        ready = ready_stages(job.definition) if stages is None else stages()
        of_shard = samples(job, ready, planned_annotations(scratch, shard), tally)
        return finished(scratch, shard, write_content(job, shard, of_shard, tally))


def kept_shard(job: IngestJob, scratch: AnyPath, shard: PlannedShard) -> WrittenShard | None:
    """The shard that is there, if it may be kept as :func:`write_shard` says."""
    kept = _kept(job, shard)
    return None if kept is None else finished(scratch, shard, kept, reused=True)


def finished(scratch: AnyPath, shard: PlannedShard, written: WrittenRows, reused: bool = False) -> WrittenShard:
    """Leaves the index rows of a whole shard where :func:`shard_rows` finds them."""
    commit, rows = written
    for name, table in (("images", rows.images), ("instances", rows.instances)):
        with (scratch / _rows_name(shard.number, name)).open("wb") as file:
            pq.write_table(table, file, compression="lz4")
    return WrittenShard(shard.number, commit, reused)


def shard_rows(scratch: AnyPath, number: int, name: Literal["images", "instances"]) -> pa.Table:
    """The index rows of a written shard; ``image_row`` counts from the shard's first image."""
    return read_parquet((scratch / _rows_name(number, name)).read_bytes())


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


def write_content(job: IngestJob, shard: PlannedShard, of_shard: Iterable[Samples], tally: Tally) -> WrittenRows:
    """Writes a shard and its side-car from what the stages have left of it.

    Args:
        job: the split.
        shard: that the samples are of.
        of_shard: in the order of the plan.
        tally: what was counted on their way; goes on counting.
    """
    parts: list[IndexTables] = []
    with whole_file(job.folder / shard.name) as file:
        tar = TarWriter(file)
        for some in of_shard:
            parts.append(_write_samples(job, shard.number, some, tar, tally))
        digest = tar.finish()
    rows = IndexTables.joined(parts or [IndexRows(to_annotations([], job.definition.skeleton.num_keypoints)).tables()])
    entry = ShardEntry(
        name=shard.name,
        digest=digest,
        size_bytes=tar.position,
        num_images=rows.images.num_rows,
        num_instances=rows.instances.num_rows,
    )
    commit = Commit(planned=shard.fingerprint, shard=entry, stages=tally.counts(), rejects=tally.rejects())
    write_atomically(job.folder / commit_name(shard.name), orjson.dumps(commit.model_dump(mode="json")))
    return commit, rows


def _write_samples(job: IngestJob, number: int, samples: Samples, tar: TarWriter, tally: Tally) -> IndexTables:
    annotations, definition = samples.annotations, job.definition
    texts, rows = ImageTexts(annotations, definition.name, job.split), IndexRows(annotations)
    ids, names = (annotations.images[name].to_pylist() for name in ("source_id", "image"))
    absent, regions = (annotations.instances[name].to_pylist() for name in ("absent", "segmentation"))
    keypoints = np.nan_to_num(keypoints_of(annotations.instances))  # which far instances may need
    states = keypoint_state(keypoints, absent, definition.skeleton, job.vocabulary)
    depths = list(
        zip(*(annotations.images[name].to_pylist() for name in ("depth_image", "metres_per_unit")), strict=True)
    )
    for row, bodies, image, depth in samples.found:
        drawn = [orjson.loads(region) for body in bodies if (region := regions[body]) is not None]
        why = why_unusable(names[row], image.data, drawn, (image.height, image.width))
        if why is not None:
            record = record_of(job, annotations, row, bodies)
            tally.reject_image(IMAGE_STAGE, reject_image(record, *why), record)
            continue
        key = sample_key(ids[row])
        masks = encode_state(states[bodies.start : bodies.stop] if isinstance(bodies, range) else states[bodies])
        name, metres = depths[row]
        described = _described(name, metres, depth)
        text = texts.text(row, (image.height, image.width), image.digest, described, bodies)
        rows.add(key, row, bodies, _add_sample(tar, number, key, image, text, masks, depth))
    return rows.tables()


def _described(name: str | None, metres_per_unit: float, depth: SourceImage | None) -> DepthImage | None:
    """A depth picture with what only its file says."""
    if name is None:
        return None
    described = DepthImage(image=name, metres_per_unit=metres_per_unit)
    return described if depth is None else replace(described, size_bytes=len(depth.data), xxh3=f"{depth.xxh3:016x}")


def _add_sample(
    tar: TarWriter, number: int, key: str, image: SourceImage, text: bytes, masks: bytes, depth: SourceImage | None
) -> SamplePlace:
    members = [
        tar.add(f"{key}.{EXTENSIONS[image.format]}", image.data, image.digest),
        tar.add(f"{key}.json", text),
        tar.add(f"{key}.masks.npz", masks),
    ]
    if depth is not None:
        members.append(tar.add(f"{key}.{DEPTH_EXTENSION}", depth.data, depth.digest))
    checksums = (image.xxh3, xxh3_64_intdigest(text), xxh3_64_intdigest(masks))
    return _place(number, members, checksums, (image.digest, image.width, image.height))


def _place(
    number: int, members: list[Member], checksums: tuple[int, int, int], said: tuple[str, int, int]
) -> SamplePlace:
    """Where the members of one sample lie: image, record, masks, and the depth picture if there is one.

    Args:
        number: of the shard.
        members: in order.
        checksums: XXH3 of image, record and masks.
        said: digest, width and height of the picture.
    """
    image, text, masks, last = *members[:3], members[-1]
    start = image.offset - BLOCK_BYTES
    size = last.offset - BLOCK_BYTES + stored_size(last.size) - start
    places = (image.offset, image.size, text.offset, text.size, masks.offset, masks.size)
    digest, width, height = said
    return SamplePlace(number, start, size, *places, digest, *checksums, width, height)


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
    with put_whole(path) as file:
        yield file


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


def _kept(job: IngestJob, shard: PlannedShard) -> WrittenRows | None:
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
            if not has_tar_digest(data, commit.shard.digest, str(path)):
                return None
            rows, sources = _rows(data, job.definition.skeleton.num_keypoints, shard.number, str(path))
    except (FileNotFoundError, IntegrityError):
        return None
    if isinstance(job.root, Path) and not _sources_unchanged(job, sources):
        return None
    return commit, rows


def _sources_unchanged(job: IngestJob, sources: dict[str, int | str]) -> bool:
    """Whether every source still is what it was: by its size where it was stored as it is, else by its digest.

    The former is a look-up each, cheap on a mounted file system only; the latter reads the file, which is cheap beside
    passing it through the stages again.
    """
    stages = load_stages(job.definition)
    known: dict[str, str] = {}
    try:
        for image, stored in sources.items():
            file = source_file(stages, image) or image
            if isinstance(stored, int):
                if (job.root / file).stat().st_size != stored:
                    return False
                continue
            if file not in known:
                known[file] = file_digest(job.root / file)
            if known[file] != stored:
                return False
    except OSError:
        return False
    return True


def _rows(
    data: bytes | memoryview, num_keypoints: int, number: int, origin: str
) -> tuple[IndexTables, dict[str, int | str]]:
    """The index rows of an existing shard, and the size or digest of its sources, read back from the tar alone."""
    found: list[tuple[str, SamplePlace]] = []
    records: list[Record] = []
    sources: dict[str, int | str] = {}
    for key, of_sample in groupby(members(data, origin), key=lambda member: member.name.partition(".")[0]):
        parts = list(of_sample)
        in_image, in_text, in_masks = (data[part.offset : part.offset + part.size] for part in parts[:3])
        checksums = (xxh3_64_intdigest(in_image), xxh3_64_intdigest(in_text), xxh3_64_intdigest(in_masks))
        record = record_from_json(in_text)
        sources[record.image] = parts[0].size if record.source_digest is None else record.source_digest
        if record.depth is not None and record.source_digest is None:
            sources[record.depth.image] = record.depth.size_bytes
        found.append((key, _place(number, parts, checksums, (record.digest, record.width, record.height))))
        records.append(record)
    annotations = to_annotations(records, num_keypoints)
    rows = IndexRows(annotations)
    for row, ((key, place), bodies) in enumerate(zip(found, annotations.bodies(), strict=True)):
        rows.add(key, row, bodies, place)
    return rows.tables(), sources
