"""Grey and infrared crops."""

import numpy as np
import pytest

from posecore.loading.augment import AugmentConfig
from posecore.loading.camera import change_camera

PHOTO = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)


def changed(image=PHOTO, seed=0, **fields):
    crop = image.copy()
    change_camera(crop, AugmentConfig(**fields), np.random.default_rng(seed))
    return crop


def is_grey(crop):
    return bool((crop == crop[..., :1]).all())


def test_grey_is_the_luma_of_rec_601():
    grey = changed(grey_probability=1)
    assert is_grey(grey)
    expected = PHOTO.astype(float) @ (0.299, 0.587, 0.114)
    assert np.abs(grey[..., 0] - expected).max() <= 0.51  # rounding of OpenCV's fixed-point weights


def test_shares_are_as_asked_for_and_infrared_comes_first():
    grey = np.mean([is_grey(changed(seed=seed, grey_probability=0.25)) for seed in range(1000)])
    assert grey == pytest.approx(0.25, abs=0.05)
    with_infrared = [changed(seed=seed, infrared_probability=1, grey_probability=1) for seed in range(20)]
    infrared = [changed(seed=seed, infrared_probability=1) for seed in range(20)]
    np.testing.assert_array_equal(with_infrared, infrared)


def test_infrared_is_one_channel_with_noise_and_darker_rims():
    flat = np.full((96, 96, 3), 150, np.uint8)
    crops = np.array([changed(flat, seed, infrared_probability=1)[..., 0] for seed in range(200)], np.float64)
    assert all(is_grey(changed(flat, seed, infrared_probability=1)) for seed in range(20))
    middle, rim = crops[:, 36:60, 36:60].mean(), crops[:, [0, -1]][..., [0, -1]].mean()
    assert rim < 0.85 * middle
    # Noise between 2 and 14 grey levels, uniform: the differences of neighbours have √2 times that.
    spread = (np.diff(crops, axis=2) / np.sqrt(2)).std(axis=(1, 2))
    assert 1.5 < spread.min() < 4
    assert 10 < spread.max() < 15
    assert len({round(crop.mean()) for crop in crops}) > 30  # exposure differs


def test_infrared_sees_red_brighter_than_blue():
    def brightness(colour):
        image = np.zeros((16, 16, 3), np.uint8)
        image[..., colour] = 255
        return np.mean([changed(image, seed, infrared_probability=1).mean() for seed in range(100)])

    assert brightness(0) > 1.5 * brightness(2)


def test_neither_leaves_the_pixels():
    np.testing.assert_array_equal(changed(seed=3, grey_probability=1e-12), PHOTO)
