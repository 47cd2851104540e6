"""Files that ``transformers`` writes are read to the same numbers, and files we write it reads to the same numbers."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, VitPoseBackboneConfig, VitPoseConfig, VitPoseForPoseEstimation

from posecore.errors import CheckpointError
from posecore.geometry import bbox_to_center_scale
from posecore.methods.batch import normalise
from posecore.models.export.graphs import cut_crops
from posecore.models.merge import merge_experts
from posecore.models.weights.read import read_weights
from posecore.models.weights.write import write_weights
from posecore.skeletons.library import load_skeleton
from tests.support.tiny_weights import SIX, add_tiny_presets, tiny_model


@pytest.fixture(autouse=True)
def _presets(monkeypatch: pytest.MonkeyPatch) -> None:
    add_tiny_presets(monkeypatch)


def images() -> torch.Tensor:
    return torch.randn(2, 3, 64, 48, generator=torch.Generator().manual_seed(0))


def assert_same(ours: torch.Tensor, other: torch.Tensor) -> None:
    torch.testing.assert_close(ours, other, rtol=1e-5, atol=1e-5)


COCO_LABELS = {
    number: name.title().replace("Left_", "L_").replace("Right_", "R_")
    for number, name in enumerate(load_skeleton("coco17").names)
}
"""Nose, L_Eye, R_Eye and so on, in COCO's order."""


def theirs(simple: bool = False, labels: dict[int, str] = COCO_LABELS, **backbone: Any) -> VitPoseForPoseEstimation:
    """A model of theirs with values that differ everywhere, and the published eps instead of their default."""
    config = VitPoseBackboneConfig(
        image_size=[64, 48],
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        out_indices=[2],
        layer_norm_eps=1e-6,
        **backbone,
    )
    model = VitPoseForPoseEstimation(VitPoseConfig(backbone_config=config, use_simple_decoder=simple, id2label=labels))
    generator = torch.Generator().manual_seed(1)
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(0.05 + 0.1 * torch.rand(tensor.shape, generator=generator))
    return model.eval()


@pytest.mark.parametrize("simple", [False, True], ids=["classic", "simple"])
@torch.no_grad()
def test_their_folder_is_read(tmp_path: Path, simple: bool) -> None:
    model = theirs(simple)
    model.save_pretrained(tmp_path)
    ours = read_weights(tmp_path)
    assert ours.card.lineage["weights"]["layout"] == "huggingface-vitpose"
    assert ours.card.lineage["weights"]["dropped"] == {}
    assert_same(ours.predict(images(), "coco"), model(images()).heatmaps)


def test_a_head_is_named_by_the_points_that_the_configuration_lists(tmp_path: Path) -> None:
    animal = load_skeleton("ap10k17")
    theirs(labels=dict(enumerate(animal.names))).save_pretrained(tmp_path / "animals")
    assert dict(read_weights(tmp_path / "animals").skeletons) == {"ap10k": animal}
    theirs(labels={number: f"LABEL_{number}" for number in range(17)}).save_pretrained(tmp_path / "anybody")
    with pytest.raises(CheckpointError, match="candidates are coco, ap10k, apt36k"):
        read_weights(tmp_path / "anybody")


@torch.no_grad()
def test_their_sharded_folder_is_read(tmp_path: Path) -> None:
    model = theirs()
    model.save_pretrained(tmp_path, max_shard_size="40KB")
    assert (tmp_path / "model.safetensors.index.json").is_file()
    assert_same(read_weights(tmp_path).predict(images(), "coco"), model(images()).heatmaps)


@torch.no_grad()
def test_their_experts_are_read_as_the_coco_expert(tmp_path: Path) -> None:
    model = theirs(num_experts=6, part_features=8)
    model.save_pretrained(tmp_path)
    ours = read_weights(tmp_path)
    assert ours.card.lineage["weights"]["preset"] == "tiny"
    dropped = ours.card.lineage["weights"]["dropped"]
    assert dropped.keys() == {
        f"backbone.encoder.layer.{layer}.mlp.experts.{expert}.{kind}"
        for layer in (0, 1)
        for expert in range(1, 6)
        for kind in ("weight", "bias")
    }
    expected = model(images(), dataset_index=torch.tensor([0, 0])).heatmaps
    assert_same(ours.predict(images(), "coco"), expected)


@pytest.mark.parametrize("head", [{"kind": "classic"}, {"kind": "simple"}], ids=["classic", "simple"])
@torch.no_grad()
def test_they_read_what_we_write(tmp_path: Path, head: dict[str, str]) -> None:
    model = tiny_model(head=head)
    assert write_weights(model, "huggingface-vitpose", tmp_path / "out") == {}
    loaded, report = VitPoseForPoseEstimation.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert loaded.config.id2label[5] == "left_shoulder"
    assert_same(loaded.eval()(images()).heatmaps, model.predict(images(), "coco"))
    picture = np.random.default_rng(0).integers(0, 256, (80, 60, 3)).astype(np.uint8)
    processor = AutoImageProcessor.from_pretrained(tmp_path / "out")
    found = processor(Image.fromarray(picture), boxes=[[[5, 5, 40, 60]]], return_tensors="pt")["pixel_values"]
    center, scale = bbox_to_center_scale(np.array([[5.0, 5.0, 40.0, 60.0]]), 48 / 64, 1.25)
    crops = cut_crops(torch.from_numpy(picture), torch.tensor(center), torch.tensor(scale), (64, 48), "udp")
    expected = normalise(crops.permute(0, 2, 3, 1).to(torch.uint8))
    same = torch.isclose(found, expected, atol=1e-5)
    assert same.float().mean() > 0.96  # they take pixels that the border cuts through for black
    again = read_weights(tmp_path / "out").state_dict()
    assert all(torch.equal(tensor, again[name]) for name, tensor in model.state_dict().items())


@torch.no_grad()
def test_they_read_experts_that_we_write_and_the_other_heads_are_named_as_left_out(tmp_path: Path) -> None:
    model = tiny_model("tiny-plus", SIX, head={"kind": "classic"})
    dropped = write_weights(model, "huggingface-vitpose", tmp_path)
    assert dropped.keys() == {n for n in model.state_dict() if n.startswith("heads.") and ".coco." not in n}
    assert json.loads((tmp_path / "config.json").read_text())["backbone_config"]["part_features"] == 8
    loaded, report = VitPoseForPoseEstimation.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    expected = model.predict(images(), "coco")
    assert_same(loaded.eval()(images(), dataset_index=torch.tensor([0, 0])).heatmaps, expected)
    again, merged = read_weights(tmp_path).state_dict(), merge_experts(model, "coco").state_dict()
    assert all(torch.equal(tensor, again[name]) for name, tensor in merged.items())
