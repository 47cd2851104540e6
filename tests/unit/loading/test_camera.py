"""Grey and infrared crops."""

from statistics import NormalDist

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


class Told:
    """Stands for a generator: shares as told, and the same random byte for every pixel."""

    def __init__(self, shares, byte):
        self.shares, self.byte = shares, byte

    def random(self, count):
        assert count == len(self.shares)
        return np.array(self.shares, np.float64)

    def bytes(self, count):
        return bytes([self.byte]) * count


@pytest.mark.parametrize("byte", [0, 127, 255])
@pytest.mark.parametrize("shares", [[0.0] * 10, [1.0] * 10, [0.3, 0.6, 0.2, 0.8, 0.4, 0.5, 0.1, 0.9, 0.7, 0.25]])
def test_infrared_of_every_pixel_is_the_stated_one(shares, byte):
    """Red, green and blue count 0.4 to 1, 0 to 0.4 and 0 to 0.4; gamma 0.5 to 1.5; black up to 0.15; gain 0.7 to 1.2.

    The lamp stands in the middle half of the crop; its light is lost with the square of the distance, at the farthest
    corner up to 70 %. The noise has a standard deviation of 2 to 14 grey levels.
    """
    red, green, blue, gamma, black, gain, x, y, loss, noise = shares
    crop = PHOTO.copy()
    change_camera(crop, AugmentConfig(infrared_probability=1, grey_probability=1), Told([0.9, 0.9, *shares], byte))
    count_red, count_green, count_blue = 0.4 + 0.6 * red, 0.4 * green, 0.4 * blue
    photo = PHOTO.astype(float)
    grey = count_red * photo[..., 0] + count_green * photo[..., 1] + count_blue * photo[..., 2]
    grey = np.rint(grey / (count_red + count_green + count_blue)) / 255
    darkest = 0.15 * black
    seen = np.minimum(darkest + (0.7 + 0.5 * gain) * (1 - darkest) * grey ** (0.5 + gamma), 1)
    lamp = np.array([0.25 + 0.5 * x, 0.25 + 0.5 * y])
    places = np.stack(np.meshgrid(np.arange(64) / 64, np.arange(48) / 48), axis=-1)
    far = ((places - lamp) ** 2).sum(axis=-1)
    farthest = max(((np.array(corner) - lamp) ** 2).sum() for corner in ((0, 0), (0, 1), (1, 0), (1, 1)))
    lit = 255 * seen * (1 - 0.7 * loss * far / farthest)
    deviate = NormalDist(sigma=2 + 12 * noise).inv_cdf((byte + 0.5) / 256)
    assert is_grey(crop)
    np.testing.assert_allclose(crop[..., 0], np.clip(lit + deviate, 0, 255), atol=1.6)
    assert np.abs(crop[..., 0] - np.clip(lit + deviate, 0, 255)).mean() < 0.5


@pytest.mark.parametrize(("share", "becomes"), [(0.0, "infrared"), (0.25, "grey"), (0.5, "colour")])
def test_a_camera_comes_where_the_share_is_below_its_probability(share, becomes):
    crop = PHOTO.copy()
    config = AugmentConfig(infrared_probability=0.25, grey_probability=0.5)
    change_camera(crop, config, Told([share, share, *[0.5] * 10], 127))
    assert np.array_equal(crop, PHOTO) == (becomes == "colour")
    assert np.array_equal(crop, changed(grey_probability=1)) == (becomes == "grey")


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
