"""The crop matrices against OpenCV: three-point affine of the published non-UDP crop, and the pixels of a warp."""

import cv2
import numpy as np
import pytest

from posecore.codecs.heatmap import HeatmapCodec
from posecore.codecs.simcc import SimccCodec
from posecore.geometry import crop_matrix, heatmap_to_image

INPUT_SIZE = (256, 192)


@pytest.mark.parametrize("rotation", [0.0, 30.0, -77.5])
def test_msra_equals_the_affine_through_three_points(rotation):
    # Non-UDP crops are published as an affine through the centre, the middle of one side (turned), and the point that
    # completes the right angle.
    center, scale = np.array([310.0, 190.0]), np.array([240.0, 320.0])
    angle = np.deg2rad(rotation)
    reach = scale[0] / 2
    side = center + np.array([np.sin(angle), -np.cos(angle)]) * reach
    third = side + np.array([-(center - side)[1], (center - side)[0]])
    middle, top = np.array([96.0, 128.0]), np.array([96.0, 128.0 - 96.0])
    corner = top + np.array([-(middle - top)[1], (middle - top)[0]])
    expected = cv2.getAffineTransform(np.float32([center, side, third]), np.float32([middle, top, corner]))
    ours = crop_matrix(center, scale, np.array(rotation), INPUT_SIZE, "msra")
    np.testing.assert_allclose(ours[:, :2], expected[:, :2], atol=1e-6)
    np.testing.assert_allclose(ours, expected, atol=1e-3)


def test_a_udp_region_of_whole_pixels_is_the_image_itself():
    # Centres 0 … W - 1 map to 0 … W - 1: no pixel may move by half a pixel.
    image = np.random.default_rng(0).integers(0, 256, (256, 192, 3), np.uint8)
    matrix = crop_matrix(np.array([95.5, 127.5]), np.array([191.0, 255.0]), np.array(0.0), INPUT_SIZE, "udp")
    np.testing.assert_array_equal(cv2.warpAffine(image, matrix, (192, 256)), image)


@pytest.mark.parametrize(
    ("codec", "last", "middle"),
    [
        # UDP: the ends of the region are the centres of the first and the last pixel, in crop and output alike.
        (HeatmapCodec(kind="udp"), (191.0, 255.0), (95.5, 127.5)),
        # Otherwise they are the ends of the crop and of the output.
        (HeatmapCodec(kind="msra"), (192.0, 256.0), (96.0, 128.0)),
        (SimccCodec(), (192.0, 256.0), (96.0, 128.0)),
    ],
)
def test_decoded_points_return_to_the_image_through_the_inverse_affine(codec, last, middle):
    center, scale = np.array([310.5, 190.25]), np.array([150.0, 200.0])
    ends = center + np.array([[0, 0], [scale[0] / 2, 0], [0, scale[1] / 2]])
    targets = [middle, (last[0], middle[1]), (middle[0], last[1])]
    affine = cv2.getAffineTransform(np.float32(ends), np.float32(targets))
    np.testing.assert_allclose(crop_matrix(center, scale, np.array(0.0), INPUT_SIZE, codec.crop), affine, atol=1e-3)
    decoded = np.random.default_rng(0).uniform(0, 47, (9, 2))
    height, width = codec.frame_size
    frame = np.array([width, height]) - (codec.crop == "udp")
    crop = decoded * np.array(last) / frame
    expected = cv2.transform(crop[None], cv2.invertAffineTransform(affine))[0]
    ours = heatmap_to_image(decoded, center, scale, codec.frame_size, codec.crop)
    np.testing.assert_allclose(ours, expected, atol=1e-3)
