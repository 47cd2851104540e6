"""What a user points at: photos, folders of them, patterns and videos, as frames in a fixed order.

Every file found has a name of its own, so that results of files that are called alike lie apart, and no name leads out
of the folder results are written to: its path below the folder that was given, or of several inputs below the folder
that they have in common.
"""

import glob
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from jaxtyping import UInt8

from posecore.errors import PredictionError
from posecore.prediction.photos import is_turned, printable, read_picture

VIDEO_SUFFIXES = frozenset({".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv"})
PHOTO_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".heic"})
"""What is taken for a photo in a folder. Only JPEG and PNG can be read; the others are reported, not overlooked."""


@dataclass(frozen=True, slots=True)
class Source:
    """One file to predict on.

    Attributes:
        path: the file.
        name: its path below the folder given, with ``/``, unprintable characters escaped; unique, without ``..``.
        kind: photo or video, by its suffix.
    """

    path: Path
    name: str
    kind: Literal["photo", "video"]


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One picture to predict on.

    Attributes:
        name: of the source.
        image: (H, W, 3) uint8 RGB.
        index: 0-based number within its video, None for a photo.
        time_s: seconds since the video began, 0 for a photo.
        turned: whether viewers show the photo turned or mirrored, for its EXIF says so; its points are not.
    """

    name: str
    image: UInt8[np.ndarray, "H W 3"]
    index: int | None = None
    time_s: float = 0.0
    turned: bool = False

    def __str__(self) -> str:
        return self.name if self.index is None else f"{self.name} frame {self.index}"


def find_sources(inputs: Sequence[str], out: Path | None = None) -> list[Source]:
    """All photos and videos meant, each once, sorted by name.

    Args:
        inputs: files, folders (searched through, hidden files left out) and patterns such as ``a/**/*.jpg``.
        out: folder of results, which is not searched.

    Raises:
        PredictionError: there is no input, or one does not exist, holds nothing, or lies in the folder of results.
    """
    if not inputs:
        raise PredictionError("there is no photo or video; name at least one.")
    found: dict[Path, None] = {}
    for given in inputs:
        if "://" in given:
            raise PredictionError(f"{given} is an address; download it, and name a file or folder of this machine.")
        paths = [path for path in _files(given) if out is None or not path.is_relative_to(absolute(out))]
        if not paths:
            raise PredictionError(f"{given}: there is no photo or video; name a file, a folder or a pattern in quotes.")
        found.update(dict.fromkeys(paths))
    common = Path(os.path.commonpath([_folder(given) for given in inputs]))
    sources = [
        Source(
            path=path,
            name=printable(path.relative_to(common).as_posix()),
            kind="video" if path.suffix.lower() in VIDEO_SUFFIXES else "photo",
        )
        for path in found
    ]
    return sorted(sources, key=lambda source: source.name)


def read_photo(source: Source, scale_range: tuple[float, float] | None = None) -> Frame:
    """A photo as a frame; one of 16 bits as :func:`~posecore.prediction.photos.read_picture` has it.

    Raises:
        PredictionError: it cannot be used.
    """
    picture = read_picture(source.path, source.name, scale_range=scale_range)
    return Frame(source.name, picture, turned=is_turned(source.path))


class Video:
    """Frames of a video file, decoded one at a time, turned as players turn them.

    Attributes:
        num_frames: as the file states, 0 if it does not.
        frames_per_second: as the file states, 25 if it does not.

    Args:
        source: the file.

    Raises:
        PredictionError: it cannot be opened, or holds no frame.
    """

    def __init__(self, source: Source) -> None:
        if not source.path.is_file() or not os.access(source.path, os.R_OK):
            raise PredictionError(f"{printable(str(source.path))} cannot be read.")
        self._source = source
        capture = self._opened()
        readable, _ = capture.read()
        self.num_frames = max(0, int(capture.get(cv2.CAP_PROP_FRAME_COUNT)))
        stated = capture.get(cv2.CAP_PROP_FPS)
        self.frames_per_second = float(stated) if 0 < stated <= 1000 else 25.0
        capture.release()
        if not readable:
            raise PredictionError(
                f"{printable(str(source.path))}: the video has no frame that can be decoded; is the file whole?"
            )

    def __iter__(self) -> Iterator[Frame]:
        capture = self._opened()
        try:
            index, time_s = 0, 0.0
            while True:
                # Frames may come at uneven times; a file that does not say when gets even ones.
                readable, pixels = capture.read()
                if not readable:
                    return
                stated_s = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
                time_s = stated_s if index == 0 or stated_s > time_s else time_s + 1 / self.frames_per_second
                yield Frame(self._source.name, cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), index, time_s)
                index += 1
        finally:
            capture.release()

    def _opened(self) -> cv2.VideoCapture:
        return cv2.VideoCapture(str(self._source.path), cv2.CAP_FFMPEG)


def _files(given: str) -> list[Path]:
    path = absolute(Path(given))
    if path.is_dir():
        wanted = PHOTO_SUFFIXES | VIDEO_SUFFIXES
        return sorted(
            Path(folder) / name
            for folder, folders, names in os.walk(path, onerror=_stop)
            for name in _visible(folders, names)
            if Path(name).suffix.lower() in wanted and (Path(folder) / name).is_file()
        )
    if path.exists():
        return [path]
    return sorted(absolute(Path(name)) for name in glob.glob(given, recursive=True) if Path(name).is_file())  # noqa: PTH207 absolute patterns too


def _folder(given: str) -> Path:
    """The folder that an input names or lies in; of a pattern, the one that it begins with."""
    path = absolute(Path(given))
    if path.is_dir():
        return path
    if path.exists():
        return path.parent
    parts = Path(os.path.normpath(given)).parts  # as given: above it brackets are but brackets
    fixed = next((index for index, part in enumerate(parts) if glob.has_magic(part)), len(parts) - 1)
    return absolute(Path(*parts[:fixed]))


def _visible(folders: list[str], names: list[str]) -> list[str]:
    folders[:] = [folder for folder in folders if not folder.startswith(".")]  # os.walk does not enter the others
    return [name for name in names if not name.startswith(".")]


def _stop(error: OSError) -> None:
    raise PredictionError(f"{error.filename} cannot be searched ({error.strerror}).")


def absolute(path: Path) -> Path:
    """Without ``..``, and without following links: a name is what the user sees."""
    return Path(os.path.abspath(path))  # noqa: PTH100
