"""What was found in a video, by frame and track, until the video has ended."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from posecore.prediction.instances import NO_TRACK, ImagePrediction
from posecore.prediction.sources import Frame

Body = tuple[float, list[tuple[float, float, float]]]
"""Score of the body; x, y and score of each point."""


@dataclass(slots=True)
class VideoTracks:
    """The bodies of a video that one head found.

    Attributes:
        video: name of its file.
        size: (height, width) of its first frame in pixels.
        frames: by number of the frame and of the track, the bodies. Those that were not tracked are numbered in each
            frame.
        times: seconds since the video began, of each frame.
    """

    video: str
    size: tuple[int, int]
    frames: dict[int, dict[int, Body]] = field(default_factory=dict)
    times: list[float] = field(default_factory=list)

    def add(self, frame: Frame, prediction: ImagePrediction) -> None:
        """Takes the bodies of the next frame."""
        assert frame.index is not None
        self.frames[frame.index] = dict(_bodies(prediction))
        self.times.append(frame.time_s)

    @property
    def times_s(self) -> NDArray[np.float64]:
        """(T,) of the frames."""
        return np.array(self.times)

    def numbers(self) -> list[int]:
        """Of the tracks, ascending."""
        return sorted({track for bodies in self.frames.values() for track in bodies})

    def places(self, track: int) -> Float[np.ndarray, "T K 3"]:
        """x, y and score of each point of a track in every frame, NaN where it is not there."""
        found = [bodies.get(track) for bodies in self.frames.values()]
        num_points = len(next(body for body in found if body is not None)[1])
        nobody = [(np.nan, np.nan, np.nan)] * num_points
        return np.array([nobody if body is None else body[1] for body in found])


def _bodies(prediction: ImagePrediction) -> Iterator[tuple[int, Body]]:
    for row, track in enumerate(prediction.track_ids.tolist()):
        x, y = prediction.keypoints[row].T.tolist()
        places = list(zip(x, y, prediction.keypoint_scores[row].tolist(), strict=True))
        yield row if track == NO_TRACK else track, (float(prediction.scores[row]), places)
