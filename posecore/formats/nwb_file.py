"""What readers of NWB files share: kinds of groups, soft links, who it is, and the frames of a video."""

import re
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from posecore.formats.hdf5 import member, texts, values
from posecore.formats.named_points import prefix_of
from posecore.formats.reader import Source
from posecore.formats.stated_files import StatedFiles, frame_of
from posecore.formats.values import Refusal
from posecore.schema import Record

PROCESSING = "processing"
BEHAVIOUR = f"{PROCESSING}/behavior"
_PICTURES = (".jpg", ".jpeg", ".png")


def kind_of(found: Any) -> str:
    """The type of a group as NWB names it; "" where it has none."""
    kind = found.attrs.get("neurodata_type", "")
    return kind.decode() if isinstance(kind, bytes) else str(kind)


def linked(file: h5py.File, group: h5py.Group, name: str) -> Any:
    """A member, or what a soft link to another place of the same file means.

    Raises:
        ValueError: it is not there, or lies in another file.
    """
    link = group.get(name, getlink=True)
    return member(file, link.path) if isinstance(link, h5py.SoftLink) else member(group, name)


def linked_values(file: h5py.File, group: h5py.Group, name: str) -> NDArray[Any]:
    """The same of a table, read.

    Raises:
        ValueError: as :func:`linked`, or it is too large.
    """
    return values(file, linked(file, group, name).name)


def subject_of(file: h5py.File) -> str | None:
    """Who the file is about, where it says so."""
    if "general/subject/subject_id" not in file:
        return None
    value = member(file, "general/subject/subject_id")[()]
    return value.decode() if isinstance(value, bytes) else str(value)


@dataclass(frozen=True, slots=True, kw_only=True)
class NwbVideo:
    """A film, or a list of pictures, and when its frames were taken.

    Attributes:
        name: of the series.
        files: one film, or a picture for each frame.
        size: width and height in pixels, 0 where they are not stated.
        start_s: time of the first frame.
        rate_hz: frames per second, or None.
        times_s: time of each frame, or None.
    """

    name: str
    files: tuple[str, ...]
    size: tuple[int, int] = (0, 0)
    start_s: float = 0.0
    rate_hz: float | None = None
    times_s: NDArray[np.float64] | None = None

    def numbers(self, times_s: NDArray[np.float64]) -> NDArray[np.int64]:
        """Which frame was on at each of some times.

        Args:
            times_s: (n,), ascending.

        Returns:
            (n,) numbers of frames by the video's own clock. Where it states none, the first time is that of frame 0,
            and times that keep a beat are as many frames on as beats have passed; others follow each other.

        Raises:
            ValueError: a time lies between two frames.
        """
        if self.rate_hz is not None:
            places = (times_s - self.start_s) * self.rate_hz
            numbers = np.rint(places)
            off = np.abs(places - numbers)
        elif self.times_s is not None:
            last = len(self.times_s) - 1
            after = np.searchsorted(self.times_s, times_s)
            left, right = np.clip(after - 1, 0, last), np.clip(after, 0, last)
            is_left = np.abs(times_s - self.times_s[left]) <= np.abs(self.times_s[right] - times_s)
            nearest = np.where(is_left, left, right)
            spacing = np.median(np.diff(self.times_s)) if last else 1.0
            numbers, off = nearest.astype(np.float64), np.abs(self.times_s[nearest] - times_s) / spacing
        else:
            return _beats(times_s)
        if not np.isfinite(off).all() or (off > _MOST_OFF).any():
            row = int((~(off <= _MOST_OFF)).argmax())
            raise ValueError(f"it has a row of {times_s[row]:g} s, when no frame of {self.name} was taken")
        return numbers.astype(np.int64)


def _beats(times_s: NDArray[np.float64]) -> NDArray[np.int64]:
    if not np.isfinite(times_s).all():
        raise ValueError("a time is not a number")
    steps = np.diff(times_s)
    if not len(steps):
        return np.zeros(len(times_s), np.int64)
    beats = (times_s - times_s[0]) / steps.min()
    if (np.abs(beats - np.rint(beats)) > _MOST_OFF).any():
        return np.arange(len(times_s))
    return np.rint(beats).astype(np.int64)


_MOST_OFF = 0.25
"""Of a frame: clocks are rounded, and what lies in the middle of two frames is of neither."""


def video_of(series: h5py.Group) -> NwbVideo:
    """The video of an ImageSeries.

    Raises:
        ValueError: it names no file.
    """
    size = values(series, "dimension").tolist() if "dimension" in series else [0, 0]
    sizes = [int(side) if 0 <= side < 1 << 20 else 0 for side in (*size, 0, 0)[:2]]
    start, rate = 0.0, None
    if "starting_time" in series:
        clock = member(series, "starting_time")
        start, rate = float(clock[()]), float(clock.attrs["rate"])
    return NwbVideo(
        name=series.name.rpartition("/")[2],
        files=tuple(texts(series, "external_file")),
        size=(sizes[0], sizes[1]),
        start_s=start,
        rate_hz=rate if rate is not None and rate > 0 else None,
        times_s=np.asarray(values(series, "timestamps"), np.float64) if "timestamps" in series else None,
    )


class NwbFrames:
    """Makes records of the frames of a file's videos."""

    def __init__(self, source: Source, part: str) -> None:
        self._source = source
        self._prefix = prefix_of(source, part)
        self._files = StatedFiles(source, part)

    def record(self, video: NwbVideo, number: int) -> Record:
        """An empty record of a frame.

        Raises:
            Refusal: the video has no such frame.
        """
        files, size, video_id = video.files, video.size, None
        if len(files) == 1 and re.search(r"\.\w+$", files[0]) and not files[0].lower().endswith(_PICTURES):
            video_id = self._files.find(files[0])
            image = frame_of(video_id, number)
        elif 0 <= number < len(files):
            image, size = self._files.find(files[number]), (0, 0)
        else:
            raise Refusal("missing-image-entry", f"picture {number} of {len(files)} is not in the file.")
        return Record(
            dataset=self._source.dataset,
            split=self._source.split,
            source_id=f"{self._prefix}{video.name}/{number}",
            image=image,
            width=size[0],
            height=size[1],
            license=self._source.license,
            video_id=video_id,
            frame_index=None if video_id is None else number,
        )
