"""Decoding within bounds, the region of an instance, pixels and points of a crop."""

import cv2
import numpy as np
import pytest
import simplejpeg

from posecore.conventions import Conventions
from posecore.errors import DatasetError, IntegrityError
from posecore.loading.augment import Region
from posecore.loading.crop import (
    CropPlan,
    box_region,
    crop_images,
    decode_image,
    group_crops,
    instance_regions,
    plan_crops,
)
from posecore.schema import KeypointState
from posecore.skeletons.library import load_skeleton
from tests.support.tiny_store import instance, record, write_store

COCO = load_skeleton("coco17")


def smooth_image(height=120, width=160):
    random = np.random.default_rng(0).integers(0, 256, (height // 8, width // 8, 3), np.uint8)
    return cv2.resize(random, (width, height), interpolation=cv2.INTER_CUBIC)


def cropped(image, keypoints, state, region, codec, out):
    """Points and states of one crop, whose pixels ``out`` receives."""
    batch = Region(region.center[None], region.scale[None], np.array([region.rotation]), np.array([region.flipped]))
    none, width = np.zeros(1, np.int64), np.array([image.shape[1]])
    plan = plan_crops(none, none, batch, width, keypoints[None], state[None], COCO, codec, out.shape[:2])
    crop_images(image, plan.matrix, [out])
    return plan.keypoints_crop[0], plan.state[0]


def encoded(image, ending=".png"):
    return cv2.imencode(ending, image[..., ::-1])[1].tobytes()


def test_images_decode_to_rgb():
    image = smooth_image()
    np.testing.assert_array_equal(decode_image(encoded(image), 10**6, "x"), image)


def test_images_decode_into_memory_that_is_given():
    data, memory = encoded(smooth_image(), ".jpg"), np.zeros(120 * 160 * 3 + 100, np.uint8)
    image = decode_image(data, 10**6, "x", (120, 160), lambda num_bytes: memory[:num_bytes])
    assert np.shares_memory(image, memory)
    np.testing.assert_array_equal(image, decode_image(data, 10**6, "x"))


def test_grey_images_decode_to_three_channels():
    image = decode_image(cv2.imencode(".png", smooth_image()[..., 0])[1].tobytes(), 10**6, "x")
    assert image.shape == (120, 160, 3)


def test_exif_orientation_is_ignored():
    jpeg = encoded(smooth_image(), ".jpg")
    exif = (
        b"Exif\x00\x00II*\x00\x08\x00\x00\x00\x01\x00\x12\x01\x03\x00\x01\x00\x00\x00\x06\x00\x00\x00\x00\x00\x00\x00"
    )
    turned = jpeg[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + jpeg[2:]
    assert cv2.imdecode(np.frombuffer(turned, np.uint8), cv2.IMREAD_COLOR).shape == (160, 120, 3)
    assert decode_image(turned, 10**6, "x").shape == (120, 160, 3)


def test_too_large_an_image_is_refused_by_its_header():
    data = encoded(smooth_image())[:100]  # nothing behind the header: it cannot have been decoded
    with pytest.raises(IntegrityError, match=r"shard 3: 160x120 pixels are more than the 19199 allowed"):
        decode_image(data, 19199, "shard 3")


@pytest.mark.parametrize("data", [b"", b"not an image", encoded(smooth_image())[:60]])
def test_broken_images_are_refused(data):
    with pytest.raises(IntegrityError, match="shard 3"):
        decode_image(data, 10**6, "shard 3")


@pytest.mark.parametrize(
    "settings",
    [
        [],
        [cv2.IMWRITE_JPEG_PROGRESSIVE, 1],
        [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_422],
        [cv2.IMWRITE_JPEG_QUALITY, 30],
    ],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_jpegs_have_the_pixels_opencv_gives_them(settings, channels):
    image = smooth_image()[:117, :, :channels]
    data = cv2.imencode(".jpg", image, settings)[1].tobytes()
    expected = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    np.testing.assert_array_equal(decode_image(data, 10**6, "here"), expected)


def test_a_jpeg_with_stray_bytes_is_decoded_as_opencv_does():
    data = cv2.imencode(".jpg", smooth_image())[1].tobytes()
    table = data.index(b"\xff\xc4")
    odd = data[:table] + b"\x00\x00\x00" + data[table:]
    with pytest.raises(ValueError, match="extraneous bytes"):
        simplejpeg.decode_jpeg(odd)
    np.testing.assert_array_equal(decode_image(odd, 10**6, "here"), decode_image(data, 10**6, "here"))


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Images of 160x120; the last body has no centre and scale."""
    at = {"center": (70.0, 80.0), "scale": (200.0, 200.0)}
    bodies = [instance("1", 17, (100, 20, 80, 60), **at), instance("77", 17, (0, 0, 9, 9))]
    records = [record("people", 0, []), record("people", 1, bodies[:1]), record("people", 2, bodies[1:])]
    return write_store(tmp_path_factory.mktemp("store"), "people", [], records=records)


def test_a_box_is_clipped_only_where_the_conventions_say_so(store):
    rows = np.array([1, 0])
    clipped = instance_regions(store, rows, 0.75, Conventions(clip_boxes=True))
    raw = instance_regions(store, rows, 0.75, Conventions(clip_boxes=False))
    np.testing.assert_allclose(clipped.center, [[4, 4], [100 + 59 / 2, 20 + 59 / 2]])
    np.testing.assert_allclose(clipped.scale, [[8 * 1.25, 8 / 0.75 * 1.25], [59 * 1.25, 59 / 0.75 * 1.25]])
    np.testing.assert_allclose(raw.center, [[4.5, 4.5], [140, 50]])
    np.testing.assert_allclose(raw.scale, [[9 * 1.25, 9 / 0.75 * 1.25], [80 * 1.25, 80 / 0.75 * 1.25]])


def test_centre_and_scale_are_padded_but_keep_their_shape(store):
    rows = np.array([0])
    region = instance_regions(store, rows, 0.75, Conventions(box_source="center_scale"))
    np.testing.assert_array_equal(region.center, [[70, 80]])
    np.testing.assert_array_equal(region.scale, [[250, 250]])
    # Crops of the other convention are not stretched: cut by the width alone, they would be read back by both sides.
    isotropic = instance_regions(store, rows, 0.75, Conventions(box_source="center_scale", codec="msra"))
    np.testing.assert_allclose(isotropic.scale, [[250, 250 / 0.75]])


def test_a_missing_centre_is_named(store):
    with pytest.raises(DatasetError, match="instance 77 has no centre and scale"):
        instance_regions(store, np.array([0, 1]), 0.75, Conventions(box_source="center_scale"))


def test_a_box_without_extent_is_still_a_region():
    region = box_region(np.array([10.0, 20.0, 0.0, -3.0]), 0.75, 1.25)
    np.testing.assert_allclose(region.scale, [1.25, 1.25 / 0.75])
    several = box_region(np.array([[10.0, 20.0, 0.0, -3.0], [1.0, 2.0, 30.0, 40.0]]), 0.75, 1.25)
    np.testing.assert_allclose(several.scale, [[1.25, 1.25 / 0.75], [37.5, 50]])


@pytest.mark.parametrize("codec", ["udp", "msra"])
@pytest.mark.parametrize("rotation", [0.0, 35.0])
def test_a_mirrored_crop_is_the_crop_of_the_mirrored_image(codec, rotation):
    image = smooth_image()
    mirrored = np.ascontiguousarray(image[:, ::-1])
    keypoints = np.random.default_rng(1).uniform(0, 120, (17, 2)).astype(np.float32)
    state = np.full(17, KeypointState.VISIBLE, np.uint8)
    state[3] = KeypointState.UNLABELLED
    ours, expected = np.empty((2, 256, 192, 3), np.uint8)
    region = Region(np.array([60.0, 50.0]), np.array([75.0, 100.0]), rotation, flipped=True)
    points, states = cropped(image, keypoints, state, region, codec, ours)
    straight = Region(np.array([159 - 60.0, 50.0]), region.scale, rotation)
    other = np.stack([159 - keypoints[:, 0], keypoints[:, 1]], axis=1)
    reference, _ = cropped(mirrored, other, state, straight, codec, expected)
    # OpenCV interpolates at 1/32 pixel; the two may round to different steps.
    assert np.abs(ours.astype(int) - expected).mean() < 1.0
    np.testing.assert_allclose(points, reference[COCO.flip_indices], atol=1e-3)
    np.testing.assert_array_equal(states, state[COCO.flip_indices])


def test_points_follow_the_pixels():
    image = np.zeros((120, 160, 3), np.uint8)
    cv2.circle(image, (80, 60), 2, (255, 255, 255), -1)
    keypoints = np.tile(np.float32([80, 60]), (17, 1))
    out = np.empty((256, 192, 3), np.uint8)
    for rotation, flipped in ((0.0, False), (25.0, True), (-60.0, False)):
        region = Region(np.array([75.0, 50.0]), np.array([90.0, 120.0]), rotation, flipped)
        points, _ = cropped(image, keypoints, np.full(17, 3, np.uint8), region, "udp", out)
        rows, columns = np.nonzero(out[..., 0] > 128)
        np.testing.assert_allclose([columns.mean(), rows.mean()], points[0], atol=0.3)


def test_labels_survive_outside_the_crop_and_unlabelled_points_are_zero():
    keypoints = np.zeros((17, 2), np.float32)
    keypoints[:2] = [[150, 110], [33, 44]]
    state = np.full(17, KeypointState.UNLABELLED, np.uint8)
    state[0] = KeypointState.OCCLUDED
    region = Region(np.array([20.0, 20.0]), np.array([30.0, 40.0]))
    points, states = cropped(smooth_image(), keypoints, state, region, "udp", np.empty((256, 192, 3), np.uint8))
    assert states[0] == KeypointState.OCCLUDED
    assert points[0, 0] > 192
    assert not points[1:].any()


def test_outside_the_image_is_black():
    out = np.full((256, 192, 3), 9, np.uint8)
    region = Region(np.array([-500.0, -500.0]), np.array([75.0, 100.0]))
    cropped(smooth_image(), np.zeros((17, 2), np.float32), np.ones(17, np.uint8), region, "udp", out)
    assert not out.any()


def test_plans_join_in_any_order():
    random = np.random.default_rng(3)

    def plan(rows):
        count = len(rows)
        center, scale = random.uniform(9, 99, (2, count, 2))
        region = Region(center, scale, random.normal(size=count), random.random(count) < 0.5)
        points = random.uniform(0, 99, (count, 17, 2)).astype(np.float32)
        state = random.integers(0, 4, (count, 17)).astype(np.uint8)
        width = np.full(count, 160)
        return plan_crops(np.array(rows), np.zeros(count, int), region, width, points, state, COCO, "udp", (64, 48))

    plans = [plan([5, 7]), plan([]), plan([6])]
    group = group_crops("people", 4, CropPlan.joined(plans, np.array([0, 2, 1])), slice(1, 3), 9)
    assert (group.start, group.stop, group.rows.tolist()) == (4, 6, [6, 7])
    of_6, of_7 = group_crops("people", 0, plans[2], seed=9), group_crops("people", 0, plans[0], slice(1, 2), 9)
    for place, alone in enumerate((of_6, of_7)):
        for name in ("keypoints_crop", "state", "center", "scale", "rotation", "flipped", "seeds"):
            np.testing.assert_array_equal(getattr(group, name)[place], getattr(alone, name)[0])
