"""The ``PoseEstimation`` of an NWB file: a table of places over time for each point of one body, as a tracker wrote it.

Tables are joined by their names, which are those of the points (ndx-pose gives them back in the order of the alphabet),
and by time: sleap-io 0.9.5 leaves out the rows of a point that is missing. A place that is not a number is not
labelled; a confidence that is none says nothing.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray

from posecore.counting import counted
from posecore.formats.hdf5 import member, texts, values
from posecore.formats.named_points import PREDICTED, SCORES, NamedBody, Point
from posecore.formats.nwb_file import PROCESSING, NwbVideo, kind_of, linked, linked_values, video_of
from posecore.schema import Json


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimation:
    """A body of a video.

    Attributes:
        name: of the container.
        video: whose frames.
        points: in the order of its skeleton.
        links: by position.
        skeleton: what it calls it; "" for nothing.
        places: (T, 2) x, y in pixels, by point.
        scores: (T,) confidences, by point; of those that have any.
        frames: (T,) number of the frame of each row, ascending.
    """

    name: str
    video: NwbVideo
    points: tuple[str, ...]
    links: tuple[tuple[int, int], ...]
    skeleton: str
    places: Mapping[str, NDArray[np.float64]]
    scores: Mapping[str, NDArray[np.float64]]
    frames: NDArray[np.int64]

    def body(self, row: int, instance_id: str, subject: str | None, skipped: Sequence[str]) -> NamedBody | None:
        """The body of a row; None where no point has a place."""
        points: dict[str, Point] = {}
        scores: dict[str, Json] = {}
        for name, places in self.places.items():
            x, y = places[row].tolist()
            if name in skipped or x != x or y != y:
                continue
            points[name] = (x, y, 2)
            score = self.scores[name][row] if name in self.scores else np.nan
            if np.isfinite(score):
                scores[name] = round(float(score), 4)
        if not points:
            return None
        extras: dict[str, Json] = {PREDICTED: True} | ({SCORES: scores} if scores else {})
        return NamedBody(id=instance_id, points=points, track=self.name, subject=subject, extras=extras)


def estimations(file: h5py.File) -> Iterator[Estimation]:
    """Those of a file, one after the other, also those of several cameras.

    Raises:
        ValueError: one is not as ndx-pose has them.
    """
    for container in estimation_groups(file):
        yield _estimation(file, container)


def estimation_groups(file: h5py.File) -> list[h5py.Group]:
    """Where they are, in whatever processing module: sleap-io makes one per video. Nothing of them is read."""
    if PROCESSING not in file:
        return []
    modules = member(file, PROCESSING)
    return [found for name in modules for found in _below(file, member(modules, name))]


def _below(file: h5py.File, group: h5py.Group) -> Iterator[h5py.Group]:
    for name in group:
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            continue
        found = group[name]
        if kind_of(found) == "PoseEstimation":
            yield found
        elif kind_of(found) == "MultiCameraPoseEstimation":
            yield from _below(file, found)


def _estimation(file: h5py.File, container: h5py.Group) -> Estimation:
    name = container.name.rpartition("/")[2]
    series, skeleton, video = {}, None, None
    for member_name in container:
        if isinstance(container.get(member_name, getlink=True), h5py.ExternalLink):
            continue
        found = linked(file, container, member_name)
        kind = kind_of(found)
        if kind == "PoseEstimationSeries":
            series[member_name] = found
        elif kind == "Skeleton":
            skeleton = found
        elif kind == "ImageSeries" and member_name == "source_video":
            video = video_of(found)
    if video is None:
        video = _stated_video(container, name)
    names, links = _points(container, skeleton, series)
    if strange := [one for one in names if one not in series]:
        raise ValueError(f"{name} has no series {strange[0]!r}; its series are {', '.join(series) or 'none'}")
    tables = {one: _table(file, series[one]) for one in names}
    frames, rows = _frames(tables, video, name)
    places = {one: _spread(table.places, rows[one], len(frames)) for one, table in tables.items()}
    scores = {
        one: _spread(table.scores, rows[one], len(frames)) for one, table in tables.items() if table.scores is not None
    }
    return Estimation(
        name=name,
        video=video,
        points=names,
        links=links,
        skeleton="" if skeleton is None else skeleton.name.rpartition("/")[2],
        places=places,
        scores=scores,
        frames=frames,
    )


class _Table(NamedTuple):
    """A point over time: (T, 2) pixels, (T,) seconds and (T,) confidences, or None."""

    places: NDArray[np.float64]
    times_s: NDArray[np.float64] | None
    scores: NDArray[np.float64] | None


def _frames(
    tables: Mapping[str, _Table], video: NwbVideo, name: str
) -> tuple[NDArray[np.int64], dict[str, NDArray[np.int64]]]:
    """Numbers of all frames, ascending, and the place among them of each row of each table.

    A table may lack the rows in which its point is missing, so rows of one number are not rows of one time.
    """
    if any(table.times_s is None for table in tables.values()):
        lengths = {len(table.places) for table in tables.values()}
        if len(lengths) > 1:
            raise ValueError(f"{name}: its series have no times and not the same number of rows")
        every = np.arange(lengths.pop())
        return every, dict.fromkeys(tables, every)
    times = {one: table.times_s for one, table in tables.items() if table.times_s is not None}
    union = np.unique(np.concatenate(list(times.values())))
    numbers = video.numbers(union)
    frames = np.unique(numbers)
    rows = {one: np.searchsorted(frames, numbers[np.searchsorted(union, own)]) for one, own in times.items()}
    if any((np.diff(own) <= 0).any() for own in rows.values()):
        raise ValueError(f"{name}: its rows do not follow each other in time")
    return frames, rows


def _spread(values: NDArray[np.float64], rows: NDArray[np.int64], count: int) -> NDArray[np.float64]:
    spread = np.full((count, *values.shape[1:]), np.nan)
    spread[rows] = values
    return spread


def _stated_video(container: h5py.Group, name: str) -> NwbVideo:
    """By its path alone, as before ndx-pose 0.3."""
    files = texts(container, "original_videos") if "original_videos" in container else []
    if not files:
        raise ValueError(f"{name} names no source_video and no original_videos, so its pictures are not known")
    size = values(container, "dimensions").reshape(-1, 2)[0].tolist() if "dimensions" in container else [0, 0]
    called = PurePosixPath(files[0].replace("\\", "/")).stem
    return NwbVideo(name=called, files=(files[0],), size=(int(size[0]), int(size[1])))


def _points(
    container: h5py.Group, skeleton: Any, series: Mapping[str, Any]
) -> tuple[tuple[str, ...], tuple[tuple[int, int], ...]]:
    """Names in order and links: of the skeleton, of the container as before ndx-pose 0.2, or of the series."""
    stated = skeleton if skeleton is not None else container
    names = tuple(texts(stated, "nodes")) if "nodes" in stated else tuple(series)
    edges = values(stated, "edges").reshape(-1, 2).tolist() if "edges" in stated else []
    if not names:
        raise ValueError(f"{container.name} has no series")
    return names, tuple((int(a), int(b)) for a, b in edges)


def _table(file: h5py.File, series: h5py.Group) -> _Table:
    data = linked(file, series, "data")
    unit = data.attrs.get("unit", "pixels")
    unit = unit.decode() if isinstance(unit, bytes) else str(unit)
    if unit.lower() not in ("pixels", "pixel", "px"):
        raise ValueError(f"{series.name} is in {unit}, not in pixels")
    places = np.asarray(values(file, data.name), np.float64)
    if places.ndim != 2 or places.shape[1] != 2:
        raise ValueError(f"{series.name} has the shape {places.shape}, not rows of x, y in a picture")
    places = places * float(data.attrs.get("conversion", 1.0)) + float(data.attrs.get("offset", 0.0))
    times = scores = None
    if "timestamps" in series:
        times = np.asarray(linked_values(file, series, "timestamps"), np.float64)
    elif "starting_time" in series:
        clock = member(series, "starting_time")
        times = float(clock[()]) + np.arange(len(places)) / float(clock.attrs["rate"])
    if "confidence" in series:
        scores = np.asarray(linked_values(file, series, "confidence"), np.float64)
    if any(column is not None and column.shape != (len(places),) for column in (times, scores)):
        raise ValueError(f"{series.name}: not one time and one confidence for each of {counted(len(places), 'row')}")
    return _Table(places, times, scores)
