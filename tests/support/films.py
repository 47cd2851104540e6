"""Videos written by tests: every frame shows its number, and may be shown at any time."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

HEIGHT, WIDTH = 64, 96
TICKS = 1000
"""Times are in milliseconds."""


def frame_pixels(number: int) -> NDArray[np.uint8]:
    """(H, W, 3) RGB: the number in six bright or dark bars."""
    bars = [(number >> bit) & 1 for bit in range(6)]
    columns = np.repeat(np.array(bars, np.uint8) * 180 + 40, WIDTH // 6)
    return np.broadcast_to(columns[None, :, None], (HEIGHT, WIDTH, 3)).copy()


def number_shown(pixels: NDArray[np.uint8]) -> int:
    """Which frame a picture is."""
    means = pixels.reshape(HEIGHT, 6, WIDTH // 6, -1).mean(axis=(0, 2, 3))
    return sum(1 << bit for bit, mean in enumerate(means) if mean > 128)


def write_film(path: Path, times_ms: Sequence[int], codec: str = "libx264", rotation: int = 0) -> Path:
    """Writes one frame for each time, with B-frames and few key frames unless told otherwise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options={"g": "12", "bf": "0" if codec == "mpeg4" else "3"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.codec_context.time_base = stream.time_base = Fraction(1, TICKS)
        if rotation:
            stream.set_display_rotation(rotation)
        for number, time in enumerate(times_ms):
            frame = av.VideoFrame.from_ndarray(frame_pixels(number), format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, TICKS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path
