"""Records to columns and back: how a reader that yields one record at a time fills tables.

A record survives the way there and back in every field that its JSON member states: what :func:`record_to_json` writes
of it is the same bytes.
"""

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
from numpy.typing import NDArray

from posecore.errors import DatasetError
from posecore.schema import DepthImage, Instance, Json, Record, Reject
from posecore.tables.columns import (
    IMAGE_COLUMNS,
    Annotations,
    arrays_of,
    instance_columns,
    keypoints_array,
    keypoints_of,
)

_PLAIN = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS
_SAME_IN_INSTANCE = (
    *("id", "area", "area_rule", "category", "category_id", "is_crowd", "absent", "num_keypoints"),
    *("head_bbox_xyxy", "center", "scale", "subject_id", "track_id"),
)
_SAME_IN_RECORD = (
    *("source_id", "image", "width", "height", "license", "video_id", "view_id", "frame_index", "source_digest"),
)


def to_annotations(records: Iterable[Record], num_keypoints: int) -> Annotations:
    """Records as tables, in their order.

    Args:
        records: each instance has (K, 3) keypoints.
        num_keypoints: K.

    Raises:
        DatasetError: a segmentation or extras are no JSON values.
    """
    records = list(records)
    bodies = [body for record in records for body in record.instances]
    extras = [_json(record, record.extras or None) for record in records]
    images = {name: [getattr(record, name) for record in records] for name in _SAME_IN_RECORD}
    images |= {
        "depth_image": [None if record.depth is None else record.depth.image for record in records],
        "metres_per_unit": [None if record.depth is None else record.depth.metres_per_unit for record in records],
        "extras": extras,
    }
    boxes = np.array([body.bbox_xywh for body in bodies], np.float64).reshape(-1, 4)
    points = [np.asarray(body.keypoints, np.float32) for body in bodies]
    instances: dict[str, Any] = {name: [getattr(body, name) for body in bodies] for name in _SAME_IN_INSTANCE}
    instances |= {f"bbox_{side}": boxes[:, place] for place, side in enumerate("xywh")}
    instances |= {
        "image_row": np.repeat(np.arange(len(records)), [len(record.instances) for record in records]),
        "keypoints": keypoints_array(points, num_keypoints),
        "keypoints_3d": [_flat(body.keypoints_3d) for body in bodies],
        "segmentation": [_json(record, body.segmentation) for record in records for body in record.instances],
        "extras": [_json(record, body.extras or None) for record in records for body in record.instances],
    }
    return Annotations(
        pa.Table.from_pydict(images, IMAGE_COLUMNS), pa.Table.from_pydict(instances, instance_columns(num_keypoints))
    )


def to_records(annotations: Annotations, dataset: str, split: str) -> list[Record]:
    """The records of some images, in their order.

    Args:
        annotations: of the images.
        dataset: name of the dataset definition.
        split: name of the split.
    """
    images, instances = annotations.images, annotations.instances
    records = [
        Record(
            dataset=dataset,
            split=split,
            depth=None if depth is None else DepthImage(image=depth, metres_per_unit=metres),
            extras=_parsed(extras),
            **dict(zip(_SAME_IN_RECORD, same, strict=True)),
        )
        for depth, metres, extras, *same in _rows(images, ("depth_image", "metres_per_unit", "extras"), _SAME_IN_RECORD)
    ]
    own = ("image_row", "bbox_x", "bbox_y", "bbox_w", "bbox_h", "segmentation", "extras")
    rows = _rows(instances, own, _SAME_IN_INSTANCE)
    points, three_d = keypoints_of(instances), arrays_of(instances["keypoints_3d"])
    for (row, x, y, w, h, segmentation, extras, *same), at, at_3d in zip(rows, points, three_d, strict=True):
        body = Instance(
            bbox_xywh=(x, y, w, h),
            keypoints=at,
            keypoints_3d=None if at_3d is None else at_3d.reshape(-1, 3),
            segmentation=None if segmentation is None else orjson.loads(segmentation),
            extras=_parsed(extras),
            **dict(zip(_SAME_IN_INSTANCE, same, strict=True)),
        )
        records[row].instances.append(body)
    return records


def divided(items: Iterable[Record | Reject], images: int) -> Iterator[tuple[list[Record], list[Reject]]]:
    """What a reader yields, in order, in portions of a number of images, each with the rejects met on the way."""
    records: list[Record] = []
    rejects: list[Reject] = []
    for item in items:
        if isinstance(item, Reject):
            rejects.append(item)
            continue
        records.append(item)
        if len(records) == images:
            yield records, rejects
            records, rejects = [], []
    if records or rejects:
        yield records, rejects


def _rows(table: pa.Table, *names: tuple[str, ...]) -> Iterator[tuple[Any, ...]]:
    """Some columns, row by row; lists as tuples. Column by column to Python takes half the time of row by row."""
    columns = [table[name].to_pylist() for name in chain(*names)]
    for place, name in enumerate(chain(*names)):
        if pa.types.is_list(table.schema.field(name).type):
            columns[place] = [None if values is None else tuple(values) for values in columns[place]]
    return zip(*columns, strict=True)


def _flat(points: NDArray[np.float32] | None) -> NDArray[np.float32] | None:
    return None if points is None else np.ascontiguousarray(points, np.float32).ravel()


def _json(record: Record, value: Json) -> bytes | None:
    if value is None:
        return None
    try:
        return orjson.dumps(value, option=_PLAIN, default=np.ndarray.tolist)
    except TypeError as error:
        raise DatasetError(
            f"{record.dataset} {record.split}: the record of {record.image} cannot be written as JSON ({error}); "
            "its reader must yield plain values, nested less than 250 deep."
        ) from None


def _parsed(extras: bytes | None) -> dict[str, Json]:
    return orjson.loads(extras) if extras is not None else {}
