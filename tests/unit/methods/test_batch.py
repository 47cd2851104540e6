import dataclasses

import numpy as np
import pytest
import torch

from posecore.methods.batch import denormalise, normalise, point_weights, split_batch, to_device
from posecore.schema import CropBatch, KeypointState
from tests.support.tiny_training import tiny_batches, with_depth


def _batch(step: int = 1) -> CropBatch:
    return next(tiny_batches(step, rank=0, world_size=1))


def test_normalisation_is_the_published_one() -> None:
    images = torch.tensor([[[[0, 128, 255]]]], dtype=torch.uint8)
    out = normalise(images)
    assert out.shape == (1, 3, 1, 1)
    expected = [(0 - 0.485) / 0.229, (128 / 255 - 0.456) / 0.224, (1 - 0.406) / 0.225]
    assert out.flatten().tolist() == pytest.approx(expected, rel=1e-6)


def test_only_labelled_points_count() -> None:
    states = torch.tensor([[int(state) for state in KeypointState]], dtype=torch.uint8)
    counted = [state for state, weight in zip(KeypointState, point_weights(states)[0].tolist(), strict=True) if weight]
    assert counted == [KeypointState.OCCLUDED, KeypointState.VISIBLE]


def test_to_device_keeps_rows_and_datasets() -> None:
    batch = _batch()
    moved = to_device(batch, torch.device("cpu"))
    assert len(moved) == 8
    assert moved.rows == [("people", 0, 6), ("dogs", 6, 8)]
    assert moved.groups[1].keypoints_crop.shape == (2, 7, 2)
    assert moved.groups[1].weights.sum() == 14


def test_parts_hold_every_crop_once_and_share_datasets_evenly() -> None:
    batch = _batch()
    parts = split_batch(batch, 2)
    assert [len(part.images) for part in parts] == [4, 4]
    for index, part in enumerate(parts):
        assert np.array_equal(part.images, batch.images[index::2])
        assert [(g.start, g.stop) for g in part.groups] == [(0, 3), (3, 4)]
        assert (part.step, part.epoch) == (batch.step, batch.epoch)
        for group, whole in zip(part.groups, batch.groups, strict=True):
            for place, row in enumerate(group.rows):
                origin = whole.rows.tolist().index(row)
                assert np.array_equal(group.keypoints_crop[place], whole.keypoints_crop[origin])
                assert np.array_equal(part.images[group.start + place], batch.images[whole.start + origin])


def test_parts_cover_every_row_array() -> None:
    batch = _batch()
    group = split_batch(batch, 4)[0].groups[0]
    for field in dataclasses.fields(group):
        value = getattr(group, field.name)
        if isinstance(value, np.ndarray):
            assert len(value) == group.stop - group.start, field.name


def test_depth_stays_beside_its_image() -> None:
    batch = with_depth(_batch(2), rank=0)
    assert batch.depth is not None
    for index, part in enumerate(split_batch(batch, 2)):
        assert part.depth is not None
        assert np.array_equal(part.depth, batch.depth[index::2])


def test_uneven_parts_are_refused() -> None:
    with pytest.raises(ValueError, match="8 crops per rank and step cannot be accumulated in 3 equal parts"):
        split_batch(_batch(), 3)


def test_denormalising_gives_every_pixel_back() -> None:
    pixels = torch.arange(256, dtype=torch.uint8).view(1, 16, 16, 1).expand(-1, -1, -1, 3)
    assert torch.equal(denormalise(normalise(pixels)), pixels)
    assert denormalise(torch.full((1, 3, 1, 1), 9.0)).tolist() == [[[[255, 255, 255]]]]
    assert denormalise(torch.full((1, 3, 1, 1), -9.0)).tolist() == [[[[0, 0, 0]]]]
