"""One split from source to manifest, with whatever executes the planned shards: this process, or a cluster."""

import hashlib
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import pyarrow as pa

from posecore import __version__
from posecore.datasets.areas import impossible_areas
from posecore.errors import IngestError, IntegrityError
from posecore.ingest.plan import IngestJob, IngestSettings, Plan, PlannedShard, plan_shards
from posecore.ingest.stages import load_stages
from posecore.ingest.write import WrittenShard, commit_name, no_space_is_an_ingest_error, write_shard
from posecore.schema import Record, Reject
from posecore.shards.index import concatenate, write_table
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

Executor = Callable[[IngestJob, tuple[PlannedShard, ...]], Iterable[WrittenShard]]
"""Runs :func:`~posecore.ingest.write.write_shard` for every planned shard and yields the results in any order."""


def in_process(job: IngestJob, shards: tuple[PlannedShard, ...]) -> Iterator[WrittenShard]:
    """The executor without any cluster: one shard after the other."""
    for shard in shards:
        yield write_shard(job, shard)


def ingest(job: IngestJob, source: Iterable[Record | Reject], execute: Executor = in_process) -> Manifest:
    """Ingests one split: plans, writes or verifies every shard, then publishes tables and manifest.

    The manifest is written last; until then the folder holds no split for anyone who opens it. What is already whole
    is kept, so a run that was interrupted continues, and a damaged shard is made again.

    Args:
        job: the split.
        source: what its reader yields.
        execute: who writes the shards.

    Raises:
        IngestError: the split is empty, a stage lost more than the definition allows (the rejects are in
            ``quarantine.parquet`` then, and there is no manifest), annotated areas are none, or the disk is full.
    """
    plan = plan_shards(job, source)
    _withdraw_if_stale(plan)
    written = sorted(execute(job, plan.shards), key=lambda shard: shard.number)
    if [shard.number for shard in written] != list(range(len(plan.shards))):
        raise AssertionError(f"{job.folder}: the executor did not return every planned shard exactly once")
    for shard in written:
        plan.tally.add(shard.commit.stages, shard.commit.rejects)
    with no_space_is_an_ingest_error(job.folder):
        return _publish(plan, written)


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
    job, counts = plan.job, plan.tally.counts()
    tables = concatenate([shard.tables for shard in written])
    quarantine = write_table(job.folder / QUARANTINE_NAME, plan.tally.quarantine())
    try:
        _refuse_loss(job, counts)
        if not tables.images.num_rows:
            raise IngestError(
                f"{job.definition.name} {job.split}: no image is left ({_worst(counts)}); see "
                f"{job.folder / QUARANTINE_NAME}."
            )
        _refuse_areas(job, tables.instances)
    except IngestError:
        (job.folder / MANIFEST_NAME).unlink(missing_ok=True)
        raise
    files = {
        IMAGES_NAME: write_table(job.folder / IMAGES_NAME, tables.images),
        INSTANCES_NAME: write_table(job.folder / INSTANCES_NAME, tables.instances),
        QUARANTINE_NAME: quarantine,
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
        num_images=tables.images.num_rows,
        num_instances=tables.instances.num_rows,
        files={name: hashlib.sha256(data).hexdigest() for name, data in files.items()},
    )
    _remove_strangers(job, manifest)
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
    lenient = {stage.name for stage in load_stages(job.definition.stages) if stage.may_lose}
    for count in counts:
        if count.stage in lenient:
            continue
        images = count.images_rejected / max(count.images_in, 1)
        instances = count.instances_rejected / max(count.instances_in, 1)
        if max(images, instances) > job.definition.max_loss:
            raise IngestError(
                f"{job.definition.name} {job.split}: stage {count.stage} lost {images:.1%} of the images and "
                f"{instances:.1%} of the instances, more than max_loss {job.definition.max_loss:.1%} "
                f"({_worst((count,))}); see {job.folder / QUARANTINE_NAME}, correct the data or raise max_loss."
            )


def _refuse_areas(job: IngestJob, instances: pa.Table) -> None:
    if job.definition.area_rule != "annotated":
        return
    area, width, height, is_crowd = (instances[name].to_numpy() for name in ("area", "bbox_w", "bbox_h", "is_crowd"))
    bodies = ~np.asarray(is_crowd, np.bool_)
    problem = impossible_areas(area[bodies], (width * height)[bodies])
    if problem is not None:
        raise IngestError(f"{job.definition.name} {job.split}: {problem}.")


def _worst(counts: tuple[StageCounts, ...]) -> str:
    totals = [(number, reason) for count in counts for reason, number in count.reasons.items()]
    return ", ".join(f"{reason}: {number}" for number, reason in sorted(totals, reverse=True)[:3])
