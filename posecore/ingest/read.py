"""What a reader yields, written to parts: annotations are Python objects here only, some thousand at a time."""

from collections.abc import Iterable
from dataclasses import replace

from posecore.datasets.discovery import read_split
from posecore.ingest.job import IngestJob
from posecore.schema import Record, Reject
from posecore.stages.rejects import reject_instance
from posecore.storage import AnyPath
from posecore.tables.parts import PartEntry, write_part
from posecore.tables.records import divided, to_annotations

IMAGES_PER_PART = 2000


def read_parts(
    job: IngestJob, scratch: AnyPath, source: Iterable[Record | Reject] | None = None
) -> tuple[PartEntry, ...]:
    """Reads the annotations of a split and writes them down as parts, at least one.

    Instances with another number of keypoints than the skeleton are rejected (``keypoint-count``).

    Args:
        job: the split.
        scratch: where the parts go.
        source: what the split's reader yields; None asks it.

    Raises:
        DatasetError: the annotations cannot be read.
    """
    items = read_split(job.definition, job.split, job.root) if source is None else source
    num_keypoints = job.definition.skeleton.num_keypoints
    entries = []
    for number, (records, rejects) in enumerate(divided(items, IMAGES_PER_PART)):
        fitted = [fitting(record, num_keypoints, rejects) for record in records]
        entries.append(write_part(scratch, number, to_annotations(fitted, num_keypoints), rejects))
    return tuple(entries) or (write_part(scratch, 0, to_annotations([], num_keypoints), []),)


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
