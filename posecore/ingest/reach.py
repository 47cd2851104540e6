"""Instances whose numbers are finite and cannot be pixels of their picture: 4e11 px, or 300 pictures away.

Judged when the picture's size is known from its file, whatever reader gave the instance. The bound is
:data:`~posecore.geometry.MAX_REACH` longer sides of the picture from its corner. Healthy annotations leave their
picture by little: over the samples of nine datasets no box ends beyond 1.12 and no labelled point beyond 1.00.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from posecore.geometry import MAX_REACH
from posecore.schema import Instance, Record, Reject
from posecore.stages.rejects import reject_instance
from posecore.tables.columns import keypoints_of


def without_far_instances(record: Record) -> tuple[Record, list[Reject]]:
    """The record without such instances, and a reject of each: ``far-box`` or ``far-keypoints``.

    A box is the instance's own, its head's, or the one its centre and scale stand for.

    Args:
        record: with its picture's size.
    """
    limit = limit_of(record.height, record.width)
    kept, rejects = [], []
    for instance in record.instances:
        # A NaN is not at most anything.
        x, y, w, h = instance.bbox_xywh
        near = abs(x) <= limit and abs(y) <= limit and abs(x + w) <= limit and abs(y + h) <= limit
        if not near or not all(abs(edge) <= limit for edge in _further_edges(instance)):
            rejects.append(_far(record, instance, "far-box", "a box"))
        elif not float(np.abs(instance.keypoints).max(initial=0)) <= limit:
            rejects.append(_far(record, instance, "far-keypoints", "a keypoint"))
        else:
            kept.append(instance)
    return (replace(record, instances=kept), rejects) if rejects else (record, rejects)


def reaches(instances: pa.Table) -> NDArray[np.float64]:
    """(n,) a bound on how many pixels from its picture's corner anything of each instance lies; inf for no number.

    Instances of a lower bound than :func:`limit_of` are none of those that :func:`without_far_instances` takes out.

    Args:
        instances: of :func:`~posecore.tables.columns.instance_columns`.
    """
    x, y, w, h = (instances[f"bbox_{side}"].to_numpy() for side in "xywh")
    with np.errstate(invalid="ignore"):  # of an infinite box
        reach = np.abs([x, y, x + w, y + h]).max(axis=0)
    reach = np.maximum(reach, np.abs(keypoints_of(instances)).max(axis=(1, 2), initial=0))
    for name in ("head_bbox_xyxy", "center", "scale"):  # half of a scale from its centre is within both together
        given = instances[name].combine_chunks()
        if given.null_count < len(given):
            edges = np.abs(given.flatten().to_numpy())
            starts = np.cumsum([0, *given.value_lengths().drop_null().to_pylist()[:-1]])
            reach[given.is_valid().to_numpy(zero_copy_only=False)] += np.maximum.reduceat(edges, starts)
    return np.where(np.isnan(reach), np.inf, reach)


def limit_of(height: int, width: int) -> float:
    """Pixels from its corner within which everything of a picture's instances must lie."""
    return MAX_REACH * max(width, height)


def _further_edges(instance: Instance) -> Iterator[float]:
    if instance.head_bbox_xyxy is not None:
        yield from instance.head_bbox_xyxy
    if instance.center is not None and instance.scale is not None:
        for center, side in zip(instance.center, instance.scale, strict=True):
            yield from (center - side / 2, center + side / 2)


def _far(record: Record, instance: Instance, reason: str, what: str) -> Reject:
    size = f"{record.width}x{record.height}"
    detail = f"{what} lies more than {MAX_REACH:g} pictures away from its picture of {size} pixels, or is no number."
    return reject_instance(record, instance, reason, detail)
