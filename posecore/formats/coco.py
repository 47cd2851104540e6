"""COCO keypoint JSON: the core that every dataset of the COCO family shares.

The file is handed out image by image. A small one is parsed at once; of a large one only the places of its entries are
kept in memory (:mod:`posecore.formats.json_lists`), since its lists may stand in any order. Nothing in it is trusted: a
wrong type, id, flag, box or path rejects that image or instance with its reason.

Two fields are read beyond the official format, so that COCO files of one's own can say them: ``subject_id`` on an
annotation, and ``absent``, a list of names of points that do not exist on that body.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar

import numpy as np
import orjson
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from posecore.errors import DatasetError
from posecore.formats.claims import Claims, Texts, recurring
from posecore.formats.files import relative_path
from posecore.formats.json_lists import Entries, StoredList, open_json
from posecore.formats.reader import Source
from posecore.formats.segmentations import check_segmentation
from posecore.formats.values import (
    Refusal,
    area_of_box,
    box_xywh,
    integer,
    mapping,
    number,
    numbers,
    numeric_array,
    sequence,
    text,
)
from posecore.schema import BoxXywh, FloatArray, Instance, Json, Record, Reject, Segmentation

JsonObject = Mapping[str, Json]
Categories = Mapping[int, JsonObject]

_MAX_PIXELS = 1 << 29
"""Sizes beyond this are a mistake or an attack: masks are made in the stated size."""


class CocoReader:
    """Reads ``images``, ``annotations`` and ``categories`` of a COCO keypoint file.

    Subclasses state a dataset's deviations by overriding the hooks below :meth:`read`.

    Options:
        image_extras: further fields of an image entry to keep, such as ``[posture]``; none unless stated.
        instance_extras: further fields of an annotation to keep.
        boxes_alone: true for a file of boxes, such as a detector's, whose annotations have no ``keypoints``: every
            point is then not labelled. Otherwise such an annotation is rejected.

    Attributes:
        image_extras: fields of an image entry kept in :attr:`~posecore.schema.Record.extras`.
        instance_extras: fields of an annotation kept in :attr:`~posecore.schema.Instance.extras`.
    """

    options: ClassVar[frozenset[str]] = frozenset({"image_extras", "instance_extras", "boxes_alone"})

    image_extras: ClassVar[tuple[str, ...]] = ()
    instance_extras: ClassVar[tuple[str, ...]] = ()

    def read(self, source: Source) -> Iterator[Record | Reject]:
        """Yields records in the order of ``images``, then rejects of annotations that no usable image claims."""
        with open_json(source, source.annotations, ("images", "annotations")) as document:
            yield from self.read_document(document, source, source.annotations)

    def read_document(self, document: Json, source: Source, where: str) -> Iterator[Record | Reject]:
        """The same for a parsed file.

        Args:
            document: the parsed JSON, its ``images`` and ``annotations`` perhaps a
                :class:`~posecore.formats.json_lists.StoredList`.
            source: the split.
            where: name of the file, for messages.

        Raises:
            DatasetError: the top level is not COCO's, or a category contradicts the skeleton.
        """
        for option in ("image_extras", "instance_extras"):
            for name in sequence(source.options.get(option, ()), f"reader option {option}"):
                text(name, f"an entry of reader option {option}")
        images, annotations, categories = _top_level(document, where)
        self.check_categories(categories, source, where)
        licenses = _licenses(document)
        wanted, annotation_ids, image_ids = Texts(), Texts(), Texts()
        for index, annotation in enumerate(annotations):
            annotation_ids.append(_shown_id(annotation))
            try:
                wanted.append(identifier(mapping(annotation, "an annotation").get("image_id"), "image_id"))
            except Refusal as refusal:
                wanted.append(None)
                yield refusal.reject(source, f"{where} annotations[{index}]")
        for image in images:
            image_ids.append(_shown_id(image))
        claims = Claims(image_ids.column(), wanted.column())
        recurs = recurring(annotation_ids.column())
        used: set[str] = set()
        for index, image in enumerate(images):
            try:
                record = self._record(image, licenses, source)
                if claims.is_claimed(index):
                    raise Refusal("duplicate-id", f"image id {record.source_id} was already used in this file.")
            except Refusal as refusal:
                yield refusal.reject(source, f"{where} images[{index}]", source_id=_shown_id(image))
                continue
            for position in claims.claim(index):
                annotation = annotations[position]
                try:
                    instance = self._instance(annotation, record, categories, source)
                    if instance.id in used:
                        raise Refusal("duplicate-id", f"annotation id {instance.id} was already used in this file.")
                except Refusal as refusal:
                    place = f"{where} annotations[{position}]"
                    yield refusal.reject(source, place, record.source_id, _shown_id(annotation))
                    continue
                if recurs[position]:
                    used.add(instance.id)
                record.instances.append(instance)
            yield record
        for image_id, positions in claims.unclaimed():
            for position in positions:
                orphan = Refusal("missing-image-entry", f"the annotation's image {image_id} has no usable image entry.")
                yield orphan.reject(
                    source, f"{where} annotations[{position}]", image_id, _shown_id(annotations[position])
                )

    def check_categories(self, categories: Categories, source: Source, where: str) -> None:
        """Refuses a file whose categories list other points, or another order, than the skeleton.

        Raises:
            DatasetError: they do.
        """
        for category in categories.values():
            listed = self.keypoint_names(category)
            if listed and listed != source.skeleton.names:
                raise DatasetError(
                    f"{where}: category {category['name']!r} lists {len(listed)} keypoints "
                    f"({', '.join(listed[:4])}, …), not those of skeleton {source.skeleton.name} in its order "
                    f"({', '.join(source.skeleton.names[:4])}, …); name a skeleton that fits the file."
                )

    def keypoint_names(self, category: JsonObject) -> tuple[str, ...]:
        """The names a category lists, or () if they say nothing of the order of the points."""
        names = category.get("keypoints")
        return tuple(map(str, names)) if isinstance(names, list) else ()

    def keypoints(self, annotation: JsonObject, record: Record, source: Source) -> FloatArray:
        """(K, 3) float32 of an annotation, COCO flags; not labelled where it is allowed to have no points."""
        if "keypoints" not in annotation and (annotation.get("iscrowd") or source.options.get("boxes_alone")):
            return np.zeros((source.skeleton.num_keypoints, 3), np.float32)
        return coco_flags(flat_keypoints(annotation, "keypoints", source.skeleton.num_keypoints))

    def num_keypoints(self, annotation: JsonObject, source: Source) -> int | None:
        """The file's own count, which COCOeval reads to decide what is ignored."""
        value = annotation.get("num_keypoints")
        return None if value is None else integer(value, "num_keypoints")

    def image_path(self, image: JsonObject, source: Source) -> str:
        """Path of the image below the root."""
        name = text(image.get("file_name"), "file_name")
        if name.startswith("/"):
            raise Refusal("path-escape", f"the file name {name!r} is absolute; names are relative to the image folder.")
        return relative_path(source.images, name)

    def locate(self, record: Record, image: JsonObject) -> None:
        """Fills what the image entry says of its video; called once per record."""
        for name in ("video_id", "view_id"):
            if image.get(name) is not None:
                setattr(record, name, identifier(image[name], name))
        if image.get("frame_id") is not None:
            record.frame_index = integer(image["frame_id"], "frame_id")

    def _record(self, image: Json, licenses: Mapping[str, str], source: Source) -> Record:
        image = mapping(image, "an image entry")
        license_id = image.get("license")
        width, height = image_size(image)
        record = Record(
            dataset=source.dataset,
            split=source.split,
            source_id=identifier(image.get("id"), "id"),
            image=self.image_path(image, source),
            width=width,
            height=height,
            license=source.license if license_id is None else licenses.get(str(license_id), str(license_id)),
            extras=_kept(image, self.image_extras, source.options.get("image_extras", ())),
        )
        self.locate(record, image)
        return record

    def _instance(self, annotation: JsonObject, record: Record, categories: Categories, source: Source) -> Instance:
        category_id = integer(annotation.get("category_id", 1), "category_id")
        if categories and category_id not in categories:
            raise Refusal("unknown-category", f"category {category_id} is not among the file's categories.")
        bbox = box_xywh(*numbers(annotation.get("bbox"), 4, "bbox"))
        segmentation = _segmentation(annotation.get("segmentation"), record)
        return Instance(
            id=identifier(annotation.get("id"), "id"),
            bbox_xywh=bbox,
            keypoints=self.keypoints(annotation, record, source),
            area=_area(annotation, bbox, segmentation, record, source),
            area_rule=source.area_rule,
            category=str(categories[category_id]["name"]) if categories else "person",
            category_id=category_id,
            is_crowd=bool(integer(annotation.get("iscrowd", 0), "iscrowd")),
            absent=_absent(annotation, source),
            num_keypoints=self.num_keypoints(annotation, source),
            segmentation=segmentation,
            subject_id=_optional_id(annotation, "subject_id"),
            track_id=_optional_id(annotation, "track_id"),
            extras=_kept(annotation, self.instance_extras, source.options.get("instance_extras", ())),
        )


def identifier(value: Json, what: str) -> str:
    """An id as text: a text, or a whole number of any size (Human-Art's exceed 31 bits).

    Raises:
        Refusal: it is neither.
    """
    if isinstance(value, bool) or not isinstance(value, (int, str)) or value == "":
        raise Refusal("bad-id", f"{what} must be a whole number or a text, not {value!r:.60}.")
    return str(value)


def image_size(image: JsonObject) -> tuple[int, int]:
    """Width and height in pixels as an image entry states them, 0 where it does not.

    Raises:
        Refusal: they are not whole numbers, negative, or beyond any photograph.
    """
    width, height = integer(image.get("width", 0), "width"), integer(image.get("height", 0), "height")
    if width < 0 or height < 0 or width * height > _MAX_PIXELS:
        raise Refusal("bad-size", f"the image is said to be {width}×{height} pixels.")
    return width, height


def flat_keypoints(annotation: JsonObject, field: str, num_keypoints: int) -> NDArray[np.float64]:
    """(K, 3) float64 from a flat list of x, y, flag.

    Raises:
        Refusal: the field is missing or is not a list of 3·K numbers.
    """
    if field not in annotation:
        raise Refusal("missing-field", f"the annotation has no field {field!r}.")
    array = numeric_array(annotation[field], field)
    if array.shape != (3 * num_keypoints,):
        raise Refusal("wrong-length", f"{field} must be a list of {3 * num_keypoints} numbers, not {array.shape}.")
    return array.reshape(num_keypoints, 3)


def coco_flags(points: NDArray[np.float64]) -> FloatArray:
    """(K, 3) float32 of points whose flags are COCO's already; unlabelled points become 0, 0, 0.

    Raises:
        Refusal: a flag is not 0, 1 or 2, or a labelled coordinate is not finite.
    """
    flags = points[:, 2]
    wrong = np.flatnonzero((flags != 0) & (flags != 1) & (flags != 2))
    if wrong.size:
        raise Refusal("flag-out-of-range", f"keypoint {wrong[0]} has flag {flags[wrong[0]]:g}; 0, 1 and 2 exist.")
    with np.errstate(over="ignore"):
        kept = np.where(flags[:, None] > 0, points, 0).astype(np.float32)
    if not np.isfinite(kept).all():
        raise Refusal("nan-keypoints", "a labelled keypoint has a coordinate that is not a finite number.")
    return kept


def any_positive_flag(points: NDArray[np.float64], threshold: float = 0.0) -> NDArray[np.float64]:
    """Points whose flag is a detector's score: above the threshold they are labelled (2), others not (0).

    Scores must not be truncated to whole numbers: 0.9 would become "not labelled".

    Raises:
        Refusal: a flag is negative or not a number.
    """
    flags = points[:, 2]
    if not (flags >= 0).all():
        raise Refusal("flag-out-of-range", "a flag is negative or not a number; scores and flags are 0 or more.")
    return np.column_stack([points[:, :2], np.where(flags > threshold, 2.0, 0.0)])


def _top_level(document: Json, where: str) -> tuple[Entries, Entries, Categories]:
    if not isinstance(document, dict):
        raise DatasetError(
            f"{where}: the top level must be an object with images and annotations, not a list or value."
        )
    for name in ("images", "annotations"):
        if not isinstance(document.get(name), list | StoredList):
            raise DatasetError(f"{where}: {name!r} must be a list; this is not a COCO keypoint file.")
    categories: dict[int, JsonObject] = {}
    listed = document.get("categories", [])
    if not isinstance(listed, list):
        raise DatasetError(f"{where}: 'categories' must be a list.")
    for index, category in enumerate(listed):
        try:
            entry = mapping(category, "a category")
            text(entry.get("name"), "name")
            categories[integer(entry.get("id"), "id")] = entry
        except Refusal as refusal:
            raise DatasetError(f"{where} categories[{index}]: {refusal.detail}") from None
    return document["images"], document["annotations"], categories


def _licenses(document: JsonObject) -> dict[str, str]:
    """Names of the licences by id; entries without a name say nothing and are passed over."""
    entries = document.get("licenses")
    if not isinstance(entries, list):
        return {}
    named = [entry for entry in entries if isinstance(entry, dict) and isinstance(entry.get("name"), str)]
    return {str(entry.get("id")): entry["name"] for entry in named if entry["name"]}


def _shown_id(entry: Json) -> str:
    return str(entry.get("id", "")) if isinstance(entry, dict) else ""


def _kept(entry: JsonObject, own: Sequence[str], further: Sequence[str]) -> dict[str, Json]:
    kept = {name: entry[name] for name in (*own, *further) if name in entry}
    try:
        orjson.dumps(kept)
    except TypeError as error:  # nested deeper than can be written
        raise Refusal("bad-extras", f"one of the fields {', '.join(kept)} cannot be stored ({error}).") from None
    return kept


def _optional_id(annotation: JsonObject, name: str) -> str | None:
    return None if annotation.get(name) is None else identifier(annotation[name], name)


def _absent(annotation: JsonObject, source: Source) -> tuple[int, ...]:
    names = sequence(annotation.get("absent", ()), "absent")
    unknown = [name for name in names if name not in source.skeleton.names]
    if unknown:
        raise Refusal("unknown-keypoint", f"absent names {unknown[0]!r:.60}, which is not in {source.skeleton.name}.")
    return tuple(source.skeleton.names.index(name) for name in names)


def _area(
    annotation: JsonObject, bbox: BoxXywh, segmentation: Segmentation | None, record: Record, source: Source
) -> float:
    if source.area_rule == "annotated":
        area = number(annotation.get("area"), "area")
    elif source.area_rule == "segment":
        if segmentation is None:
            raise Refusal("missing-segment", "the area rule is 'segment', but the annotation has no mask.")
        area = _mask_area(segmentation, record)
    else:
        area = area_of_box(source.area_rule, bbox[2], bbox[3])
    if not 0 < area < np.inf:
        raise Refusal("bad-area", f"the area is {area:g} px²; it must be positive and finite.")
    return area


def _mask_area(segmentation: Segmentation, record: Record) -> float:
    if isinstance(segmentation, dict) and isinstance(segmentation["counts"], str):
        return float(coco_mask.area(segmentation))
    rles = coco_mask.frPyObjects(segmentation, record.height, record.width)
    return float(coco_mask.area(coco_mask.merge(rles) if isinstance(rles, list) else rles))


def _segmentation(value: Json, record: Record) -> Segmentation | None:
    """Polygons or RLE as in the file, None if empty."""
    if not value or value == [[]]:
        return None
    check_segmentation(value, record.height, record.width)
    return value
