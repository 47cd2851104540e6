"""A video written frame by frame on a thread of its own, so that whoever makes the frames need not wait.

VP9 in MP4, which browsers play and anybody may write, in libvpx's real-time mode: a frame takes a tenth of the default
mode's time (``benchmarks/against_rtmlib.py``).
"""

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from queue import Queue
from threading import Thread
from typing import Any

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from posecore.errors import PredictionError

_CODEC = "libvpx-vp9"
_OPTIONS = {"deadline": "realtime", "cpu-used": "8", "crf": "34", "b": "0"}
_PIXELS_PER_THREAD = 1 << 19
"""Threads of the encoder share rows, which costs a third of its processor time; smaller frames need but one."""
_FRAMES_WAITING = 8

Draw = Callable[[], NDArray[np.uint8]]
"""Makes a frame, (H, W, 3) uint8 RGB."""


class VideoFile:
    """Frames of one size into a file; the last row or column of an odd size is cut off.

    Args:
        path: file to write, ending in ``.mp4``.
        frames_per_second: of the video.
        frame_size: (height, width) in pixels.

    Raises:
        PredictionError: this build of PyAV cannot write VP9.
    """

    def __init__(self, path: Path, frames_per_second: float, frame_size: tuple[int, int]) -> None:
        try:
            av.codec.Codec(_CODEC, "w")
        except av.FFmpegError as error:
            raise PredictionError(f"{path}: this PyAV cannot write VP9 ({error}); leave the drawing out.") from None
        self._height, self._width = (max(2, side - side % 2) for side in frame_size)
        self._rate = Fraction(frames_per_second).limit_denominator(1001)
        self._path = path
        self._waiting: Queue[Draw | None] = Queue(_FRAMES_WAITING)
        self._error: BaseException | None = None
        self._thread = Thread(target=self._run, name="write-video", daemon=True)
        self._thread.start()

    def write(self, draw: Draw) -> None:
        """Takes the next frame, which is drawn and encoded on the thread; waits if that is eight frames behind.

        Raises:
            Exception: what drawing or writing an earlier frame raised.
        """
        self._raise()
        self._waiting.put(draw)

    def close(self) -> None:
        """Waits for the last frame; the file is whole then. Errors as :meth:`write`."""
        self._waiting.put(None)
        self._thread.join()
        self._raise()

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            with av.open(str(self._path), "w", format="mp4") as container:
                threads = max(1, self._width * self._height // _PIXELS_PER_THREAD)
                options = {**_OPTIONS, "row-mt": str(int(threads > 1))}
                stream: Any = container.add_stream(_CODEC, rate=self._rate, options=options)
                stream.width, stream.height, stream.pix_fmt, stream.bit_rate = self._width, self._height, "yuv420p", 0
                stream.thread_count = threads
                while (draw := self._waiting.get()) is not None:
                    container.mux(stream.encode(self._frame(draw())))
                container.mux(stream.encode())
        except BaseException as error:  # told to whoever writes the next frame, or ends
            self._error = error
            while self._waiting.get() is not None:
                pass

    def _frame(self, pixels: NDArray[np.uint8]) -> Any:
        whole = np.ascontiguousarray(pixels[: self._height, : self._width])
        # FFmpeg makes planes of BGR in less than half the time that RGB takes it.
        return av.VideoFrame.from_ndarray(cv2.cvtColor(whole, cv2.COLOR_RGB2BGR), format="bgr24")
