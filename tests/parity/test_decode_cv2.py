"""Decoding from small patches equals decoding from whole blurred maps, to 1e-4 heatmap pixels."""

import numpy as np
import pytest
import torch

from posecore.codecs.heatmap import HeatmapCodec
from tests.support import dark_reference


def maps_like_predictions(seed, heatmap_size, sigma, noise):
    """(4, 133, h, w) maps: Gaussians anywhere, borders and beyond included, with noise of a trained model's size."""
    random = np.random.default_rng(seed)
    height, width = heatmap_size
    codec = HeatmapCodec(input_size=(height * 4, width * 4), heatmap_size=heatmap_size, heatmap_sigma=sigma)
    points = random.uniform([-8, -8], [width * 4 + 8, height * 4 + 8], (4, 133, 2))
    maps = codec.encode(torch.from_numpy(points).float(), torch.ones(4, 133))[0].numpy()
    peak = random.uniform(0.3, 1.0, (4, 133, 1, 1))
    return (maps * peak + noise * random.random(maps.shape)).astype(np.float32)


@pytest.mark.parametrize(
    ("heatmap_size", "sigma", "kernel", "noise"),
    [((64, 48), 2.0, 11, 0.0), ((64, 48), 2.0, 11, 0.02), ((96, 72), 3.0, 17, 0.02), ((64, 48), 2.0, 11, 0.1)],
)
def test_patches_give_the_points_of_whole_maps(heatmap_size, sigma, kernel, noise):
    maps = maps_like_predictions(1, heatmap_size, sigma, noise)
    expected, scores = dark_reference.decode(maps, kernel)
    codec = HeatmapCodec(
        input_size=(heatmap_size[0] * 4, heatmap_size[1] * 4), heatmap_size=heatmap_size, blur_kernel=kernel
    )
    points, ours = codec.decode(torch.from_numpy(maps))
    np.testing.assert_array_equal(ours.numpy(), scores)
    np.testing.assert_allclose(points.numpy(), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("kernel", [3, 5, 7, 9])
def test_small_kernels_use_the_fixed_taps_of_opencv(kernel):
    maps = maps_like_predictions(2, (64, 48), 2.0, 0.02)[:1]
    points, _ = HeatmapCodec(blur_kernel=kernel).decode(torch.from_numpy(maps))
    np.testing.assert_allclose(points.numpy(), dark_reference.decode(maps, kernel)[0], atol=1e-4, rtol=0)


def test_every_border_pixel_and_corner():
    places = [
        (row, column) for row in range(64) for column in range(48) if row in (0, 1, 62, 63) or column in (0, 1, 46, 47)
    ]
    random = np.random.default_rng(3)
    maps = 0.1 * random.random((1, len(places), 64, 48), np.float32)
    for index, (row, column) in enumerate(places):
        maps[0, index, row, column] = 1.0
    points, _ = HeatmapCodec().decode(torch.from_numpy(maps))
    np.testing.assert_allclose(points.numpy(), dark_reference.decode(maps)[0], atol=1e-4, rtol=0)
