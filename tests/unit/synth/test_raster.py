"""The z-buffer: shapes, depths and normals against plain geometry."""

import numpy as np
import pytest

from posecore.synth.raster import FAR, Raster


def test_a_sphere_has_its_analytic_outline_depth_and_normal() -> None:
    raster = Raster(40, 50)
    raster.ellipsoid((20.0, 15.0, 100.0), np.eye(3) * 10.0, 7)
    rows, columns = np.mgrid[:40, :50]
    rest = 100 - (columns - 20.0) ** 2 - (rows - 15.0) ** 2
    assert ((raster.part == 7) == (rest > 0)).all()
    inside = rest > 0
    np.testing.assert_allclose(raster.depth[inside], 100 - np.sqrt(rest[inside]), atol=1e-3)
    np.testing.assert_allclose(raster.normal[0][inside], (columns[inside] - 20) / 10, atol=1e-4)
    np.testing.assert_allclose(raster.normal[1][inside], (rows[inside] - 15) / 10, atol=1e-4)
    assert (raster.depth[~inside] == FAR).all()


def test_a_turned_ellipsoid_covers_exactly_the_pixels_whose_ray_meets_it() -> None:
    rng = np.random.default_rng(3)
    axes = np.linalg.qr(rng.normal(size=(3, 3)))[0] * [14.0, 5.0, 9.0]
    raster = Raster(48, 48)
    raster.ellipsoid((24.0, 22.0, 0.0), axes, 1)
    inverse = np.linalg.inv(axes)
    depths = np.linspace(-20, 20, 2001)
    for row, column in rng.integers(6, 42, (120, 2)):
        ray = np.stack([np.full_like(depths, column - 24.0), np.full_like(depths, row - 22.0), depths])
        radii = ((inverse @ ray) ** 2).sum(axis=0)
        if 0.99 < radii.min() < 1.01:
            continue  # grazing: the sampled ray cannot tell
        assert (raster.part[row, column] == 1) == (radii.min() < 1)
        if radii.min() < 1:
            assert raster.depth[row, column] == pytest.approx(depths[np.argmax(radii < 1)], abs=0.05)


def test_a_capsule_of_equal_radii_is_the_set_within_reach_of_its_axis() -> None:
    raster = Raster(30, 60)
    raster.capsule((12.0, 10.0, 5.0), (45.0, 20.0, 5.0), 4.0, 4.0, 2)
    rows, columns = np.mgrid[:30, :60]
    axis = np.array([33.0, 10.0])
    offset = np.stack([columns - 12.0, rows - 10.0], axis=-1)
    along = np.clip(offset @ axis / (axis @ axis), 0, 1)
    distance = np.sqrt(((offset - along[..., None] * axis) ** 2).sum(-1))
    clear = abs(distance - 4) > 1e-3
    assert ((raster.part == 2) == (distance < 4))[clear].all()
    inside = distance < 3.9
    np.testing.assert_allclose(raster.depth[inside], 5 - np.sqrt(16 - distance[inside] ** 2), atol=1e-3)


def test_the_nearer_solid_wins_whatever_the_order() -> None:
    for order in ((1, 2), (2, 1)):
        raster = Raster(20, 20)
        for part in order:
            raster.ellipsoid((10.0, 10.0, 50.0 if part == 1 else 20.0), np.eye(3) * 6.0, part)
        assert set(np.unique(raster.part)) == {0, 2}


def test_solids_outside_the_picture_or_across_its_edge_are_clipped() -> None:
    raster = Raster(20, 20)
    raster.ellipsoid((-50.0, 10.0, 0.0), np.eye(3) * 6.0, 1)
    raster.capsule((10.0, 90.0, 0.0), (10.0, 95.0, 0.0), 3.0, 3.0, 1)
    assert not raster.part.any()
    raster.capsule((0.0, 0.0, 0.0), (19.0, 19.0, 0.0), 3.0, 3.0, 1)
    assert raster.part[0, 0] == raster.part[19, 19] == 1


def test_a_limb_that_points_at_the_viewer_is_a_disc() -> None:
    raster = Raster(30, 30)
    raster.capsule((15.0, 15.0, 0.0), (15.0, 15.0, -40.0), 6.0, 6.0, 1)
    assert (raster.part == 1).sum() == pytest.approx(np.pi * 36, rel=0.1)
