"""OCHuman in its own JSON: corner boxes, 19 named points, four flags, masks with holes."""

from collections.abc import Iterator

import numpy as np
from pycocotools import mask as coco_mask

from posecore.errors import DatasetError
from posecore.formats.coco import identifier, image_size
from posecore.formats.coco_points import coco_flags, flat_keypoints
from posecore.formats.files import relative_path
from posecore.formats.json_lists import StoredList, open_json
from posecore.formats.reader import Source
from posecore.formats.segmentations import check_polygon
from posecore.formats.values import Refusal, area_of_box, box_from_corners, mapping, sequence, text
from posecore.schema import FloatArray, Instance, Json, Record, Reject, Segmentation

_FLAGS = np.array([0, 2, 2, 1], np.float32)
"""COCO flag of: missing, visible, self-occluded, occluded by others (the official converter's choice)."""


class OcHumanReader:
    """Reads ``ochuman.json``; the skeleton decides which of the 19 points are taken, by name.

    With ``coco17`` head and neck fall away, as in the official conversion. A body without points has none labelled.
    The COCO form of the dataset is read by :class:`~posecore.formats.coco.CocoReader`.
    """

    def read(self, source: Source) -> Iterator[Record | Reject]:
        """Yields records in the file's order."""
        with open_json(source, source.annotations, ("images",)) as document:
            yield from _records(document, source)


def _records(document: Json, source: Source) -> Iterator[Record | Reject]:
    if not isinstance(document, dict) or not isinstance(document.get("images"), (list, StoredList)):
        raise DatasetError(f"{source.annotations}: 'images' must be a list; this is not OCHuman's own JSON.")
    columns = _columns(document.get("keypoint_names"), source)
    seen: set[str] = set()
    for index, image in enumerate(document["images"]):
        where = f"{source.annotations} images[{index}]"
        try:
            record = _record(image, source)
            if record.source_id in seen:
                raise Refusal("duplicate-id", f"image id {record.source_id} was already used in this file.")
            annotations = sequence(image.get("annotations"), "annotations")
        except Refusal as refusal:
            yield refusal.reject(source, where)
            continue
        seen.add(record.source_id)
        for position, annotation in enumerate(annotations):
            instance_id = f"{record.source_id}-{position}"
            try:
                record.instances.append(_instance(annotation, instance_id, columns, record, source))
            except Refusal as refusal:
                yield refusal.reject(source, f"{where}.annotations[{position}]", record.source_id, instance_id)
        yield record


def _columns(names: Json, source: Source) -> list[int]:
    """Position in the file of each of the skeleton's points."""
    listed = names if isinstance(names, list) else []
    missing = [name for name in source.skeleton.names if name not in listed]
    if missing or len(listed) != 19:
        raise DatasetError(
            f"{source.annotations}: keypoint_names must list OCHuman's 19 points; it lists {len(listed)}"
            + (f", without {missing[0]}." if missing else ".")
        )
    return [listed.index(name) for name in source.skeleton.names]


def _record(image: Json, source: Source) -> Record:
    image = mapping(image, "an image entry")
    width, height = image_size(image)
    return Record(
        dataset=source.dataset,
        split=source.split,
        source_id=identifier(image.get("image_id"), "image_id"),
        image=relative_path(source.images, text(image.get("file_name"), "file_name")),
        width=width,
        height=height,
        license=source.license,
    )


def _instance(annotation: Json, instance_id: str, columns: list[int], record: Record, source: Source) -> Instance:
    annotation = mapping(annotation, "an annotation")
    bbox = box_from_corners(annotation.get("bbox"), "bbox")
    return Instance(
        id=instance_id,
        bbox_xywh=bbox,
        keypoints=_keypoints(annotation, columns),
        area=area_of_box(source.area_rule, bbox[2], bbox[3]),
        area_rule=source.area_rule,
        segmentation=_segmentation(annotation.get("segms"), record),
        extras={"max_iou": annotation["max_iou"]} if "max_iou" in annotation else {},
    )


def _keypoints(annotation: Json, columns: list[int]) -> FloatArray:
    if annotation.get("keypoints") is None:
        return np.zeros((len(columns), 3), np.float32)
    points = flat_keypoints(annotation, "keypoints", 19)[columns]
    flags = points[:, 2]
    if not np.isin(flags, (0, 1, 2, 3)).all():
        raise Refusal("flag-out-of-range", "a keypoint's flag is not 0, 1, 2 or 3.")
    return coco_flags(np.column_stack([points[:, :2], _FLAGS[flags.astype(int)]]))


def _segmentation(value: Json, record: Record) -> Segmentation | None:
    """RLE of the outer polygons less the inner ones, which plain COCO polygons cannot say."""
    if value is None:
        return None
    segms = mapping(value, "segms")
    size = record.height, record.width
    if (segms.get("height"), segms.get("width")) != size:
        raise Refusal("bad-segmentation", "the mask's size is not the image's.")
    outer, inner = _fill(segms.get("outer"), size), _fill(segms.get("inner"), size)
    rle = coco_mask.encode(np.asfortranarray(outer & ~inner & 1))
    return {"size": list(size), "counts": rle["counts"].decode("ascii")}


def _fill(polygons: Json, size: tuple[int, int]) -> np.ndarray:
    """(H, W) uint8, 1 inside any of the polygons."""
    shapes = sequence(polygons, "a mask's polygons")
    for polygon in shapes:
        check_polygon(polygon)
    if not shapes:
        return np.zeros(size, np.uint8)
    filled: np.ndarray = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(list(shapes), *size)))
    return filled
