"""A dataset's stages tried on some of its images before anything is ingested: what they leave, and what is wrong."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from posecore.counting import counted
from posecore.datasets.definition import DatasetDefinition
from posecore.errors import PoseCoreError
from posecore.image_header import bits_per_sample
from posecore.ingest.duplicates import DUPLICATE, hashed, twins_of
from posecore.ingest.fetch import fetched, ready_stages, source_file, staged
from posecore.ingest.job import IMAGE_STAGE, IngestJob, IngestSettings, ingest_job
from posecore.ingest.purity import assert_stage_is_pure
from posecore.ingest.read import fitting
from posecore.ingest.staging import run_on_annotations, run_on_pictures, wants_pictures
from posecore.ingest.tally import Tally
from posecore.ingest.usable import usable
from posecore.schema import Record, Reject
from posecore.shards.manifest import StageCounts
from posecore.stages.duplicates import Deduplicate
from posecore.stages.load import BUILT_IN, LoadedStage, load_stages, stage_path
from posecore.stages.protocol import Picture, SourceStage
from posecore.stages.ranges import ScaleRange
from posecore.stages.rejects import reject_image
from posecore.storage import AnyPath, as_path
from posecore.tables.records import to_annotations


@dataclass(frozen=True, slots=True)
class StageReport:
    """What became of a sample.

    Attributes:
        num_images: of the sample.
        counts: what each stage was given and took out, those before the one with the problem.
        losing: names of those that lose more than ingestion lets pass.
        problem: one sentence if a stage cannot be had, fails, breaks its protocol or is not pure; else empty.
    """

    num_images: int
    counts: tuple[StageCounts, ...]
    losing: tuple[str, ...]
    problem: str

    def __str__(self) -> str:
        lines = [f"  stages, tried on {counted(self.num_images, 'image')}:"]
        for count in self.counts:
            reasons = ", ".join(f"{reason}: {number}" for reason, number in count.reasons.items())
            lost = (
                f"{count.images_rejected} and {count.instances_rejected} of them ({reasons})" if reasons else "nothing"
            )
            given = f"{counted(count.images_in, 'image')}, {counted(count.instances_in, 'instance')}"
            lines.append(f"    {count.stage}: {given}; took out {lost}")
            if count.stage in self.losing:
                lines.append(f"  warning: {count.stage} loses more than max_loss allows, so ingestion would stop")
        return "\n".join([*lines, *([f"  error: {self.problem}"] if self.problem else [])])


def check_stages(
    definition: DatasetDefinition, split: str, root: str | AnyPath, sample: Sequence[Record]
) -> StageReport:
    """Runs every stage on a sample, and asks each whether it is a pure function.

    Args:
        definition: the dataset.
        split: a split of it.
        root: folder of the download, local or any fsspec URL.
        sample: some of its records; what cannot be ingested is left out.
    """
    job = _job(definition, split, root)
    records = _usable(sample, definition)
    tally = Tally(job.stage_names)
    met: list[str] = []
    strict: set[str] = set()
    problem = ""
    try:
        held: list[Record] | list[Picture] = records
        stages = load_stages(job.definition)
        strict = {stage.label for stage in stages if not stage.may_lose} | {IMAGE_STAGE}
        for stage in stages:
            if isinstance(stage.work, Deduplicate):
                held = _without_duplicates(stage, records, job, tally)
                met.append(stage.label)
                continue
            if wants_pictures(stage) and held and isinstance(held[0], Record):
                source = stage if isinstance(stage.work, SourceStage) else None
                read = fetched(job, [item for item in held if isinstance(item, Record)], tally, source)
                held = [item.picture for item in read]
            if not isinstance(stage.work, SourceStage):
                held = _passed(stage, held, job, tally)
            met.append(stage.label)
        if held and isinstance(held[0], Record):  # no stage wants pictures, but shards do
            held = [item.picture for item in fetched(job, [item for item in held if isinstance(item, Record)], tally)]
        problem = _left_deep(held)
    except PoseCoreError as error:
        problem = str(error)
    of_files = [IMAGE_STAGE] if any(count.reasons for count in tally.counts() if count.stage == IMAGE_STAGE) else []
    counts = tuple(count for count in tally.counts() if count.stage in [*met, *of_files])
    lossy = {count.stage for count in counts if max(count.lost_shares) > definition.max_loss}
    return StageReport(len(records), counts, tuple(sorted(lossy & strict)), problem)


def made_of(definition: DatasetDefinition) -> Callable[[str], str | None]:
    """For the ``image`` of a record, the file that a stage makes the picture of; None where it is a picture file."""
    try:
        stages = load_stages(definition)
    except PoseCoreError:  # which trying them tells
        stages = ()
    return partial(source_file, stages)


def may_scale(definition: DatasetDefinition) -> bool:
    """Whether a stage may make pictures of 8 bits of those of 16: ``scale_range``, or one that does not ship."""
    try:
        stages = load_stages(definition)
    except PoseCoreError:  # which trying them tells
        return False
    shipped = set(BUILT_IN.values())
    return any(
        isinstance(stage.work, ScaleRange) or (wants_pictures(stage) and stage_path(entry.stage) not in shipped)
        for stage, entry in zip(stages, definition.stages, strict=True)
    )


def staged_sample(
    definition: DatasetDefinition, split: str, root: str | AnyPath, sample: Sequence[Record]
) -> tuple[dict[str, Picture], dict[str, list[str]]]:
    """What the stages make of a sample.

    Returns:
        By source id: the pictures that are left, and why images or instances were taken out.

    Raises:
        IngestError: a stage cannot be had or fails.
    """
    job = _job(definition, split, root)
    tally = Tally(job.stage_names)
    annotations = to_annotations(_usable(sample, definition), definition.skeleton.num_keypoints)
    made = usable(staged(job, ready_stages(job.definition), annotations, tally), tally)
    left = {item.record.source_id: item.picture for item in made}
    reasons: dict[str, list[str]] = {}
    for row in tally.rejects():
        reasons.setdefault(row["source_id"], []).append(row["reason"])
    return left, reasons


def _job(definition: DatasetDefinition, split: str, root: str | AnyPath) -> IngestJob:
    return ingest_job(definition, split, as_path(root), as_path(root), IngestSettings())


def _usable(sample: Sequence[Record], definition: DatasetDefinition) -> list[Record]:
    """Each id once, and only bodies of as many points as the skeleton has."""
    misfits: list[Reject] = []
    once = {record.source_id: record for record in reversed(sample)}
    return [fitting(record, definition.skeleton.num_keypoints, misfits) for record in reversed(once.values())]


def _without_duplicates(stage: LoadedStage, records: list[Record], job: IngestJob, tally: Tally) -> list[Record]:
    kept = []
    records = sorted(records, key=lambda record: (len(record.source_id), record.source_id))
    for record, twin in zip(records, twins_of(stage, hashed(job, records)).tolist(), strict=True):
        tally.enter(stage.label, record)
        if twin < 0:
            kept.append(record)
        else:
            detail = f"it shows the same as {records[twin].source_id}."
            tally.reject_image(stage.label, reject_image(record, DUPLICATE, detail), record)
    return kept


def _left_deep(held: Sequence[Record | Picture]) -> str:
    """A sentence if pictures of 16 bits are left after all stages; ingestion refuses them."""
    deep = [item.record.image for item in held if isinstance(item, Picture) and bits_per_sample(item.data) > 8]
    if not deep:
        return ""
    return (
        f"after all stages 16 bits per value are left in {counted(len(deep), 'image')}, such as {deep[0]}; add the "
        "stage scale_range."
    )


def _passed(
    stage: LoadedStage, held: list[Record] | list[Picture], job: IngestJob, tally: Tally
) -> list[Record] | list[Picture]:
    if not held:  # no file of the sample can be read
        return held
    skeleton = job.definition.skeleton
    pictures = [item for item in held if isinstance(item, Picture)]
    if pictures:
        files = ([item.data for item in pictures], [item.depth for item in pictures])
        assert_stage_is_pure(stage, [item.record for item in pictures], skeleton, *files)
        return list(run_on_pictures(stage, pictures, tally, skeleton))
    records = [replace(item) for item in held if isinstance(item, Record)]
    assert_stage_is_pure(stage, records, skeleton)
    annotations = to_annotations(records, skeleton.num_keypoints)
    return run_on_annotations([stage], annotations, tally, skeleton, (job.definition.name, job.split))
