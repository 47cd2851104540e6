"""Animal Kingdom: 23 points of 850 species in the JSON of MPII's loaders, and in COCO's."""

import re
from collections.abc import Iterator
from typing import ClassVar, Literal

import numpy as np

from posecore.config import Config, parse_config
from posecore.counting import counted
from posecore.errors import DatasetError
from posecore.formats.claims import Texts, together
from posecore.formats.coco import CocoReader, JsonObject
from posecore.formats.coco_points import any_positive_flag, coco_flags, flat_keypoints
from posecore.formats.files import relative_path
from posecore.formats.json_lists import WHOLE, Entries, StoredList, open_json
from posecore.formats.reader import Source
from posecore.formats.values import (
    Refusal,
    area_of_box,
    box_around,
    keypoints_from_rows,
    mapping,
    numbers,
    sequence,
    text,
)
from posecore.schema import FloatArray, Instance, Record, Reject

IMAGE_WIDTH, IMAGE_HEIGHT = 640, 360
"""Of every picture, as the publisher says."""
CLASSES = ("Amphibian", "Bird", "Fish", "Mammal", "Reptile")
"""In the order of the categories of the COCO form, which begin at 1."""

_NAMES = ("animal", "animal_class", "animal_subclass")
_FRAME = re.compile(r"_f(\d{1,9})\.\w+$")


class AnimalKingdomOptions(Config):
    """``reader_options``; in the form ``coco`` those of :class:`~posecore.formats.coco_options.CocoOptions` as well.

    Attributes:
        form: ``mpii`` for ``annotation/``, a list with a row per picture; ``coco`` for ``annotation_coco/``.
    """

    form: Literal["mpii", "coco"] = "mpii"


class AnimalKingdomReader(CocoReader):
    """Reads a file of a protocol. Flags say whether a point is labelled, not whether it is seen; places count from 0.

    The box of the form ``mpii`` is the extent of the points: its longer side is 200 · ``scale`` and its middle
    ``center``, exactly. That of the form ``coco`` is half a pixel less on each side, as published, so outermost points
    lie outside. The folder of a picture is its video.
    """

    options: ClassVar[frozenset[str]] = CocoReader.options | frozenset(AnimalKingdomOptions.model_fields)

    instance_extras: ClassVar[tuple[str, ...]] = _NAMES

    def read(self, source: Source) -> Iterator[Record | Reject]:
        """See :class:`~posecore.formats.reader.Reader`."""
        own = {name: source.options[name] for name in AnimalKingdomOptions.model_fields if name in source.options}
        form = parse_config(own, AnimalKingdomOptions, origin=f"{source.dataset} {source.split}: reader_options").form
        if form == "coco":
            yield from super().read(source)
            return
        with open_json(source, source.annotations, (WHOLE,)) as rows:
            if not isinstance(rows, list | StoredList):
                raise DatasetError(f"{source.annotations}: expected a list with a row per picture (form: mpii).")
            yield from _records(source, rows)

    def keypoint_names(self, category: JsonObject) -> tuple[str, ...]:
        """The file's names without the space behind one of them."""
        return tuple(name.strip() for name in super().keypoint_names(category))

    def keypoints(self, annotation: JsonObject, record: Record, source: Source) -> FloatArray:
        """(23, 3) float32, flags 0 or 2."""
        points = flat_keypoints(annotation, "keypoints", source.skeleton.num_keypoints)
        return coco_flags(any_positive_flag(points))

    def locate(self, record: Record, image: JsonObject) -> None:
        """The folder is the video."""
        record.video_id, record.frame_index = _place(text(image.get("file_name"), "file_name"))


def _records(source: Source, rows: Entries) -> Iterator[Record | Reject]:
    names = Texts()
    for row in rows:
        name = row.get("image") if isinstance(row, dict) else None
        names.append(name if isinstance(name, str) else None)
    for positions in together(names.column()):
        record = None
        for position in positions:
            where = f"{source.annotations} [{position}]"
            try:
                row = mapping(rows[position], "a row")
                record = record or _record(source, text(row.get("image"), "image"))
                record.instances.append(_instance(source, row, str(position)))
            except Refusal as refusal:
                source_id = "" if record is None else record.source_id
                yield refusal.reject(source, where, source_id, str(position))
        if record is not None:
            yield record


def _record(source: Source, image: str) -> Record:
    video, frame = _place(image)
    return Record(
        dataset=source.dataset,
        split=source.split,
        source_id=image.rpartition(".")[0] or image,
        image=relative_path(source.images, image),
        width=IMAGE_WIDTH,
        height=IMAGE_HEIGHT,
        license=source.license,
        video_id=video,
        frame_index=frame,
    )


def _instance(source: Source, row: JsonObject, instance_id: str) -> Instance:
    count = source.skeleton.num_keypoints
    joints, flags = sequence(row.get("joints"), "joints"), numbers(row.get("joints_vis"), count, "joints_vis")
    if len(joints) != count:
        raise Refusal("wrong-length", f"joints must have {counted(count, 'entry')}, not {len(joints)}.")
    places = np.array([numbers(joint, 2, f"joints[{index}]") for index, joint in enumerate(joints)])
    labelled = any_positive_flag(np.column_stack([places, flags]))
    keypoints = keypoints_from_rows([(x, y, int(flag)) for x, y, flag in labelled.tolist()])
    bbox = box_around(keypoints, margin=0)
    category = text(row.get("animal_parent_class"), "animal_parent_class")
    if category not in CLASSES:
        raise Refusal("unknown-category", f"animal_parent_class {category!r:.60} is none of {', '.join(CLASSES)}.")
    return Instance(
        id=instance_id,
        bbox_xywh=bbox,
        keypoints=keypoints,
        area=area_of_box(source.area_rule, bbox[2], bbox[3]),
        area_rule=source.area_rule,
        category=category,
        category_id=CLASSES.index(category) + 1,
        extras={name: str(row[name]) for name in _NAMES if isinstance(row.get(name), str)},
    )


def _place(image: str) -> tuple[str | None, int | None]:
    """Video and number of a picture such as ``AIFRKUPH/AIFRKUPH_f000032.jpg``."""
    frame = _FRAME.search(image)
    return image.rpartition("/")[0] or None, int(frame[1]) if frame else None
