"""Whether an ingested split is what its stages make of its sources: they run again, and every picture is compared.

A changed picture states the digest of the file it came from. That this is so, and that nothing else was done to it, can
only be shown by doing it once more. Nothing is written but scratch files, which are removed.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from posecore.counting import counted
from posecore.errors import IngestError
from posecore.ingest.executor import Executor, InProcess
from posecore.ingest.fetch import Examined, ready_stages, staged
from posecore.ingest.job import IngestJob, IngestSettings
from posecore.ingest.plan import PlannedShard, planned_annotations
from posecore.ingest.run import plan_split, reaching, scratch_folder
from posecore.ingest.tally import Tally
from posecore.ingest.usable import usable
from posecore.shards.index import read_columns
from posecore.shards.manifest import FORMAT_VERSION, IMAGES_NAME, Manifest, read_manifest
from posecore.storage import AnyPath

MOST_NAMED = 20
"""Differences that a report names one by one; all are counted."""


@dataclass(frozen=True, slots=True)
class SourceReport:
    """What came of running the stages again.

    Attributes:
        split: dataset and split.
        num_images: pictures that are stored.
        num_changed: those that stages have changed.
        num_different: pictures that are not what the stages make of the source, or are not there on one side.
        differences: a sentence on each of the first of them.
    """

    split: str
    num_images: int
    num_changed: int
    num_different: int
    differences: tuple[str, ...]

    def __str__(self) -> str:
        head = f"{self.split}: {counted(self.num_images, 'picture')}, {self.num_changed} changed by stages; "
        if not self.num_different:
            return f"{head}every one is what reader and stages make of its source"
        more = self.num_different - len(self.differences)
        lines = [f"  {line}" for line in self.differences] + ([f"  … and {more} more"] if more else [])
        return "\n".join([f"{head}{self.num_different} are not what reader and stages make of their sources:", *lines])


def verify_source(job: IngestJob, executor: Executor | None = None) -> SourceReport:
    """Reads a split's annotations and pictures again, runs its stages, and compares with what is stored.

    That the shards hold what their index says is :meth:`~posecore.shards.store.ShardStore.verify`'s to tell.

    Args:
        job: the split; shards are cut as they were, whatever its settings say.
        executor: who does the work; None does it here.

    Raises:
        IngestError: the definition or the code of its reader or stages is another than that of the shards; a stage
            fails.
        IntegrityError: there is no finished split.
    """
    executor = executor or InProcess()
    manifest = read_manifest(job.folder)
    where = f"{manifest.dataset} {manifest.split}"
    if manifest.format_version != FORMAT_VERSION:
        raise IngestError(f"{where}: its shards have format {manifest.format_version}; ingest it again to verify it.")
    if manifest.definition.digest() != job.definition.digest():
        raise IngestError(f"{where}: dataset.yaml is another than the one its shards were made with; ingest it again.")
    job = IngestJob(
        job.definition,
        job.split,
        job.root,
        job.folder,
        IngestSettings.model_validate(manifest.settings),
        job.vocabulary,
    )
    with scratch_folder(job) as scratch:
        plan = plan_split(job, scratch, executor)
        for name, code in plan.code.items():
            if name in manifest.code and manifest.code[name].digest != code.digest:
                raise IngestError(f"{where}: the code of {name} is another than that of the shards; ingest it again.")
        found = executor.map(reaching(_differences, job), plan.shards, job, scratch)
    beyond = _stored(job, range(len(plan.shards), len(manifest.shards)))
    differences = [line for lines in found for line in lines]
    differences += [f"{image}: the reader has no such image now." for image, _, _ in beyond.values()]
    return SourceReport(
        where, manifest.num_images, _num_changed(job, manifest), len(differences), tuple(differences[:MOST_NAMED])
    )


def _differences(shard: PlannedShard, job: IngestJob, scratch: AnyPath) -> list[str]:
    """What is stored otherwise than the stages make it now, of one shard."""
    stored = _stored(job, range(shard.number, shard.number + 1))
    tally = Tally(job.stage_names)
    made = staged(job, ready_stages(job.definition), planned_annotations(scratch, shard), tally)
    found = list(_compared(usable(made, tally), stored))
    reasons = {row["source_id"]: row["detail"] for row in tally.rejects() if not row["instance_id"]}
    for source_id, (image, _, _) in stored.items():
        found.append(f"{image}: it is stored, and not to be had now: {reasons.get(source_id, 'its id is gone.')}")
    return found


def _compared(made: Iterator[Examined], stored: dict[str, tuple[str, str, str | None]]) -> Iterator[str]:
    for sample in made:
        record = sample.record
        image, digest, source_digest = stored.pop(record.source_id, (record.image, "", None))
        if not digest:
            yield f"{image}: it is not stored, or in another shard."
        elif source_digest != record.source_digest:
            yield f"{image}: its source has the digest {record.source_digest}, not {source_digest} as is stored."
        elif digest != record.digest:
            what = "the stages make another picture of it" if record.source_digest else "its file is another"
            yield f"{image}: {what}, of digest {record.digest}, not {digest} as is stored."


def _stored(job: IngestJob, shards: range) -> dict[str, tuple[str, str, str | None]]:
    """Image, digest and digest of the source of every picture of some shards, by source id."""
    columns = ("source_id", "image", "digest", "source_digest", "shard")
    rows = read_columns(job.folder / IMAGES_NAME, columns).to_pylist()
    return {
        row["source_id"]: (row["image"], row["digest"], row["source_digest"]) for row in rows if row["shard"] in shards
    }


def _num_changed(job: IngestJob, manifest: Manifest) -> int:
    changed = read_columns(job.folder / IMAGES_NAME, ["source_digest"])["source_digest"]
    return manifest.num_images - changed.null_count
