"""AI Challenger 2017 human keypoints, in the native JSON of the competition.

Its flags are COCO's upside down (1 seen, 2 hidden, 3 not annotated), its boxes are corners, an image's name comes
without extension, and an image's persons stand in arbitrary order (here: by their number).
"""

import re
from collections.abc import Iterator
from typing import ClassVar

from posecore.errors import DatasetError
from posecore.formats.files import relative_path
from posecore.formats.json_lists import WHOLE, StoredList, open_json
from posecore.formats.reader import Source
from posecore.formats.values import (
    Refusal,
    area_of_box,
    box_from_corners,
    integer,
    keypoints_from_rows,
    mapping,
    numbers,
    text,
)
from posecore.schema import FloatArray, Instance, Json, Record, Reject

_COCO_FLAG = {1: 2, 2: 1, 3: 0}


class AicReader:
    """Reads ``keypoint_{train,validation}_annotations_*.json``.

    Options:
        extension: of the images, ``.jpg`` unless stated.
    """

    options: ClassVar[frozenset[str]] = frozenset({"extension"})

    def read(self, source: Source) -> Iterator[Record | Reject]:
        """See :class:`~posecore.formats.reader.Reader`."""
        with open_json(source, source.annotations, (WHOLE,)) as entries:
            yield from _records(entries, source)


def _records(entries: Json, source: Source) -> Iterator[Record | Reject]:
    if not isinstance(entries, (list, StoredList)):
        raise DatasetError(
            f"{source.dataset} {source.split}: {source.annotations} must hold a list with an entry per image."
        )
    seen: set[str] = set()
    for index, entry in enumerate(entries):
        where = f"{source.annotations} [{index}]"
        try:
            image = mapping(entry, "an entry")
            name = text(image.get("image_id"), "image_id")
            if name in seen:
                raise Refusal("duplicate-id", f"image {name} came before.")
            record = Record(
                dataset=source.dataset,
                split=source.split,
                source_id=name,
                image=relative_path(source.images, name + str(source.options.get("extension", ".jpg"))),
                width=0,
                height=0,
                license=source.license,
            )
            boxes = mapping(image.get("human_annotations"), "human_annotations")
            points = mapping(image.get("keypoint_annotations"), "keypoint_annotations")
        except Refusal as refusal:
            yield refusal.reject(source, where)
            continue
        seen.add(name)
        for human in sorted({*boxes, *points}, key=_number_of):
            try:
                record.instances.append(_instance(source, f"{name}_{human}", boxes.get(human), points.get(human)))
            except Refusal as refusal:
                yield refusal.reject(source, f"{where} {human}", name, f"{name}_{human}")
        yield record


def _instance(source: Source, instance_id: str, box: Json, points: Json) -> Instance:
    if box is None or points is None:
        raise Refusal("missing-field", "the person has a box or points, but not both.")
    bbox = box_from_corners(box, "the box")
    return Instance(
        id=instance_id,
        bbox_xywh=bbox,
        keypoints=_keypoints(points, source.skeleton.num_keypoints),
        area=area_of_box(source.area_rule, bbox[2], bbox[3]),
        area_rule=source.area_rule,
    )


def _keypoints(points: Json, num_keypoints: int) -> FloatArray:
    flat = numbers(points, 3 * num_keypoints, "keypoints")
    rows = []
    for index in range(num_keypoints):
        x, y, flag = flat[3 * index : 3 * index + 3]
        if flag not in _COCO_FLAG:
            raise Refusal("flag-out-of-range", f"keypoint {index} has flag {flag:g}; 1, 2 and 3 exist in this format.")
        rows.append((x, y, _COCO_FLAG[integer(flag, "a flag")]))
    return keypoints_from_rows(rows)


def _number_of(human: str) -> tuple[int, str]:
    digits = re.sub(r"\D", "", human)
    return (int(digits[:9]) if digits else 0, human)
