"""Crops without labels: which units there are, where windows lie, what pixels they hold, and that nothing repeats."""

from itertools import islice

import cv2
import numpy as np
import pytest

from posecore.config import parse_config
from posecore.errors import ConfigError
from posecore.loading.augment import Region
from posecore.loading.loader import Loader, LoadingConfig
from posecore.loading.samples import UsableInstances
from posecore.loading.unlabelled_crops import UnlabelledConfig, draw_window
from tests.support.tiny_store import instance, record, write_store

SIZE = (64, 48)
WHOLE = {"least_area": 1.0, "aspect_distortion": 1.0, "flip_probability": 0.0}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Images with a labelled body; an unlabelled one and a crowd; none; two bodies."""
    nothing = np.zeros((17, 3), np.float32)
    box = (20.0, 10.0, 60.0, 80.0)
    contents = [
        [instance("0", 17, box)],
        [instance("1", 17, box, keypoints=nothing), instance("2", 17, box, is_crowd=True)],
        [],
        [instance("3", 17, box), instance("4", 17, (90.0, 30.0, 70.0, 90.0), keypoints=nothing)],
    ]
    records = [record("people", row, instances) for row, instances in enumerate(contents)]
    return write_store(tmp_path_factory.mktemp("store"), "people", [], records=records)


def batches(store, count, world_size=1, rank=0, start_step=0, **unlabelled):
    config = parse_config(
        {"mixture": {"entries": [{"name": "people"}]}, "unlabelled": unlabelled}, LoadingConfig, "test"
    )
    loader = Loader(
        {"people": store},
        config,
        input_size=SIZE,
        seed=3,
        global_batch=4,
        rank=rank,
        world_size=world_size,
        start_step=start_step,
    )
    iterator = iter(loader)
    result = list(islice(iterator, count))
    iterator.close()
    return result


def test_bodies_need_no_label_but_are_no_crowd(store):
    assert UsableInstances.of(store).rows.tolist() == [0, 3]
    assert UsableInstances.bodies(store).rows.tolist() == [0, 1, 3, 4]
    rows = [row for batch in batches(store, 1) for row in batch.groups[0].rows.tolist()]
    assert sorted(rows) == [0, 1, 3, 4]


def test_images_without_a_body_are_taken_whole(store):
    (batch,) = batches(store, 1, unit="images", **WHOLE)
    group = batch.groups[0]
    assert sorted(group.rows.tolist()) == [0, 1, 2, 3]
    assert group.keypoints_crop.shape == (4, 0, 2)
    place = group.rows.tolist().index(2)
    image = cv2.imdecode(np.frombuffer(store.read_image_bytes(2), np.uint8), cv2.IMREAD_COLOR_RGB)
    # 160x120 at 3:4: the widest window of that shape is 90x120, somewhere along the width.
    assert group.scale[place].tolist() == [90.0, 120.0]
    left = int(group.center[place, 0] - 45)
    expected = cv2.resize(image[:, left : left + 90], (48, 64), interpolation=cv2.INTER_AREA)
    np.testing.assert_array_equal(batch.images[place], expected)


def test_a_mirrored_crop_is_the_mirror_of_its_window(store):
    plain = batches(store, 3, unit="images", flip_probability=0.0)
    mirrored = batches(store, 3, unit="images", flip_probability=1.0)
    for one, other in zip(plain, mirrored, strict=True):
        assert other.groups[0].flipped.all()
        np.testing.assert_array_equal(one.images, other.images[:, :, ::-1])


@pytest.mark.parametrize("unit", ["bodies", "images"])
def test_pixels_and_seeds_do_not_depend_on_rank_or_start(store, unit):
    alone = batches(store, 6, unit=unit)
    halves = [batches(store, 4, world_size=2, rank=rank, start_step=2, unit=unit) for rank in (0, 1)]

    def by_row(parts):
        return {
            int(row): (int(seed), part.images[place].tobytes())
            for part in parts
            for place, (row, seed) in enumerate(zip(part.groups[0].rows, part.groups[0].seeds, strict=True))
        }

    for step in range(4):
        assert by_row([alone[step + 2]]) == by_row([halves[0][step], halves[1][step]])
    seeds = [int(seed) for batch in alone for seed in batch.groups[0].seeds]
    assert len(set(seeds)) == len(seeds), "another pass, another seed"


def test_windows_keep_to_the_image_their_shape_and_their_size():
    config = UnlabelledConfig(least_area=0.3, aspect_distortion=1.25)
    random = np.random.default_rng(0)
    shares = []
    for _ in range(300):
        area = Region(random.uniform(-50, 450, 2), random.uniform(60, 600, 2))
        left, top, right, bottom = draw_window(area, (300, 400), 0.75, config, random)
        assert 0 <= left < right <= 400
        assert 0 <= top < bottom <= 300
        if min(right - left, bottom - top) > 30:
            assert 0.75 / 1.25 * 0.95 < (right - left) / (bottom - top) < 0.75 * 1.25 * 1.05
        square = Region(np.array([200.0, 150.0]), np.array([150.0, 200.0]))
        left, top, right, bottom = draw_window(square, (300, 400), 0.75, config, random)
        assert left >= 125
        assert right <= 275
        assert top >= 50
        assert bottom <= 250
        shares.append((right - left) * (bottom - top) / 150 / 200)
    assert 0.28 < min(shares) < 0.36
    assert max(shares) > 0.8


def test_an_entry_without_anything_to_crop_is_refused(tmp_path):
    store = write_store(tmp_path, "people", [0, 0])
    assert len(batches(store, 2, unit="images")) == 2
    with pytest.raises(ConfigError, match="mixture entry people"):
        batches(store, 1, unit="bodies")


class Told:
    """Stands for a generator of four draws."""

    def __init__(self, *shares):
        self.shares = shares

    def random(self, count):
        assert count == len(self.shares)
        return np.array(self.shares)


STANDING = Region(np.array([200.0, 150.0]), np.array([150.0, 200.0]))  # x 125 to 275, y 50 to 250


@pytest.mark.parametrize(
    ("draws", "window"),
    [
        # a quarter of 150 x 200 in the crop's shape is 75 x 100
        ((0, 0.5, 0, 0), (125, 50, 200, 150)),
        ((0, 0.5, 1, 1), (200, 150, 275, 250)),
        ((0, 0.5, 0.4, 0.3), (155, 80, 230, 180)),
        # at 4 / 3 of 3 / 4 the sides are equal, √7500; at 3 / 4 of it one is √(7500 · 9 / 16)
        ((0, 1, 0, 0), (125, 50, 212, 137)),
        ((0, 0, 0, 0), (125, 50, 190, 165)),
        # half way to all of it
        ((0.5, 0.5, 0, 0), (125, 50, 125 + 119, 50 + 158)),
        ((1, 0.5, 0.7, 0.2), (125, 50, 275, 250)),
        # the whole area as a square would be wider than it is: 150 x 150
        ((1, 1, 0.5, 0.5), (125, 75, 275, 225)),
    ],
)
def test_a_window_is_as_large_as_wide_and_as_far_as_drawn(draws, window):
    config = UnlabelledConfig(least_area=0.25, aspect_distortion=4 / 3)
    assert draw_window(STANDING, (300, 400), 0.75, config, Told(*draws)) == window


@pytest.mark.parametrize(
    ("center", "scale", "window"),
    [
        ((0, 0), (100, 100), (0, 0, 50, 50)),
        ((400, 300), (100, 100), (350, 250, 400, 300)),
        ((1000, 150), (10, 10), (399, 145, 400, 146)),  # beyond the image: its last column
        ((-50, 900), (10, 10), (0, 299, 1, 300)),
    ],
)
def test_what_lies_outside_the_image_belongs_to_no_area(center, scale, window):
    config = UnlabelledConfig(least_area=1.0, aspect_distortion=1.0)
    area = Region(np.array(center, float), np.array(scale, float))
    left, top, right, bottom = draw_window(area, (300, 400), 1.0, config, Told(0, 0.5, 0, 0))
    assert (left, top, right, bottom) == window


def test_a_window_has_at_least_a_pixel_each_way():
    config = UnlabelledConfig(least_area=0.01, aspect_distortion=1.0)
    area = Region(np.array([12.0, 12.0]), np.array([4.0, 4.0]))
    assert draw_window(area, (300, 400), 1.0, config, Told(0, 0.5, 0, 0)) == (10, 10, 11, 11)
    assert draw_window(area, (300, 400), 1.0, config, Told(0, 0.5, 1, 1)) == (14, 14, 15, 15)
    corner = Region(np.array([398.0, 298.0]), np.array([4.0, 4.0]))
    assert draw_window(corner, (300, 400), 1.0, config, Told(0, 0.5, 1, 1)) == (399, 299, 400, 300)


@pytest.mark.parametrize("unit", ["bodies", "images"])
def test_windows_that_shrink_are_averaged_and_others_interpolated(store, unit):
    ways = {True: cv2.INTER_AREA, False: cv2.INTER_LINEAR}
    seen = set()
    for batch in batches(store, 30, unit=unit, least_area=0.1):
        group = batch.groups[0]
        for place, row in enumerate(group.rows.tolist()):
            image_row = row if unit == "images" else {0: 0, 1: 1, 3: 3, 4: 3}[row]
            image = cv2.imdecode(np.frombuffer(store.read_image_bytes(image_row), np.uint8), cv2.IMREAD_COLOR_RGB)
            left, top = (group.center[place] - group.scale[place] / 2).astype(int)
            right, bottom = (group.center[place] + group.scale[place] / 2).astype(int)
            shrinks = bool(right - left >= SIZE[1] and bottom - top >= SIZE[0])
            crop = cv2.resize(image[top:bottom, left:right], SIZE[::-1], interpolation=ways[shrinks])
            np.testing.assert_array_equal(batch.images[place], crop[:, ::-1] if group.flipped[place] else crop)
            seen.add((shrinks, bool(group.flipped[place])))
            assert group.rotation[place] == 0
    assert len(seen) == 4
