"""The plan: which record goes into which shard, a pure function of the sorted sources.

Nothing here depends on how many workers there are or on the order in which they finish.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import orjson
from pydantic import Field

from posecore.config import Config, digest_json
from posecore.datasets.definition import DatasetDefinition
from posecore.errors import IngestError
from posecore.formats.files import relative_path
from posecore.formats.values import Refusal
from posecore.ingest.stage_code import READER_STAGE, codes_of
from posecore.ingest.stages import load_stages, reject_image, reject_instance
from posecore.ingest.tally import Tally
from posecore.schema import Record, Reject
from posecore.shards.manifest import FORMAT_VERSION, StageCode
from posecore.skeletons.union import Vocabulary, builtin_vocabulary
from posecore.storage import AnyPath

PLAN_STAGE = "plan"
IMAGE_STAGE = "image"

_UNSAFE = re.compile(r"[^A-Za-z0-9_-]")
_MAX_ID_CHARACTERS = 64


class IngestSettings(Config):
    """What shards look like and how closely their images are examined.

    Attributes:
        images_per_shard: samples in every shard but the last.
        decode: ``header`` follows every file's structure to its end, checksums of PNGs included; ``full`` also decodes
            every image, about four times slower.
        decode_share: part of the images that ``header`` decodes all the same, chosen by the hash of their bytes.
        max_image_pixels: larger images are rejected by their header, before anything decodes them.
        max_image_bytes: larger files are rejected unread.
    """

    images_per_shard: int = Field(1000, ge=1)
    decode: Literal["header", "full"] = "header"
    decode_share: float = Field(0.01, ge=0, le=1)
    max_image_pixels: int = Field(100_000_000, ge=1)
    max_image_bytes: int = Field(256 << 20, ge=1)


@dataclass(frozen=True, slots=True)
class IngestJob:
    """One split to ingest; small, and sent to every worker.

    Attributes:
        definition: the dataset.
        split: name of the split.
        root: folder of the download, local or remote.
        folder: where the shards go.
        settings: how.
        vocabulary: union names of the unified masks.
    """

    definition: DatasetDefinition
    split: str
    root: AnyPath
    folder: AnyPath
    settings: IngestSettings
    vocabulary: Vocabulary

    @property
    def stage_names(self) -> tuple[str, ...]:
        """Every stage of the pipeline, in order."""
        return (READER_STAGE, PLAN_STAGE, *self.definition.stages, IMAGE_STAGE)

    def digest(self, code: Mapping[str, StageCode]) -> str:
        """SHA-256 of everything that shapes the shards, besides the records and the image bytes.

        Args:
            code: of the stages, by name; the reader's has done its work in the records.
        """
        return digest_json(
            {
                "format_version": FORMAT_VERSION,
                "definition": self.definition.digest(),
                "split": self.split,
                "settings": self.settings.model_dump(mode="json"),
                "vocabulary": self.vocabulary.digest(),
                "stages": [[name, code[name].digest] for name in self.definition.stages],
            }
        )


@dataclass(frozen=True, slots=True, eq=False)
class PlannedShard:
    """The records of one shard, before the stages.

    Attributes:
        number: position among the split's shards, from 0.
        keys: sample name of each record.
        records: in source order.
        fingerprint: hash of the job and the records.
    """

    number: int
    keys: tuple[str, ...]
    records: tuple[Record, ...]
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
        shards: in order.
        tally: what reader and planning rejected.
        digest: hash of the job and of all records.
        code: of the reader and of every stage the definition names.
    """

    job: IngestJob
    shards: tuple[PlannedShard, ...]
    tally: Tally
    digest: str
    code: Mapping[str, StageCode]


def ingest_job(
    definition: DatasetDefinition, split: str, root: AnyPath, out: AnyPath, settings: IngestSettings
) -> IngestJob:
    """One split to ingest into ``<out>/<dataset>/<split>``, its masks over the built-in names and the dataset's own.

    Raises:
        IngestError: the definition has no such split.
    """
    if split not in definition.splits:
        raise IngestError(f"{definition.name} has no split {split!r}; its splits are {', '.join(definition.splits)}.")
    vocabulary = builtin_vocabulary().extended([definition.skeleton])
    return IngestJob(definition, split, root, out / definition.name / split, settings, vocabulary)


def plan_shards(job: IngestJob, source: Iterable[Record | Reject]) -> Plan:
    """Sorts the records of a reader and cuts them into shards.

    Rejected here: a second image or instance of the same id (``duplicate-image-id``, ``duplicate-instance-id``; the
    first in source order stays), instances with another number of keypoints than the skeleton (``keypoint-count``),
    and images or depth pictures outside the download's folder (``path-escape``).

    Raises:
        IngestError: the reader yields nothing at all, or a stage cannot be had.
    """
    load_stages(job.definition.stages)  # before anything is read
    code = codes_of(job.definition, job.split)
    tally = Tally(job.stage_names)
    records: list[Record] = []
    for item in source:
        if isinstance(item, Reject):
            tally.reject_unread(READER_STAGE, item)
        else:
            tally.enter(READER_STAGE, item)
            records.append(item)
    records = _checked(sorted(records, key=_order), job.definition.skeleton.num_keypoints, tally)
    if not records:
        reasons = ", ".join(f"{r}: {n}" for count in tally.counts() for r, n in count.reasons.items())
        raise IngestError(
            f"{job.definition.name} {job.split}: the split is empty below {job.root}"
            f"{f' (rejected: {reasons})' if reasons else ''}; check the annotation file and the folder given as root."
        )
    size = job.settings.images_per_shard
    job_digest = job.digest(code)
    parts = [records[start : start + size] for start in range(0, len(records), size)]
    shards = tuple(_planned(number, part, job_digest) for number, part in enumerate(parts))
    return Plan(job, shards, tally, digest_json([job_digest, [shard.fingerprint for shard in shards]]), code)


def sample_key(source_id: str) -> str:
    """A source id as a WebDataset key: no dot, slash or blank, at most 81 characters, different for different ids."""
    safe = _UNSAFE.sub("_", source_id)[:_MAX_ID_CHARACTERS]
    if safe == source_id and safe:
        return safe
    return f"{safe}-{hashlib.sha256(source_id.encode()).hexdigest()[:16]}"


def _order(record: Record) -> tuple[int, str]:
    """Shorter ids first, so that plain numbers stand in their numeric order."""
    return len(record.source_id), record.source_id


def _checked(records: Sequence[Record], num_keypoints: int, tally: Tally) -> list[Record]:
    kept = []
    image_ids: set[str] = set()
    instance_ids: set[str] = set()
    for record in records:
        tally.enter(PLAN_STAGE, record)
        if record.source_id in image_ids:
            detail = f"another image has the id {record.source_id!r}; ids must be unique within a split."
            tally.reject_image(PLAN_STAGE, reject_image(record, "duplicate-image-id", detail), record)
            continue
        try:
            relative_path(record.image)
            if record.depth is not None:
                relative_path(record.depth.image)
        except Refusal as refusal:
            tally.reject_image(PLAN_STAGE, reject_image(record, refusal.reason, refusal.detail), record)
            continue
        image_ids.add(record.source_id)
        instances = []
        for instance in record.instances:
            if instance.id in instance_ids:
                reason, detail = "duplicate-instance-id", f"another instance has the id {instance.id!r}."
            elif instance.keypoints.shape != (num_keypoints, 3):
                expected = f"({num_keypoints}, 3)"
                reason, detail = "keypoint-count", f"keypoints are {instance.keypoints.shape}, not {expected}."
            else:
                instance_ids.add(instance.id)
                instances.append(instance)
                continue
            tally.reject_instance(PLAN_STAGE, reject_instance(record, instance, reason, detail))
        kept.append(record if len(instances) == len(record.instances) else replace(record, instances=instances))
    return kept


def _planned(number: int, records: Sequence[Record], job_digest: str) -> PlannedShard:
    digest = hashlib.sha256(job_digest.encode())
    for record in records:
        try:
            digest.update(orjson.dumps(record, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS))
        except TypeError as error:
            raise IngestError(
                f"{record.dataset} {record.split}: the record of {record.image} cannot be written as JSON ({error}); "
                "its reader must yield plain values, nested less than 250 deep."
            ) from None
    keys = tuple(sample_key(record.source_id) for record in records)
    return PlannedShard(number, keys, tuple(records), digest.hexdigest())
