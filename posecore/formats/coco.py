"""COCO keypoint JSON: the core that every dataset of the COCO family shares.

The file is handed out image by image. A small one is parsed at once; of a large one only the places of its entries are
kept in memory (:mod:`posecore.formats.json_lists`), since its lists may stand in any order. Nothing in it is trusted: a
wrong type, id, flag, box or path rejects that image or instance with its reason.

Two fields are read beyond the official format, so that COCO files of one's own can say them: ``subject_id`` on an
annotation, and ``absent``, a list of names of points that do not exist on that body.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar

import numpy as np
import orjson
from pycocotools import mask as coco_mask

from posecore.config import parse_config
from posecore.counting import counted
from posecore.errors import DatasetError
from posecore.formats.claims import Claims, Texts, recurring
from posecore.formats.coco_options import CocoOptions
from posecore.formats.coco_points import coco_flags, flat_keypoints
from posecore.formats.files import relative_path
from posecore.formats.json_lists import Entries, StoredList, open_json
from posecore.formats.reader import Source
from posecore.formats.segmentations import check_segmentation
from posecore.formats.values import (
    MAX_NUMBER,
    Refusal,
    area_of_box,
    boolean,
    box_around,
    box_xywh,
    integer,
    mapping,
    number,
    numbers,
    sequence,
    text,
)
from posecore.schema import BoxXywh, BoxXyxy, FloatArray, Instance, Json, Record, Reject, Segmentation

JsonObject = Mapping[str, Json]
Categories = Mapping[int, JsonObject]

_MAX_PIXELS = 1 << 29
"""Sizes beyond this are a mistake or an attack: masks are made in the stated size."""


class CocoReader:
    """Reads ``images``, ``annotations`` and ``categories`` of a COCO keypoint file.

    Subclasses state a dataset's deviations by overriding the hooks below :meth:`read`.

    Options are those of :class:`~posecore.formats.coco_options.CocoOptions`, which says what each means: image_extras,
    instance_extras, boxes_alone, categories, box_margin, zero_is_missing, first_pixel, flags, video_field, frame_field,
    subject_field.

    Attributes:
        image_extras: fields of an image entry kept in :attr:`~posecore.schema.Record.extras`.
        instance_extras: fields of an annotation kept in :attr:`~posecore.schema.Instance.extras`.
    """

    options: ClassVar[frozenset[str]] = frozenset(CocoOptions.model_fields)

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
        options = _options(source)
        images, annotations, listed = _top_level(document, where)
        categories = _wanted_categories(listed, options, where)
        self.check_categories(categories, source, where)
        skipped: Counter[str] = Counter()
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
                record, remarks = self._record(image, licenses, source, options)
                if claims.is_claimed(index):
                    raise Refusal("duplicate-id", f"image id {record.source_id} was already used in this file.")
            except Refusal as refusal:
                yield refusal.reject(source, f"{where} images[{index}]", source_id=_shown_id(image))
                continue
            for remark in remarks:
                yield remark.reject(source, f"{where} images[{index}]", record.source_id, outcome="kept")
            for position in claims.claim(index):
                annotation = annotations[position]
                place = f"{where} annotations[{position}]"
                try:
                    category = _category(annotation, listed)
                    if listed and category not in categories:
                        skipped[str(listed[category]["name"])] += 1
                        continue
                    instance, remarks = self._instance(annotation, record, categories, source, options)
                    if instance.id in used:
                        raise Refusal("duplicate-id", f"annotation id {instance.id} was already used in this file.")
                except Refusal as refusal:
                    yield refusal.reject(source, place, record.source_id, _shown_id(annotation))
                    continue
                for remark in remarks:
                    yield remark.reject(source, place, record.source_id, instance.id, outcome="kept")
                if recurs[position]:
                    used.add(instance.id)
                record.instances.append(instance)
            yield record
        for name, count in sorted(skipped.items()):
            remark = Refusal(
                "other-category", f"{counted(count, 'annotation')} of category {name!r}, which is not of this dataset."
            )
            yield remark.reject(source, f"{where} annotations", outcome="skipped")
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
                    f"{where}: category {category['name']!r} lists {counted(len(listed), 'keypoint')} "
                    f"({', '.join(listed[:4])}, …), not those of skeleton {source.skeleton.name} in its order "
                    f"({', '.join(source.skeleton.names[:4])}, …){_first_difference(listed, source.skeleton.names)}; "
                    "name a skeleton that fits the file, or, if that category is not of this dataset, those that are: "
                    "reader_options: {categories: [...]}."
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

    def head_box(self, annotation: JsonObject) -> BoxXyxy | None:
        """The head box in image pixels; None in a format that has none."""
        return None

    def image_path(self, image: JsonObject, source: Source) -> str:
        """Path of the image below the root."""
        name = text(image.get("file_name"), "file_name")
        if name.startswith("/"):
            raise Refusal("path-escape", f"the file name {name!r} is absolute; names are relative to the image folder.")
        return relative_path(source.images, name)

    def locate(self, record: Record, image: JsonObject) -> None:
        """Fills what the image entry says of its video; called once per record."""
        if image.get("view_id") is not None:
            record.view_id = identifier(image["view_id"], "view_id")

    def _record(
        self, image: Json, licenses: Mapping[str, str], source: Source, options: CocoOptions
    ) -> tuple[Record, list[Refusal]]:
        """A record, and what was passed over in it."""
        image = mapping(image, "an image entry")
        license_id = image.get("license")
        width, height = image_size(image)
        remarks = []
        if -1 in (image.get("width"), image.get("height")):
            detail = "the size is said to be -1, which states none; that of the file counts."
            remarks.append(Refusal("size-not-stated", detail))
        record = Record(
            dataset=source.dataset,
            split=source.split,
            source_id=identifier(image.get("id"), "id"),
            image=self.image_path(image, source),
            width=width,
            height=height,
            license=source.license if license_id is None else licenses.get(str(license_id), str(license_id)),
            extras=_kept(image, self.image_extras, options.image_extras),
        )
        if image.get(options.video_field) is not None:
            record.video_id = identifier(image[options.video_field], options.video_field)
        if image.get(options.frame_field) is not None:
            record.frame_index = integer(image[options.frame_field], options.frame_field)
        self.locate(record, image)
        return record, remarks

    def _instance(
        self, annotation: JsonObject, record: Record, categories: Categories, source: Source, options: CocoOptions
    ) -> tuple[Instance, list[Refusal]]:
        """An instance, and what was passed over in it."""
        category_id = _category(annotation, categories)
        keypoints = options.points(self.keypoints(annotation, record, source))
        bbox = _box(annotation, keypoints, options)
        remarks = []
        try:
            segmentation = _segmentation(annotation.get("segmentation"), record)
        except Refusal as refusal:
            if source.area_rule == "segment":
                raise
            segmentation = None
            remarks.append(Refusal("bad-segmentation", refusal.detail))
        instance = Instance(
            id=identifier(annotation.get("id"), "id"),
            bbox_xywh=bbox,
            keypoints=keypoints,
            area=_area(annotation, bbox, segmentation, record, source),
            area_rule=source.area_rule,
            category=str(categories[category_id]["name"]) if categories else "person",
            category_id=category_id,
            is_crowd=boolean(annotation.get("iscrowd", 0), "iscrowd"),
            absent=_absent(annotation, source),
            num_keypoints=self.num_keypoints(annotation, source),
            segmentation=segmentation,
            head_bbox_xyxy=self.head_box(annotation),
            subject_id=_optional_id(annotation, options.subject_field),
            track_id=_optional_id(annotation, "track_id"),
            extras=_kept(annotation, self.instance_extras, options.instance_extras),
        )
        return instance, remarks


def _options(source: Source) -> CocoOptions:
    own = {name: value for name, value in source.options.items() if name in CocoOptions.model_fields}
    return parse_config(own, CocoOptions, origin=f"{source.dataset}: reader_options")


def _wanted_categories(listed: Categories, options: CocoOptions, where: str) -> Categories:
    """Those of the dataset.

    Raises:
        DatasetError: the options name one that the file does not list.
    """
    if options.categories is None:
        return listed
    names = {str(category["name"]) for category in listed.values()}
    if missing := [name for name in options.categories if name not in names]:
        raise DatasetError(
            f"{where}: reader_options: categories names {missing[0]!r}, but the file's categories are "
            f"{', '.join(sorted(names)) or 'none'}."
        )
    return {number: category for number, category in listed.items() if category["name"] in options.categories}


def _category(annotation: JsonObject, categories: Categories) -> int:
    value = annotation.get("category_id", 1)
    is_text = isinstance(value, str) and value.isascii() and value.isdecimal()
    category_id = int(value) if is_text and len(value) < 16 else integer(value, "category_id")
    if categories and category_id not in categories:
        raise Refusal("unknown-category", f"category {category_id} is not among the file's categories.")
    return category_id


def _box(annotation: JsonObject, keypoints: FloatArray, options: CocoOptions) -> BoxXywh:
    value = annotation.get("bbox")
    if value is not None:
        x, y, width, height = numbers(value, 4, "bbox")
        return box_xywh(x - options.first_pixel, y - options.first_pixel, width, height)
    if options.box_margin is None:
        raise Refusal(
            "no-box", "the annotation has no bbox; reader_options: {box_margin: 0.1} would draw one around its points."
        )
    return box_around(keypoints, options.box_margin)


def _first_difference(listed: Sequence[str], expected: Sequence[str]) -> str:
    for place, (name, other) in enumerate(zip(listed, expected, strict=False)):
        if name != other:
            return f"; the first that differs is number {place}, {name!r} where the skeleton has {other!r}"
    return ""


def identifier(value: Json, what: str) -> str:
    """An id as text: a text, or a whole number (Human-Art's exceed 31 bits), also written as 3.0.

    Raises:
        Refusal: it is neither, or a number so large (1e300, more than 64 bits) that others are read as the same one.
    """
    value = _whole(value)
    if isinstance(value, bool) or not isinstance(value, (int, str)) or value == "":
        raise Refusal("bad-id", f"{what} must be a whole number or a text, not {value!r:.60}.")
    return str(value)


def _whole(value: Json) -> Json:
    exact = isinstance(value, float) and value.is_integer() and abs(value) <= MAX_NUMBER
    return int(value) if exact else value


def image_size(image: JsonObject) -> tuple[int, int]:
    """Width and height in pixels as an image entry states them, 0 where it does not, or says -1 as VIA does.

    Raises:
        Refusal: they are not whole numbers, negative, or beyond any photograph.
    """
    width, height = (0 if image.get(side) == -1 else integer(image.get(side, 0), side) for side in ("width", "height"))
    if width < 0 or height < 0 or width * height > _MAX_PIXELS:
        raise Refusal("bad-size", f"the image is said to be {width}×{height} pixels.")
    return width, height


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
    """The id of an entry as :func:`identifier` would have it, or whatever stands there."""
    return str(_whole(entry.get("id", "")) if isinstance(entry, dict) else "")


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
