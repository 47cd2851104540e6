"""Boxes, crop matrices and back-projection against numbers worked out by hand."""

import numpy as np
import pytest

from posecore.geometry import (
    apply_affine,
    bbox_to_center_scale,
    boxes_around,
    clip_bbox_xywh,
    crop_matrix,
    flip_points,
    heatmap_to_image,
)

INPUT_SIZE = (256, 192)


def test_clipping_shrinks_a_box_inside_the_image_by_one_pixel():
    np.testing.assert_array_equal(clip_bbox_xywh(np.array([10.0, 20, 30, 40]), (100, 100)), [10, 20, 29, 39])


def test_clipping_keeps_the_width_of_a_box_that_starts_left_of_the_image():
    # The published code moves x to 0 first and adds the full width to it.
    np.testing.assert_array_equal(clip_bbox_xywh(np.array([-5.0, -5, 30, 40]), (100, 100)), [0, 0, 29, 39])


def test_clipping_ends_at_the_last_pixel_centre():
    np.testing.assert_array_equal(clip_bbox_xywh(np.array([90.0, 95, 30, 40]), (100, 120)), [90, 95, 29, 4])


def test_clipping_leaves_no_extent_of_a_box_outside():
    boxes = np.array([[130.0, 10, 5, 5], [10, 10, 0.5, 5]])
    clipped = clip_bbox_xywh(boxes, (100, 100))
    assert clipped[0, 2] <= 0
    assert clipped[1, 2] == 0


def test_a_box_around_points_has_an_extent():
    points = np.array([[[3.0, 4.0], [13.0, 4.5], [np.nan, 0.0]], [[7.0, 8.0], [0.0, 0.0], [0.0, 0.0]]])
    known = np.array([[True, True, False], [True, False, False]])
    assert boxes_around(points, known).tolist() == [[3, 4, 10, 1], [7, 8, 1, 1]]
    assert boxes_around(points[:0], known[:0]).shape == (0, 4)


def test_center_and_scale_of_a_wide_and_a_tall_box():
    center, scale = bbox_to_center_scale(np.array([[0.0, 0, 60, 20], [10, 10, 10, 40]]), 0.75, 1.25)
    np.testing.assert_allclose(center, [[30, 10], [15, 30]])
    np.testing.assert_allclose(scale, [[75, 100], [37.5, 50]])


def test_udp_maps_the_ends_of_the_region_to_the_outer_pixel_centres():
    matrix = crop_matrix(np.array([50.0, 40]), np.array([60.0, 80]), np.array(0.0), INPUT_SIZE, "udp")
    corners = np.array([[20.0, 0], [80, 80], [50, 40]])
    np.testing.assert_allclose(apply_affine(corners, matrix), [[0, 0], [191, 255], [95.5, 127.5]], atol=1e-12)


def test_udp_squeezes_a_square_region():
    matrix = crop_matrix(np.array([0.0, 0]), np.array([100.0, 100]), np.array(0.0), INPUT_SIZE, "udp")
    np.testing.assert_allclose([matrix[0, 0], matrix[1, 1]], [1.91, 2.55])


def test_msra_keeps_the_shape_of_a_square_region():
    matrix = crop_matrix(np.array([50.0, 50]), np.array([100.0, 100]), np.array(0.0), INPUT_SIZE, "msra")
    np.testing.assert_allclose(matrix[:, :2], 1.92 * np.eye(2))
    np.testing.assert_allclose(apply_affine(np.array([[50.0, 50], [0, 50]]), matrix), [[96, 128], [0, 128]], atol=1e-12)


@pytest.mark.parametrize(("codec", "expected"), [("udp", [95.5, 127.5 + 25.5]), ("msra", [96.0, 128 - 25.6])])
def test_the_two_conventions_turn_in_opposite_directions(codec, expected):
    # A quarter turn moves the point right of the centre below it under udp and above it under msra.
    matrix = crop_matrix(np.array([0.0, 0]), np.array([75.0, 100]), np.array(90.0), INPUT_SIZE, codec)
    np.testing.assert_allclose(apply_affine(np.array([[10.0, 0]]), matrix), [expected], atol=1e-9)


def test_back_projection_follows_the_published_formulas():
    points, center, scale = np.array([[10.0, 20.0]]), np.array([100.0, 200]), np.array([94.0, 126])
    np.testing.assert_allclose(heatmap_to_image(points, center, scale, (64, 48), "udp"), [[73.0, 177.0]])
    expected = [[10 * 94 / 48 + 53, 20 * 126 / 64 + 137]]
    np.testing.assert_allclose(heatmap_to_image(points, center, scale, (64, 48), "msra"), expected)


def test_mirrored_points_change_only_their_x():
    np.testing.assert_array_equal(flip_points(np.array([[0.0, 3.0], [9.0, 4.0]]), 10), [[9, 3], [0, 4]])
