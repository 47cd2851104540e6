"""NWB files with ndx-pose, read as plain HDF5: labels of a ``PoseTraining``, predictions of a ``PoseEstimation``.

Nodes are those of the skeleton that a body names, in its order. A point that is not visible is occluded where it has a
place, and not labelled where it has none: ndx-pose keeps both, sleap-io 0.9.5 writes no place for either.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import h5py
import numpy as np

from posecore.counting import counted
from posecore.formats.hdf5 import member, open_h5, texts, values
from posecore.formats.named_points import (
    NamedBody,
    NamedPointsOptions,
    NamedPointsReader,
    Point,
    add_bodies,
    check_names,
    reader_options,
)
from posecore.formats.nwb_estimation import Estimation, estimation_groups, estimations
from posecore.formats.nwb_file import BEHAVIOUR, NwbFrames, kind_of, linked, subject_of, video_of
from posecore.formats.reader import Source
from posecore.formats.values import Refusal
from posecore.schema import Record, Reject

KIND = "an NWB file with ndx-pose's PoseTraining or PoseEstimation"


class NwbSkeleton(NamedTuple):
    """Nodes in order and edges by position."""

    name: str
    points: tuple[str, ...]
    links: tuple[tuple[int, int], ...]


class NwbPoseReader(NamedPointsReader):
    """Reads labelled frames; options are those of :class:`~posecore.formats.named_points.NamedPointsOptions`.

    With ``predictions: true`` every frame of a ``PoseEstimation`` is read as well, a container being a body and its
    name the track; frames that somebody has labelled are not read a second time. Else its rows are counted and left
    out, and a file that has nothing else is refused. The subject is the one of the file, where it names one.
    """

    suffixes = (".nwb",)
    kind: ClassVar[str] = KIND

    def read_part(self, source: Source, part: str) -> Iterator[Record | Reject]:
        """A record per labelled frame, by video and number, then those of predictions."""
        options = reader_options(source, NamedPointsOptions)
        with open_h5(source, part, KIND) as file:
            training = _training(file)
            if training is None and not options.predictions:
                raise ValueError(
                    "it has no PoseTraining; a PoseEstimation holds predictions, and reader_options: "
                    "{predictions: true} takes them for labels"
                )
            skeletons = {skeleton.name: skeleton for skeleton in nwb_skeletons(file)}
            found = list(dict.fromkeys(name for skeleton in skeletons.values() for name in skeleton.points))
            check_names(source, found, f"{part} has the points", options.skip_points, "skip_points")
            reading = _Reading(source, options, part, file, skeletons)
            if training is not None:
                yield from reading.labels(member(file, f"{training}/training_frames"))
            if options.predictions:
                yield from reading.predictions()
            else:
                yield from reading.left_out()


def nwb_skeletons(file: h5py.File) -> list[NwbSkeleton]:
    """The skeletons of an open file, which may be those of its predictions alone.

    Raises:
        ValueError: it has neither labels nor predictions.
    """
    if _training(file) is None and not estimation_groups(file):
        raise ValueError("it has neither a PoseTraining nor a PoseEstimation")
    if f"{BEHAVIOUR}/Skeletons" not in file:
        return [NwbSkeleton(one.skeleton, one.points, one.links) for one in estimations(file)]
    group = member(file, f"{BEHAVIOUR}/Skeletons")
    return [
        NwbSkeleton(
            name,
            tuple(texts(group, f"{name}/nodes")),
            tuple((int(a), int(b)) for a, b in values(group, f"{name}/edges").reshape(-1, 2))
            if "edges" in group[name]
            else (),
        )
        for name in group
    ]


def has_labels(file: h5py.File) -> bool:
    """Whether somebody has labelled frames; else all that it has are predictions."""
    return _training(file) is not None


def _training(file: h5py.File) -> str | None:
    if BEHAVIOUR not in file:
        return None
    behaviour = member(file, BEHAVIOUR)
    return next((f"{BEHAVIOUR}/{name}" for name in behaviour if kind_of(behaviour[name]) == "PoseTraining"), None)


class _Reading:
    def __init__(
        self,
        source: Source,
        options: NamedPointsOptions,
        part: str,
        file: h5py.File,
        skeletons: Mapping[str, NwbSkeleton],
    ) -> None:
        self._source, self._options, self._part, self._file = source, options, part, file
        self._skeletons = skeletons
        self._frames = NwbFrames(source, part)
        self._subject = subject_of(file)
        self._read: set[str] = set()

    def labels(self, frames: h5py.Group) -> Iterator[Record | Reject]:
        """Of a PoseTraining, by video and number: the order of names has frame_10 before frame_2."""
        for name in sorted(frames, key=lambda name: (*self._place(frames, name), name)):
            where = f"{self._part} {name}"
            try:
                frame = member(frames, name)
                record = self._frames.record(video_of(self._video(frame)), int(frame.attrs["source_video_frame_index"]))
                bodies = list(self._bodies(frame, record.source_id))
            except Refusal as refusal:
                yield refusal.reject(self._source, where)
                continue
            self._read.add(record.source_id)
            yield from add_bodies(self._source, self._options, record, bodies, where)
            yield record

    def predictions(self) -> Iterator[Record | Reject]:
        """Of all containers, by video and number."""
        of_video: dict[str, list[Estimation]] = {}
        for one in estimations(self._file):
            of_video.setdefault(one.video.name, []).append(one)
        for ones in of_video.values():
            row_of = [{number: row for row, number in enumerate(one.frames.tolist())} for one in ones]
            for number in np.unique(np.concatenate([one.frames for one in ones])).tolist():
                where = f"{self._part} {ones[0].video.name} frame {number}"
                try:
                    record = self._frames.record(ones[0].video, number)
                except Refusal as refusal:
                    yield refusal.reject(self._source, where)
                    continue
                bodies = [
                    one.body(rows[number], f"{record.source_id}/{one.name}", self._subject, self._options.skip_points)
                    for one, rows in zip(ones, row_of, strict=True)
                    if number in rows
                ]
                shown = [body for body in bodies if body is not None]
                if not shown or record.source_id in self._read:
                    continue
                yield from add_bodies(self._source, self._options, record, shown, where)
                yield record

    def left_out(self) -> Iterator[Reject]:
        """One for each PoseEstimation."""
        for group in estimation_groups(self._file):
            name = group.name.rpartition("/")[2]
            left = Refusal("predicted-body", f"{name} holds predictions; they are labels with predictions: true alone.")
            yield left.reject(self._source, f"{self._part} {name}", outcome="skipped")

    def _place(self, frames: h5py.Group, name: str) -> tuple[str, int]:
        frame = member(frames, name)
        return self._video(frame).name, int(frame.attrs.get("source_video_frame_index", 0))

    def _video(self, frame: h5py.Group) -> Any:
        if "source_video" not in frame:
            raise ValueError("a training frame names no source_video")
        return linked(self._file, frame, "source_video")

    def _bodies(self, frame: h5py.Group, source_id: str) -> Iterator[NamedBody]:
        group = member(frame, "skeleton_instances")
        for name in sorted(group, key=lambda name: (int(group[name].attrs.get("id", 0)), name)):
            instance = member(group, name)
            skeleton = self._skeleton(instance)
            places = values(instance, "node_locations")
            seen = values(instance, "node_visibility") if "node_visibility" in instance else np.ones(len(places), bool)
            if places.shape != (len(skeleton.points), 2) or seen.shape != (len(skeleton.points),):
                raise Refusal(
                    "wrong-length", f"{name} has not two numbers for each of {counted(len(skeleton.points), 'node')}."
                )
            yield NamedBody(
                id=f"{source_id}/{name}",
                points=_points(skeleton.points, places.tolist(), seen.tolist(), self._options.skip_points),
                subject=self._subject,
            )

    def _skeleton(self, instance: h5py.Group) -> NwbSkeleton:
        for name in instance:
            found = linked(self._file, instance, name)
            if kind_of(found) == "Skeleton":
                skeleton = self._skeletons.get(found.name.rpartition("/")[2])
                if skeleton is not None:
                    return skeleton
        raise Refusal("unknown-category", "a body names no skeleton of the file.")


def _points(
    names: Sequence[str], places: Sequence[Sequence[float]], seen: Sequence[bool], skipped: Sequence[str]
) -> dict[str, Point]:
    return {
        name: (x, y, 2 if visible else 1)
        for name, (x, y), visible in zip(names, places, seen, strict=True)
        if x == x and y == y and name not in skipped
    }
