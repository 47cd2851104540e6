"""Label Studio's JSON: a task for each picture, and in its results points, boxes and how they belong together.

Places are hundredths of width and height. A point belongs to the box that a relation or the tree of regions ties it to;
where neither does, to the only box there is, to the only one that it lies in, or, without boxes, to the one body of the
picture. Label Studio knows no hidden points; a choice for the region stands for that (``occluded_choices``).

sleap-io 0.9.5 writes the size of the picture in pixels where hundredths of a box belong: such a box is none, nor is one
that leaves its picture.
"""

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import ClassVar

from pydantic import Field

from posecore.counting import counted
from posecore.errors import DatasetError
from posecore.formats.coco import identifier
from posecore.formats.json_lists import WHOLE, StoredList, open_json
from posecore.formats.named_points import (
    PREDICTED,
    TOUCHED,
    NamedBody,
    NamedPointsOptions,
    NamedPointsReader,
    Point,
    add_bodies,
    prefix_of,
    reader_options,
)
from posecore.formats.reader import Source
from posecore.formats.stated_files import StatedFiles, frame_of
from posecore.formats.values import Refusal, integer, mapping, number, sequence, text
from posecore.schema import BoxXywh, Json, Record, Reject

POINTS, BOXES, RELATION, CHOICES = "keypointlabels", "rectanglelabels", "relation", "choices"
_FULL = 100.01


class LabelStudioOptions(NamedPointsOptions):
    """``reader_options`` of Label Studio.

    Attributes:
        image_field: field of a task's ``data`` with the picture; the first that is a text unless stated.
        subject_field: field of a task's ``data`` that names the subject.
        video_field: field of a task's ``data`` that names the video.
        annotator: number of the one whose annotations are taken; unless stated, the ground truth, else the first.
        occluded_choices: choices of a region that say its point is hidden.
    """

    image_field: str = ""
    subject_field: str = "subject_id"
    video_field: str = "video_id"
    annotator: int | None = None
    occluded_choices: tuple[str, ...] = Field(default=("occluded", "hidden", "not visible"))


class LabelStudioReader(NamedPointsReader):
    """Reads exports in Label Studio's own form ("JSON"); options are those of :class:`LabelStudioOptions`."""

    Options = LabelStudioOptions
    suffixes = (".json",)
    kind: ClassVar[str] = "an export of Label Studio"

    def read_part(self, source: Source, part: str) -> Iterator[Record | Reject]:
        """A record per task."""
        options = reader_options(source, LabelStudioOptions)
        files = StatedFiles(source, part)
        prefix = prefix_of(source, part)
        seen: set[str] = set()
        with _tasks(source, part) as tasks:
            for index, task in enumerate(tasks):
                where = f"{part} [{index}]"
                try:
                    record = _record(source, options, files, mapping(task, "a task"), prefix, index)
                    bodies, left = _bodies(options, task, record.source_id)
                    if record.source_id in seen:
                        raise Refusal("duplicate-id", f"task {record.source_id} was there before in this file.")
                    seen.add(record.source_id)
                except Refusal as refusal:
                    yield refusal.reject(source, where)
                    continue
                if left:
                    other = Refusal("other-annotation", f"{counted(left, 'annotation')} of other people, left aside.")
                    yield other.reject(source, where, record.source_id, outcome="skipped")
                yield from add_bodies(source, options, record, bodies, where)
                yield record


@contextmanager
def _tasks(source: Source, part: str) -> Iterator[Sequence[Json] | StoredList]:
    with open_json(source, part, (WHOLE,)) as document:
        found = [document] if isinstance(document, dict) and "data" in document else document
        if not isinstance(found, list | StoredList):
            raise DatasetError(f"{source.dataset} {source.split}: {part} is not a list of Label Studio's tasks.")
        yield found


def results_of(task: Mapping[str, Json]) -> list[Json]:
    """All results of a task, whoever's."""
    found = []
    for key in ("annotations", "completions", "predictions"):
        made = task.get(key)
        for annotation in made if isinstance(made, list) else ():
            if isinstance(annotation, dict) and isinstance(annotation.get("result"), list):
                found += annotation["result"]
    return found


def _record(
    source: Source, options: LabelStudioOptions, files: StatedFiles, task: Mapping[str, Json], prefix: str, index: int
) -> Record:
    data = mapping(task.get("data", {}), "data")
    video = mapping(mapping(task.get("meta") or {}, "meta").get("video") or {}, "meta.video")
    stated = data.get(options.image_field) if options.image_field else _first_text(data)
    video_id = frame = None
    if not stated and video:
        video_id = files.find(text(video.get("filename"), "meta.video.filename"))
        frame = integer(video.get("frame_idx"), "meta.video.frame_idx")
        image = frame_of(video_id, frame)
    else:
        image = files.find(text(stated, f"data.{options.image_field or 'image'}"))
    named = {name: data.get(name) for name in (options.video_field, options.subject_field)}
    if named[options.video_field] is not None:
        video_id = identifier(named[options.video_field], options.video_field)
    width, height = _stated_size(results_of(task))
    return Record(
        dataset=source.dataset,
        split=source.split,
        source_id=f"{prefix}{index if task.get('id') is None else identifier(task['id'], 'id')}",
        image=image,
        width=width,
        height=height,
        license=source.license,
        video_id=video_id,
        frame_index=frame,
    )


def _first_text(data: Mapping[str, Json]) -> Json:
    return data.get("image") or next((one for one in data.values() if isinstance(one, str) and "." in one), None)


def _stated_size(results: Sequence[Json]) -> tuple[int, int]:
    for result in results:
        if isinstance(result, dict) and "original_width" in result:
            sides = [integer(result.get(name), name) for name in ("original_width", "original_height")]
            if min(sides) < 1 or max(sides) > 1 << 20:
                raise Refusal("bad-size", f"the picture is said to be {sides[0]}x{sides[1]}.")
            return sides[0], sides[1]
    return 0, 0


def _bodies(options: LabelStudioOptions, task: Mapping[str, Json], source_id: str) -> tuple[list[NamedBody], int]:
    """The bodies of the annotation that counts, and how many others there are."""
    made = sequence(task.get("annotations", task.get("completions", ())), "annotations")
    usable = [one for one in (mapping(item, "an annotation") for item in made) if not one.get("was_cancelled")]
    if options.annotator is not None:
        chosen = [one for one in usable if _annotator(one) == options.annotator]
    else:
        chosen = [one for one in usable if one.get("ground_truth")] or usable
    if chosen:
        bodies = _of_annotation(options, chosen[0], source_id)
        return bodies, len(usable) - 1
    drawn = sequence(task.get("predictions") or (), "predictions")
    if usable or not drawn:
        return [], len(usable)
    bodies = _of_annotation(options, mapping(drawn[-1], "a prediction"), source_id)
    for body in bodies:
        body.extras = {PREDICTED: True}
    return bodies, 0


def _annotator(annotation: Mapping[str, Json]) -> Json:
    who = annotation.get("completed_by")
    return who.get("id") if isinstance(who, dict) else who


class _Region:
    """A point or a box of the results."""

    def __init__(self, result: Mapping[str, Json]) -> None:
        self.id = text(result.get("id"), "id of a result")
        value = mapping(result.get("value"), "value")
        width, height = _stated_size([result])
        if result.get("image_rotation") not in (None, 0):
            raise Refusal(
                "turned-labels", f"the labels are those of the picture turned by {result['image_rotation']}°."
            )
        x, y = number(value.get("x"), "x"), number(value.get("y"), "y")
        self.x, self.y = x * width / 100, y * height / 100
        labels = sequence(value.get(str(result.get("type"))), "labels")
        self.label = text(labels[0] if labels else None, "a label")
        self.parent = str(result.get("parentID"))
        self.origin = result.get("origin")
        self.bbox: BoxXywh | None = None
        if result.get("type") == BOXES:
            w, h = number(value.get("width"), "width"), number(value.get("height"), "height")
            is_inside = w > 0 and h > 0 and x + w <= _FULL and y + h <= _FULL
            if is_inside and not value.get("rotation") and (x, y, w, h) != (0, 0, width, height):
                self.bbox = self.x, self.y, w * width / 100, h * height / 100

    def holds(self, point: "_Region") -> bool:
        if self.bbox is None:
            return False
        x, y, width, height = self.bbox
        return x <= point.x <= x + width and y <= point.y <= y + height


def _of_annotation(options: LabelStudioOptions, annotation: Mapping[str, Json], source_id: str) -> list[NamedBody]:
    results = [mapping(item, "a result") for item in sequence(annotation.get("result"), "result")]
    points = [_Region(one) for one in results if one.get("type") == POINTS and not _is_nowhere(one)]
    boxes = {box.id: box for box in (_Region(one) for one in results if one.get("type") == BOXES)}
    hidden = {str(one.get("id")) for one in results if one.get("type") == CHOICES and _is_hidden(options, one)}
    tied: dict[str, str] = {point.id: point.parent for point in points if point.parent in boxes}
    for result in results:
        if result.get("type") == RELATION:
            ends = str(result.get("from_id")), str(result.get("to_id"))
            for end, other in (ends, ends[::-1]):
                if other in boxes and end not in boxes:
                    tied[end] = other
    of_body: dict[str, list[_Region]] = defaultdict(list, {name: [] for name in boxes})
    for point in points:
        of_body[tied.get(point.id) or _box_of(point, list(boxes.values()))].append(point)
    return [
        _body(options, boxes.get(name), members, hidden, f"{source_id}/{number}")
        for number, (name, members) in enumerate(of_body.items())
    ]


def _is_nowhere(result: Mapping[str, Json]) -> bool:
    value = result.get("value")
    places = [value.get("x"), value.get("y")] if isinstance(value, dict) else []
    return any(isinstance(place, float) and math.isnan(place) for place in places)


def _is_hidden(options: LabelStudioOptions, result: Mapping[str, Json]) -> bool:
    chosen = mapping(result.get("value"), "value").get(CHOICES)
    return any(str(choice).lower() in options.occluded_choices for choice in sequence(chosen, CHOICES))


def _box_of(point: _Region, boxes: Sequence[_Region]) -> str:
    """The box of a point that nothing is tied to; "" for the body that has none."""
    if len(boxes) <= 1:
        return boxes[0].id if boxes else ""
    around = [box.id for box in boxes if box.holds(point)]
    if len(around) != 1:
        raise Refusal(
            "no-body",
            f"the point {point.label} lies in {len(around)} of {counted(len(boxes), 'box')}, and no relation says "
            "whose it is.",
        )
    return around[0]


def _body(
    options: LabelStudioOptions, box: _Region | None, members: Sequence[_Region], hidden: set[str], identifier: str
) -> NamedBody:
    points: dict[str, Point] = {}
    for member in members:
        if member.label in points:
            raise Refusal("duplicate-id", f"two points of one body are called {member.label}.")
        points[member.label] = (member.x, member.y, 1 if member.id in hidden else 2)
    untouched = {member.label for member in members if member.origin == "prediction"}
    changed = any(member.origin in ("prediction", "prediction-changed") for member in members)
    return NamedBody(
        id=identifier,
        points={name: point for name, point in points.items() if name not in options.skip_points},
        bbox_xywh=None if box is None else box.bbox,
        category=box.label if box is not None else "",
        extras={TOUCHED: [name for name in points if name not in untouched]} if changed else {},
    )


def label_studio_names(source: Source, part: str) -> list[str]:
    """Names of points in the order in which they come.

    Raises:
        DatasetError: the file has none, so it is none of poses in Label Studio's own form.
    """
    names: dict[str, None] = {}
    with _tasks(source, part) as tasks:
        for task in tasks:
            for result in results_of(task) if isinstance(task, dict) else ():
                value = result.get("value") if isinstance(result, dict) else None
                if isinstance(value, dict) and isinstance(value.get(POINTS), list):
                    names.update(dict.fromkeys(map(str, value[POINTS])))
    if not names:
        raise DatasetError(
            f"{source.dataset}: {part} has no result of {POINTS}; export it from Label Studio as JSON, not JSON-MIN."
        )
    return list(names)
