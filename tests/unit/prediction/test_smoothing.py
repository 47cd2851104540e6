import math

import numpy as np
import pytest

from posecore.prediction.smoothing import KeypointSmoother, SmoothingSettings


class ReferenceFilter:
    """One number at a time, straight from algorithm 1 of the paper: nothing shared with the library."""

    def __init__(self, min_cutoff: float, beta: float, derivative_cutoff: float) -> None:
        self.min_cutoff, self.beta, self.derivative_cutoff = min_cutoff, beta, derivative_cutoff
        self.value: float | None = None
        self.derivative = 0.0

    @staticmethod
    def alpha(rate: float, cutoff: float) -> float:
        tau = 1.0 / (2 * math.pi * cutoff)
        return 1.0 / (1.0 + tau * rate)

    def __call__(self, value: float, rate: float) -> float:
        if self.value is None:
            self.value = value
            return value
        slope = (value - self.value) * rate
        a = self.alpha(rate, self.derivative_cutoff)
        self.derivative = a * slope + (1 - a) * self.derivative
        a = self.alpha(rate, self.min_cutoff + self.beta * abs(self.derivative))
        self.value = a * value + (1 - a) * self.value
        return self.value


def test_every_coordinate_follows_the_paper_at_uneven_times() -> None:
    settings = SmoothingSettings(min_cutoff_hz=1.3, beta=0.02, speed_cutoff_hz=0.8)
    smoother = KeypointSmoother(settings)
    references = {index: ReferenceFilter(1.3, 0.02, 0.8) for index in np.ndindex(2, 3, 2)}
    rng = np.random.default_rng(3)
    time_s, points = 0.0, rng.uniform(0, 300, (2, 3, 2))
    for frame in range(40):
        interval = rng.uniform(0.01, 0.2)
        time_s += interval
        points = points + rng.normal(0, 6, points.shape)
        order = [1, 0] if frame % 2 else [0, 1]
        found = smoother.update(points[order], np.array([7, 9])[order], time_s)
        expected = np.array([references[index](points[index], 1 / interval) for index in np.ndindex(2, 3, 2)])
        np.testing.assert_allclose(found, expected.reshape(2, 3, 2)[order], rtol=0, atol=1e-9)


def test_noise_at_rest_is_taken_away_and_a_jump_is_followed() -> None:
    rng = np.random.default_rng(0)
    smoother = KeypointSmoother(SmoothingSettings())
    rest = 100 + rng.normal(0, 1, (200, 1, 1, 2))
    smooth = np.array([smoother.update(points, np.array([0]), frame / 30) for frame, points in enumerate(rest)])
    assert smooth[100:].std() < 0.5 * rest[100:].std()
    moved = [smoother.update(np.full((1, 1, 2), 400.0), np.array([0]), (200 + frame) / 30) for frame in range(15)]
    assert abs(moved[-1] - 400).max() < 5


def test_a_track_that_was_away_starts_afresh() -> None:
    smoother = KeypointSmoother(SmoothingSettings(), max_gap_s=0.5)
    smoother.update(np.zeros((1, 1, 2)), np.array([0]), 0.0)
    after = smoother.update(np.full((1, 1, 2), 50.0), np.array([0]), 0.6)
    np.testing.assert_array_equal(after, 50.0)


def test_a_frame_without_a_later_time_is_left_as_it_is() -> None:
    smoother = KeypointSmoother(SmoothingSettings())
    smoother.update(np.zeros((1, 1, 2)), np.array([0]), 1.0)
    for time_s in (1.0, 0.5):
        np.testing.assert_array_equal(smoother.update(np.full((1, 1, 2), 9.0), np.array([0]), time_s), 9.0)


def test_no_bodies_no_points() -> None:
    smoother = KeypointSmoother(SmoothingSettings())
    assert smoother.update(np.zeros((0, 5, 2)), np.zeros(0, np.int64), 0.0).shape == (0, 5, 2)


@pytest.mark.parametrize("wrong", [{"min_cutoff_hz": 0}, {"beta": -1}, {"speed_cutoff_hz": 0}])
def test_impossible_constants_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        SmoothingSettings(**wrong)
