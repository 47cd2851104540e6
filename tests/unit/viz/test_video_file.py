"""Frames into a video and out of it again: their colours, order and size."""

from pathlib import Path

import av
import numpy as np
import pytest

from posecore.viz.video_file import VideoFile

COLOURS = np.array([[220, 30, 40], [30, 200, 60], [40, 60, 230]], np.uint8)


@pytest.mark.parametrize("size", [(61, 83), (720, 1600)])  # odd; of as many pixels as threads share
def test_frames_come_back_in_their_colours(size: tuple[int, int], tmp_path: Path) -> None:
    video = VideoFile(tmp_path / "film.mp4", 25, size)
    for colour in COLOURS:
        video.write(lambda colour=colour: np.broadcast_to(colour, (*size, 3)))
    video.close()
    with av.open(str(tmp_path / "film.mp4")) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert [frame.shape for frame in frames] == [(size[0] - size[0] % 2, size[1] - size[1] % 2, 3)] * 3
    for frame, colour in zip(frames, COLOURS, strict=True):
        assert np.abs(frame.reshape(-1, 3).mean(axis=0) - colour).max() < 6


def test_what_drawing_raises_is_told_to_whoever_writes_on(tmp_path: Path) -> None:
    video = VideoFile(tmp_path / "film.mp4", 25, (48, 64))
    video.write(lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        video.close()
