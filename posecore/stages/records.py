"""Stages that are plain functions: they look at a record before its image is read.

Such a stage gets one :class:`~posecore.schema.Record` and returns a record to keep, a :class:`~posecore.schema.Reject`
for the whole image, or a record together with the rejects of the instances it took out of it.

A stage called ``drop_…`` takes out what it is told to, and its losses never stop an ingestion; they are counted all the
same. Any other function that loses more than the definition's ``max_loss`` does stop it.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeAlias

import numpy as np

from posecore.counting import counted
from posecore.schema import Instance, Record, Reject
from posecore.stages.rejects import reject_image, reject_instance
from posecore.tables.columns import Annotations, keypoints_of

StageResult: TypeAlias = Record | Reject | tuple[Record, Sequence[Reject]]
RecordStage: TypeAlias = Callable[[Record], StageResult]


def check_instances(record: Record) -> StageResult:
    """Takes out instances that no loss or metric could use.

    Reasons: ``nan-box``, ``negative-box``, ``empty-box``, ``box-outside-image``, ``bad-area`` (not positive and
    finite), ``nan-keypoints``, ``flag-out-of-range`` (not 0, 1 or 2), ``absent-out-of-range``.
    """
    kept = []
    rejects = []
    for instance in record.instances:
        problem = _problem(instance, record)
        if problem is None:
            kept.append(instance)
        else:
            rejects.append(reject_instance(record, instance, *problem))
    return (replace(record, instances=kept), rejects) if rejects else record


def are_usable(annotations: Annotations) -> bool:
    """Whether :func:`check_instances` has nothing to say of any instance of some images, told from columns."""
    instances, rows = annotations.instances, annotations.image_rows
    x, y, w, h, area = (instances[name].to_numpy() for name in ("bbox_x", "bbox_y", "bbox_w", "bbox_h", "area"))
    points = keypoints_of(instances)
    if not (np.isfinite([x, y, w, h, area]).all() and np.isfinite(points).all()):
        return False
    width, height = (annotations.images[name].to_numpy()[rows] for name in ("width", "height"))
    outside = (width > 0) & (height > 0) & ((x >= width) | (y >= height) | (x + w <= 0) | (y + h <= 0))
    absent = instances["absent"].combine_chunks().flatten().to_numpy()
    return bool(
        (np.minimum(w, h) > 0).all()
        and not outside.any()
        and (area > 0).all()
        and np.isin(points[..., 2], _FLAGS_OF_POINTS).all()
        and ((absent >= 0) & (absent < points.shape[1])).all()
    )


def drop_images_without_instances(record: Record) -> StageResult:
    """Takes out images in which nothing is annotated (reason ``no-instances``)."""
    if record.instances:
        return record
    return reject_image(record, "no-instances", "the image has no instance.")


def drop_unlabelled(record: Record) -> StageResult:
    """Takes out single bodies without any labelled keypoint (``no-labelled-keypoints``); crowd regions stay."""
    return _drop_instances(
        record,
        lambda instance: not instance.is_crowd and not instance.keypoints[:, 2].any(),
        "no-labelled-keypoints",
        "no keypoint is labelled.",
    )


def drop_crowds(record: Record) -> StageResult:
    """Takes out crowd regions (``crowd``)."""
    return _drop_instances(record, lambda instance: instance.is_crowd, "crowd", "the instance is a crowd region.")


_FLAGS_OF_POINTS = (0.0, 1.0, 2.0)
_FLAGS = frozenset(_FLAGS_OF_POINTS)


def _problem(instance: Instance, record: Record) -> tuple[str, str] | None:
    x, y, w, h = instance.bbox_xywh
    if not all(map(math.isfinite, (x, y, w, h))):
        return "nan-box", f"{_box(instance)} is not finite."
    if w < 0 or h < 0:
        return "negative-box", f"{_box(instance)} has a negative size."
    if w == 0 or h == 0:
        return "empty-box", f"{_box(instance)} has no area."
    width, height = record.width, record.height
    if width and height and (x >= width or y >= height or x + w <= 0 or y + h <= 0):
        return "box-outside-image", f"{_box(instance)} lies outside the image of {width}x{height} pixels."
    if not 0 < instance.area < math.inf:
        return "bad-area", f"the area is {instance.area:g} px²; it must be positive and finite."
    if not np.isfinite(instance.keypoints).all():
        return "nan-keypoints", "a keypoint coordinate or flag is not finite."
    flags = instance.keypoints[:, 2].tolist()
    if not _FLAGS.issuperset(flags):
        wrong = ", ".join(f"{flag:g}" for flag in sorted(set(flags) - _FLAGS))
        return "flag-out-of-range", f"keypoint flags must be 0, 1 or 2, not {wrong}."
    if any(not 0 <= index < len(flags) for index in instance.absent):
        return (
            "absent-out-of-range",
            f"absent points {instance.absent} are not all among the {counted(len(flags), 'keypoint')}.",
        )
    return None


def _box(instance: Instance) -> str:
    x, y, w, h = instance.bbox_xywh
    return f"the box x={x:g}, y={y:g}, w={w:g}, h={h:g}"


def _drop_instances(
    record: Record, unwanted: Callable[[Instance], bool], reason: str, detail: str
) -> Record | tuple[Record, list[Reject]]:
    rejects = [reject_instance(record, item, reason, detail) for item in record.instances if unwanted(item)]
    if not rejects:
        return record
    return replace(record, instances=[item for item in record.instances if not unwanted(item)]), rejects
