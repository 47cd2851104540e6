"""A model with a CSPNeXt backbone and RTMCC heads: its parts together, its presets and what it refuses."""

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from posecore.conventions import Conventions
from posecore.errors import CheckpointError
from posecore.methods.batch import DeviceBatch, DeviceGroup
from posecore.methods.supervised import SupervisedConfig, SupervisedHeads
from posecore.models.architecture import ModelCard, ModelConfig
from posecore.models.backbones.cspnext import SpatialPyramid
from posecore.models.heads.rtmcc import ScaleNorm
from posecore.models.pose_model import PoseModel, build_model
from posecore.models.saving import load_weights
from posecore.skeletons.library import load_skeleton

TINY = {
    "backbone": {"kind": "cspnext", "deepen": 0.167, "widen": 0.125},
    "head": {"kind": "rtmcc", "token_dim": 16, "attention_dim": 8},
    "input_size": (96, 64),
}
SKELETONS = {"coco": load_skeleton("coco17"), "mpii": load_skeleton("mpii16")}


def _model(**changes: object) -> PoseModel:
    torch.manual_seed(0)
    own = {"conventions_of": {"mpii": {"padding": 1.1}}}
    return build_model(ModelConfig.model_validate(TINY | own | changes), SKELETONS)


def _group(name: str, start: int, keypoints_crop: Tensor) -> DeviceGroup:
    count = len(keypoints_crop)
    return DeviceGroup(
        dataset=name,
        start=start,
        stop=start + count,
        keypoints_crop=keypoints_crop,
        weights=torch.ones(keypoints_crop.shape[:2]),
        scale=torch.ones(count, 2),
        seeds=torch.arange(count),
    )


def _batch(rows: dict[str, int]) -> DeviceBatch:
    generator = torch.Generator().manual_seed(1)
    groups, start = [], 0
    for name, count in rows.items():
        groups.append(
            _group(name, start, torch.rand(count, SKELETONS[name].num_keypoints, 2, generator=generator) * 60)
        )
        start += count
    return DeviceBatch(images=torch.randn(start, 3, 96, 64, generator=generator), groups=tuple(groups))


def test_weights_begin_with_the_published_spreads() -> None:
    """mmpose's RTMCCHead: 0.001 for the convolution, 0.01 for every linear layer."""
    head = _model(head={"kind": "rtmcc", "token_dim": 64, "attention_dim": 32}).heads["coco"]
    assert head.final_layer.weight.std().item() == pytest.approx(0.001, rel=0.05)
    assert not head.final_layer.bias.any()
    linear = [module for module in head.modules() if isinstance(module, torch.nn.Linear)]
    assert len(linear) == 5
    for module in linear:
        assert module.weight.std().item() == pytest.approx(0.01, rel=0.05)


def test_outputs_are_the_bins_of_both_axes() -> None:
    outputs = _model().eval()(torch.zeros(3, 3, 96, 64), [("coco", 0, 1), ("mpii", 1, 3)])
    assert outputs["coco"].shape == (1, 17, 128 + 192)
    assert outputs["mpii"].shape == (2, 16, 128 + 192)


def test_any_datasets_crops_are_those_of_simcc() -> None:
    conventions = _model().conventions["mpii"]
    assert conventions == Conventions(codec="msra", flip_shift=False, padding=1.1)


def test_conventions_of_heatmaps_are_refused_in_the_run_file() -> None:
    for stated in ({"conventions": {"codec": "udp"}}, {"conventions_of": {"mpii": {"flip_shift": True}}}):
        with pytest.raises(ValidationError, match="but a rtmcc head reads msra crops and shifts nothing"):
            ModelConfig.model_validate(TINY | stated)


def test_a_card_that_mixes_crops_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"conventions\.coco\.codec is udp, but a rtmcc head reads msra crops"):
        ModelCard(
            architecture=ModelConfig.model_validate(TINY),
            skeletons={"coco": SKELETONS["coco"]},
            conventions={"coco": Conventions(codec="udp")},
        )


def test_an_input_that_is_no_multiple_of_the_stride_is_refused() -> None:
    with pytest.raises(ValidationError, match="must be multiples of 32"):
        ModelConfig.model_validate(TINY | {"input_size": (96, 80)})


def test_a_head_does_not_serve_another_input_size() -> None:
    small, large = _model(), _model(input_size=(128, 96))
    with pytest.raises(CheckpointError, match=r"mlp\.1\.weight|cls_"):
        load_weights(large, small.state_dict(), origin="the small one")


def test_an_absent_dataset_leaves_no_trace_and_no_nan() -> None:
    method = SupervisedHeads(_model()).train()
    losses = method(_batch({"coco": 4, "mpii": 0}))
    sum(losses.values()).backward()
    assert losses["loss/mpii"].item() == 0
    for name, parameter in method.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        if "heads.mpii" in name:
            assert not parameter.grad.any(), name
        else:
            assert parameter.grad.any(), name


@pytest.mark.parametrize(("reduction", "factor"), [("mean", 1.0), ("sum", 2.0)])
def test_only_the_published_sum_grows_with_the_batch(reduction: str, factor: float) -> None:
    method = SupervisedHeads(_model().eval(), SupervisedConfig(simcc_reduction=reduction)).eval()
    once = _batch({"coco": 3})
    points = once.groups[0].keypoints_crop.repeat(2, 1, 1)
    twice = DeviceBatch(images=once.images.repeat(2, 1, 1, 1), groups=(_group("coco", 0, points),))
    loss_once, loss_twice = method(once)["loss/coco"].item(), method(twice)["loss/coco"].item()
    assert loss_twice == pytest.approx(factor * loss_once, rel=1e-4)


def test_batchnorm_sees_all_datasets_of_a_micro_batch() -> None:
    together, alone = (SupervisedHeads(_model()).train() for _ in range(2))
    batch = _batch({"coco": 2, "mpii": 2})
    together(batch)
    alone(DeviceBatch(images=batch.images[:2], groups=(batch.groups[0], _group("mpii", 2, torch.zeros(0, 16, 2)))))
    means = [method.model.backbone.stem[0].bn.running_mean for method in (together, alone)]
    assert not torch.equal(*means)


@torch.no_grad()
def test_the_pyramid_pools_over_5_9_and_13_in_this_order() -> None:
    """Grids of the reference arrays are smaller than any of the three, whose maxima are all the same there."""
    torch.manual_seed(0)
    pyramid = SpatialPyramid(4).eval()
    joined: list[Tensor] = []
    pyramid.conv2.register_forward_pre_hook(lambda _, inputs: joined.append(inputs[0]))
    pyramid(torch.randn(1, 4, 16, 15))
    kept, *pooled = joined[0].chunk(4, dim=1)
    for side, found in zip((5, 9, 13), pooled, strict=True):
        for row, column in ((0, 0), (7, 7), (15, 14), (3, 9)):
            rows, columns = (slice(max(0, at - side // 2), at + side // 2 + 1) for at in (row, column))
            torch.testing.assert_close(found[..., row, column], kept[..., rows, columns].amax((2, 3)), rtol=0, atol=0)


def test_what_hardly_differs_from_zero_is_not_blown_up() -> None:
    """The floor of the norm is that of the published code, 1e-5; no reference array comes near it."""
    norm = ScaleNorm(4)
    torch.testing.assert_close(norm(torch.full((4,), 1e-4)), torch.ones(4))
    torch.testing.assert_close(norm(torch.full((4,), 1e-6)), torch.full((4,), 0.1))
