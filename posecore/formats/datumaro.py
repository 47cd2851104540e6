"""Datumaro's own JSON: an item for each picture, with points, boxes and the group that ties them.

The points of a label have their names and order in the categories; each has a visibility, 0 for a point that is not
there, 1 hidden, 2 seen. Datumaro 1.13 keeps coordinates to 0.01 pixel.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar, NamedTuple

from posecore.counting import counted
from posecore.errors import DatasetError
from posecore.formats.coco import identifier
from posecore.formats.json_lists import open_json
from posecore.formats.named_points import (
    NamedBody,
    NamedPointsOptions,
    NamedPointsReader,
    Point,
    add_bodies,
    check_names,
    prefix_of,
    reader_options,
)
from posecore.formats.reader import Source
from posecore.formats.stated_files import StatedFiles
from posecore.formats.values import Refusal, integer, mapping, numbers, sequence, text
from posecore.schema import BoxXywh, Json, Record, Reject

ITEMS = "items"


class DatumaroOptions(NamedPointsOptions):
    """``reader_options`` of Datumaro.

    Attributes:
        labels: names of the labels that are of this dataset; all that have points unless stated.
        subject_attribute: attribute of an annotation that names the subject.
        track_attribute: attribute of an annotation that names the track.
    """

    labels: tuple[str, ...] = ()
    subject_attribute: str = "subject_id"
    track_attribute: str = "track_id"


class DatumaroLabel(NamedTuple):
    """A label with points: its number, name, the points in order, and pairs of positions that are joined."""

    number: int
    name: str
    points: tuple[str, ...]
    links: tuple[tuple[int, int], ...]


class DatumaroReader(NamedPointsReader):
    """Reads Datumaro JSON; options are those of :class:`DatumaroOptions`."""

    Options = DatumaroOptions
    suffixes = (".json",)
    kind: ClassVar[str] = "a file of Datumaro"

    def read_part(self, source: Source, part: str) -> Iterator[Record | Reject]:
        """A record per item."""
        options = reader_options(source, DatumaroOptions)
        files = StatedFiles(source, part)
        prefix = prefix_of(source, part)
        others: Counter[str] = Counter()
        seen: set[str] = set()
        with open_json(source, part, (ITEMS,)) as document:
            labels = {label.number: label for label in datumaro_labels(source, part, document)}
            if options.labels:
                labels = {number: label for number, label in labels.items() if label.name in options.labels}
            for label in labels.values():
                check_names(source, label.points, f"{part} lists for {label.name}", options.skip_points, "skip_points")
            for index, item in enumerate(document[ITEMS]):
                where = f"{part} items[{index}]"
                try:
                    found = mapping(item, "an item")
                    record = _record(source, files, found, prefix)
                    if record.source_id in seen:
                        raise Refusal("duplicate-id", f"item {record.source_id} was there before in this file.")
                    seen.add(record.source_id)
                    bodies = _bodies(options, found, labels, record.source_id, others)
                except Refusal as refusal:
                    yield refusal.reject(source, where)
                    continue
                yield from add_bodies(source, options, record, bodies, where)
                yield record
        for name, count in sorted(others.items()):
            other = Refusal(
                "other-annotation", f"{counted(count, 'annotation')} of the kind {name}: no body of this set."
            )
            yield other.reject(source, part, outcome="skipped")


def datumaro_labels(source: Source, part: str, document: Json) -> list[DatumaroLabel]:
    """Labels that have points.

    Raises:
        DatasetError: the file is not Datumaro's, or no label has points.
    """
    where = f"{source.dataset} {source.split}: {part}"
    if not isinstance(document, Mapping) or "categories" not in document or not _is_list(document.get(ITEMS)):
        raise DatasetError(f"{where} is not Datumaro's JSON, which has categories and items.")
    try:
        categories = mapping(document["categories"], "categories")
        names = [str(label.get("name")) for label in _entries(categories, "label", "labels")]
        return [_label(names, found) for found in _entries(categories, "points", "items")]
    except Refusal as refusal:
        raise DatasetError(f"{where}: {refusal}") from None


def _is_list(value: Json) -> bool:
    return hasattr(value, "__iter__") and not isinstance(value, str | Mapping)


def _entries(categories: Mapping[str, Json], kind: str, name: str) -> list[Mapping[str, Json]]:
    found = mapping(categories.get(kind, {}), kind).get(name)
    if not found:
        raise Refusal("unknown-category", f"categories.{kind}.{name} is empty, so no label has points.")
    return [mapping(item, kind) for item in sequence(found, f"categories.{kind}.{name}")]


def _label(names: Sequence[str], found: Mapping[str, Json]) -> DatumaroLabel:
    place = integer(found.get("label_id"), "label_id")
    if not 0 <= place < len(names):
        raise Refusal("unknown-category", f"points are listed for label {place} of {len(names)}.")
    points = tuple(text(name, "the name of a point") for name in sequence(found.get("labels"), "labels"))
    joints = [numbers(joint, 2, "a joint") for joint in sequence(found.get("joints") or (), "joints")]
    links = tuple((int(a) - 1, int(b) - 1) for a, b in joints if min(a, b) >= 1 and max(a, b) <= len(points))
    return DatumaroLabel(place, names[place], points, links)


def _record(source: Source, files: StatedFiles, item: Mapping[str, Json], prefix: str) -> Record:
    stated = text(item.get("id"), "id")
    image = mapping(item.get("image") or {}, "image")
    size = numbers(image.get("size") or [0, 0], 2, "image.size")
    if not all(side.is_integer() and 0 <= side < 1 << 20 for side in size):
        raise Refusal("bad-size", f"the picture is said to be {size[1]:g}x{size[0]:g}.")
    frame = mapping(item.get("attr") or {}, "attr").get("frame")
    return Record(
        dataset=source.dataset,
        split=source.split,
        source_id=f"{prefix}{stated}",
        image=files.find(str(image.get("path") or f"{stated}.jpg")),
        width=int(size[1]),
        height=int(size[0]),
        license=source.license,
        frame_index=frame if type(frame) is int and frame >= 0 else None,
    )


def _bodies(
    options: DatumaroOptions,
    item: Mapping[str, Json],
    labels: Mapping[int, DatumaroLabel],
    source_id: str,
    others: Counter[str],
) -> list[NamedBody]:
    annotations = [mapping(one, "an annotation") for one in sequence(item.get("annotations", ()), "annotations")]
    boxes: dict[str, list[BoxXywh]] = defaultdict(list)
    for one in annotations:
        if one.get("type") == "bbox" and one.get("group") and _label_of(labels, one) is not None:
            left, top, width, height = numbers(one.get("bbox"), 4, "bbox")
            boxes[str(one["group"])].append((left, top, width, height))
    bodies = []
    for index, one in enumerate(annotations):
        label = _label_of(labels, one)
        if one.get("type") != "points" or label is None:
            grouped = one.get("type") == "bbox" and str(one.get("group")) in boxes
            others[str(one.get("type"))] += not grouped
            continue
        attributes = mapping(one.get("attributes") or {}, "attributes")
        track, subject = (attributes.get(name) for name in (options.track_attribute, options.subject_attribute))
        found = boxes.get(str(one.get("group")), [])
        bodies.append(
            NamedBody(
                id=f"{source_id}/{index}",
                points={name: point for name, point in _points(label, one).items() if name not in options.skip_points},
                bbox_xywh=found[0] if len(found) == 1 else None,
                category=label.name,
                category_id=label.number,
                track=None if track is None else identifier(track, options.track_attribute),
                subject=None if subject is None else identifier(subject, options.subject_attribute),
            )
        )
    others += Counter()
    return bodies


def _label_of(labels: Mapping[int, DatumaroLabel], annotation: Mapping[str, Json]) -> DatumaroLabel | None:
    number = annotation.get("label_id")
    return labels.get(number) if type(number) is int else None


def _points(label: DatumaroLabel, annotation: Mapping[str, Json]) -> dict[str, Point]:
    count = len(label.points)
    values = numbers(annotation.get("points"), 2 * count, "points")
    flags = [integer(flag, "visibility") for flag in sequence(annotation.get("visibility"), "visibility")]
    if len(flags) != count:
        raise Refusal("wrong-length", f"visibility has {counted(len(flags), 'entry')} for {counted(count, 'point')}.")
    return {name: (x, y, flag) for name, x, y, flag in zip(label.points, values[::2], values[1::2], flags, strict=True)}
