"""One split from source to manifest, with whatever executes the planned shards: this process, or a cluster."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import wraps
from itertools import chain
from typing import Literal, ParamSpec, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from posecore import __version__
from posecore.datasets.areas import impossible_areas
from posecore.errors import IngestError, IntegrityError
from posecore.ingest.duplicates import deduplicate_stage, hash_part
from posecore.ingest.executor import Executor, InProcess
from posecore.ingest.job import IngestJob, IngestSettings
from posecore.ingest.plan import Plan, plan_shards
from posecore.ingest.read import portions, read_portion, write_parts
from posecore.ingest.write import WrittenShard, commit_name, no_space_is_an_ingest_error, shard_rows, whole_file
from posecore.schema import Record, Reject
from posecore.shards.editions import keep_edition
from posecore.shards.index import write_table
from posecore.shards.manifest import (
    IMAGES_NAME,
    INSTANCES_NAME,
    MANIFEST_NAME,
    QUARANTINE_NAME,
    Manifest,
    StageCounts,
    read_manifest,
    write_manifest,
)
from posecore.shards.remote import outage_in_a_sentence
from posecore.stages.load import load_stages
from posecore.storage import AnyPath, remove_folder, sha256_of
from posecore.tables.columns import renumbered
from posecore.tables.parts import PartEntry

_P = ParamSpec("_P")
_T = TypeVar("_T")

SCRATCH_NAME = ".ingest"
"""Folder beside the shards while they are made."""


def ingest(
    job: IngestJob, source: Iterable[Record | Reject] | None = None, executor: Executor | None = None
) -> Manifest:
    """Ingests one split: reads, plans, writes or verifies every shard, then publishes tables and manifest.

    The manifest is written last; until then the folder holds no split for anyone who opens it. What is already whole
    is kept, so a run that was interrupted continues, and a damaged shard is made again.

    Args:
        job: the split.
        source: what its reader yields, for records made in this process; None asks the reader.
        executor: who does the work; None does it here.

    Raises:
        DatasetError: the annotations cannot be read.
        IngestError: the split is empty, a stage lost more than the definition allows (the rejects are in
            ``quarantine.parquet`` then, and there is no manifest), annotated areas are none, or the disk is full.
    """
    executor = executor or InProcess()
    load_stages(job.definition)  # what cannot be had is known before anything is read
    with (
        no_space_is_an_ingest_error(job.folder),
        outage_in_a_sentence(job.root, job.folder),
        scratch_folder(job) as scratch,
    ):
        plan = plan_split(job, scratch, executor, source)
        _withdraw_if_stale(plan)
        written = sorted(executor.write(plan), key=lambda shard: shard.number)
        if [shard.number for shard in written] != list(range(len(plan.shards))):
            raise AssertionError(f"{job.folder}: the executor did not return every planned shard exactly once")
        return executor.call(reaching(_publish, job), plan, written)


def plan_split(
    job: IngestJob, scratch: AnyPath, executor: Executor, source: Iterable[Record | Reject] | None = None
) -> Plan:
    """Reads a split's annotations and plans its shards.

    Args:
        job: the split.
        scratch: where annotations and plan go.
        executor: who does the work.
        source: as of :func:`ingest`.

    Raises:
        DatasetError: the annotations cannot be read.
        IngestError: the split is empty.
    """
    parts = _read(job, scratch, executor) if source is None else write_parts(source, job, scratch)
    if deduplicate_stage(job) is not None:
        executor.map(reaching(hash_part, job), parts, job, scratch)
    return executor.call(reaching(plan_shards, job), job, scratch, parts)


def _read(job: IngestJob, scratch: AnyPath, executor: Executor) -> tuple[PartEntry, ...]:
    read = executor.map(reaching(read_portion, job), executor.call(reaching(portions, job), job), job, scratch)
    return tuple(chain.from_iterable(read))


def reaching(work: Callable[_P, _T], job: IngestJob) -> Callable[_P, _T]:
    """The same work, saying in one sentence that a store is gone: its client's errors do not travel to the driver."""

    @wraps(work)
    def told(*arguments: _P.args, **named: _P.kwargs) -> _T:
        with outage_in_a_sentence(job.root, job.folder):
            return work(*arguments, **named)

    return told


@contextmanager
def scratch_folder(job: IngestJob) -> Iterator[AnyPath]:
    """A folder beside the shards, which every worker can reach; what a killed run left there is removed first."""
    folder = job.folder / SCRATCH_NAME
    remove_folder(folder)
    folder.mkdir(parents=True)
    try:
        yield folder
    except BaseException:
        with suppress(Exception):  # a store that is gone; the next ingestion begins with it
            remove_folder(folder)
        raise
    remove_folder(folder)


def advice(manifest: Manifest) -> str | None:
    """What somebody should be told of an ingestion that went well, or None.

    Images that pass every check but decoding are found only among those that were decoded.
    """
    settings = IngestSettings.model_validate(manifest.settings)
    found = manifest.rejects.get("undecodable-image", 0)
    if settings.decode == "full" or not found:
        return None
    return (
        f"{manifest.dataset} {manifest.split}: {found} of the {settings.decode_share:.0%} of the images that were "
        "decoded cannot be; there will be more among the others, which decoding all of them finds (--decode full, or "
        "decode: full of the ingest settings)."
    )


def _publish(plan: Plan, written: list[WrittenShard]) -> Manifest:
    job = plan.job
    for shard in written:
        plan.tally.add(shard.commit.stages, shard.commit.rejects)
    counts = plan.tally.counts()
    quarantine = write_table(job.folder / QUARANTINE_NAME, plan.tally.quarantine())
    try:
        _refuse_loss(job, counts)
        if not any(shard.commit.shard.num_images for shard in written):
            raise IngestError(
                f"{job.definition.name} {job.split}: no image is left ({_worst(counts)}); see "
                f"{job.folder / QUARANTINE_NAME}."
            )
        _refuse_areas(job, plan.scratch, written)
    except IngestError:
        (job.folder / MANIFEST_NAME).unlink(missing_ok=True)
        raise
    files = {
        IMAGES_NAME: _write_index(job.folder / IMAGES_NAME, plan.scratch, written, "images"),
        INSTANCES_NAME: _write_index(job.folder / INSTANCES_NAME, plan.scratch, written, "instances"),
        QUARANTINE_NAME: hashlib.sha256(quarantine).hexdigest(),
    }
    manifest = Manifest(
        code_version=__version__,
        dataset=job.definition.name,
        split=job.split,
        definition=job.definition,
        definition_digest=job.definition.digest(),
        vocabulary=job.vocabulary.names,
        settings=job.settings.model_dump(mode="json"),
        stages=counts,
        code=dict(plan.code),
        plan_digest=plan.digest,
        shards=tuple(shard.commit.shard for shard in written),
        num_images=sum(shard.commit.shard.num_images for shard in written),
        num_instances=sum(shard.commit.shard.num_instances for shard in written),
        files=files,
    )
    _remove_strangers(job, manifest)
    keep_edition(job.folder, manifest)
    write_manifest(job.folder, manifest)
    return manifest


def _withdraw_if_stale(plan: Plan) -> None:
    """Removes a manifest of another plan: from now on the shards beside it change."""
    try:
        current = read_manifest(plan.job.folder).plan_digest == plan.digest
    except IntegrityError:
        current = False
    if not current:
        (plan.job.folder / MANIFEST_NAME).unlink(missing_ok=True)


def _remove_strangers(job: IngestJob, manifest: Manifest) -> None:
    """Removes shards of former plans and what killed writers left, so that no tool that lists the tars reads them."""
    names = {name for entry in manifest.shards for name in (entry.name, commit_name(entry.name))}
    for path in job.folder.iterdir():
        of_shard = path.name.startswith("shard-") and path.name not in names
        if of_shard or (path.name.startswith(".shard-") and path.name.endswith(".part")):
            path.unlink(missing_ok=True)


def _refuse_loss(job: IngestJob, counts: tuple[StageCounts, ...]) -> None:
    lenient = {stage.label for stage in load_stages(job.definition) if stage.may_lose}
    for count in counts:
        if count.stage in lenient:
            continue
        images, instances = count.lost_shares
        if max(images, instances) > job.definition.max_loss:
            raise IngestError(
                f"{job.definition.name} {job.split}: stage {count.stage} lost {images:.1%} of the images and "
                f"{instances:.1%} of the instances, more than max_loss {job.definition.max_loss:.1%} "
                f"({_worst((count,))}); see {job.folder / QUARANTINE_NAME}, correct the data or raise max_loss."
            )


def _refuse_areas(job: IngestJob, scratch: AnyPath, written: Sequence[WrittenShard]) -> None:
    if job.definition.area_rule != "annotated":
        return
    columns = ["area", "bbox_w", "bbox_h", "is_crowd"]
    tables = [shard_rows(scratch, shard.number, "instances").select(columns) for shard in written]
    area, width, height, is_crowd = (column.to_numpy() for column in pa.concat_tables(tables).columns)
    bodies = ~np.asarray(is_crowd, np.bool_)
    problem = impossible_areas(area[bodies], (width * height)[bodies])
    if problem is not None:
        raise IngestError(f"{job.definition.name} {job.split}: {problem}.")


def _write_index(
    path: AnyPath, scratch: AnyPath, written: Sequence[WrittenShard], name: Literal["images", "instances"]
) -> str:
    """The rows of all shards as one table, a row group a shard; returns the file's SHA-256."""
    first_row = 0
    with whole_file(path) as file:
        writer: pq.ParquetWriter | None = None
        for shard in written:
            rows = shard_rows(scratch, shard.number, name)
            if name == "instances":
                rows = renumbered(rows, first_row)
                first_row += shard.commit.shard.num_images
            writer = writer or pq.ParquetWriter(file, rows.schema, compression="zstd")
            writer.write_table(rows)
        assert writer is not None, "a plan has a shard"
        writer.close()
    return sha256_of(path)


def _worst(counts: tuple[StageCounts, ...]) -> str:
    totals = [(number, reason) for count in counts for reason, number in count.reasons.items()]
    return ", ".join(f"{reason}: {number}" for number, reason in sorted(totals, reverse=True)[:3])
