"""From a shard's annotations to its samples: stages that see annotations, the pictures, stages that see pictures.

A mounted file is read, checked and hashed by the calling thread, one picture after the other, while it is in the
processor's cache; the system is asked beforehand to bring the next ones to memory. On a cold disk that waits no longer
than two reading threads did, and takes half of their processor's time. From object stores threads read ahead, because
there waiting dominates.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import groupby, takewhile
from pathlib import Path
from typing import NamedTuple, TypeAlias, TypeVar

import numpy as np
from xxhash import xxh3_64_intdigest

from posecore.datasets.definition import DatasetDefinition
from posecore.image_header import image_size
from posecore.ingest.job import IMAGE_STAGE, IngestJob
from posecore.ingest.reach import limit_of, reaches, without_far_instances
from posecore.ingest.source_image import SourceImage, Unusable, read_depth_image, read_source_image
from posecore.ingest.staging import (
    annotations_left,
    run_on_annotations,
    run_on_pictures,
    run_source_stage,
    wants_pictures,
)
from posecore.ingest.tally import Tally
from posecore.schema import DepthImage, Record
from posecore.shards.digests import content_digest
from posecore.stages.duplicates import Deduplicate
from posecore.stages.load import LoadedStage, load_stages
from posecore.stages.protocol import ModelStage, Picture, SourceStage
from posecore.stages.rejects import reject_image
from posecore.storage import ExpectedFile
from posecore.tables.columns import Annotations, with_image_rows
from posecore.tables.records import to_annotations, to_records
from posecore.tar_members import TarMember, archive_of, picture_at
from posecore.videos.address import parse_frame_address

_AHEAD = 16
_MOST_HELD, _MOST_BYTES_HELD = 256, 1 << 26
"""Pictures that are held until their records are columns."""
_REMOTE_READERS = 16

_Pictures: TypeAlias = tuple[SourceImage, SourceImage | None] | Unusable


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


class Sample(NamedTuple):
    """One image of some annotations that can be written.

    Attributes:
        row: of the annotations' images.
        bodies: rows of those of its instances that are left.
        image: the picture.
        depth: its depth picture, or None.
    """

    row: int
    bodies: Sequence[int]
    image: SourceImage
    depth: SourceImage | None


@dataclass(frozen=True, slots=True, eq=False)
class Samples:
    """Annotations, and which of their images can be written, in order."""

    annotations: Annotations
    found: Iterable[Sample]


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
    first, source, then = divided_stages(stages)
    samples = fetched(job, _first(job, first, annotations, tally), tally, source)
    if not then:
        return samples
    pictures: Iterable[Picture] = (sample.picture for sample in samples)
    for stage in then:
        pictures = run_on_pictures(stage, pictures, tally, job.definition.skeleton)
    return (examined(picture) for picture in pictures)


def samples(job: IngestJob, stages: Sequence[LoadedStage], annotations: Annotations, tally: Tally) -> Iterator[Samples]:
    """What :func:`staged` yields, in columns; where no stage wants pictures no record is made."""
    first, source, then = divided_stages(stages)
    if source is not None or then:
        return in_columns(job, staged(job, stages, annotations, tally))
    left = annotations_left(first, annotations, tally, job.definition.skeleton, (job.definition.name, job.split))
    return iter([Samples(left, _read_rows(job, left, tally))])


def in_columns(job: IngestJob, examined: Iterable[Examined]) -> Iterator[Samples]:
    """Samples whose records are columns, some at a time: a table costs as much for one record as for many."""
    for some in _some_at_a_time(examined):
        annotations = to_annotations([sample.record for sample in some], job.definition.skeleton.num_keypoints)
        found = [
            Sample(row, bodies, sample.image, sample.depth)
            for row, (sample, bodies) in enumerate(zip(some, annotations.bodies(), strict=True))
        ]
        yield Samples(annotations, found)


def _some_at_a_time(examined: Iterable[Examined]) -> Iterator[list[Examined]]:
    held: list[Examined] = []
    num_bytes = 0
    for sample in examined:
        held.append(sample)
        num_bytes += len(sample.image.data)
        if len(held) == _MOST_HELD or num_bytes >= _MOST_BYTES_HELD:
            yield held
            held, num_bytes = [], 0
    if held:
        yield held


def divided_stages(
    stages: Sequence[LoadedStage],
) -> tuple[list[LoadedStage], LoadedStage | None, list[LoadedStage]]:
    """The stages that need no picture, up to the first that does; the one that makes pictures, if any; and the rest."""
    of_shards = [stage for stage in stages if not isinstance(stage.work, Deduplicate)]  # which the plan has asked
    first = list(takewhile(lambda stage: not wants_pictures(stage), of_shards))
    then = of_shards[len(first) :]
    if then and isinstance(then[0].work, SourceStage):
        return first, then[0], then[1:]
    return first, None, then


def source_file(stages: Sequence[LoadedStage], image: str) -> str | None:
    """The file that a source stage reads an image from; None for a picture file."""
    for stage in stages:
        if isinstance(stage.work, SourceStage):
            return stage.work.source_file(image)
    return None


def fetched(
    job: IngestJob, records: Sequence[Record], tally: Tally, source: LoadedStage | None = None
) -> Iterator[Examined]:
    """The records in order, each with its files, read ahead by threads; what cannot be used is counted and left out.

    Args:
        job: the split.
        records: in order.
        tally: counts.
        source: the stage that makes pictures of what is none, if there is one.
    """
    for made, run in groupby(records, key=lambda record: source is not None and _is_made(source, record)):
        if made:
            yield from _made(job, source, list(run), tally)
        else:
            yield from _read(job, list(run), tally)


def _is_made(source: LoadedStage, record: Record) -> bool:
    return source_file([source], record.image) is not None


def _made(job: IngestJob, source: LoadedStage | None, records: Sequence[Record], tally: Tally) -> Iterator[Examined]:
    assert source is not None, records
    assert isinstance(source.work, SourceStage), source
    max_pixels = job.settings.max_image_pixels
    for picture in run_source_stage(source, source.work, job.root, records, tally, max_pixels):
        sample = examined(picture)
        tally.enter(IMAGE_STAGE, sample.record)
        yield _near(sample, tally)


def _read_rows(job: IngestJob, annotations: Annotations, tally: Tally) -> Iterator[Sample]:
    """The images of some annotations in order, each with its files."""
    images, instances = annotations.images, annotations.instances
    names = ("image", "width", "height", "depth_image", "metres_per_unit")
    wanted = [
        _Wanted(image, width, height, None if depth is None else DepthImage(image=depth, metres_per_unit=metres))
        for image, width, height, depth, metres in zip(*(images[name].to_pylist() for name in names), strict=True)
    ]
    farthest = np.zeros(len(wanted))
    np.maximum.at(farthest, annotations.image_rows, reaches(instances))
    tally.enter_many(IMAGE_STAGE, len(wanted), instances.num_rows)
    of_images: list[Sequence[int]] = [*annotations.bodies()]
    for row, ((_, pictures), bodies, far) in enumerate(
        zip(_with_images(job, wanted), of_images, farthest.tolist(), strict=True)
    ):
        if isinstance(pictures, Unusable):
            record = record_of(job, annotations, row, bodies)
            tally.reject_image(IMAGE_STAGE, reject_image(record, pictures.reason, pictures.detail), record)
            continue
        image, depth = pictures
        if far > limit_of(image.height, image.width):
            record = replace(record_of(job, annotations, row, bodies), width=image.width, height=image.height)
            near, rejects = without_far_instances(record)
            for reject in rejects:
                tally.reject_instance(IMAGE_STAGE, reject)
            left = {body.id for body in near.instances}
            bodies = [place for place, body in zip(bodies, record.instances, strict=True) if body.id in left]
        yield Sample(row, bodies, image, depth)


def record_of(job: IngestJob, annotations: Annotations, row: int, bodies: Sequence[int]) -> Record:
    """The record of one image, with those of its instances that are left; for what is said of it, not for its bulk."""
    instances = with_image_rows(
        annotations.instances.take(np.asarray(bodies, np.int64)), np.zeros(len(bodies), np.int64)
    )
    of_image = Annotations(annotations.images.slice(row, 1), instances)
    (record,) = to_records(of_image, job.definition.name, job.split)
    return record


def _read(job: IngestJob, records: Sequence[Record], tally: Tally) -> Iterator[Examined]:
    for record, pictures in _with_images(job, records):
        tally.enter(IMAGE_STAGE, record)
        if isinstance(pictures, Unusable):
            tally.reject_image(IMAGE_STAGE, reject_image(record, pictures.reason, pictures.detail), record)
            continue
        yield _near(Examined(_described(record, *pictures), *pictures), tally)


def _near(sample: Examined, tally: Tally) -> Examined:
    near, far = without_far_instances(sample.record)
    for reject in far:
        tally.reject_instance(IMAGE_STAGE, reject)
    return replace(sample, record=near)


def examined(picture: Picture) -> Examined:
    """A picture that stages have left, hashed anew if one of them has changed it."""
    depth = None if picture.depth is None else source_image(picture.depth)
    files = source_image(picture.data, picture.record.digest), depth
    return Examined(_described(picture.record, *files), *files)


def _first(job: IngestJob, stages: Sequence[LoadedStage], annotations: Annotations, tally: Tally) -> list[Record]:
    of = (job.definition.name, job.split)
    return run_on_annotations(stages, annotations, tally, job.definition.skeleton, of)


def _described(record: Record, image: SourceImage, depth: SourceImage | None) -> Record:
    """The record with what only the files say."""
    described = record.depth
    if depth is not None and described is not None:
        described = replace(described, size_bytes=len(depth.data), xxh3=f"{depth.xxh3:016x}")
    return replace(record, width=image.width, height=image.height, digest=image.digest, depth=described)


def source_image(data: bytes, digest: str = "") -> SourceImage:
    """A picture that has been accepted, of a digest that may be known."""
    size, digest = image_size(data), digest or content_digest(data)
    return SourceImage(data, size.format, size.width, size.height, digest, xxh3_64_intdigest(data))


class _Wanted(NamedTuple):
    """Files to be read, by the names that a record has for them."""

    image: str
    width: int
    height: int
    depth: DepthImage | None


_Image = TypeVar("_Image", Record, _Wanted)


def _with_images(job: IngestJob, records: Sequence[_Image]) -> Iterator[tuple[_Image, _Pictures]]:
    if isinstance(job.root, Path):
        yield from _with_local_images(job, records)
        return
    waiting: deque[Future[_Pictures]] = deque()
    with ThreadPoolExecutor(_REMOTE_READERS, "ingest-read") as pool:
        for place, record in enumerate(records):
            while len(waiting) < 2 * _REMOTE_READERS and place + len(waiting) < len(records):
                waiting.append(pool.submit(_read_pictures, job, records[place + len(waiting)]))
            yield record, waiting.popleft().result()


def _with_local_images(job: IngestJob, records: Sequence[_Image]) -> Iterator[tuple[_Image, _Pictures]]:
    opened: deque[ExpectedFile | TarMember] = deque()
    try:
        for place, record in enumerate(records):
            for further in records[place + len(opened) : place + _AHEAD]:
                opened.append(_expected(job, further.image))
            with closing(opened.popleft()) as file:
                yield record, _read_pictures(job, record, file)
    finally:
        for file in opened:
            file.close()


def _expected(job: IngestJob, image: str) -> ExpectedFile | TarMember:
    if archive_of(image) is None:  # a path is dear to make
        return ExpectedFile(f"{job.root}/{image}", soon=True)
    member = picture_at(job.root, image)
    assert isinstance(member, TarMember), image
    return member


def _read_pictures(job: IngestJob, record: Record | _Wanted, file: ExpectedFile | TarMember | None = None) -> _Pictures:
    if parse_frame_address(record.image) is not None:
        detail = f"{record.image} is a frame of a video; list the stage video_frames in dataset.yaml."
        return Unusable("frame-of-a-video", detail)
    image = read_source_image(file or picture_at(job.root, record.image), record.width, record.height, job.settings)
    if isinstance(image, Unusable) or record.depth is None:
        return image if isinstance(image, Unusable) else (image, None)
    depth = read_depth_image(picture_at(job.root, record.depth.image), image.width, image.height, job.settings)
    return depth if isinstance(depth, Unusable) else (image, depth)
