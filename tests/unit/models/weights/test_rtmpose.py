"""The published names of RTMPose and DWPose, out and in again, and what a distillation's state holds besides."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from posecore.errors import CheckpointError
from posecore.models.architecture import ModelConfig
from posecore.models.backbones.cspnext import CspnextConfig
from posecore.models.heads.rtmcc import RtmccHeadConfig
from posecore.models.pose_model import PoseModel, build_model
from posecore.models.presets import Preset
from posecore.models.weights.layouts import LAYOUTS
from posecore.models.weights.read import read_weights
from posecore.models.weights.write import write_weights
from posecore.skeletons.library import load_skeleton
from tests.support.tiny_weights import COCO, only_presets

RTMPOSE = LAYOUTS["rtmpose"]


@pytest.fixture(autouse=True)
def _presets(monkeypatch: pytest.MonkeyPatch) -> None:
    widths = {"rtmpose-tiny": 0.125, "rtmpose-small": 0.1875}
    presets: dict[str, Preset] = {
        name: {"backbone": CspnextConfig(deepen=0.167, widen=widen), "head": RtmccHeadConfig()}
        for name, widen in widths.items()
    }
    only_presets(monkeypatch, presets)


def model(preset: str = "rtmpose-tiny", seed: int = 0, input_size: tuple[int, int] = (96, 64)) -> PoseModel:
    """Every value different, BatchNorm statistics included."""
    config = ModelConfig.model_validate({"backbone": preset, "input_size": input_size})
    made = build_model(config, {"coco": load_skeleton("coco17")}).eval()
    generator = torch.Generator().manual_seed(seed)
    for tensor in made.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(0.05 + 0.1 * torch.rand(tensor.shape, generator=generator))
    return made


def published(made: PoseModel, owner: str = "") -> dict[str, Tensor]:
    return {owner + name: tensor for name, tensor in RTMPOSE.write(made).tensors.items()}


def read(tensors: Mapping[str, Tensor], folder: Path, **around: object) -> PoseModel:
    torch.save({"state_dict": dict(tensors), **around}, folder / "file.pth")
    has_head = any("final_layer" in name for name in tensors)
    return read_weights(folder / "file.pth", skeletons=COCO if has_head else None)


def assert_equal(found: PoseModel, expected: Mapping[str, Tensor]) -> None:
    assert set(found.state_dict()) == set(expected)
    for name, tensor in found.state_dict().items():
        assert torch.equal(tensor, expected[name]), name


def dropped(found: PoseModel) -> dict[str, str]:
    weights = found.card.lineage["weights"]
    assert isinstance(weights, dict)
    return weights["dropped"]  # type: ignore[return-value]


@pytest.mark.parametrize("input_size", [(96, 64), (64, 96), (384, 288)])
def test_a_plain_model_goes_out_and_comes_back(tmp_path: Path, input_size: tuple[int, int]) -> None:
    ours = model(input_size=input_size)
    write_weights(ours, "rtmpose", tmp_path / "out.pth")
    found = read_weights(tmp_path / "out.pth", skeletons=COCO)
    assert_equal(found, ours.state_dict())
    assert found.input_size == input_size
    assert found.conventions["coco"].codec == "msra"
    assert found.codec("coco").kind == "simcc"
    assert not dropped(found)


def test_the_average_is_what_mmengine_keeps_under_state_dict(tmp_path: Path) -> None:
    average, trained = model(seed=1), model(seed=2)
    around = {
        "meta": {"epoch": 270, "dataset_meta": {"sigmas": np.ones(17, np.float32)}},
        "ema_state_dict": {"steps": torch.tensor(7)} | published(trained, "module."),
    }
    assert_equal(read(published(average), tmp_path, **around), average.state_dict())


def test_the_first_stage_yields_the_student(tmp_path: Path) -> None:
    teacher, student = model("rtmpose-small"), model(seed=1)
    projection = {"distill_losses.loss_fea.align.weight": torch.ones(2, 2, 1, 1)}
    found = read(published(teacher, "teacher.") | published(student, "student.") | projection, tmp_path)
    assert_equal(found, student.state_dict())
    assert set(dropped(found)) == {*published(teacher, "teacher."), *projection}
    assert_equal(read(published(student, "student."), tmp_path), student.state_dict())


def test_the_second_stage_yields_the_teachers_backbone_and_the_students_head(tmp_path: Path) -> None:
    teacher, student = model(), model(seed=1)
    found = read(published(teacher, "teacher.") | published(student, "student."), tmp_path)
    result = {
        name: (teacher if name.startswith("backbone.") else student).state_dict()[name] for name in teacher.state_dict()
    }
    assert_equal(found, result)
    unused = {name for name in published(student, "student.") if name.startswith("student.backbone.")}
    unused |= {name for name in published(teacher, "teacher.") if name.startswith("teacher.head.")}
    assert set(dropped(found)) == unused

    converted = {n: t for n, t in published(teacher, "teacher.").items() if n.startswith("teacher.backbone.")}
    converted |= {n: t for n, t in published(student, "student.").items() if n.startswith("student.head.")}
    again = read(converted, tmp_path)
    assert_equal(again, result)
    assert not dropped(again)


def test_a_backbone_trained_with_heatmaps_leaves_its_head_behind(tmp_path: Path) -> None:
    ours = model()
    backbone = {name: tensor for name, tensor in published(ours).items() if name.startswith("backbone.")}
    found = read(backbone | {"head.final_layer.weight": torch.ones(17, 4, 1, 1)}, tmp_path)
    assert not found.heads
    assert_equal(found, backbone)
    assert list(dropped(found)) == ["head.final_layer.weight"]


def test_a_head_whose_bins_no_input_size_explains_is_refused(tmp_path: Path) -> None:
    tensors = published(model())
    tensors["head.cls_x.weight"] = tensors["head.cls_x.weight"][:-1]
    with pytest.raises(CheckpointError, match="127 and 192 bins for 6 places"):
        read(tensors, tmp_path)


def test_a_tensor_of_unknown_use_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"neck\.weight"):
        read(published(model()) | {"neck.weight": torch.ones(1)}, tmp_path)


def test_an_incomplete_head_is_refused(tmp_path: Path) -> None:
    tensors = published(model())
    del tensors["head.gau.gamma"]
    with pytest.raises(CheckpointError, match=r"no gau\.gamma"):
        read(tensors, tmp_path)


def test_two_heads_have_no_place_in_the_layout() -> None:
    config = ModelConfig.model_validate({"backbone": "rtmpose-tiny", "input_size": (96, 64)})
    two = build_model(config, {"coco": load_skeleton("coco17"), "aic": load_skeleton("aic14")})
    with pytest.raises(CheckpointError, match="2 heads"):
        RTMPOSE.write(two)
