"""NWB files with ndx-pose: the labelled frames of a ``PoseTraining``, read as plain HDF5.

Nodes are those of the skeleton that a body names, in its order. A point that is not visible is occluded where it has a
place, and not labelled where it has none: ndx-pose keeps both, sleap-io 0.9.5 writes no place for either. A
``PoseEstimation`` holds predictions, and is left aside.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import h5py
import numpy as np

from posecore.formats.hdf5 import member, open_h5, texts, values
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
from posecore.formats.stated_files import StatedFiles, frame_of
from posecore.formats.values import Refusal
from posecore.schema import Record, Reject

_KIND = "an NWB file with ndx-pose's PoseTraining"
_TRAINING = "processing/behavior"


class NwbSkeleton(NamedTuple):
    """Nodes in order and edges by position."""

    name: str
    points: tuple[str, ...]
    links: tuple[tuple[int, int], ...]


class NwbPoseReader(NamedPointsReader):
    """Reads labelled frames; options are those of :class:`~posecore.formats.named_points.NamedPointsOptions`.

    The subject is the one of the file, where it names one.
    """

    suffixes = (".nwb",)
    kind: ClassVar[str] = _KIND

    def read_part(self, source: Source, part: str) -> Iterator[Record | Reject]:
        """A record per training frame, by video and number."""
        options = reader_options(source, NamedPointsOptions)
        with open_h5(source, part, _KIND) as file:
            skeletons = {skeleton.name: skeleton for skeleton in nwb_skeletons(file)}
            found = list(dict.fromkeys(name for skeleton in skeletons.values() for name in skeleton.points))
            check_names(source, found, f"{part} has the points", options.skip_points, "skip_points")
            reading = _Reading(source, options, part, file, skeletons)
            frames = member(file, f"{_training(file)}/training_frames")
            for name in sorted(frames, key=lambda name: (reading.place(frames, name), name)):
                yield from reading.frame(frames, name)


def nwb_skeletons(file: h5py.File) -> list[NwbSkeleton]:
    """The skeletons of an open file.

    Raises:
        ValueError: it has no labels.
    """
    _training(file)
    group = member(file, f"{_TRAINING}/Skeletons")
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


def _training(file: h5py.File) -> str:
    behaviour = member(file, _TRAINING)
    for name in behaviour:
        if _kind(member(behaviour, name)) == "PoseTraining":
            return f"{_TRAINING}/{name}"
    raise ValueError("it has no PoseTraining; a PoseEstimation holds predictions, not labels")


def _kind(found: Any) -> str:
    kind = found.attrs.get("neurodata_type", "")
    return kind.decode() if isinstance(kind, bytes) else str(kind)


def _linked(file: h5py.File, group: h5py.Group, name: str) -> Any:
    """A member, or what a soft link to another place of the same file means."""
    link = group.get(name, getlink=True)
    return member(file, link.path) if isinstance(link, h5py.SoftLink) else member(group, name)


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
        self._prefix = prefix_of(source, part)
        self._files = StatedFiles(source, part)
        self._subject = None
        if "general/subject/subject_id" in file:
            value = member(file, "general/subject/subject_id")[()]
            self._subject = value.decode() if isinstance(value, bytes) else str(value)

    def place(self, frames: h5py.Group, name: str) -> tuple[str, int]:
        """Name of the video and number of a frame: the order of names has frame_10 before frame_2."""
        frame = member(frames, name)
        return self._video(frame).name, int(frame.attrs.get("source_video_frame_index", 0))

    def _video(self, frame: h5py.Group) -> Any:
        if "source_video" not in frame:
            raise ValueError("a training frame names no source_video")
        return _linked(self._file, frame, "source_video")

    def frame(self, frames: h5py.Group, name: str) -> Iterator[Record | Reject]:
        frame = member(frames, name)
        where = f"{self._part} {name}"
        try:
            record = self._record(frame)
            bodies = list(self._bodies(frame, record.source_id))
        except Refusal as refusal:
            yield refusal.reject(self._source, where)
            return
        yield from add_bodies(self._source, self._options, record, bodies, where)
        yield record

    def _record(self, frame: h5py.Group) -> Record:
        video = self._video(frame)
        number = int(frame.attrs["source_video_frame_index"])
        files = texts(video, "external_file")
        size = values(video, "dimension").tolist() if "dimension" in video else [0, 0]
        sizes = [int(side) if 0 <= side < 1 << 20 else 0 for side in size[:2]]
        video_id = None
        if len(files) == 1 and re.search(r"\.\w+$", files[0]) and not _is_picture(files[0]):
            video_id = self._files.find(files[0])
            image = frame_of(video_id, number)
        elif 0 <= number < len(files):
            image, sizes = self._files.find(files[number]), [0, 0]
        else:
            raise Refusal("missing-image-entry", f"picture {number} of {len(files)} is not in the file.")
        return Record(
            dataset=self._source.dataset,
            split=self._source.split,
            source_id=f"{self._prefix}{video.name.rpartition('/')[2]}/{number}",
            image=image,
            width=sizes[0],
            height=sizes[1],
            license=self._source.license,
            video_id=video_id,
            frame_index=None if video_id is None else number,
        )

    def _bodies(self, frame: h5py.Group, source_id: str) -> Iterator[NamedBody]:
        group = member(frame, "skeleton_instances")
        for name in sorted(group, key=lambda name: (int(group[name].attrs.get("id", 0)), name)):
            instance = member(group, name)
            skeleton = self._skeleton(instance)
            places = values(instance, "node_locations")
            seen = values(instance, "node_visibility") if "node_visibility" in instance else np.ones(len(places), bool)
            if places.shape != (len(skeleton.points), 2) or seen.shape != (len(skeleton.points),):
                raise Refusal("wrong-length", f"{name} has not two numbers for each of {len(skeleton.points)} nodes.")
            yield NamedBody(
                id=f"{source_id}/{name}",
                points=_points(skeleton.points, places.tolist(), seen.tolist(), self._options.skip_points),
                subject=self._subject,
            )

    def _skeleton(self, instance: h5py.Group) -> NwbSkeleton:
        for name in instance:
            found = _linked(self._file, instance, name)
            if _kind(found) == "Skeleton":
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


def _is_picture(name: str) -> bool:
    return name.lower().endswith((".jpg", ".jpeg", ".png"))
