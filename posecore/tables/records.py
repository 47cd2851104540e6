"""Records to columns and back: how a reader that yields one record at a time fills tables.

A record survives the way there and back in every field that its JSON member states: what :func:`record_to_json` writes
of it is the same bytes.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
from numpy.typing import NDArray

from posecore.errors import DatasetError
from posecore.schema import DepthImage, Instance, Json, Record, Reject
from posecore.tables.columns import IMAGE_COLUMNS, Annotations, instance_columns, keypoints_array, keypoints_of

_PLAIN = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS
_SAME_IN_INSTANCE = (
    *("id", "area", "area_rule", "category", "category_id", "is_crowd", "absent", "num_keypoints"),
    *("head_bbox_xyxy", "center", "scale", "subject_id", "track_id"),
)
_SAME_IN_RECORD = (
    *("source_id", "image", "width", "height", "license", "video_id", "view_id", "frame_index", "source_sha256"),
)


def to_annotations(records: Iterable[Record], num_keypoints: int) -> Annotations:
    """Records as tables, in their order.

    Args:
        records: each instance has (K, 3) keypoints.
        num_keypoints: K.

    Raises:
        DatasetError: a segmentation or extras are no JSON values.
    """
    schema = instance_columns(num_keypoints)
    images: dict[str, list[Any]] = {name: [] for name in IMAGE_COLUMNS.names}
    instances: dict[str, list[Any]] = {name: [] for name in schema.names}
    for row, record in enumerate(records):
        for name in _SAME_IN_RECORD:
            images[name].append(getattr(record, name))
        images["depth_image"].append(None if record.depth is None else record.depth.image)
        images["metres_per_unit"].append(None if record.depth is None else record.depth.metres_per_unit)
        try:
            images["extras"].append(_json(record.extras))
            for instance in record.instances:
                _add(instances, row, instance)
        except TypeError as error:
            raise DatasetError(
                f"{record.dataset} {record.split}: the record of {record.image} cannot be written as JSON ({error}); "
                "its reader must yield plain values, nested less than 250 deep."
            ) from None
    points = instances.pop("keypoints")
    arrays = {name: pa.array(values, schema.field(name).type) for name, values in instances.items()}
    arrays["keypoints"] = keypoints_array(points, num_keypoints)
    return Annotations(
        pa.Table.from_pydict(images, IMAGE_COLUMNS),
        pa.Table.from_arrays([arrays[name] for name in schema.names], schema=schema),
    )


def to_records(annotations: Annotations, dataset: str, split: str) -> list[Record]:
    """The records of some images, in their order.

    Args:
        annotations: of the images.
        dataset: name of the dataset definition.
        split: name of the split.
    """
    records = [_record(row, dataset, split) for row in annotations.images.to_pylist()]
    instances = annotations.instances
    keypoints = keypoints_of(instances)
    three_d = _arrays(instances["keypoints_3d"])
    rows = instances.drop_columns(["keypoints", "keypoints_3d"]).to_pylist()
    for values, points, points_3d in zip(rows, keypoints, three_d, strict=True):
        records[values["image_row"]].instances.append(_instance(values, points, points_3d))
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


def _add(columns: dict[str, list[Any]], row: int, instance: Instance) -> None:
    for name in _SAME_IN_INSTANCE:
        columns[name].append(getattr(instance, name))
    for side, value in zip("xywh", instance.bbox_xywh, strict=True):
        columns[f"bbox_{side}"].append(float(value))
    columns["image_row"].append(row)
    columns["keypoints"].append(np.asarray(instance.keypoints, np.float32))
    three_d = instance.keypoints_3d
    columns["keypoints_3d"].append(None if three_d is None else np.ascontiguousarray(three_d, np.float32).ravel())
    segmentation = instance.segmentation
    columns["segmentation"].append(None if segmentation is None else orjson.dumps(segmentation, option=_PLAIN))
    columns["extras"].append(_json(instance.extras))


def _record(values: dict[str, Any], dataset: str, split: str) -> Record:
    depth = None
    if values["depth_image"] is not None:
        depth = DepthImage(image=values["depth_image"], metres_per_unit=values["metres_per_unit"])
    return Record(
        dataset=dataset,
        split=split,
        depth=depth,
        extras=_parsed(values["extras"]),
        **{name: values[name] for name in _SAME_IN_RECORD},
    )


def _instance(values: dict[str, Any], points: NDArray[np.float32], points_3d: Any) -> Instance:
    same = {name: values[name] for name in _SAME_IN_INSTANCE}
    for name in ("head_bbox_xyxy", "center", "scale", "absent"):
        same[name] = None if same[name] is None else tuple(same[name])
    return Instance(
        bbox_xywh=(values["bbox_x"], values["bbox_y"], values["bbox_w"], values["bbox_h"]),
        keypoints=points,
        keypoints_3d=None if points_3d is None else points_3d.reshape(-1, 3),
        segmentation=None if values["segmentation"] is None else orjson.loads(values["segmentation"]),
        extras=_parsed(values["extras"]),
        **same,
    )


def _arrays(column: pa.ChunkedArray) -> Iterator[NDArray[np.float32] | None]:
    """The lists of a column as views of one array each chunk."""
    for chunk in column.chunks:
        values, offsets = chunk.values.to_numpy(), chunk.offsets.to_numpy()
        missing = chunk.is_null().to_numpy(zero_copy_only=False)
        for index in range(len(chunk)):
            yield None if missing[index] else values[offsets[index] : offsets[index + 1]]


def _json(extras: dict[str, Json]) -> bytes | None:
    return orjson.dumps(extras, option=_PLAIN, default=np.ndarray.tolist) if extras else None


def _parsed(extras: bytes | None) -> dict[str, Json]:
    return orjson.loads(extras) if extras is not None else {}
