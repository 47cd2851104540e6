"""Targets against a loop written from the formula; decoding of maps whose answer is known; the flip test's mirror."""

import math

import numpy as np
import pytest
import torch

from posecore.codecs.heatmap import HeatmapCodec

SIZE = {"input_size": (256, 192), "heatmap_size": (64, 48)}


def drawn(kind, x, y, sigma=2.0):
    """One target, pixel by pixel from the published description."""
    stride = (191 / 47, 255 / 63) if kind == "udp" else (4.0, 4.0)
    mu = (x / stride[0], y / stride[1])
    pixel = (math.trunc(mu[0] + 0.5), math.trunc(mu[1] + 0.5))
    peak = mu if kind == "udp" else pixel
    target = np.zeros((64, 48))
    reach = int(3 * sigma)
    for row in range(max(pixel[1] - reach, 0), min(pixel[1] + reach + 1, 64)):
        for column in range(max(pixel[0] - reach, 0), min(pixel[0] + reach + 1, 48)):
            distance = (column - peak[0]) ** 2 + (row - peak[1]) ** 2
            target[row, column] = math.exp(-distance / (2 * sigma**2))
    return target


@pytest.mark.parametrize("kind", ["udp", "msra"])
@pytest.mark.parametrize(
    ("x", "y"), [(100.3, 60.9), (0.0, 0.0), (191.0, 255.0), (-10.0, 128.0), (96.0, 270.0), (-1.9, -1.9)]
)
def test_a_target_is_the_published_gaussian_on_its_window(kind, x, y):
    targets, weights = HeatmapCodec(kind=kind, **SIZE).encode(torch.tensor([[[x, y]]]), torch.ones(1, 1))
    np.testing.assert_allclose(targets[0, 0].numpy(), drawn(kind, x, y), atol=1e-6)
    assert weights.tolist() == [[1.0]]


def test_a_udp_peak_is_one_only_on_a_pixel():
    codec = HeatmapCodec(**SIZE)
    on_pixel, between = (torch.tensor([[[191 / 47 * u, 255 / 63 * 20]]]) for u in (10.0, 10.4))
    assert codec.encode(on_pixel, torch.ones(1, 1))[0].max() == pytest.approx(1.0, abs=1e-6)
    assert codec.encode(between, torch.ones(1, 1))[0].max() == pytest.approx(math.exp(-0.16 / 8), abs=1e-6)


@pytest.mark.parametrize("kind", ["udp", "msra"])
@pytest.mark.parametrize(
    ("column", "row", "counts", "is_drawn"),
    [
        (-7, 10, True, True),  # rounds to -6, as rounding is towards zero: its window of 13 pixels ends in column 0
        (-8, 10, True, False),  # one pixel further out, where the published test still lets it count
        (-9, 10, False, False),
        (10, -8, True, False),
        (10, -9, False, False),
        (-8, -9, False, False),
        (53, 10, True, True),
        (54, 10, False, False),
        (10, 69, True, True),
        (10, 70, False, False),
    ],
)
def test_a_point_counts_as_long_as_its_window_touches_the_map_or_all_but(kind, column, row, counts, is_drawn):
    """Published: it does not if left >= width, or right + 1 < 0."""
    stride = (191 / 47, 255 / 63) if kind == "udp" else (4.0, 4.0)
    point = torch.tensor([[[column * stride[0], row * stride[1]]]])
    targets, weights = HeatmapCodec(kind=kind, **SIZE).encode(point, torch.ones(1, 1))
    assert weights.item() == float(counts)
    assert bool(targets.any()) == is_drawn


def test_only_points_of_some_weight_are_drawn_and_nan_elsewhere_does_no_harm():
    points = torch.tensor([[[50.0, 50.0], [60.0, 60.0], [float("nan"), float("nan")]]])
    targets, weights = HeatmapCodec(**SIZE).encode(points, torch.tensor([[1.0, 0.5, 0.0]]))
    assert targets.isfinite().all()
    assert [bool(target.any()) for target in targets[0]] == [True, False, False]
    assert weights.tolist() == [[1.0, 0.5, 0.0]]


def test_udp_decoding_finds_a_point_between_pixels():
    codec = HeatmapCodec(**SIZE)
    points = torch.tensor([[[70.2, 90.7], [100.0, 200.4]]])
    decoded, scores = codec.decode(codec.encode(points, torch.ones(1, 2))[0])
    expected = points / torch.tensor([191 / 47, 255 / 63])
    torch.testing.assert_close(decoded, expected, atol=0.02, rtol=0)
    assert ((scores > 0.9) & (scores <= 1)).all()


def test_place_and_score_are_those_of_the_map_before_the_blur():
    heatmap = torch.zeros(1, 1, 64, 48)
    heatmap[0, 0, 10, 10] = 1.0  # a lone spike, nearly gone once blurred
    heatmap[0, 0, 40:45, 30:35] = 0.9  # a plateau, which is then the maximum
    points, scores = HeatmapCodec(**SIZE).decode(heatmap)
    assert points[0, 0].tolist() == pytest.approx([10, 10], abs=0.01)
    assert scores.item() == 1.0


def test_msra_decoding_moves_a_quarter_pixel_towards_the_larger_neighbour():
    maps = torch.zeros(1, 1, 64, 48)
    maps[0, 0, 20, 10], maps[0, 0, 20, 11], maps[0, 0, 19, 10] = 1.0, 0.5, 0.4
    decoded, scores = HeatmapCodec(kind="msra", **SIZE).decode(maps)
    assert decoded.tolist() == [[[10.25, 19.75]]]
    assert scores.tolist() == [[1.0]]


@pytest.mark.parametrize("place", [(1, 20), (20, 1), (62, 20), (63, 47), (0, 0)])
def test_msra_decoding_stays_on_the_pixel_near_the_border(place):
    row, column = place
    maps = torch.zeros(1, 1, 64, 48)
    maps[0, 0, row, column] = 1.0
    maps[0, 0, max(row - 1, 0), column] += 0.5
    decoded, _ = HeatmapCodec(kind="msra", **SIZE).decode(maps)
    inside_x, inside_y = 1 < column < 47, 1 < row < 63
    expected = [column, row - 0.25 if inside_x and inside_y else row]
    assert decoded[0, 0].tolist() == expected


@pytest.mark.parametrize("kind", ["udp", "msra"])
def test_a_map_without_a_positive_value_has_no_point(kind):
    decoded, scores = HeatmapCodec(kind=kind, **SIZE).decode(torch.full((1, 2, 64, 48), -0.5))
    assert decoded.tolist() == [[[-1.0, -1.0]] * 2]
    assert scores.tolist() == [[-0.5, -0.5]]


def test_half_precision_maps_are_decoded_in_single_precision():
    codec = HeatmapCodec(**SIZE)
    maps = codec.encode(torch.tensor([[[70.2, 90.7]]]), torch.ones(1, 1))[0]
    decoded, scores = codec.decode(maps.bfloat16())
    assert decoded.dtype == scores.dtype == torch.float32
    torch.testing.assert_close(decoded, codec.decode(maps.bfloat16().float())[0])


def test_an_empty_batch_is_allowed():
    decoded, scores = HeatmapCodec(**SIZE).decode(torch.zeros(0, 17, 64, 48))
    assert decoded.shape == (0, 17, 2)
    assert scores.shape == (0, 17)
    assert HeatmapCodec(**SIZE).encode(torch.zeros(0, 17, 2), torch.zeros(0, 17))[0].shape == (0, 17, 64, 48)


def test_flip_back_swaps_sides_and_columns():
    maps = torch.arange(2 * 1 * 3, dtype=torch.float32).reshape(1, 2, 1, 3)
    restored = HeatmapCodec().flip_back(maps, torch.tensor([1, 0]), shift=False)
    assert restored.tolist() == [[[[5.0, 4.0, 3.0]], [[2.0, 1.0, 0.0]]]]
    shifted = HeatmapCodec().flip_back(maps, torch.tensor([1, 0]), shift=True)
    assert shifted.tolist() == [[[[5.0, 5.0, 4.0]], [[2.0, 2.0, 1.0]]]]


def test_a_mirrored_target_flips_back_onto_the_target():
    codec = HeatmapCodec(**SIZE)
    points = torch.tensor([[[70.2, 90.7], [150.0, 33.3]]])
    mirrored = torch.stack([191 - points[..., 0], points[..., 1]], dim=-1)[:, [1, 0]]
    target, _ = codec.encode(points, torch.ones(1, 2))
    back = codec.flip_back(codec.encode(mirrored, torch.ones(1, 2))[0], torch.tensor([1, 0]), shift=False)
    torch.testing.assert_close(back, target, atol=1e-5, rtol=0)
