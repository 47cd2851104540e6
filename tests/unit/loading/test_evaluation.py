"""Evaluation crops: fixed order, no augmentation, ground-truth or detected boxes."""

import numpy as np
import pytest

from posecore.conventions import Conventions
from posecore.geometry import heatmap_to_image
from posecore.loading.evaluation import Detections, EvalCrops
from posecore.schema import KeypointState
from tests.support.tiny_store import write_store

SIZE = (64, 48)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return write_store(tmp_path_factory.mktemp("store"), "people", [3, 1, 2, 4])


@pytest.mark.parametrize("num_threads", [1, 3])
def test_batches_follow_the_rows(store, num_threads):
    crops = EvalCrops(store, "people", SIZE, batch_size=4, num_threads=num_threads)
    batches = list(crops)
    assert len(batches) == len(crops) == 3
    assert [len(batch.images) for batch in batches] == [4, 4, 2]
    assert np.concatenate([batch.groups[0].rows for batch in batches]).tolist() == list(range(10))


def test_chosen_rows_keep_their_order(store):
    (batch,) = EvalCrops(store, "head", SIZE, rows=np.array([7, 2, 2]))
    assert batch.groups[0].rows.tolist() == [7, 2, 2]
    assert batch.groups[0].dataset == "head"
    np.testing.assert_array_equal(batch.images[1], batch.images[2])


@pytest.mark.parametrize("codec", ["udp", "msra"])
def test_points_of_the_crop_lead_back_to_the_image(store, codec):
    (batch,) = EvalCrops(store, "people", SIZE, conventions=Conventions(codec=codec))
    (group,) = batch.groups
    record = store.read_record(0)
    back = heatmap_to_image(group.keypoints_crop[:3], group.center[:3], group.scale[:3], SIZE, codec)
    expected = np.stack([instance.keypoints[:, :2] for instance in record.instances])
    np.testing.assert_allclose(back, expected, atol=1e-3)
    assert not group.rotation.any()
    assert not group.flipped.any()


def test_detections_are_cropped_unclipped_and_know_no_points(store):
    boxes = np.array([[-20.0, -10, 80, 60], [30, 20, 45, 60]])
    detections = Detections(np.array([2, 0]), boxes)
    (batch,) = EvalCrops(store, "people", SIZE, detections=detections)
    (group,) = batch.groups
    np.testing.assert_allclose(group.center, [[20, 20], [52.5, 50]])
    np.testing.assert_allclose(group.scale, [[100, 400 / 3], [56.25, 75]], rtol=1e-6)
    assert group.rows.tolist() == [0, 1]
    assert (group.state == KeypointState.UNKNOWN).all()


def test_batches_are_counted_within_one_epoch(store):
    batches = list(EvalCrops(store, "people", SIZE, rows=np.array([7, 2, 2, 5]), batch_size=2))
    assert [(batch.step, batch.epoch, len(batch.images)) for batch in batches] == [(0, 0, 2), (1, 0, 2)]


def test_no_rows_no_batches(store):
    assert list(EvalCrops(store, "people", SIZE, rows=np.array([], np.int64))) == []
