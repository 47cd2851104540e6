"""Short real videos."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray


def write_clip(
    path: Path, frames_rgb: Sequence[NDArray[np.uint8]], frames_per_second: float = 25.0, codec: str = "MJPG"
) -> Path:
    """Encodes frames of one size; returns the path."""
    height, width = frames_rgb[0].shape[:2]
    writer = cv2.VideoWriter(
        str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*codec), frames_per_second, (width, height)
    )
    assert writer.isOpened()
    for frame in frames_rgb:
        writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
    writer.release()
    return path
