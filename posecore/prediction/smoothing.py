"""The 1€ filter: strong smoothing where a point rests, little delay where it moves.

Casiez, Roussel, Vogel: "1€ Filter: A Simple Speed-based Low-pass Filter for Noisy Input in Interactive Systems", CHI
2012, algorithms 1 and 2. Frames may come at uneven times.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray
from pydantic import Field

from posecore.config import Config


class SmoothingSettings(Config):
    """The three constants of the filter.

    Attributes:
        min_cutoff_hz: cut-off frequency at rest; lower is steadier.
        beta: how much the cut-off grows per unit of speed, in 1/pixel; higher is quicker.
        speed_cutoff_hz: cut-off frequency of the speed's own smoothing.
    """

    min_cutoff_hz: float = Field(default=1.0, gt=0)
    beta: float = Field(default=0.01, ge=0)
    speed_cutoff_hz: float = Field(default=1.0, gt=0)


@dataclass(slots=True)
class _State:
    points: NDArray[np.float64]
    speed: NDArray[np.float64]
    time_s: float


class KeypointSmoother:
    """Filters every coordinate of every point of every track of one video on its own.

    Args:
        settings: constants of the filter.
        max_gap_s: a track not seen for longer starts afresh; its memory is freed.
    """

    def __init__(self, settings: SmoothingSettings, max_gap_s: float = 1.0) -> None:
        self._settings = settings
        self._max_gap_s = max_gap_s
        self._states: dict[int, _State] = {}

    def update(
        self, keypoints: Float[np.ndarray, "N K 2"], track_ids: Int[np.ndarray, " N"], time_s: float
    ) -> Float[np.ndarray, "N K 2"]:
        """The smoothed points of the next frame.

        Args:
            keypoints: x, y in image pixels.
            track_ids: the body's number, each at most once.
            time_s: when the frame was taken, in seconds; a frame not later than a track's previous one (a broken time
                stamp) leaves that track's points unfiltered.
        """
        over = [track for track, state in self._states.items() if time_s - state.time_s > self._max_gap_s]
        for track in over:
            del self._states[track]
        return np.array(
            [self._point(points, int(track), time_s) for points, track in zip(keypoints, track_ids, strict=True)]
        ).reshape(keypoints.shape)

    def _point(self, points: NDArray[np.float64], track: int, time_s: float) -> NDArray[np.float64]:
        state = self._states.get(track)
        if state is None or time_s <= state.time_s:
            self._states[track] = _State(points, np.zeros_like(points), time_s)
            return points
        interval_s = time_s - state.time_s
        share = smoothing_factor(interval_s, self._settings.speed_cutoff_hz)
        speed = share * (points - state.points) / interval_s + (1 - share) * state.speed
        share = smoothing_factor(interval_s, self._settings.min_cutoff_hz + self._settings.beta * np.abs(speed))
        smoothed = share * points + (1 - share) * state.points
        self._states[track] = _State(smoothed, speed, time_s)
        return smoothed


def smoothing_factor(interval_s: float, cutoff_hz: float | Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """Weight of the newest value in exponential smoothing with a cut-off frequency: 1 / (1 + 1 / (2π·f·Δt))."""
    turned = 2 * np.pi * np.asarray(cutoff_hz, np.float64) * interval_s
    return turned / (turned + 1)
