"""Reading a store for cropping: which instances, in which order of points, decoded how often."""

import numpy as np
import pytest

from posecore.errors import IntegrityError
from posecore.loading.samples import SampleCache, UsableInstances
from posecore.schema import KeypointState
from tests.support.tiny_store import instance, record, write_store


def test_crowds_unlabelled_bodies_and_boxes_outside_are_left_out(tmp_path):
    box = (10.0, 10.0, 40.0, 60.0)
    bodies = [
        instance("good", 17, box),
        instance("crowd", 17, box, is_crowd=True),
        instance("unlabelled", 17, box, keypoints=np.zeros((17, 3), np.float32)),
        instance("one pixel wide", 17, (10.0, 10.0, 1.0, 60.0)),
        instance("also good", 17, (100.0, 10.0, 40.0, 60.0)),
    ]
    records = [record("a", 0, [instance("lone crowd", 17, box, is_crowd=True)]), record("a", 1, bodies)]
    store = write_store(tmp_path, "a", [], records=records)
    usable = UsableInstances.of(store)
    names = store.instances["instance_id"].to_pylist()
    assert [names[row] for row in usable.rows] == ["good", "also good"]
    assert usable.image_rows.tolist() == [1, 1]
    assert usable.image_bytes == 160 * 120 * 3  # the image of the lone crowd is not read


def test_states_come_in_the_datasets_own_order(tmp_path):
    body = instance("1", 133, (10.0, 10.0, 40.0, 60.0), absent=(7,))
    body.keypoints[5] = 0
    store = write_store(tmp_path, "w", [], skeleton="coco_wholebody133", records=[record("w", 0, [body])])
    (state,) = store.labels.state(np.array([0]))
    expected = np.where(np.arange(133) % 2, KeypointState.OCCLUDED, KeypointState.VISIBLE)
    expected[5], expected[7] = KeypointState.UNLABELLED, KeypointState.ABSENT
    np.testing.assert_array_equal(state, expected)


def test_the_cache_decodes_once_and_forgets_the_oldest(tmp_path):
    store = write_store(tmp_path, "a", [1] * 4)
    cache = SampleCache({"a": store}, 2 * 120 * 160 * 3, 10**6)
    for row in (0, 1, 0, 1):
        cache.get(("a", row))
    assert cache.num_decoded == 2
    cache.get(("a", 2))  # row 0 goes
    cache.get(("a", 1))
    assert cache.num_decoded == 3
    cache.get(("a", 0))
    assert cache.num_decoded == 4


def test_a_released_image_makes_room(tmp_path):
    store = write_store(tmp_path, "a", [1] * 3)
    cache = SampleCache({"a": store}, 2 * 120 * 160 * 3, 10**6)
    cache.get(("a", 0))
    cache.get(("a", 1))
    cache.release(("a", 1))
    cache.release(("a", 2))  # not there: nothing happens
    cache.get(("a", 2))
    cache.get(("a", 0))  # older, but there was room
    assert cache.num_decoded == 3
    cache.get(("a", 1))
    assert cache.num_decoded == 4


def test_one_image_larger_than_the_bound_is_kept_while_it_is_used(tmp_path):
    store = write_store(tmp_path, "a", [3])
    cache = SampleCache({"a": store}, 1, 10**6)
    for _ in range(3):
        cache.get(("a", 0))
    assert cache.num_decoded == 1


def test_a_flipped_byte_in_a_shard_is_found_when_the_image_is_read(tmp_path):
    store = write_store(tmp_path, "a", [1, 1])
    path = store.location / store.manifest.shards[0].name
    data = bytearray(path.read_bytes())
    data[store.images["image_offset"][1].as_py() + 500] ^= 1
    path.write_bytes(data)
    cache = SampleCache({"a": store}, 1 << 20, 10**6)
    cache.get(("a", 0))
    with pytest.raises(IntegrityError, match=path.name):
        cache.get(("a", 1))


def test_nothing_but_the_picture_is_read_for_a_crop(tmp_path):
    """Whoever damages record and masks is found by whoever reads them, not by training."""
    store = write_store(tmp_path, "a", [1])
    path = store.location / store.manifest.shards[0].name
    data = bytearray(path.read_bytes())
    for member in ("json", "masks"):
        data[store.images[f"{member}_offset"][0].as_py() + 30] ^= 1
    path.write_bytes(data)
    sample = SampleCache({"a": store}, 1 << 20, 10**6).get(("a", 0))
    assert sample.image.shape == (120, 160, 3)
    for read in (store.read_record, store.read_masks):
        with pytest.raises(IntegrityError, match="is not what was written"):
            read(0)


def test_the_latest_image_is_kept_however_large_and_no_other(tmp_path):
    store = write_store(tmp_path, "a", [1] * 2)
    cache = SampleCache({"a": store}, 1, 10**6)
    for row, decoded in ((0, 1), (0, 1), (1, 2), (0, 3), (0, 3)):
        cache.get(("a", row))
        assert cache.num_decoded == decoded
