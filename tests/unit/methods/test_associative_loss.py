"""What whole pictures are trained with: against loops over pixels, bodies and pairs, and values known beforehand."""

import math

import numpy as np
import pytest
import torch

from posecore.codecs.associative import AssociativeCodec
from posecore.errors import ConfigError
from posecore.methods.associative_loss import AssociativeEmbedding, counted_pixels, tag_losses
from posecore.methods.batch import DeviceGroup
from posecore.methods.supervised import SupervisedConfig, SupervisedHeads
from posecore.models.architecture import ModelConfig
from posecore.models.pose_model import build_model
from tests.support.tiny_training import tiny_skeleton

SKELETON = tiny_skeleton("people", 4)
CODEC = AssociativeCodec(input_size=(32, 48), heatmap_size=(8, 12), heatmap_sigma=1.0)
SMALL = {"backbone": "vit-nano", "head": {"kind": "associative", "channels": 8, "fine_channels": 8, "fine_blocks": 1}}


def _group(seed: int = 0, num_images: int = 3) -> DeviceGroup:
    """Pictures of up to three bodies of four points, of which some are not labelled; the last picture has none."""
    random = np.random.default_rng(seed)
    keypoints = random.uniform((-2, -2), (50, 34), (num_images, 3, 4, 2)).astype(np.float32)
    labelled = random.random((num_images, 3, 4)) < 0.7
    labelled[-1] = False
    boxes = np.concatenate([keypoints.min(2), keypoints.max(2)], axis=2)
    boxes[-1] = (0, 0, -1, -1)
    ignored = np.zeros((num_images, 16, 24), np.uint8)
    ignored[0, 4:10, 3:9] = 1
    return DeviceGroup(
        dataset="people",
        start=0,
        stop=num_images,
        keypoints_crop=torch.from_numpy(keypoints),
        weights=torch.from_numpy(labelled.astype(np.float32)),
        scale=torch.ones(num_images, 2),
        seeds=torch.zeros(num_images, dtype=torch.int64),
        ignored=torch.from_numpy(ignored),
        bbox_crop=torch.from_numpy(boxes),
        unstated=torch.from_numpy(~labelled),
    )


def slow_tag_losses(tags, keypoints, weights):
    """Both terms of one picture in loops over bodies, points and pairs."""
    means, spreads = [], []
    for body in range(len(keypoints)):
        read = []
        for point in range(keypoints.shape[1]):
            x = int(np.round(keypoints[body, point, 0] * 11 / 47))
            y = int(np.round(keypoints[body, point, 1] * 7 / 31))
            if weights[body, point] and 0 <= x < 12 and 0 <= y < 8:
                read.append(float(tags[point, y, x]))
        if read:
            means.append(sum(read) / len(read))
            spreads.append(sum((tag - means[-1]) ** 2 for tag in read) / len(read))
    if not means:
        return 0.0, 0.0
    push = 0.0
    for i, first in enumerate(means):
        for j, second in enumerate(means):
            if i != j:
                push += math.exp(-((first - second) ** 2))
    pairs = len(means) * (len(means) - 1)
    return sum(spreads) / len(means), 0.5 * push / pairs if pairs else 0.0


@pytest.mark.parametrize("seed", range(5))
def test_pull_and_push_are_the_published_ones(seed):
    group = _group(seed)
    tags = torch.randn(3, 4, 8, 12, generator=torch.Generator().manual_seed(seed))
    pull, push = tag_losses(tags, *CODEC.places(group.keypoints_crop, group.weights))
    for image in range(3):
        expected = slow_tag_losses(
            tags[image].numpy(), group.keypoints_crop[image].numpy(), group.weights[image].numpy()
        )
        assert (pull[image].item(), push[image].item()) == pytest.approx(expected, rel=1e-5)


def _tags_of(bodies: list[list[float]]) -> tuple[float, float]:
    """Both terms of a picture in whose corner pixel row every body's points have these tags."""
    points = len(bodies[0])
    tags = torch.zeros(1, points, 8, 12)
    places = torch.zeros(1, len(bodies), points, dtype=torch.int64)
    counts = torch.zeros(1, len(bodies), points, dtype=torch.bool)
    for body, values in enumerate(bodies):
        for point, value in enumerate(values):
            if not math.isnan(value):
                tags[0, point, 0, body], places[0, body, point], counts[0, body, point] = value, body, True
    pull, push = tag_losses(tags, places, counts)
    return pull.item(), push.item()


NONE = math.nan


@pytest.mark.parametrize(
    ("bodies", "pull", "push"),
    [
        ([[NONE, NONE]], 0.0, 0.0),  # nobody
        ([[3.0, 3.0]], 0.0, 0.0),  # one body whose tags agree
        ([[1.0, 3.0]], 1.0, 0.0),  # one body: a variance, and nobody to be told from
        ([[2.0, NONE]], 0.0, 0.0),  # one point
        ([[2.0, NONE], [2.0, NONE]], 0.0, 0.5),  # two bodies of one point each with the same tag
        ([[0.0, 0.0], [1.0, 1.0]], 0.0, 0.5 * math.exp(-1)),
        ([[0.0, 2.0], [9.0, 9.0], [NONE, NONE]], 0.5, 0.5 * math.exp(-64)),
    ],
)
def test_values_known_beforehand(bodies, pull, push):
    assert _tags_of(bodies) == pytest.approx((pull, push), rel=1e-6, abs=1e-12)


def test_equal_tags_have_no_gradient_of_pull_and_different_ones_push_apart():
    tags = torch.zeros(1, 1, 1, 2, requires_grad=True)
    with torch.no_grad():
        tags[0, 0, 0, 1] = 0.5
    pull, push = tag_losses(tags, torch.tensor([[[0], [1]]]), torch.ones(1, 2, 1, dtype=torch.bool))
    assert pull.item() == 0
    push.sum().backward()
    assert tags.grad[0, 0, 0, 0] > 0 > tags.grad[0, 0, 0, 1]  # a step down the gradient parts them


def test_pixels_that_count_spelled_out():
    group = _group()
    for targets in CODEC.draw(group.keypoints_crop, group.weights):
        height, width = targets.shape[2:]
        counted = counted_pixels(CODEC, group, targets)
        for image, point, row, column in np.ndindex(*targets.shape):
            hidden = False
            if targets[image, point, row, column] <= 0:
                for body in range(3):
                    left, top, right, bottom = group.bbox_crop[image, body].tolist()
                    x, y = column * 47 / (width - 1), row * 31 / (height - 1)
                    within = left - 1e-4 <= x <= right + 1e-4 and top - 1e-4 <= y <= bottom + 1e-4
                    hidden |= bool(group.unstated[image, body, point]) and within
            if (height, width) == (16, 24):
                hidden |= bool(group.ignored[image, row, column])
            elif image == 0:  # the coarser grid, between the pixels of the mask
                share = _bilinear(group.ignored[0].numpy(), row * 15 / 7, column * 23 / 11)
                if abs(share - 0.5) < 1e-3:
                    continue
                hidden |= share > 0.5
            assert bool(counted[image, point, row, column]) == (not hidden)


def _bilinear(mask, y, x):
    top, left = int(y), int(x)
    below, right = min(top + 1, mask.shape[0] - 1), min(left + 1, mask.shape[1] - 1)
    across = [mask[row, left] * (1 - (x - left)) + mask[row, right] * (x - left) for row in (top, below)]
    return across[0] * (1 - (y - top)) + across[1] * (y - top)


def test_the_whole_loss_spelled_out():
    group = _group()
    outputs = torch.randn(3, 4, int(CODEC.outputs_per_point), generator=torch.Generator().manual_seed(3))
    loss = AssociativeEmbedding(pull_weight=0.25, push_weight=0.5).scene(CODEC, outputs, group, 5, SKELETON)
    coarse, tags, fine = CODEC.split(outputs)
    expected = 0.0
    for maps, targets in zip((coarse, fine), CODEC.draw(group.keypoints_crop, group.weights), strict=True):
        counted = counted_pixels(CODEC, group, targets)
        for image in range(3):
            error = ((maps - targets)[image] ** 2)[counted[image]].sum().item()
            expected += error / (targets[0].numel() * 5)
    for image in range(3):
        pull, push = slow_tag_losses(
            tags[image].numpy(), group.keypoints_crop[image].numpy(), group.weights[image].numpy()
        )
        expected += (0.25 * pull + 0.5 * push) / 5
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_a_group_without_pictures_has_a_loss_of_zero_with_a_gradient():
    group = _group()
    empty = DeviceGroup(
        **{
            name: getattr(group, name)[:0]
            for name in ("keypoints_crop", "weights", "scale", "seeds", "ignored", "bbox_crop", "unstated")
        },
        dataset="people",
        start=0,
        stop=0,
    )
    outputs = torch.zeros(0, 4, int(CODEC.outputs_per_point), requires_grad=True)
    loss = AssociativeEmbedding().scene(CODEC, outputs, empty, 5, SKELETON)
    assert loss.item() == 0
    loss.backward()
    assert outputs.grad is not None


def test_what_a_teacher_says_is_zero_away_from_itself():
    outputs = torch.randn(2, 4, int(CODEC.outputs_per_point))
    loss = AssociativeEmbedding(pull_weight=0.5)
    assert loss.belief(CODEC, outputs, outputs, 2).item() == 0
    # Every map is off by one: a whole unit of each resolution, half a unit of the tags.
    assert loss.belief(CODEC, outputs + 1, outputs, 2).item() == pytest.approx(2.5, rel=1e-5)


def test_groups_of_points_weigh_heatmaps():
    skeletons = {"people": tiny_skeleton("people", 4)}
    model = build_model(ModelConfig.model_validate(SMALL | {"input_size": (32, 48)}), skeletons)
    outputs = torch.zeros(3, 4, int(CODEC.outputs_per_point))
    plain, halved = (
        SupervisedHeads(model, SupervisedConfig(group_weights=weights)).label_loss(outputs, _group(), 3).item()
        for weights in ({}, {"body": 0.5})
    )
    pull, push = tag_losses(torch.zeros(3, 4, 8, 12), *CODEC.places(_group().keypoints_crop, _group().weights))
    tags = 1e-3 * (pull + push).sum().item() / 3
    assert halved == pytest.approx((plain - tags) / 2 + tags, rel=1e-4)


def test_losses_of_crops_are_refused_for_whole_pictures_and_the_other_way():
    skeletons = {"people": tiny_skeleton("people", 4)}
    scenes = build_model(ModelConfig.model_validate(SMALL | {"input_size": (32, 48)}), skeletons)
    crops = build_model(ModelConfig.model_validate({"backbone": "vit-nano", "input_size": (64, 48)}), skeletons)
    with pytest.raises(ConfigError, match=r"method.loss, for people: squared_error is of heatmaps"):
        SupervisedHeads(scenes, SupervisedConfig.model_validate({"loss": "squared_error"}))
    with pytest.raises(ConfigError, match=r"associative_embedding is of whole pictures, and its head has udp outputs"):
        SupervisedHeads(crops, SupervisedConfig.model_validate({"loss": "associative_embedding"}))
    with pytest.raises(ConfigError, match="depth is of crops of single bodies"):
        SupervisedHeads(scenes, SupervisedConfig.model_validate({"depth": {}}))
