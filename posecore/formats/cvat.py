"""CVAT's XML 1.1, for images and for video: skeletons whose points have names, flags and sources.

``outside`` is a point that is not labelled, ``occluded`` one that is hidden. In video, CVAT fills the frames between
those that a person has set (``keyframe``); what it filled is a prediction. Frames of a job count from its first, in its
steps, as the file says, so the film's own numbers come back.

Points and boxes that are no skeletons' are other annotations, but for a box that CVAT has grouped with one skeleton.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import ClassVar, NamedTuple
from xml.etree.ElementTree import Element

from posecore.counting import counted
from posecore.errors import DatasetError
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
from posecore.formats.values import Refusal, text
from posecore.formats.xml_elements import elements
from posecore.schema import BoxXywh, Json, Record, Reject
from posecore.videos.address import VIDEO_FORMATS

ROOT, SKELETON = "annotations", "skeleton"
_MAX_SIDE = 1 << 20


class CvatOptions(NamedPointsOptions):
    """``reader_options`` of CVAT.

    Attributes:
        labels: names of the skeletons that are of this dataset; all that have its points unless stated.
        subject_attribute: attribute of a skeleton that names the subject.
        track_attribute: attribute of a skeleton in a picture that names the track.
        video: path of the film that a file for video is of, where it is not found by its name.
    """

    labels: tuple[str, ...] = ()
    subject_attribute: str = "subject_id"
    track_attribute: str = "track_id"
    video: str = ""


class CvatSkeleton(NamedTuple):
    """A label of the kind skeleton: its points in order, and pairs of them that are drawn as lines."""

    name: str
    points: tuple[str, ...]
    links: tuple[tuple[str, str], ...]


class CvatReader(NamedPointsReader):
    """Reads "CVAT for images 1.1" and "CVAT for video 1.1"; options are those of :class:`CvatOptions`."""

    Options = CvatOptions
    suffixes = (".xml",)
    kind: ClassVar[str] = "an export of CVAT"

    def read_part(self, source: Source, part: str) -> Iterator[Record | Reject]:
        """A record per picture, or per frame in which a body is seen."""
        options = reader_options(source, CvatOptions)
        file = _File(source, options, part)
        tracks: list[Element] = []
        for element in elements(source, part, ROOT):
            if element.tag == "meta":
                file.learn(element)
            elif element.tag == "image":
                yield from file.picture(element)
            elif element.tag == "track":
                tracks.append(element)
        yield from file.film(tracks)
        for name, count in sorted(file.others.items()):
            other = Refusal(
                "other-annotation", f"{counted(count, 'annotation')} of the kind {name}: no skeleton of this set."
            )
            yield other.reject(source, part, outcome="skipped")


def cvat_skeletons(source: Source, part: str) -> list[CvatSkeleton]:
    """The labels of an export that are skeletons.

    Raises:
        DatasetError: it is no such export, or has none.
    """
    found: list[CvatSkeleton] = []
    for element in elements(source, part, ROOT):
        if element.tag == "meta":
            found += _skeletons(element)
    if not found:
        raise DatasetError(f"{source.dataset}: {part} has no label of the type skeleton; export skeletons from CVAT.")
    return found


def _skeletons(meta: Element) -> list[CvatSkeleton]:
    children: dict[str, list[str]] = defaultdict(list)
    parents = []
    for label in meta.iter("label"):
        name = (label.findtext("name") or "").strip()
        parent = (label.findtext("parent") or "").strip()
        if (label.findtext("type") or "").strip() == SKELETON:
            parents.append((name, label.findtext("svg") or ""))
        elif parent and name not in children[parent]:
            children[parent].append(name)
    return [CvatSkeleton(name, tuple(children[name]), _links(svg, children[name])) for name, svg in parents]


def _links(svg: str, points: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Lines of the drawing, whose ends are named by the numbers of its points."""
    named = dict(re.findall(r'data-node-id="(\d+)"[^>]*data-label-name="([^"]*)"', svg))
    named |= {number: name for name, number in re.findall(r'data-label-name="([^"]*)"[^>]*data-node-id="(\d+)"', svg)}
    ends = re.findall(r'data-node-from="(\d+)"[^>]*data-node-to="(\d+)"', svg)
    pairs = [(named.get(a, ""), named.get(b, "")) for a, b in ends]
    return tuple(pair for pair in dict.fromkeys(pairs) if pair[0] in points and pair[1] in points)


class _File:
    """One export while it is read."""

    def __init__(self, source: Source, options: CvatOptions, part: str) -> None:
        self._source, self._options, self._part = source, options, part
        self._prefix = prefix_of(source, part)
        self._files = StatedFiles(source, part)
        self._video, self._first, self._step = "", 0, 1
        self._size = (0, 0)
        self._seen: set[str] = set()
        self.others: Counter[str] = Counter()

    def learn(self, meta: Element) -> None:
        """Takes over what is said of the film: its name, its size, and which of its frames were labelled."""
        task = next((found for name in ("task", "job") if (found := meta.find(name)) is not None), meta)
        source = meta.findtext("source") or task.findtext("source") or ""
        self._video = self._options.video or source.strip()
        self._first = _whole(task.findtext("start_frame") or "0", "start_frame")
        step = re.search(r"step\s*=\s*(\d+)", task.findtext("frame_filter") or "")
        self._step = int(step[1]) if step else 1
        size = next((found for found in meta.iter("original_size")), None)
        if size is not None:
            sides = [_whole(size.findtext(name) or "0", name) for name in ("width", "height")]
            self._size = sides[0], sides[1]

    def picture(self, element: Element) -> Iterator[Record | Reject]:
        """The record of an ``image``."""
        stated = element.get("name", "")
        where = f"{self._part} image {element.get('id', '?')}"
        try:
            record = Record(
                dataset=self._source.dataset,
                split=self._source.split,
                source_id=f"{self._prefix}{text(element.get('id'), 'id')}",
                image=self._files.find(text(stated, "name")),
                width=_whole(element.get("width", "0"), "width"),
                height=_whole(element.get("height", "0"), "height"),
                license=self._source.license,
            )
            if record.source_id in self._seen:
                raise Refusal("duplicate-id", f"image {record.source_id} was there before in this file.")
            self._seen.add(record.source_id)
            boxes = self._boxes(element)
        except Refusal as refusal:
            yield refusal.reject(self._source, where, element.get("id", ""))
            return
        bodies = []
        for number, shape in enumerate(element):
            identifier = f"{record.source_id}/{number}"
            if not self._is_of_this(shape):
                if shape.tag not in ("tag", "box"):
                    self.others[shape.tag] += 1
                continue
            try:
                bodies.append(self._body(shape, identifier, boxes.get(shape.get("group_id", "")), None))
            except Refusal as refusal:
                yield refusal.reject(self._source, where, record.source_id, identifier)
        yield from add_bodies(self._source, self._options, record, bodies, where)
        yield record

    def film(self, tracks: Sequence[Element]) -> Iterator[Record | Reject]:
        """The records of all frames that a ``track`` has a skeleton in, in order."""
        of_frame: dict[int, list[tuple[Element, Element]]] = defaultdict(list)
        for track in tracks:
            shapes = [shape for shape in track if self._is_of_this(shape, track.get("label", ""))]
            self.others["track"] += not shapes
            for shape in shapes:
                try:
                    of_frame[_whole(shape.get("frame", ""), "frame")].append((track, shape))
                except Refusal as refusal:
                    yield refusal.reject(self._source, f"{self._part} track {track.get('id', '?')}")
        self.others += Counter()
        if not of_frame:
            return
        video = self._film_path()
        for frame in sorted(of_frame):
            number = self._first + self._step * frame
            where = f"{self._part} frame {frame}"
            try:
                image = frame_of(video, number)
            except Refusal as refusal:
                yield refusal.reject(self._source, where)
                continue
            record = Record(
                dataset=self._source.dataset,
                split=self._source.split,
                source_id=f"{self._prefix}{number}",
                image=image,
                width=self._size[0],
                height=self._size[1],
                license=self._source.license,
                video_id=video,
                frame_index=number,
            )
            bodies = []
            for track, shape in of_frame[frame]:
                if shape.get("outside") == "1":
                    continue
                name = f"{self._prefix}{track.get('id', '?')}"
                try:
                    bodies.append(self._body(shape, f"{name}/{number}", None, track))
                except Refusal as refusal:
                    yield refusal.reject(self._source, where, record.source_id, f"{name}/{number}")
            if bodies and all(body.is_predicted for body in bodies) and not self._options.predictions:
                yield from add_bodies(self._source, self._options, record, bodies, where)
                continue  # nobody has looked at this frame
            yield from add_bodies(self._source, self._options, record, bodies, where)
            yield record

    def _film_path(self) -> str:
        found = self._files.find(self._video) if self._video else ""
        if not found.lower().endswith(tuple(VIDEO_FORMATS)):
            raise DatasetError(
                f"{self._source.dataset} {self._source.split}: {self._part} does not name its film "
                f"({found or 'none'}); say the reader option video, a file of {', '.join(VIDEO_FORMATS)}."
            )
        return found

    def _is_of_this(self, shape: Element, label: str = "") -> bool:
        wanted = self._options.labels
        return shape.tag == SKELETON and (not wanted or shape.get("label", label) in wanted)

    def _boxes(self, element: Element) -> dict[str, BoxXywh]:
        """Boxes by the group that a skeleton may be in, too; a group of several has none."""
        boxes: dict[str, list[BoxXywh]] = defaultdict(list)
        for box in element.iter("box"):
            group = box.get("group_id", "0")
            if group != "0" and box.get("rotation", "0") in ("0", "0.0"):
                left, top, right, bottom = (_number(box.get(name, ""), name) for name in ("xtl", "ytl", "xbr", "ybr"))
                boxes[group].append((left, top, right - left, bottom - top))
            else:
                self.others["box"] += 1
        return {group: found[0] for group, found in boxes.items() if len(found) == 1}

    def _body(self, shape: Element, identifier: str, bbox: BoxXywh | None, track: Element | None) -> NamedBody:
        points: dict[str, Point] = {}
        drawn: set[str] = set()
        for element in shape.iter("points"):
            name = text(element.get("label"), "label")
            if name in points:
                raise Refusal("duplicate-id", f"two points of one skeleton are called {name}.")
            points[name] = _point(element)
            by_machine = element.get("keyframe") == "0" or element.get("source", shape.get("source")) == "auto"
            drawn |= {name} if by_machine else set()
        labelled = [name for name, point in points.items() if point[2]]
        attributes = {found.get("name", ""): (found.text or "").strip() for found in shape.iter("attribute")}
        whole = track if track is not None else shape
        is_machines = shape.get("keyframe") == "0" or (bool(labelled) and drawn.issuperset(labelled))
        extras: dict[str, Json] = {}
        if is_machines:
            extras = {PREDICTED: True}
        elif drawn:
            extras = {TOUCHED: [name for name in points if name not in drawn]}
        track_name = f"{self._prefix}{track.get('id', '?')}" if track is not None else None
        return NamedBody(
            id=identifier,
            points={name: point for name, point in points.items() if name not in self._options.skip_points},
            bbox_xywh=bbox,
            category=whole.get("label", ""),
            track=attributes.get(self._options.track_attribute) or track_name,
            subject=attributes.get(self._options.subject_attribute) or None,
            extras=extras,
        )


def _point(element: Element) -> Point:
    x, comma, y = element.get("points", "").partition(",")
    if element.get("outside") == "1":
        return 0.0, 0.0, 0
    if not comma or "," in y or ";" in y:
        raise Refusal("bad-joint", f"{element.get('points', '')!r:.40} is not one x,y.")
    return _number(x, "x"), _number(y, "y"), 1 if element.get("occluded") == "1" else 2


def _number(stated: str, what: str) -> float:
    try:
        return float(stated)
    except ValueError:
        raise Refusal("not-a-number", f"{what} is {stated!r:.40}, which is no number.") from None


def _whole(stated: str, what: str) -> int:
    if not re.fullmatch(r"\d{1,9}", stated.strip()):
        raise Refusal("not-an-integer", f"{what} is {stated!r:.40}, which is no whole number.")
    if what in ("width", "height") and int(stated) > _MAX_SIDE:
        raise Refusal("bad-size", f"the {what} is said to be {stated}.")
    return int(stated)
