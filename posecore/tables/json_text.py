"""The JSON member of images, written from columns: no record is made."""

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

import numpy as np
import orjson
import pyarrow as pa

from posecore.schema import OPTIONAL_INSTANCE_FIELDS, OPTIONAL_RECORD_FIELDS, DepthImage, json_text
from posecore.tables.columns import Annotations, arrays_of, keypoints_of

_AS_IN_INSTANCE = ("area", "area_rule", "category", "category_id")


class ImageTexts:
    """The text of each of some images, byte for byte what :func:`~posecore.schema.record_to_json` writes of its record.

    Args:
        annotations: of the images.
        dataset: name of the dataset definition.
        split: name of the split.
    """

    def __init__(self, annotations: Annotations, dataset: str, split: str) -> None:
        images = annotations.images
        self._of = {"dataset": dataset, "split": split}
        self._source_ids, self._images, extras = (images[name].to_pylist() for name in ("source_id", "image", "extras"))
        self._extras = extras
        self._optional = [
            (name, images[name].to_pylist()) for name in OPTIONAL_RECORD_FIELDS if _is_stated(images, name)
        ]
        self._bodies = _bodies(annotations.instances)

    def text(
        self, row: int, size: tuple[int, int], digest: str, depth: DepthImage | None, bodies: Iterable[int]
    ) -> bytes:
        """The text of one image.

        Args:
            row: of the images.
            size: height, width as its file says.
            digest: of its bytes.
            depth: its depth picture as the file says, or None.
            bodies: rows of those of its instances that are left.
        """
        value: dict[str, Any] = {
            **self._of,
            "source_id": self._source_ids[row],
            "image": self._images[row],
            "width": size[1],
            "height": size[0],
            "digest": digest,
            "instances": [self._bodies[body] for body in bodies],
        }
        if depth is not None:
            value["depth"] = asdict(depth)
        if self._extras[row] is not None:
            value["extras"] = orjson.Fragment(self._extras[row])
        for name, values in self._optional:
            if values[row] is not None:
                value[name] = values[row]
        return json_text(value)


def _bodies(instances: pa.Table) -> list[dict[str, Any]]:
    boxes = np.column_stack([instances[f"bbox_{side}"].to_numpy() for side in "xywh"]).tolist()
    columns = (instances[name].to_pylist() for name in ("id", *_AS_IN_INSTANCE))
    bodies: list[dict[str, Any]] = [
        {
            "id": name,
            "bbox_xywh": box,
            "area": area,
            "area_rule": rule,
            "category": category,
            "category_id": number,
            "keypoints": points,
        }
        for name, area, rule, category, number, box, points in zip(
            *columns, boxes, keypoints_of(instances), strict=True
        )
    ]
    _state(bodies, "is_crowd", [True if is_crowd else None for is_crowd in instances["is_crowd"].to_pylist()])
    _state(bodies, "absent", [points or None for points in instances["absent"].to_pylist()])
    if _is_stated(instances, "keypoints_3d"):
        flat = arrays_of(instances["keypoints_3d"])
        _state(bodies, "keypoints_3d", [None if points is None else points.reshape(-1, 3) for points in flat])
    for name in ("extras", *OPTIONAL_INSTANCE_FIELDS):
        if _is_stated(instances, name):
            values = instances[name].to_pylist()
            is_text = pa.types.is_binary(instances.schema.field(name).type)
            _state(bodies, name, [orjson.Fragment(v) if is_text and v is not None else v for v in values])
    return bodies


def _state(bodies: list[dict[str, Any]], name: str, values: list[Any]) -> None:
    for body, value in zip(bodies, values, strict=True):
        if value is not None:
            body[name] = value


def _is_stated(table: pa.Table, name: str) -> bool:
    return bool(table[name].null_count < table.num_rows)
