"""The process that decodes: reads a request from its standard input, writes frames to its standard output.

A video is somebody else's file and FFmpeg is large, so whatever happens here (no memory, no end, a crash) happens to
this process alone; :mod:`posecore.videos.frames` starts it, bounds it and reads what it says. A request is a line of
JSON. The first answer is what the video is, and each further one a frame: a line of JSON, and after it as many bytes as
it states. An answer with a ``reason`` instead has none.
"""

import bisect
import json
import resource
import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO

import av
import numpy as np
from av.video.reformatter import Interpolation
from numpy.typing import NDArray

from posecore.counting import counted

_MEMORY_BYTES = 6 << 30
_TOO_LARGE = {"reason": "video-too-large", "detail": f"more than {_MEMORY_BYTES >> 30} GiB are needed for it"}
_MOST_FRAMES = 5_000_000
_WORTH_A_SEEK = 8
_SAME_EVERYWHERE = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.BITEXACT
"""Colours are converted in the same way on every processor."""


class Refused(Exception):
    """Why a video, or a frame of it, cannot be had: a reason in kebab-case and a sentence."""


def main() -> None:
    """Answers one request."""
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    request = json.loads(sys.stdin.readline())
    out = sys.stdout.buffer
    try:
        with Path(request["path"]).open("rb") as file, _opened(file, request["format"]) as container:
            video = _Video(container, request["max_pixels"])
            _answer(out, video.facts())
            for place, number in video.numbers(request["wanted"]):
                try:
                    pixels = video.frame(number)
                except Refused as refused:
                    _answer(out, {"place": place, "reason": refused.args[0], "detail": refused.args[1]})
                    continue
                said = {"place": place, "frame": number, "time_s": video.time_s(number), "shape": pixels.shape}
                _answer(out, said, pixels)
    except Refused as refused:
        _answer(out, {"reason": refused.args[0], "detail": refused.args[1]})
    except MemoryError:
        _answer(out, _TOO_LARGE)
    except (av.error.FFmpegError, OSError, ValueError) as error:
        said = {"reason": "not-a-video", "detail": f"FFmpeg says: {getattr(error, 'strerror', None) or error}"}
        _answer(out, _TOO_LARGE if _memory_is_used_up() else said)


def _memory_is_used_up() -> bool:
    """Whether 64 MiB more cannot be had: FFmpeg may call data invalid that it found no room for."""
    try:
        bytearray(1 << 26)
    except MemoryError:
        return True
    return False


def _opened(file: BinaryIO, kind: str) -> "av.container.InputContainer":
    # Read through an open file and as the one format, no list and no reference in it leads to any other file.
    container = av.open(file, "r", format=kind, metadata_errors="ignore")
    assert isinstance(container, av.container.InputContainer)
    return container


def _answer(out: BinaryIO, said: dict[str, Any], pixels: NDArray[np.uint8] | None = None) -> None:
    out.write(json.dumps(said).encode() + b"\n")
    if pixels is not None:
        out.write(np.ascontiguousarray(pixels).data)
    out.flush()


class _Video:
    """An open video and when each of its frames is shown."""

    def __init__(self, container: "av.container.InputContainer", max_pixels: int) -> None:
        self._container, self._max_pixels = container, max_pixels
        if not container.streams.video:
            raise Refused("not-a-video", "there is no video stream in it")
        self._stream = container.streams.video[0]
        self._tick = self._stream.time_base or Fraction(0)
        if self._tick <= 0:
            raise Refused("no-times", "it does not say what its times mean")
        # Without, H.264 is filled in where it is damaged, and nothing says so.
        self._stream.codec_context.options = {"err_detect": "explode"}
        self._check_size(self._stream.codec_context.width, self._stream.codec_context.height)
        self._times, self._key_times, self._last_lasts = self._presentation()
        self._decoded: Iterator[av.VideoFrame] = iter(())
        self._at: int | None = None  # presentation time of the frame decoded last

    def facts(self) -> dict[str, Any]:
        """What is told before any frame."""
        span = (self._times[-1] - self._times[0]) * self._tick
        return {
            "num_frames": len(self._times),
            "fps": float((len(self._times) - 1) / span) if span else 0.0,
            "duration_s": float(span + self._last_lasts * self._tick),
            "height": self._stream.codec_context.height,
            "width": self._stream.codec_context.width,
        }

    def numbers(self, wanted: list[list[str]]) -> Iterator[tuple[int, int]]:
        """Place in the request and number (-1: there is none) of each wanted frame, in the order of presentation."""
        found = [(self._number(kind, value), place) for place, (kind, value) in enumerate(wanted)]
        yield from ((place, number) for number, place in sorted(found))

    def time_s(self, number: int) -> float:
        """Seconds from the first frame to another."""
        return float((self._times[number] - self._times[0]) * self._tick)

    def frame(self, number: int) -> NDArray[np.uint8]:
        """(H, W, 3) BGR or (H, W) grey of a frame, turned as players turn it."""
        if number < 0:
            facts = self.facts()
            said = f"it has {counted(facts['num_frames'], 'frame')}, in {facts['duration_s']:.3f} s"
            raise Refused("no-such-frame", said)
        wanted = self._times[number]
        key_time = self._key_times[max(0, bisect.bisect_right(self._key_times, wanted) - 1)]
        before = -1 if self._at is None or self._at >= wanted else bisect.bisect_left(self._times, self._at)
        if before < 0 or bisect.bisect_left(self._times, key_time) > before + _WORTH_A_SEEK:
            self._seek(key_time)
        found = self._decoded_until(wanted)
        if found is None and self._key_times[0] < key_time:  # the nearest key was none
            self._seek(self._times[0])
            found = self._decoded_until(wanted)
        if found is None or found.is_corrupt:
            raise Refused("undecodable-frame", f"frame {number} cannot be decoded")
        self._check_size(found.width, found.height)
        grey = found.format.name.startswith("gray") and found.format.components[0].bits == 8
        shown = found.reformat(format="gray" if grey else "bgr24", interpolation=_SAME_EVERYWHERE)
        return np.rot90(shown.to_ndarray(), round(found.rotation / 90) % 4)

    def _number(self, kind: str, value: str) -> int:
        if kind == "frame":
            return int(value) if int(value) < len(self._times) else -1
        time = self._times[0] + Fraction(value) / self._tick
        if time >= self._times[-1] + max(1, self._last_lasts):
            return -1
        return bisect.bisect_right(self._times, time) - 1

    def _seek(self, time: int) -> None:
        self._container.seek(time, stream=self._stream, backward=True)
        self._decoded, self._at = self._container.decode(self._stream), None

    def _decoded_until(self, wanted: int) -> "av.VideoFrame | None":
        while True:
            try:
                frame = next(self._decoded, None)
            except av.error.FFmpegError:  # a damaged packet; what comes after it may be whole
                frame = None
            if frame is None:
                self._at = None
                return None
            if frame.pts is None:
                continue
            self._at = frame.pts
            if frame.pts >= wanted:
                return frame if frame.pts == wanted else None

    def _check_size(self, width: int, height: int) -> None:
        if not 0 < width * height <= self._max_pixels:
            raise Refused("too-many-pixels", f"its frames are said to have {width}x{height} pixels")

    def _presentation(self) -> tuple[list[int], list[int], int]:
        """When each frame is shown, which of them can be decoded without others, and how long the last one lasts."""
        times, keys, lasts = [], [], {}
        for packet in self._container.demux(self._stream):
            if packet.size == 0 or packet.is_discard:
                continue
            if packet.pts is None:
                raise Refused("no-times", "it does not say when its frames are shown")
            times.append(packet.pts)
            lasts[packet.pts] = packet.duration or 0
            if packet.is_keyframe:
                keys.append(packet.pts)
            if len(times) > _MOST_FRAMES:
                raise Refused("video-too-large", f"it has more than {_MOST_FRAMES} frames")
        if not keys:
            raise Refused("not-a-video", "not one of its frames can be decoded")
        times.sort()
        if len(lasts) != len(times):
            raise Refused("no-times", "it says of two frames that they are shown at the same time")
        return times, sorted(keys), lasts[times[-1]]


if __name__ == "__main__":
    main()
