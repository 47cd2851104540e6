"""Whole pictures as maps: targets against one body at a time, places of tags, packing, and sizes."""

import numpy as np
import pytest
import torch

from posecore.codecs.associative import AssociativeCodec
from posecore.codecs.heatmap import HeatmapCodec

CODEC = AssociativeCodec(input_size=(64, 96), heatmap_size=(16, 24), heatmap_sigma=1.5)


def _bodies(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Two pictures of three bodies of four points; of the second, one body, one point of it labelled."""
    random = np.random.default_rng(seed)
    keypoints = torch.from_numpy(random.uniform(0, (95, 63), (2, 3, 4, 2)).astype(np.float32))
    weights = torch.from_numpy((random.random((2, 3, 4)) < 0.8).astype(np.float32))
    weights[1] = 0
    weights[1, 0, 2] = 1
    return keypoints, weights


def test_every_pixel_has_the_value_of_the_nearest_body():
    keypoints, weights = _bodies()
    for targets, size in zip(CODEC.draw(keypoints, weights), ((16, 24), (32, 48)), strict=True):
        single = HeatmapCodec(input_size=(64, 96), heatmap_size=size, heatmap_sigma=1.5)
        alone = torch.stack([single.encode(keypoints[:, m], weights[:, m])[0] for m in range(3)])
        torch.testing.assert_close(targets, alone.amax(0), rtol=0, atol=1e-6)
        assert targets.shape == (2, 4, *size)
    assert not targets[1, [0, 1, 3]].any()


def test_pictures_without_bodies_have_empty_maps():
    keypoints = torch.zeros(2, 3, 4, 2)
    for targets in CODEC.draw(keypoints, torch.zeros(2, 3, 4)):
        assert not targets.any()
    assert CODEC.draw(keypoints[:0], torch.zeros(0, 3, 4))[1].shape == (0, 4, 32, 48)


@pytest.mark.parametrize(
    ("point", "place"),
    [((0.0, 0.0), 0), ((95.0, 63.0), 15 * 24 + 23), ((95 / 23 * 7.4, 63 / 15 * 3.6), 4 * 24 + 7), ((-3.0, 5.0), None)],
)
def test_a_tag_is_read_at_the_nearest_pixel_of_its_map(point, place):
    places, counts = CODEC.places(torch.tensor([[[point]]]), torch.ones(1, 1, 1))
    assert counts.item() == (place is not None)
    assert places.item() == (place or 0)


def test_a_point_without_label_has_no_place():
    assert not CODEC.places(torch.ones(1, 1, 1, 2), torch.zeros(1, 1, 1))[1].any()


def test_outputs_are_coarse_heatmaps_tags_and_fine_heatmaps_in_a_line():
    maps = [torch.rand(2, 4, 16, 24), torch.rand(2, 4, 16, 24), torch.rand(2, 4, 32, 48)]
    outputs = torch.cat([each.flatten(2) for each in maps], dim=2)
    assert outputs.shape[2] == CODEC.outputs_per_point
    for ours, expected in zip(CODEC.split(outputs), maps, strict=True):
        assert torch.equal(ours, expected)


def test_both_resolutions_show_a_point_at_the_same_place():
    """A body at rest on both grids: the mean of both heatmaps peaks where the finer one does, mirrored or not."""
    at = torch.tensor([[[[95 / 47 * 20, 63 / 31 * 10]]]])
    coarse, fine = CODEC.draw(at, torch.ones(1, 1, 1))
    merged = CODEC.merged(coarse, fine)[0, 0]
    assert divmod(int(merged.argmax()), 48) == (10, 20)
    turned = CODEC.merged(*CODEC.draw(torch.tensor([95.0, 0.0]) + at * torch.tensor([-1.0, 1.0]), torch.ones(1, 1, 1)))
    torch.testing.assert_close(turned[0, 0].flip(-1), merged, atol=1e-5, rtol=0)
