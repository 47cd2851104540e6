"""Colour against the standard library's, blur against means and medians spelled out, holes by where they are."""

import colorsys

import numpy as np
import pytest

from posecore.config import parse_config
from posecore.errors import ConfigError
from posecore.loading.appearance import AppearanceConfig, change_appearance

OFF = {
    "hue_shift": 0,
    "saturation_shift": 0,
    "value_shift": 0,
    "blur_probability": 0,
    "median_blur_probability": 0,
    "hole_probability": 0,
}


def changed(crop, seed=0, **config):
    ours = crop.copy()
    change_appearance(ours, AppearanceConfig(**(OFF | config)), np.random.default_rng(seed))
    return ours


def uniform(*color):
    return np.broadcast_to(np.array(color, np.uint8), (8, 6, 3)).copy()


def hsv(crop):
    assert (crop == crop[0, 0]).all()
    return np.array(colorsys.rgb_to_hsv(*(crop[0, 0] / 255)))


@pytest.fixture(scope="module")
def noise():
    return np.random.default_rng(0).integers(0, 256, (40, 30, 3), np.uint8)


def test_everything_off_changes_nothing(noise):
    assert np.array_equal(changed(noise), noise)


def test_brightness_changes_in_every_other_crop_by_up_to_its_shift():
    changes = np.array([hsv(changed(uniform(160, 110, 60), seed, value_shift=30)) for seed in range(1000)])
    start = hsv(uniform(160, 110, 60))
    levels = 255 * (changes[:, 2] - start[2])
    assert np.abs(levels).max() == pytest.approx(29, abs=0.01)  # cut towards 0, so 30 itself is as good as never drawn
    assert np.mean(np.abs(levels) < 0.5) == pytest.approx(0.5 + 0.5 / 30, abs=0.05)
    assert np.abs(changes[:, 0] - start[0]).max() < 0.01
    assert np.abs(changes[:, 1] - start[1]).max() < 0.02
    assert hsv(changed(uniform(250, 250, 250), 3, value_shift=255))[2] <= 1, "levels end at 255 and do not wrap"


def test_hue_goes_round():
    red = uniform(200, 0, 0)
    hues = np.array([hsv(changed(red, seed, hue_shift=5))[0] for seed in range(400)])
    degrees = (360 * hues + 180) % 360 - 180
    assert degrees.min() == pytest.approx(-8, abs=0.5)  # four steps of two degrees
    assert degrees.max() == pytest.approx(8, abs=0.5)
    assert (degrees < -1).sum() > 50


def test_saturation_leaves_hue_and_brightness():
    start = hsv(uniform(160, 110, 60))
    changes = np.array([hsv(changed(uniform(160, 110, 60), seed, saturation_shift=30)) for seed in range(200)])
    assert np.ptp(changes[:, 1]) * 255 > 40
    assert np.abs(changes[:, 2] - start[2]).max() < 0.01
    assert np.abs(changes[:, 0] - start[0]).max() < 0.01


@pytest.mark.parametrize(
    ("setting", "average"), [("blur_probability", np.mean), ("median_blur_probability", np.median)]
)
def test_blurs_of_three_sizes(noise, setting, average):
    expected = {}
    for kernel in (3, 5, 7):
        windows = np.lib.stride_tricks.sliding_window_view(noise, (kernel, kernel), axis=(0, 1))
        reach = kernel // 2
        expected[kernel] = (reach, average(windows, axis=(-2, -1)))
    seen = set()
    for seed in range(20):
        ours = changed(noise, seed, **{setting: 1}).astype(float)
        fits = [k for k, (r, wanted) in expected.items() if np.abs(ours[r:-r, r:-r] - wanted).max() <= 0.5]
        assert len(fits) == 1
        seen.update(fits)
    assert seen == {3, 5, 7}
    share = np.mean([not np.array_equal(changed(noise, seed, **{setting: 0.1}), noise) for seed in range(1000)])
    assert share == pytest.approx(0.1, abs=0.03)


def test_a_hole_is_one_black_rectangle_of_the_stated_size_anywhere():
    white = np.full((40, 30, 3), 255, np.uint8)
    tops, sizes = [], []
    for seed in range(500):
        black = (changed(white, seed, hole_probability=1) == 0).all(axis=-1)
        rows, columns = np.flatnonzero(black.any(axis=1)), np.flatnonzero(black.any(axis=0))
        assert black[np.ix_(rows, columns)].all()
        assert black.sum() == len(rows) * len(columns)
        assert (np.diff(rows) == 1).all()
        tops.append((rows[0], columns[0], rows[-1], columns[-1]))
        sizes.append((len(rows), len(columns)))
    assert np.min(sizes, axis=0).tolist() == [8, 6]
    assert np.max(sizes, axis=0).tolist() == [16, 12]
    assert np.min(tops, axis=0)[:2].tolist() == [0, 0]
    assert np.max(tops, axis=0)[2:].tolist() == [39, 29]


def test_one_change_leaves_the_draws_of_the_others(noise):
    holes = [
        (changed(noise, 7, hole_probability=1, **more) == 0).all(axis=-1) for more in ({}, {"blur_probability": 1})
    ]
    assert np.array_equal(*holes)


def test_an_impossible_hole_is_refused():
    with pytest.raises(ConfigError, match=r"hole_extent .* the smaller one first"):
        parse_config({"hole_extent": [0.5, 0.2]}, AppearanceConfig, "test")
