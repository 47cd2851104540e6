"""Depth as input: nothing changes until it is learned, and nothing is lost where it is missing."""

import pytest
import torch

from posecore.errors import ConfigError
from posecore.methods.batch import DeviceBatch, DeviceGroup
from posecore.methods.supervised import SupervisedHeads
from posecore.models.architecture import ModelConfig
from posecore.models.backbones.vit import DEPTH_WEIGHT, VitConfig
from posecore.models.cost import model_cost
from posecore.models.depth import depth_channels
from posecore.models.heads.classic import ClassicHeadConfig
from posecore.models.pose_model import PoseModel, build_model
from posecore.models.warm_start import warm_start
from posecore.skeletons.skeleton import Keypoint, Skeleton
from posecore.training.optimizer import OptimizerConfig, parameter_groups

SIZE = (64, 48)
BODY = Skeleton(name="body", keypoints=tuple(Keypoint(name=f"p{i}", union=f"p{i}") for i in range(3)))
VIT = {"embed_dim": 32, "depth": 2, "num_heads": 2}


def model_of(depth_input: bool, seed: int = 0, **fields: object) -> PoseModel:
    torch.manual_seed(seed)
    config = {"backbone": VitConfig(**VIT, depth_input=depth_input), "head": ClassicHeadConfig(channels=8)} | fields
    return build_model(ModelConfig(**config, input_size=SIZE), {"infants": BODY})


def crops() -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(1)
    depth = torch.rand(3, *SIZE, generator=random) + 0.5
    depth[0, :20] = 0
    depth[2] = 0
    return torch.randn(3, 3, *SIZE, generator=random), depth


def batch_of(images: torch.Tensor, depth: torch.Tensor | None) -> DeviceBatch:
    points = torch.rand(len(images), 3, 2, generator=torch.Generator().manual_seed(2)) * 40
    seeds = torch.zeros(len(images), dtype=torch.int64)
    weights = torch.ones(len(images), 3)
    group = DeviceGroup(
        dataset="infants",
        start=0,
        stop=len(images),
        keypoints_crop=points,
        weights=weights,
        scale=torch.ones(len(images), 2),
        seeds=seeds,
    )
    return DeviceBatch(images=images, groups=(group,), depth=depth)


def test_channels_are_relative_to_the_crop() -> None:
    depth = torch.zeros(4, 2, 3)
    depth[0] = torch.tensor([[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]])  # mean 2, standard deviation √(2/3)
    depth[1] = depth[0] * 10 - 5 * (depth[0] > 0)
    depth[2] = 1.5
    relative, known = depth_channels(depth).unbind(1)
    spread = (2 / 3) ** 0.5
    expected = torch.tensor([[-1 / spread, 0, 1 / spread], [0, 0, 0]])
    torch.testing.assert_close(relative[0], expected)
    torch.testing.assert_close(relative[1], expected)  # neither height of the camera nor size of the body matters
    assert not relative[2:].any()
    torch.testing.assert_close(known[0], torch.tensor([[1.0, 1, 1], [0, 0, 0]]))
    assert known[2].all()
    assert not known[3].any()


def test_an_outlier_is_cut_and_a_flat_crop_is_not_blown_up() -> None:
    depth = torch.ones(2, 10, 10)
    depth[0, 0, 0] = 100.0
    depth[1, 0, 0] = 1.001  # a millimetre
    relative = depth_channels(depth)[:, 0]
    assert relative[0].max() == 3.0
    assert relative[1].abs().max() < 0.11


@pytest.mark.parametrize("training", [False, True])
def test_at_first_the_model_computes_bit_for_bit_what_it_does_without_depth(training: bool) -> None:
    plain, deep = model_of(False).train(training), model_of(True).train(training)
    names = {name for name, _ in deep.named_parameters()} - {name for name, _ in plain.named_parameters()}
    assert names == {f"backbone.{DEPTH_WEIGHT}"}
    for name, parameter in plain.named_parameters():
        assert torch.equal(parameter, deep.get_parameter(name))  # the same seed, the same weights
    images, depth = crops()
    rows = [("infants", 0, 3)]
    expected = plain.features(images, rows)
    for given in (None, depth, torch.zeros_like(depth)):
        assert torch.equal(deep.features(images, rows, given), expected)


def test_once_learned_only_crops_with_depth_differ() -> None:
    deep = model_of(True).eval()
    with torch.no_grad():
        deep.get_parameter(f"backbone.{DEPTH_WEIGHT}").normal_(std=0.1, generator=torch.Generator().manual_seed(0))
    images, depth = crops()
    rows = [("infants", 0, 3)]
    without, with_depth = deep.features(images, rows), deep.features(images, rows, depth)
    assert torch.equal(without[2], with_depth[2])
    assert (without[:2] - with_depth[:2]).abs().amax(dim=(1, 2, 3)).min() > 0.1
    one, other = deep.predict(images, "infants"), deep.predict(images, "infants", depth=depth)
    assert [torch.equal(a, b) for a, b in zip(one, other, strict=True)] == [False, False, True]


def test_depth_is_learned_from_the_first_step_and_at_full_rate() -> None:
    method = SupervisedHeads(model_of(True))
    images, depth = crops()
    sum(method(batch_of(images, depth)).values()).backward()  # type: ignore[union-attr]
    weight = method.model.get_parameter(f"backbone.{DEPTH_WEIGHT}")
    assert weight.grad is not None
    assert weight.grad.abs().max() > 0
    method.zero_grad()
    sum(method(batch_of(images, None)).values()).backward()  # type: ignore[union-attr]
    assert weight.grad is not None, "under ZeRO-3 a layer that is not called stops the run"
    assert not weight.grad.any()
    (group,) = (
        group
        for group in parameter_groups(method, OptimizerConfig(lr=1.0, layer_decay=0.5))
        if any(parameter is weight for parameter in group["params"])
    )
    assert group["lr"] == 1.0


def test_a_model_of_pictures_becomes_one_with_depth_and_back() -> None:
    parent, deep = model_of(False, 1), model_of(True, 2).eval()
    result = warm_start(deep, parent)
    images, depth = crops()
    assert torch.equal(deep.predict(images, "infants", depth=depth), parent.eval().predict(images, "infants"))
    assert result.as_dict()["depth input"] == "0 of 16,384 numbers"
    with torch.no_grad():
        deep.get_parameter(f"backbone.{DEPTH_WEIGHT}").fill_(0.01)
    again, back = model_of(True, 3).eval(), model_of(False, 4).eval()
    warm_start(again, deep)
    assert torch.equal(again.predict(images, "infants", depth=depth), deep.predict(images, "infants", depth=depth))
    warm_start(back, deep)
    assert torch.equal(back.predict(images, "infants"), deep.predict(images, "infants"))


def test_it_is_counted_like_every_other_weight() -> None:
    """The planner builds models without memory; a weight that has some would not go with the others."""
    plain, deep = (
        model_cost(ModelConfig(backbone=VitConfig(**VIT, depth_input=depth), input_size=SIZE), {"infants": 3})
        for depth in (False, True)
    )
    assert deep.parameters - plain.parameters == 2 * 16 * 16 * 32
    with torch.device("meta"):
        backbone = VitConfig(**VIT, depth_input=True).build(SIZE)
    assert {parameter.device.type for parameter in backbone.parameters()} == {"meta"}
    assert backbone.train()(torch.empty(1, 3, *SIZE, device="meta")).shape == (1, 32, 4, 3)


def test_depth_for_a_model_of_pictures_is_refused() -> None:
    images, depth = crops()
    with pytest.raises(ValueError, match="the backbone takes no depth"):
        model_of(False).features(images, [("infants", 0, 3)], depth)
    assert not model_of(False).takes_depth
    with pytest.raises(ConfigError, match=r"model.backbone.depth_input: distillation trains on pictures alone"):
        model_of(True).refuse_depth("distillation")
