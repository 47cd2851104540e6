"""From a shard's annotations to its samples: stages that see annotations, the pictures, stages that see pictures.

Two threads run ahead to read, hash and check the images (more for remote sources, where waiting dominates), because
reading and hashing leave the interpreter lock free.
"""

import hashlib
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path

from xxhash import xxh3_64_intdigest

from posecore.datasets.definition import DatasetDefinition
from posecore.image_header import image_size
from posecore.ingest.job import IMAGE_STAGE, IngestJob
from posecore.ingest.reach import without_far_instances
from posecore.ingest.source_image import SourceImage, Unusable, read_depth_image, read_source_image
from posecore.ingest.staging import run_on_annotations, run_on_pictures, wants_pictures
from posecore.ingest.tally import Tally
from posecore.schema import Record
from posecore.stages.load import LoadedStage, load_stages
from posecore.stages.protocol import ModelStage, Picture
from posecore.stages.rejects import reject_image
from posecore.tables.columns import Annotations

LOCAL_READERS = 2
_REMOTE_READERS = 16
_READ_BATCH = 8


@dataclass(frozen=True, slots=True, eq=False)
class Examined:
    """A sample that can be written.

    Attributes:
        record: with what the files say: sizes and hashes.
        image: the picture.
        depth: its depth picture, or None.
    """

    record: Record
    image: SourceImage
    depth: SourceImage | None

    @property
    def picture(self) -> Picture:
        """As stages see it."""
        return Picture(data=self.image.data, record=self.record, depth=None if self.depth is None else self.depth.data)


def ready_stages(definition: DatasetDefinition) -> tuple[LoadedStage, ...]:
    """The stages of a definition, models built."""
    stages = load_stages(definition)
    for stage in stages:
        if isinstance(stage.work, ModelStage):
            stage.work.set_up()
    return stages


def staged(job: IngestJob, stages: Sequence[LoadedStage], annotations: Annotations, tally: Tally) -> Iterator[Examined]:
    """The samples of a shard in the order of the plan, having passed the given stages, which are ready.

    Raises:
        IngestError: a stage failed; names it, and the record or its options.
    """
    first, then = divided_stages(stages)
    samples = fetched(job, _first(job, first, annotations, tally), tally)
    if not then:
        return samples
    pictures: Iterable[Picture] = (sample.picture for sample in samples)
    for stage in then:
        pictures = run_on_pictures(stage, pictures, tally, job.definition.skeleton)
    return (examined(picture) for picture in pictures)


def divided_stages(stages: Sequence[LoadedStage]) -> tuple[list[LoadedStage], list[LoadedStage]]:
    """The stages that need no picture, up to the first that does, and the rest."""
    first = list(takewhile(lambda stage: not wants_pictures(stage), stages))
    return first, list(stages[len(first) :])


def fetched(job: IngestJob, records: Sequence[Record], tally: Tally) -> Iterator[Examined]:
    """The records in order, each with its files, read ahead by threads; what cannot be used is counted and left out."""
    for record, pictures in _with_images(job, records):
        tally.enter(IMAGE_STAGE, record)
        if isinstance(pictures, Unusable):
            tally.reject_image(IMAGE_STAGE, reject_image(record, pictures.reason, pictures.detail), record)
            continue
        near, far = without_far_instances(_described(record, *pictures))
        for reject in far:
            tally.reject_instance(IMAGE_STAGE, reject)
        yield Examined(near, *pictures)


def examined(picture: Picture) -> Examined:
    """A picture that stages have left, hashed anew."""
    files = (_source_image(picture.data), None if picture.depth is None else _source_image(picture.depth))
    return Examined(_described(picture.record, *files), *files)


def _first(job: IngestJob, stages: Sequence[LoadedStage], annotations: Annotations, tally: Tally) -> list[Record]:
    of = (job.definition.name, job.split)
    return run_on_annotations(stages, annotations, tally, job.definition.skeleton, of)


def _described(record: Record, image: SourceImage, depth: SourceImage | None) -> Record:
    """The record with what only the files say."""
    described = record.depth
    if depth is not None and described is not None:
        described = replace(described, size_bytes=len(depth.data), xxh3=f"{depth.xxh3:016x}")
    return replace(record, width=image.width, height=image.height, sha256=image.sha256, depth=described)


def _source_image(data: bytes) -> SourceImage:
    size = image_size(data)
    digest = hashlib.sha256(data).hexdigest()
    return SourceImage(data, size.format, size.width, size.height, digest, xxh3_64_intdigest(data))


def _with_images(
    job: IngestJob, records: Sequence[Record]
) -> Iterator[tuple[Record, tuple[SourceImage, SourceImage | None] | Unusable]]:
    readers = LOCAL_READERS if isinstance(job.root, Path) else _REMOTE_READERS
    batches = [records[start : start + _READ_BATCH] for start in range(0, len(records), _READ_BATCH)]
    waiting: deque[Future[list[tuple[SourceImage, SourceImage | None] | Unusable]]] = deque()
    with ThreadPoolExecutor(readers, "ingest-read") as pool:
        for number, batch in enumerate(batches):
            while len(waiting) < 2 * readers and number + len(waiting) < len(batches):
                waiting.append(pool.submit(_read_images, job, batches[number + len(waiting)]))
            yield from zip(batch, waiting.popleft().result(), strict=True)


def _read_images(job: IngestJob, records: Sequence[Record]) -> list[tuple[SourceImage, SourceImage | None] | Unusable]:
    return [_read_pictures(job, record) for record in records]


def _read_pictures(job: IngestJob, record: Record) -> tuple[SourceImage, SourceImage | None] | Unusable:
    image = read_source_image(job.root / record.image, record.width, record.height, job.settings)
    if isinstance(image, Unusable) or record.depth is None:
        return image if isinstance(image, Unusable) else (image, None)
    depth = read_depth_image(job.root / record.depth.image, image.width, image.height, job.settings)
    return depth if isinstance(depth, Unusable) else (image, depth)
