"""Further views against the crop geometry of :mod:`posecore.geometry` and OpenCV's warp."""

from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from posecore.geometry import apply_affine, crop_matrix
from posecore.methods.batch import denormalise, normalise, to_light
from posecore.methods.crop_draws import random_shares
from posecore.methods.further_view import ViewConfig, Views

SIZE = (64, 48)
SEEDS = torch.arange(40)
STILL: dict[str, Any] = {
    "rotation_degrees": 0, "scale": (1, 1), "shift": 0, "mirror_probability": 0, "colour": 0, "occlusion_probability": 0
}  # fmt: skip


def _views(count: int = 40, **changes: Any) -> Views:
    return Views.drawn(SEEDS[:count], SIZE, ViewConfig(**{**STILL, **changes}))


def _smooth(count: int) -> Tensor:
    """(n, H, W, 3) uint8 pictures in which neighbours differ little."""
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    waves = [np.sin(rows / (7 + i)) + np.cos(columns / (5 + i)) for i in range(3)]
    picture = (128 + 50 * np.stack(waves, axis=-1)).clip(0, 255).astype(np.uint8)
    return torch.from_numpy(np.repeat(picture[None], count, axis=0))


def test_views_are_what_cutting_the_crop_again_would_give() -> None:
    """Angle, size and the point that comes to the middle are read off the matrix; the rest is the published formula."""
    views = _views(rotation_degrees=60, scale=(0.6, 1.3), shift=0.05)
    height, width = SIZE
    middle = (np.array([width, height]) - 1) / 2
    angles, zooms, moves = [], [], []
    for matrix in views.matrix.double().numpy():
        angle, zoom = np.rad2deg(np.arctan2(matrix[1, 0], matrix[0, 0])), np.hypot(matrix[0, 0], matrix[1, 0])
        center = np.linalg.solve(matrix[:, :2], middle - matrix[:, 2])
        scale = (np.array([width, height]) - 1) / zoom
        np.testing.assert_allclose(crop_matrix(center, scale, np.array(angle), SIZE, "udp"), matrix, atol=1e-4)
        angles.append(angle)
        zooms.append(zoom)
        moves.append((apply_affine(middle[None], matrix)[0] - middle) / (width, height))
    for values, least, most in ((angles, -60, 60), (zooms, 0.6, 1.3), (moves, -0.05, 0.05)):
        found = np.array(values)
        assert least <= found.min() < least + 0.1 * (most - least)
        assert most - 0.1 * (most - least) < found.max() <= most


def test_a_mirrored_view_mirrors_first() -> None:
    settings = {"rotation_degrees": 60, "scale": (0.6, 1.3), "shift": 0.05}
    plain, mirrored = _views(**settings), _views(mirror_probability=1, **settings)
    assert mirrored.mirrored.all()
    mirror = torch.tensor([[-1.0, 0, SIZE[1] - 1], [0, 1, 0], [0, 0, 1]])
    torch.testing.assert_close(mirrored.matrix, plain.matrix @ mirror, atol=1e-4, rtol=0)


def test_points_go_where_the_matrix_says_and_sides_trade_places() -> None:
    views = _views(rotation_degrees=60, scale=(0.6, 1.3), shift=0.05, mirror_probability=0.5)
    points = torch.rand(40, 3, 2, generator=torch.Generator().manual_seed(0)) * torch.tensor([47.0, 63.0])
    weights = torch.tensor([1.0, 0.0, 1.0]).repeat(40, 1)
    moved, counted = views.carry(points, weights, torch.tensor([1, 0, 2]))
    expected = apply_affine(points.double().numpy(), views.matrix.double().numpy())
    assert 10 < views.mirrored.sum() < 30
    for row, flipped in enumerate(views.mirrored.tolist()):
        order = [1, 0, 2] if flipped else [0, 1, 2]
        np.testing.assert_allclose(moved[row].numpy(), expected[row][order], atol=1e-3)
        inside = ((expected[row] >= 0) & (expected[row] <= (47, 63))).all(axis=1)
        assert counted[row].tolist() == [float(weights[row, i]) * inside[i] for i in order]
    assert 0 < counted.sum() < weights.sum()


def test_pictures_are_warped_as_opencv_warps_them() -> None:
    views = _views(8, rotation_degrees=60, scale=(0.6, 1.3), shift=0.05, mirror_probability=0.5)
    pictures = _smooth(8)
    painted = denormalise(views.paint(normalise(pictures), torch.zeros(8, 1, 2), torch.zeros(8, 1))).numpy()
    for picture, view, matrix in zip(pictures.numpy(), painted, views.matrix.double().numpy(), strict=True):
        warped = cv2.warpAffine(picture, matrix, (SIZE[1], SIZE[0]), flags=cv2.INTER_LINEAR)
        away = np.abs(warped.astype(int) - view)
        assert np.quantile(away, 0.9) <= 2  # OpenCV rounds places to 1/32 pixel
        assert away.mean() < 1.5


def test_depth_takes_the_nearest_pixel_and_is_not_known_outside() -> None:
    views = _views(8, rotation_degrees=60, scale=(0.6, 1.3), mirror_probability=0.5)
    depth = torch.rand(8, *SIZE, generator=torch.Generator().manual_seed(2)) + 1
    carried = views.carry_depth(depth)
    for source, view, matrix in zip(depth.numpy(), carried.numpy(), views.matrix.double().numpy(), strict=True):
        nearest = cv2.warpAffine(source, matrix, (SIZE[1], SIZE[0]), flags=cv2.INTER_NEAREST)
        assert (nearest == view).mean() > 0.95  # OpenCV rounds places to 1/32 pixel before it takes the nearest
    assert (carried == 0).any()


def test_nothing_drawn_is_nothing_changed() -> None:
    pictures = _smooth(3)
    painted = _views(3).paint(normalise(pictures), torch.zeros(3, 1, 2), torch.zeros(3, 1))
    assert torch.equal(denormalise(painted), pictures)


def test_one_point_that_counts_is_hidden_and_nothing_else() -> None:
    views = _views(occlusion_probability=1, occlusion_extent=0.2)
    points = torch.tensor([[10.0, 12.0], [30.0, 40.0], [24.0, 20.0]]).repeat(40, 1, 1)
    weights = torch.tensor([1.0, 1.0, 0.0]).repeat(40, 1)
    weights[0] = 0
    noise = torch.randint(0, 256, (40, *SIZE, 3), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
    changed = (denormalise(views.paint(normalise(noise), points, weights)) != noise).any(dim=-1)
    assert not changed[0].any()
    rows, columns = torch.meshgrid(*(torch.arange(side) for side in SIZE), indexing="ij")
    hidden = [0, 0]
    for row in range(1, 40):
        fits = []
        for x, y in ((10, 12), (30, 40)):
            square = ((columns - x).abs() <= 6.4) & ((rows - y).abs() <= 6.4)
            fits.append(not (changed[row] & ~square).any() and changed[row, y, x].item())
        assert sum(fits) == 1
        hidden[fits.index(True)] += 1
    assert min(hidden) > 8


def test_what_hides_a_point_is_another_place_of_the_view() -> None:
    """A picture that says where each of its pixels is: red grows along x, green along y."""
    views = _views(occlusion_probability=1, occlusion_extent=0.2)
    ramp = np.zeros((*SIZE, 3), np.uint8)
    ramp[..., 0], ramp[..., 1] = 5 * np.arange(SIZE[1]), 4 * np.arange(SIZE[0])[:, None]
    pictures = normalise(torch.from_numpy(ramp).repeat(40, 1, 1, 1))
    painted = to_light(views.paint(pictures, torch.tensor([[[20.0, 30.0]]]).repeat(40, 1, 1), torch.ones(40, 1))) * 255
    source = random_shares(SEEDS, 12)[:, 10:] * torch.tensor([48.0, 64.0])
    inside = (source <= torch.tensor([47.0, 63.0])).all(dim=1)
    assert inside.sum() > 30
    expected = source * torch.tensor([5.0, 4.0])
    torch.testing.assert_close(painted[inside, :2, 30, 20], expected[inside], atol=0.05, rtol=0)


def test_a_point_on_the_last_pixel_is_in_the_view() -> None:
    corners = torch.tensor([[0.0, 0.0], [47.0, 63.0], [47.1, 63.0], [0.0, -0.1]]).repeat(2, 1, 1)
    _, counted = _views(2).carry(corners, torch.ones(2, 4), torch.arange(4))
    assert counted.tolist() == [[1, 1, 0, 0]] * 2


def test_colours_are_multiplied_as_written() -> None:
    """Brightness; contrast about the middle grey; saturation about the pixel's luma (ITU-R BT.601); cut at 0 and 1."""
    views = _views(12, colour=0.4)
    pictures = torch.randint(0, 256, (12, *SIZE, 3), generator=torch.Generator().manual_seed(4)).to(torch.uint8)
    painted = to_light(views.paint(normalise(pictures), torch.zeros(12, 1, 2), torch.zeros(12, 1))).double().numpy()
    shares = random_shares(SEEDS[:12], 12)[:, 5:8].double().numpy()
    for picture, view, factors in zip(pictures.numpy() / 255, painted, 1 + 0.4 * (2 * shares - 1), strict=True):
        light = (picture * factors[0] - 0.5) * factors[1] + 0.5
        luma = (light @ [0.299, 0.587, 0.114])[..., None]
        expected = np.clip(luma + (light - luma) * factors[2], 0, 1)
        np.testing.assert_allclose(view, expected.transpose(2, 0, 1), atol=1e-4)


def test_colours_change_and_black_stays_black() -> None:
    views = _views(colour=0.25)
    grey = torch.full((40, *SIZE, 3), 128, dtype=torch.uint8)
    levels = (
        denormalise(views.paint(normalise(grey), torch.zeros(40, 1, 2), torch.zeros(40, 1))).float().mean((1, 2, 3))
    )
    assert levels.min() < 110
    assert levels.max() > 146
    assert levels.min() >= 128 * 0.75 * 0.75
    red = torch.zeros(40, *SIZE, 3, dtype=torch.uint8)
    red[..., 0] = 200
    painted = denormalise(views.paint(normalise(red), torch.zeros(40, 1, 2), torch.zeros(40, 1))).float()
    assert painted[..., 0].std() > 5
    assert painted[:, 0, 0, 1].max() > painted[:, 0, 0, 1].min()


def test_draws_belong_to_the_crop() -> None:
    whole, part = (
        _views(rotation_degrees=60, colour=0.2),
        Views.drawn(SEEDS[7:9], SIZE, ViewConfig(rotation_degrees=60)),
    )
    assert torch.equal(whole.matrix[7:9, 0, 0], _views(rotation_degrees=60).matrix[7:9, 0, 0])
    assert torch.equal(whole.draws[7:9], part.draws)
    shares = random_shares(torch.arange(2000), 5)
    assert 0 <= shares.min() < 0.001
    assert 0.999 < shares.max() < 1
    assert abs(shares.mean().item() - 0.5) < 0.01


@pytest.mark.parametrize("scale", [(1.2, 0.8), (0.0, 1.0)])
def test_impossible_sizes_are_refused(scale: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="two magnifications, the smaller one first"):
        ViewConfig(scale=scale)
