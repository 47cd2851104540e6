"""What a reader yields, written to parts: annotations are Python objects here only, some thousand at a time."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import count

from posecore.datasets.discovery import parts_of_split, read_pool
from posecore.ingest.job import IngestJob
from posecore.schema import Record, Reject
from posecore.stages.rejects import reject_instance
from posecore.storage import AnyPath
from posecore.tables.parts import PartEntry, write_part
from posecore.tables.records import divided, to_annotations

IMAGES_PER_PART = 2000
_MOST_PORTIONS = 256
"""A format of a hundred thousand small files is not a hundred thousand tasks."""


@dataclass(frozen=True, slots=True)
class Portion:
    """What one task reads of a split.

    Attributes:
        number: position among the portions, from 0.
        of: how many portions there are.
        files: neighbours among what :func:`~posecore.datasets.discovery.parts_of_split` names; None is all.
    """

    number: int = 0
    of: int = 1
    files: tuple[str, ...] | None = None


WHOLE = Portion()


def portions(job: IngestJob) -> list[Portion]:
    """How the reading of a split is divided, whoever reads: one portion where its format is one file.

    Raises:
        DatasetError: the download is not in the format.
    """
    files = parts_of_split(job.definition, job.split, job.root)
    if not files:
        return [WHOLE]
    of = min(len(files), _MOST_PORTIONS)
    edges = [number * len(files) // of for number in range(of + 1)]
    return [Portion(number, of, files[edges[number] : edges[number + 1]]) for number in range(of)]


def read_portion(portion: Portion, job: IngestJob, scratch: AnyPath) -> tuple[PartEntry, ...]:
    """Reads a portion of a split's annotations and writes it down as tables, at least one part.

    Of a pool that the split is a part of, all is read: whose body an image shows is known when all of the pool is.

    Raises:
        DatasetError: the annotations cannot be read.
    """
    return write_parts(read_pool(job.definition, job.split, job.root, portion.files), job, scratch, portion)


def write_parts(
    items: Iterable[Record | Reject], job: IngestJob, scratch: AnyPath, portion: Portion = WHOLE
) -> tuple[PartEntry, ...]:
    """Writes down what a reader yields as parts of some thousand images, at least one.

    Instances with another number of keypoints than the skeleton are rejected (``keypoint-count``).
    """
    num_keypoints = job.definition.skeleton.num_keypoints
    numbers = count(portion.number, portion.of)  # no two portions write the same file
    entries = []
    for records, rejects in divided(items, IMAGES_PER_PART):
        fitted = [fitting(record, num_keypoints, rejects) for record in records]
        entries.append(write_part(scratch, next(numbers), to_annotations(fitted, num_keypoints), rejects))
    return tuple(entries) or (write_part(scratch, next(numbers), to_annotations([], num_keypoints), []),)


def fitting(record: Record, num_keypoints: int, rejects: list[Reject]) -> Record:
    """A record without the instances of another number of keypoints; their rejects are added to the others."""
    expected = (num_keypoints, 3)
    misfits = [instance for instance in record.instances if instance.keypoints.shape != expected]
    if not misfits:
        return record
    for instance in misfits:
        detail = f"keypoints are {instance.keypoints.shape}, not {expected}."
        rejects.append(reject_instance(record, instance, "keypoint-count", detail))
    kept = [instance for instance in record.instances if instance.keypoints.shape == expected]
    return replace(record, instances=kept)
