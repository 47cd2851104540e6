"""Frames of one video, through the process of :mod:`posecore.videos.decoder`, bounded in time and memory."""

import json
import os
import selectors
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from posecore.storage import AnyPath, open_regular
from posecore.videos.address import VIDEO_FORMATS, FrameAddress

_DECODER = Path(__file__).with_name("decoder.py")
"""Run as a file: it needs nothing of this library, and no search path that leads to it."""

_PATIENCE_S = 120.0
"""For one answer of the process, such as all that lies between two frames."""
_READ_BYTES = 1 << 20
_COPIED_BYTES = 1 << 22
_MOST_COPIED_BYTES = 64 << 30


@dataclass(frozen=True, slots=True)
class VideoFacts:
    """What a video says of itself.

    Attributes:
        num_frames: in it.
        fps: mean frames per second; they may come at any rate.
        duration_s: from the first frame to the end of the last.
        height: pixels, as stored.
        width: pixels, as stored.
    """

    num_frames: int
    fps: float
    duration_s: float
    height: int
    width: int


@dataclass(frozen=True, slots=True, eq=False)
class VideoFrame:
    """A decoded frame.

    Attributes:
        number: in the order of presentation, from 0.
        time_s: seconds since the first frame.
        pixels: (H, W, 3) BGR or (H, W) grey, uint8, turned as players turn it.
    """

    number: int
    time_s: float
    pixels: NDArray[np.uint8]


class VideoError(Exception):
    """A video, or a frame of it, cannot be had.

    Attributes:
        reason: kebab-case code.
        detail: one sentence.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)  # what a process that gets it from another makes it anew from
        self.reason, self.detail = reason, detail

    def __str__(self) -> str:
        return self.detail


def video_facts(path: AnyPath, max_pixels: int) -> VideoFacts:
    """What a video says of itself; nothing is decoded.

    Raises:
        VideoError: it cannot be read.
    """
    with open_video(path, (), max_pixels) as (facts, _):
        return facts


@contextmanager
def open_video(
    path: AnyPath, wanted: Sequence[FrameAddress], max_pixels: int
) -> Iterator[tuple[VideoFacts, Iterator[tuple[int, VideoFrame | VideoError]]]]:
    """What a video is, and wanted frames of it with their places in the request, in the order of presentation.

    Args:
        path: the file; one of a store is copied to a scratch file first.
        wanted: frames of it.
        max_pixels: of a frame, beyond which the video is refused.

    Raises:
        VideoError: it is missing (``missing-video``), no video that FFmpeg reads as what its suffix says
            (``not-a-video``), does not say when its frames are shown (``no-times``), is too large
            (``too-many-pixels``, ``video-too-large``), takes too long (``video-too-slow``), or ends the process that
            reads it (``video-crashed``).
    """
    request = {
        "format": VIDEO_FORMATS[path.suffix.lower()],
        "max_pixels": max_pixels,
        "wanted": [("frame", str(one.frame)) if one.time_s is None else ("t", str(one.time_s)) for one in wanted],
    }
    with _local(path) as local:
        command = [sys.executable, "-P", str(_DECODER)]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        ) as process:
            answers = _Answers(process, path)
            try:
                assert process.stdin is not None
                try:
                    process.stdin.write(json.dumps({**request, "path": str(local)}).encode() + b"\n")
                    process.stdin.close()
                except BrokenPipeError:
                    pass  # it has ended, which reading from it tells
                yield VideoFacts(**answers.next()), _frames(answers, len(wanted))
            finally:
                process.kill()


def _frames(answers: "_Answers", number: int) -> Iterator[tuple[int, VideoFrame | VideoError]]:
    for _ in range(number):
        said = answers.next()
        if "reason" in said:
            yield said["place"], answers.error(said)
            continue
        pixels = np.frombuffer(answers.bytes(int(np.prod(said["shape"]))), np.uint8).reshape(said["shape"])
        yield said["place"], VideoFrame(said["frame"], said["time_s"], pixels)


class _Answers:
    """What the process says, as long as it says something within the time it is given."""

    def __init__(self, process: subprocess.Popen[bytes], path: AnyPath) -> None:
        assert process.stdout is not None
        self._process, self._path, self._out = process, path, process.stdout
        self._buffer = bytearray()
        self._ready = selectors.DefaultSelector()
        self._ready.register(self._out, selectors.EVENT_READ)

    def next(self) -> dict[str, Any]:
        while (end := self._buffer.find(b"\n")) < 0:
            self._more()
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        said: dict[str, Any] = json.loads(line)
        if "reason" in said and "place" not in said:
            raise self.error(said)
        return said

    def bytes(self, number: int) -> bytes:
        while len(self._buffer) < number:
            self._more()
        found = bytes(self._buffer[:number])
        del self._buffer[:number]
        return found

    def error(self, said: dict[str, Any]) -> VideoError:
        return VideoError(said["reason"], f"{self._path}: {said['detail']}.")

    def _more(self) -> None:
        if not self._ready.select(_PATIENCE_S):
            detail = f"{self._path}: nothing came of it within {_PATIENCE_S:g} s."
            raise VideoError("video-too-slow", detail)
        got = os.read(self._out.fileno(), _READ_BYTES)
        if not got:
            status = self._process.wait()
            raise VideoError("video-crashed", f"{self._path} ended the process that decoded it (status {status}).")
        self._buffer += got


@contextmanager
def _local(path: AnyPath) -> Iterator[Path]:
    """The file itself, or a copy of it on this machine."""
    if isinstance(path, Path):
        _readable(path).close()
        yield path
        return
    with tempfile.NamedTemporaryFile(prefix="posecore-video-", suffix=path.suffix) as copy:
        with _readable(path) as source:
            while piece := source.read(_COPIED_BYTES):
                copy.write(piece)
                if copy.tell() > _MOST_COPIED_BYTES:
                    raise VideoError("video-too-large", f"{path} has more than {_MOST_COPIED_BYTES >> 30} GiB.")
        copy.flush()
        yield Path(copy.name)


def _readable(path: AnyPath) -> BinaryIO:
    try:
        return open_regular(path)
    except (FileNotFoundError, NotADirectoryError):
        raise VideoError("missing-video", f"{path} does not exist.") from None
    except OSError as error:
        raise VideoError("unreadable-video", f"{path} cannot be read ({error.strerror or error}).") from None
