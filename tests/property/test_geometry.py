"""What must hold for every box and crop: uncropping undoes cropping, mirroring twice changes nothing."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from posecore.geometry import (
    apply_affine,
    bbox_to_center_scale,
    crop_matrix,
    flip_points,
    heatmap_to_image,
    invert_affine,
)

codecs = st.sampled_from(["udp", "msra"])
sizes = st.tuples(st.integers(32, 512), st.integers(32, 512))
coordinates = st.floats(-500, 1500)
lengths = st.floats(1, 2000)
boxes = st.tuples(coordinates, coordinates, lengths, lengths).map(np.array)
points = st.lists(st.tuples(coordinates, coordinates), min_size=1, max_size=5).map(np.array)


@given(points, boxes, st.floats(-180, 180), sizes, codecs)
def test_cropping_then_uncropping_returns_the_points(points, box, rotation, size, codec):
    center, scale = bbox_to_center_scale(box, size[1] / size[0], 1.25)
    matrix = crop_matrix(center, scale, np.array(rotation), size, codec)
    back = apply_affine(apply_affine(points, matrix), invert_affine(matrix))
    np.testing.assert_allclose(back, points, atol=1e-6)


@given(points, st.integers(1, 5000))
def test_mirroring_twice_returns_the_points(points, width):
    np.testing.assert_allclose(flip_points(flip_points(points, width), width), points, atol=1e-9)


@given(points, boxes, st.tuples(st.integers(8, 96), st.integers(8, 96)), codecs)
def test_back_projection_inverts_the_crop_matrix_and_the_target_stride(points, box, heatmap_size, codec):
    input_size = (heatmap_size[0] * 4, heatmap_size[1] * 4)
    center, scale = bbox_to_center_scale(box, input_size[1] / input_size[0], 1.25)
    crop = apply_affine(points, crop_matrix(center, scale, np.array(0.0), input_size, codec))
    lost = 1 if codec == "udp" else 0
    stride = [(i - lost) / (h - lost) for i, h in zip(input_size[::-1], heatmap_size[::-1], strict=True)]
    back = heatmap_to_image(crop / stride, center, scale, heatmap_size, codec)
    np.testing.assert_allclose(back, points, atol=1e-6)


@given(boxes, st.floats(0.2, 5), st.floats(1, 2))
def test_the_region_has_the_crops_shape_and_contains_the_box(box, aspect_ratio, padding):
    center, scale = bbox_to_center_scale(box, aspect_ratio, padding)
    np.testing.assert_allclose(scale[0] / scale[1], aspect_ratio, rtol=1e-9)
    assert (scale >= box[2:] * padding - 1e-9 * scale).all()
    np.testing.assert_allclose(center, box[:2] + box[2:] / 2)
