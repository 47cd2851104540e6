"""SLEAP's ``.slp`` and ``.pkg.slp``, read as plain HDF5: no order, flag, name or track is lost on the way.

A point with coordinates that is not ``visible`` is occluded, one without coordinates is not labelled: sleap-io 0.9.5
reads both so, too, but what it writes to COCO, YOLO or Label Studio has lost the first. Files before format 1.1 count
from the corner of the first pixel, so half a pixel is taken off.

The points of a body are in the order of its skeleton's nodes, which are looked up by name. A body that a person has
made from a prediction keeps which of its points were moved or confirmed.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import h5py
import numpy as np
import orjson
from numpy.typing import NDArray

from posecore.errors import DatasetError
from posecore.formats.hdf5 import json_rows, member, open_h5, text_attribute, values
from posecore.formats.named_points import (
    PREDICTED,
    SCORES,
    TOUCHED,
    NamedBody,
    NamedPointsOptions,
    NamedPointsReader,
    add_bodies,
    check_names,
    prefix_of,
    reader_options,
)
from posecore.formats.reader import Source
from posecore.formats.stated_files import StatedFiles, frame_of
from posecore.formats.values import Refusal
from posecore.schema import Json, Record, Reject

_KIND = "a SLEAP file"
_MAX_BYTES = 1 << 30
"""Of one table; a million bodies of 24 points have 0.5 GB."""
_PACKED = re.compile(r"(?P<file>.+\.slp)#(?P<group>video\d{1,9})\[(?P<row>\d{1,9})\]", re.IGNORECASE)


class PackedFrame(NamedTuple):
    """A picture within a ``.pkg.slp``.

    Attributes:
        file: its path below the root.
        group: the video's, such as ``video0``.
        row: of the stored pictures.
    """

    file: str
    group: str
    row: int

    def __str__(self) -> str:
        return f"{self.file}#{self.group}[{self.row}]"


def parse_packed_frame(image: str) -> PackedFrame | None:
    """The stored picture that a record's ``image`` names; None where it names a file."""
    found = _PACKED.fullmatch(image)
    return None if found is None else PackedFrame(found["file"], found["group"], int(found["row"]))


class SleapSkeleton(NamedTuple):
    """One skeleton of a file: names in order, links and mirror pairs by name."""

    name: str
    points: tuple[str, ...]
    links: tuple[tuple[str, str], ...]
    pairs: tuple[tuple[str, str], ...]


class SleapReader(NamedPointsReader):
    """Reads the labelled frames of SLEAP files, as frames of their videos, pictures, or what a ``.pkg.slp`` has stored.

    Options are those of :class:`~posecore.formats.named_points.NamedPointsOptions`. Frames of videos need the stage
    ``video_frames``, stored ones ``packed_frames``.
    """

    suffixes = (".slp",)
    kind: ClassVar[str] = _KIND

    def read_part(self, source: Source, part: str) -> Iterator[Record | Reject]:
        """The labelled frames of one file, in its order."""
        options = reader_options(source, NamedPointsOptions)
        with open_h5(source, part, _KIND) as file:
            contents = _Contents(source, options, part, file)
            for row in range(len(contents.frames)):
                yield from contents.read(row)


def sleap_skeletons(file: h5py.File) -> list[SleapSkeleton]:
    """The skeletons of an open file.

    Raises:
        ValueError: it has none, or one is not as SLEAP writes them.
    """
    metadata = orjson.loads(text_attribute(member(file, "metadata"), "json"))
    known = [str(node["name"]) for node in metadata["nodes"]]
    skeletons = [_skeleton(one.get("nx_graph", one), known) for one in metadata["skeletons"]]
    if not skeletons:
        raise ValueError("it has no skeleton")
    return skeletons


def sleap_videos(file: h5py.File) -> list[Mapping[str, Json]]:
    """What is said of each video."""
    return [one if isinstance(one, dict) else {} for one in json_rows(file, "videos_json")]


def _skeleton(found: Mapping[str, Json], known: Sequence[str]) -> SleapSkeleton:
    nodes = [node["id"] for node in found["nodes"]]
    kinds: list[int] = []
    links: dict[int, dict[tuple[str, str], None]] = {1: {}, 2: {}}
    for link in found["links"]:
        kind = link["type"]
        if "py/reduce" in kind:
            kinds.append(kind["py/reduce"][1]["py/tuple"][0])
            number = kinds[-1]
        else:  # a kind that was there before, by its number in the order in which they came
            place = kind["py/id"]
            number = kinds[place - 1] if place <= len(kinds) else place
        ends = known[link["source"]], known[link["target"]]
        if number in links and ends[::-1] not in links[number]:
            links[number][ends] = None
    name = str(found.get("graph", {}).get("name") or "skeleton")
    return SleapSkeleton(name, tuple(known[node] for node in nodes), tuple(links[1]), tuple(links[2]))


class _Contents:
    """Tables of an open file."""

    def __init__(self, source: Source, options: NamedPointsOptions, part: str, file: h5py.File) -> None:
        self._source, self._options, self._part = source, options, part
        self._prefix = prefix_of(source, part)
        self._files = StatedFiles(source, part)
        self._skeletons = sleap_skeletons(file)
        found = list(dict.fromkeys(name for skeleton in self._skeletons for name in skeleton.points))
        check_names(source, found, f"{part} has the points", options.skip_points, "skip_points")
        self._videos = sleap_videos(file)
        self._stored = [_stored_frames(file, video) for video in self._videos]
        self._tracks = [str(track[1]) for track in json_rows(file, "tracks_json")]
        self._half = 0.5 if float(member(file, "metadata").attrs.get("format_id", 1.0)) < 1.1 else 0.0
        self.frames = _columns(file, "frames", ("video", "frame_idx", "instance_id_start", "instance_id_end"))
        columns = ("instance_type", "skeleton", "track", "from_predicted", "score", "point_id_start", "point_id_end")
        self._instances = _columns(file, "instances", columns)
        self._points = _columns(file, "points", ("x", "y", "visible", "complete"))
        self._predicted = _columns(file, "pred_points", ("x", "y", "visible", "score"))
        self._numbers = _video_numbers(self._videos)

    def read(self, row: int) -> Iterator[Record | Reject]:
        """A labelled frame."""
        frame = self.frames[row]
        where = f"{self._part} frames[{row}]"
        try:
            record = self._record(int(frame["video"]), int(frame["frame_idx"]))
            first, last = int(frame["instance_id_start"]), int(frame["instance_id_end"])
            if not 0 <= first <= last <= len(self._instances):
                raise Refusal("missing-field", f"bodies {first} to {last} are not in the file.")
            bodies = [self._body(number) for number in self._wanted(first, last)]
        except Refusal as refusal:
            yield refusal.reject(self._source, where)
            return
        yield from add_bodies(self._source, self._options, record, bodies, where)
        yield record

    def _wanted(self, first: int, last: int) -> list[int]:
        """Bodies of a frame, without predictions that a person has made one of."""
        rows = self._instances[first:last]
        corrected = {int(row["from_predicted"]) for row in rows if row["instance_type"] == 0}
        return [number for number in range(first, last) if number not in corrected]

    def _record(self, video: int, number: int) -> Record:
        place = self._numbers.get(video)
        if place is None:
            raise Refusal("missing-field", f"video {video} is not in the file.")
        stated = self._videos[place]
        backend = stated.get("backend", {})
        shape = backend.get("shape") or [0, 0, 0, 0]
        names = backend.get("filenames") or (
            stated.get("filename") if isinstance(stated.get("filename"), list) else None
        )
        stored = self._stored[place]
        video_id: str | None
        if stored is not None:
            if number not in stored.rows:
                raise Refusal("missing-image-entry", f"frame {number} of {stored.group} is not stored in the file.")
            image = str(PackedFrame(self._part, stored.group, stored.rows[number]))
            original = stated.get("source_video", {}).get("filename")
            video_id = str(original) if isinstance(original, str) else f"{self._prefix}{stored.group}"
        elif names:
            if not number < len(names):
                raise Refusal("missing-image-entry", f"picture {number} of {len(names)} is not in the file.")
            image, video_id, shape = self._files.find(str(names[number])), None, [0, 0, 0, 0]
        else:
            name = self._files.find(str(backend.get("filename") or stated.get("filename") or ""))
            image, video_id = frame_of(name, number), name
        sizes = [side if isinstance(side, int) and 0 <= side < 1 << 15 else 0 for side in shape[1:3]]
        return Record(
            dataset=self._source.dataset,
            split=self._source.split,
            source_id=f"{self._prefix}{place}/{number}",
            image=image,
            width=sizes[1],
            height=sizes[0],
            license=self._source.license,
            video_id=video_id,
            frame_index=number if video_id is not None else None,
        )

    def _body(self, number: int) -> NamedBody:
        row = self._instances[number]
        predicted = row["instance_type"] == 1
        table = self._predicted if predicted else self._points
        names = self._names(row)
        rows = self._slice(table, row, len(names))
        track = int(row["track"])
        extras: dict[str, Json] = {}
        if predicted:
            scores = zip(names, rows["score"].tolist(), strict=True)
            extras = {PREDICTED: True, SCORES: {name: score for name, score in scores if score == score}}
        elif (touched := self._touched(row, names, rows)) is not None:
            extras = {TOUCHED: touched}
        points = {}
        for name, point in zip(names, rows, strict=True):
            x, y = float(point["x"]), float(point["y"])
            if x == x and y == y:
                points[name] = (x - self._half, y - self._half, 2 if point["visible"] else 1)
        return NamedBody(
            id=f"{self._prefix}{number}",
            points={name: point for name, point in points.items() if name not in self._options.skip_points},
            track=self._tracks[track] if 0 <= track < len(self._tracks) else None,
            extras=extras,
        )

    def _names(self, row: Any) -> tuple[str, ...]:
        if not int(row["skeleton"]) < len(self._skeletons):
            raise Refusal("unknown-category", f"skeleton {row['skeleton']} is not in the file.")
        return self._skeletons[int(row["skeleton"])].points

    def _slice(self, table: NDArray[Any], row: Any, count: int) -> NDArray[Any]:
        first, last = int(row["point_id_start"]), int(row["point_id_end"])
        if not 0 <= first <= last <= len(table) or last - first != count:
            raise Refusal("wrong-length", f"points {first} to {last} are not the {count} of a body.")
        return table[first:last]

    def _touched(self, row: Any, names: Sequence[str], rows: NDArray[Any]) -> list[str] | None:
        """Points that a person has confirmed or moved, of a body that was a prediction."""
        origin = int(row["from_predicted"])
        if not 0 <= origin < len(self._instances) or self._instances[origin]["instance_type"] != 1:
            return None
        before = self._slice(self._predicted, self._instances[origin], len(names))
        same = np.isclose(rows["x"], before["x"], atol=1e-6, equal_nan=True)
        same &= np.isclose(rows["y"], before["y"], atol=1e-6, equal_nan=True)
        same &= (rows["visible"] == before["visible"]) & ~rows["complete"]
        return [name for name, untouched in zip(names, same.tolist(), strict=True) if not untouched]


class _StoredFrames(NamedTuple):
    """Pictures stored with the labels: the row of each frame's number."""

    group: str
    rows: Mapping[int, int]


def _stored_frames(file: h5py.File, video: Mapping[str, Json]) -> _StoredFrames | None:
    backend = video.get("backend", {})
    dataset = str(backend.get("dataset") or "")
    if backend.get("filename") != "." or not re.fullmatch(r"video\d+/video", dataset):
        return None
    group = dataset.partition("/")[0]
    numbers = values(file, f"{group}/frame_numbers").tolist()
    return _StoredFrames(group, {int(number): row for row, number in enumerate(numbers)})


def _video_numbers(videos: Sequence[Mapping[str, Json]]) -> dict[int, int]:
    """Which video a frame means: those stored with the labels are meant by the number of their group."""
    numbers = {}
    for place, video in enumerate(videos):
        found = re.fullmatch(r"video(\d+)/video", str(video.get("backend", {}).get("dataset") or ""))
        numbers[int(found[1]) if found else place] = place
    return numbers


def _columns(file: h5py.File, path: str, wanted: Sequence[str]) -> NDArray[Any]:
    rows = values(file, path, _MAX_BYTES)
    missing = [name for name in wanted if name not in (rows.dtype.names or ())]
    if missing or rows.ndim != 1:
        raise DatasetError(f"{path} has no column {', '.join(missing)}, so it is not of {_KIND}.")
    return rows
