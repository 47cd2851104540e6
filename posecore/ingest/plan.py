"""The plan: which image goes into which shard, a pure function of what the reader found.

Only ids, paths and counts are looked at as a whole, by polars and as columns; the annotations themselves are moved
from the reader's parts to the plan's files a shard at a time. Nothing here depends on how many workers there are or on
how the reader's work was divided.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from posecore.config import digest_json
from posecore.datasets.division import sides
from posecore.errors import IngestError
from posecore.formats.files import relative_path
from posecore.formats.values import Refusal
from posecore.ingest.duplicates import DUPLICATE, deduplicate_stage, read_hashes, twins_of
from posecore.ingest.job import PLAN_STAGE, IngestJob
from posecore.ingest.stage_code import READER_STAGE, codes_of
from posecore.ingest.tally import Tally
from posecore.schema import Reject
from posecore.shards.manifest import StageCode
from posecore.storage import AnyPath
from posecore.tables.columns import IMAGE_COLUMNS, Annotations, instance_columns, rejects_table, with_image_rows
from posecore.tables.digest import update_with_table
from posecore.tables.parts import PartEntry, Parts

_ODD_PATH = r"[\x00\\]|://|^[A-Za-z]:|(^|/)\.\.(/|$)|^[./]*$"
"""What :func:`~posecore.formats.files.relative_path` may refuse; it decides."""

_SHARDS_AT_ONCE = 32
"""Gathered together: where the source's order is not that of the ids, every part is read once for so many shards."""


@dataclass(frozen=True, slots=True)
class PlannedShard:
    """One shard, before the stages.

    Attributes:
        number: position among the split's shards, from 0; its row group in the plan's files.
        num_images: images of it.
        num_instances: instances of it.
        fingerprint: hash of the job and of its annotations.
    """

    number: int
    num_images: int
    num_instances: int
    fingerprint: str

    @property
    def name(self) -> str:
        """File name of the tar."""
        return f"shard-{self.number:06d}.tar"


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """All shards of a split.

    Attributes:
        job: what is ingested, and how.
        scratch: folder of the plan's files.
        shards: in order.
        tally: what reader and planning rejected.
        digest: hash of the job and of all annotations.
        code: of the reader and of every stage the definition names.
    """

    job: IngestJob
    scratch: AnyPath
    shards: tuple[PlannedShard, ...]
    tally: Tally
    digest: str
    code: Mapping[str, StageCode]


def plan_shards(job: IngestJob, scratch: AnyPath, entries: Sequence[PartEntry]) -> Plan:
    """Sorts the images of a split, cuts them into shards, and writes down the annotations of each.

    Images stand in the order of their ids, shorter ids first, so that plain numbers stand in their numeric order.
    Rejected here: a second image or instance of the same id (``duplicate-image-id``, ``duplicate-instance-id``; the
    first in that order stays), and images or depth pictures outside the download's folder (``path-escape``).

    Args:
        job: the split.
        scratch: where the parts of what its reader found are, and the plan's files go.
        entries: the parts.

    Raises:
        IngestError: the reader found nothing at all.
        DatasetError: the pool that the split is a part of cannot be divided.
    """
    code = codes_of(job.definition, job.split)
    parts = Parts(scratch, entries)
    tally = Tally(job.stage_names)
    own, rejects = _own_of_pool(job, parts)
    num_images, num_instances = int(own.sum()), int(_instances_per_image(parts)[own].sum())
    tally.reject_rows(READER_STAGE, rejects, unread=True)
    tally.enter_many(READER_STAGE, num_images, num_instances)
    tally.enter_many(PLAN_STAGE, num_images, num_instances)
    images = _without_duplicates(job, parts, _images_in_order(job, parts, own, tally), tally)
    instances = _instances_in_order(job, parts, images, tally)
    if not len(images.rows):
        reasons = ", ".join(f"{r}: {n}" for count in tally.counts() for r, n in count.reasons.items())
        raise IngestError(
            f"{job.definition.name} {job.split}: the split is empty below {job.root}"
            f"{f' (rejected: {reasons})' if reasons else ''}; check the annotation file and the folder given as root."
        )
    job_digest = job.digest(code)
    shards = tuple(_write_plan(job, job_digest, parts, images, instances))
    digest = digest_json([job_digest, [shard.fingerprint for shard in shards]])
    return Plan(job, scratch, shards, tally, digest, code)


def planned_annotations(scratch: AnyPath, shard: PlannedShard) -> Annotations:
    """The annotations of one planned shard."""
    tables = []
    for name in ("images", "instances"):
        with (scratch / f"plan.{name}.arrow").open("rb") as file:
            tables.append(pa.Table.from_batches([pa.ipc.open_file(file).get_batch(shard.number)]))
    return Annotations(*tables)


@dataclass(frozen=True, slots=True, eq=False)
class _Images:
    """The images that stay.

    Attributes:
        rows: (n,) their rows in the parts, in the order of the plan.
        place_of: (N,) position of every image of the parts in that order, -1 for those that do not stay.
        ids: (n,) their ids.
    """

    rows: NDArray[np.int64]
    place_of: NDArray[np.int64]
    ids: pl.Series


@dataclass(frozen=True, slots=True, eq=False)
class _Instances:
    """The instances that stay: (m,) rows in the parts and places of their images, in the order of the plan."""

    rows: NDArray[np.int64]
    places: NDArray[np.int64]


def _own_of_pool(job: IngestJob, parts: Parts) -> tuple[NDArray[np.bool_], pa.Table]:
    """Which images of the parts are the split's, and the rejects that are: all, unless it is a part of a pool."""
    partition = job.definition.splits[job.split].partition
    rejects = parts.rejects()
    if partition is None:
        return np.ones(parts.num_images, np.bool_), rejects
    images, bodies, lost = (
        pl.DataFrame(pl.from_arrow(table))
        for table in (
            parts.columns("images", ["source_id", "image", "video_id"]),
            parts.columns("instances", ["image_row", "subject_id", "is_crowd"]),
            rejects.select(["source_id", "source"]),
        )
    )
    own, own_rejects = sides(images, bodies, lost, partition, f"{job.definition.name} {job.split}")
    return own, rejects.filter(own_rejects)


def _images_in_order(job: IngestJob, parts: Parts, own: NDArray[np.bool_], tally: Tally) -> _Images:
    read = pl.from_arrow(parts.columns("images", ["source_id", "image", "depth_image"]))
    assert isinstance(read, pl.DataFrame)
    counts = _instances_per_image(parts)
    odd = pl.col("image").str.contains(_ODD_PATH) | pl.col("depth_image").str.contains(_ODD_PATH).fill_null(False)
    ordered = (
        read.lazy()
        .with_row_index("row")
        .filter(pl.Series(own))
        .sort(pl.col("source_id").str.len_chars(), "source_id", "row")
        .with_columns(odd=odd, again=~pl.col("source_id").is_first_distinct())
        .collect()
    )
    suspect = ordered.filter(pl.col("again") | pl.col("odd"))
    refused: list[int] = []
    rejects: list[Reject] = []
    for row, source_id, image, depth, again in suspect.select(
        "row", "source_id", "image", "depth_image", "again"
    ).iter_rows():
        if again:
            reason = "duplicate-image-id"
            detail = f"another image has the id {source_id!r}; ids must be unique within a split."
        else:
            try:
                relative_path(image)
                if depth is not None:
                    relative_path(depth)
                continue
            except Refusal as refusal:
                reason, detail = refusal.reason, refusal.detail
        refused.append(row)
        rejects.append(_reject(job, reason, detail, image, source_id))
    tally.reject_rows(PLAN_STAGE, rejects_table(rejects))
    tally.lose_instances(PLAN_STAGE, int(counts[refused].sum()))
    kept = ordered.filter(~pl.col("row").is_in(refused)) if refused else ordered
    rows = kept["row"].to_numpy().astype(np.int64)
    place_of = np.full(parts.num_images, -1, np.int64)
    place_of[rows] = np.arange(len(rows))
    return _Images(rows, place_of, kept["source_id"])


def _without_duplicates(job: IngestJob, parts: Parts, images: _Images, tally: Tally) -> _Images:
    """The images that the stage ``deduplicate`` leaves, if it is listed."""
    stage = deduplicate_stage(job)
    if stage is None:
        return images
    twin = twins_of(stage, read_hashes(parts.folder, parts.entries).take(images.rows))
    counts = _instances_per_image(parts)
    gone = np.flatnonzero(twin >= 0)
    sources = parts.take("images", images.rows[gone]).select(["image", "source_id"]).to_pylist()
    rejects = [
        _reject(job, DUPLICATE, f"it shows the same as {kept}, which is kept.", at["image"], at["source_id"])
        for at, kept in zip(sources, images.ids.gather(twin[gone]), strict=True)
    ]
    tally.enter_many(stage.label, len(images.rows), int(counts[images.rows].sum()))
    tally.reject_rows(stage.label, rejects_table(rejects))
    tally.lose_instances(stage.label, int(counts[images.rows[gone]].sum()))
    return _kept(images, twin < 0, parts.num_images)


def _kept(images: _Images, wanted: NDArray[np.bool_], num_images: int) -> _Images:
    rows = images.rows[wanted]
    place_of = np.full(num_images, -1, np.int64)
    place_of[rows] = np.arange(len(rows))
    return _Images(rows, place_of, images.ids.filter(pl.Series(wanted)))


def _instances_per_image(parts: Parts) -> NDArray[np.int64]:
    return np.bincount(parts.columns("instances", ["image_row"])["image_row"].to_numpy(), minlength=parts.num_images)


def _instances_in_order(job: IngestJob, parts: Parts, images: _Images, tally: Tally) -> _Instances:
    read = pl.from_arrow(parts.columns("instances", ["image_row", "id"]))
    assert isinstance(read, pl.DataFrame)
    ordered = (
        read.lazy()
        .with_row_index("row")
        .with_columns(place=pl.Series(images.place_of).gather(pl.Series(read["image_row"])))
        .filter(pl.col("place") >= 0)
        .sort("place", "row")
        .with_columns(again=~pl.col("id").is_first_distinct())
        .collect()
    )
    wrong = ordered.filter("again")
    sources = parts.take("images", images.rows[wrong["place"].to_numpy()]).select(["image", "source_id"]).to_pylist()
    rejects = [
        _reject(
            job,
            "duplicate-instance-id",
            f"another instance has the id {instance_id!r}.",
            at["image"],
            at["source_id"],
            instance_id,
        )
        for instance_id, at in zip(wrong["id"], sources, strict=True)
    ]
    tally.reject_rows(PLAN_STAGE, rejects_table(rejects))
    kept = ordered.filter(~pl.col("again"))
    return _Instances(kept["row"].to_numpy().astype(np.int64), kept["place"].to_numpy())


def _write_plan(
    job: IngestJob, job_digest: str, parts: Parts, images: _Images, instances: _Instances
) -> Iterator[PlannedShard]:
    size = job.settings.images_per_shard
    edges = np.arange(0, len(images.rows), size)
    starts = np.searchsorted(instances.places, edges)
    ends = [*starts[1:].tolist(), len(instances.rows)]
    with (
        (parts.folder / "plan.images.arrow").open("wb") as image_file,
        (parts.folder / "plan.instances.arrow").open("wb") as instance_file,
        pa.ipc.new_file(image_file, IMAGE_COLUMNS) as image_writer,
        pa.ipc.new_file(instance_file, instance_columns(job.definition.skeleton.num_keypoints)) as instance_writer,
    ):
        for number, (edge, start, end) in enumerate(zip(edges.tolist(), starts.tolist(), ends, strict=True)):
            if number % _SHARDS_AT_ONCE == 0:
                last = min(number + _SHARDS_AT_ONCE, len(edges)) - 1
                first_image, first_body = edge, start
                some_images = parts.take("images", images.rows[edge : edges[last] + size])
                some_bodies = parts.take("instances", instances.rows[start : ends[last]])
            of_shard = some_images.slice(edge - first_image, size)
            bodies = some_bodies.slice(start - first_body, end - start)
            bodies = with_image_rows(bodies, instances.places[start:end] - edge)
            digest = hashlib.sha256(job_digest.encode())
            for table, writer in ((of_shard, image_writer), (bodies, instance_writer)):
                update_with_table(digest, table)
                writer.write_batch(_one_batch(table))
            yield PlannedShard(number, of_shard.num_rows, bodies.num_rows, digest.hexdigest())


def _one_batch(table: pa.Table) -> pa.RecordBatch:
    """All rows of a table: batch n of the plan's files is shard n, one without instances too."""
    batches = table.combine_chunks().to_batches()
    return batches[0] if batches else pa.RecordBatch.from_pylist([], table.schema)


def _reject(job: IngestJob, reason: str, detail: str, source: str, source_id: str, instance_id: str = "") -> Reject:
    return Reject(
        reason=reason,
        detail=detail,
        dataset=job.definition.name,
        split=job.split,
        source=source,
        source_id=source_id,
        instance_id=instance_id,
    )
