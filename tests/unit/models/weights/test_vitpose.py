"""The published names of ViTPose and ViTPose++, and the traps in their files."""

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

from posecore.datasets.discovery import load_dataset
from posecore.errors import CheckpointError
from posecore.models.architecture import ModelConfig
from posecore.models.backbones.vit import VitConfig
from posecore.models.pose_model import PoseModel, build_model
from posecore.models.presets import VITPOSE_CONVENTIONS
from posecore.models.weights.layout import name_heads
from posecore.models.weights.layouts import LAYOUTS
from posecore.models.weights.published_heads import SKELETONS
from posecore.models.weights.read import read_weights
from posecore.models.weights.vitpose import VITPOSE
from posecore.skeletons.library import load_skeleton
from posecore.skeletons.skeleton import Skeleton
from tests.support.tiny_weights import COCO, SIX, add_tiny_presets, tiny_model


@pytest.fixture(autouse=True)
def _presets(monkeypatch: pytest.MonkeyPatch) -> None:
    add_tiny_presets(monkeypatch)


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., PoseModel]:
    """Stores tensors as a publisher would and reads the file."""

    def read(tensors: dict[str, Tensor], skeletons: Mapping[str, Skeleton] | None = None) -> PoseModel:
        torch.save({"state_dict": tensors, "meta": {"epoch": 210}}, tmp_path / "published.pth")
        return read_weights(tmp_path / "published.pth", skeletons=skeletons)

    return read


def same(model: PoseModel, other: PoseModel) -> bool:
    a, b = model.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(torch.equal(tensor, b[name]) for name, tensor in a.items())


@pytest.mark.parametrize(
    ("preset", "heads", "changes"),
    [
        ("tiny", ("coco",), {}),
        ("tiny", ("coco",), {"head": {"kind": "simple"}}),
        ("tiny", ("coco", "aic", "mpii", "crowdpose"), {}),
        ("tiny", ("coco",), {"input_size": (128, 96)}),
        ("tiny-plus", SIX, {}),
    ],
    ids=["classic", "simple", "multi-task", "larger", "plus"],
)
def test_what_is_written_is_read_back(read, preset: str, heads: tuple[str, ...], changes: dict) -> None:
    model = tiny_model(preset, heads, **changes)
    found = read(VITPOSE.write(model).tensors, COCO if len(heads) == 1 else None)
    assert same(model, found)
    assert found.config == model.config
    assert not found.training
    assert found.card.lineage["weights"]["preset"] == preset
    assert found.card.lineage["weights"]["dropped"] == {}


def test_published_names_of_vitpose_plus() -> None:
    tensors = VITPOSE.write(tiny_model("tiny-plus", SIX)).tensors
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    head = {
        "deconv_layers.0.weight",
        "deconv_layers.3.weight",
        *(f"deconv_layers.{layer}.{name}" for layer in (1, 4) for name in norm),
        "final_layer.weight",
        "final_layer.bias",
    }
    layers = ("norm1", "norm2", "attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2", *(f"mlp.experts.{e}" for e in range(6)))
    expected = {"backbone.pos_embed"}
    expected |= {
        f"backbone.{layer}.{kind}" for layer in ("patch_embed.proj", "last_norm") for kind in ("weight", "bias")
    }
    expected |= {
        f"backbone.blocks.{i}.{layer}.{kind}" for i in (0, 1) for layer in layers for kind in ("weight", "bias")
    }
    for prefix in ("keypoint_head", *(f"associate_keypoint_heads.{number}" for number in range(5))):
        expected |= {f"{prefix}.{name}" for name in head}
    assert tensors.keys() == expected
    # 24 tensors per block, 5 around them, 14 per head: 377 in the published ViTPose++-B, which has 12 blocks.
    assert len(tensors) == 2 * 24 + 5 + 6 * 14
    assert tensors["keypoint_head.deconv_layers.0.weight"].shape == (32, 8, 4, 4)  # transposed: in, out


def test_expert_e_belongs_to_head_e_and_heads_are_offset_by_one(read) -> None:
    tensors = VITPOSE.write(tiny_model("tiny-plus", SIX)).tensors
    found = read(tensors)
    assert list(found.heads) == list(SIX)
    for number, dataset in enumerate(SIX):
        name = "keypoint_head" if number == 0 else f"associate_keypoint_heads.{number - 1}"
        assert torch.equal(found.heads[dataset].final_layer.bias, tensors[f"{name}.final_layer.bias"])
        expert = found.backbone.blocks[1].mlp.experts[dataset]
        assert torch.equal(expert.weight, tensors[f"backbone.blocks.1.mlp.experts.{number}.weight"])
        # A quarter of the channels: 96 of ViTPose++-S's 384, although the published configuration says 192.
        assert expert.weight.shape == (8, 128)


def test_conventions_are_mixed_whatever_the_file_name_says(read) -> None:
    found = read(VITPOSE.write(tiny_model("tiny-plus", SIX)).tensors)
    assert [found.conventions[dataset].codec for dataset in SIX] == ["udp", "msra", "udp", "msra", "msra", "msra"]
    assert [found.conventions[dataset].flip_shift for dataset in SIX] == [False, True, False, True, True, True]
    for dataset in SIX:
        published = VITPOSE_CONVENTIONS[dataset].on(load_dataset(dataset).conventions)
        assert found.conventions[dataset] == published


def test_a_class_token_nobody_reads_is_dropped_by_name(read) -> None:
    model = tiny_model("tiny", ("coco", "aic", "mpii"))
    found = read(VITPOSE.write(model).tensors | {"backbone.cls_token": torch.ones(1, 1, 32)})
    assert same(model, found)
    assert list(found.card.lineage["weights"]["dropped"]) == ["backbone.cls_token"]


def split(model: PoseModel, dataset: str) -> dict[str, Tensor]:
    """What the publisher's ``tools/model_split.py`` leaves: one merged expert, and others it forgot to remove."""
    tensors = VITPOSE.write(model).tensors
    number = list(model.heads).index(dataset)
    for block in (0, 1):
        for kind in ("weight", "bias"):
            name = f"backbone.blocks.{block}.mlp"
            merged = torch.cat([tensors[f"{name}.fc2.{kind}"], tensors[f"{name}.experts.{number}.{kind}"]])
            tensors[f"{name}.fc2.{kind}"] = merged
    if number:
        for name in list(tensors):
            if name.startswith(f"associate_keypoint_heads.{number - 1}."):
                tensors["keypoint_head." + name.split(".", 2)[2]] = tensors[name]
        tensors = {name: t for name, t in tensors.items() if not name.startswith("associate_keypoint_heads.")}
    return tensors


@pytest.mark.parametrize("dataset", ["coco", "coco_wholebody"])
def test_leftovers_of_the_splitting_tool_are_dropped_by_name(read, dataset: str) -> None:
    model = tiny_model("tiny-plus", SIX)
    tensors = split(model, dataset)
    found = read(tensors, {dataset: model.skeletons[dataset]})
    assert list(found.heads) == [dataset]
    assert found.card.lineage["weights"]["preset"] == "tiny"
    leftovers = {name for name in tensors if "experts" in name or name.startswith("associate_keypoint_heads.")}
    assert found.card.lineage["weights"]["dropped"].keys() == leftovers
    images = torch.randn(2, 3, 64, 48, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(found.predict(images, dataset), model.predict(images, dataset))


def test_heads_of_as_many_points_are_told_apart_by_stating_them(tmp_path: Path) -> None:
    """A split animal file has 17 points like COCO, and nothing in it says which."""
    model = tiny_model("tiny-plus", SIX)
    torch.save({"state_dict": split(model, "ap10k")}, tmp_path / "ap10k.pth")
    with pytest.raises(CheckpointError, match=r"17 points, and .* the candidates are coco, ap10k, apt36k, and each"):
        read_weights(tmp_path / "ap10k.pth")
    found = read_weights(tmp_path / "ap10k.pth", skeletons={"ap10k": model.skeletons["ap10k"]})
    assert list(found.heads) == ["ap10k"]
    assert found.conventions["ap10k"].codec == "msra"
    assert found.skeletons["ap10k"] == model.skeletons["ap10k"]


@pytest.mark.parametrize("datasets", [("mpii",), ("coco_wholebody",), ("goliath",), ("mpii", "coco_wholebody"), SIX])
def test_heads_that_can_be_of_one_dataset_each_are_named_by_their_points(datasets: tuple[str, ...]) -> None:
    points = [load_skeleton(SKELETONS[name]).num_keypoints for name in datasets]
    assert name_heads(points, ()) == dict(zip(datasets, points, strict=True))


@pytest.mark.parametrize(
    ("points", "candidates"),
    [
        ([17], "a head of 17 points, .* are coco, ap10k, apt36k, and .* the dataset with --heads .coco, or"),
        ([14], "a head of 14 points, .* are aic, crowdpose, and .* heads: {aic: aic14}"),
        ([16, 14], "a head of 14 points, .* are aic, crowdpose, and .* the datasets of all heads in its order"),
        ([17, 17], "heads of 17 points, .* are coco, ap10k, apt36k"),
        ([16, 16], "heads of 16 points, .* are mpii"),
        ([17, 14, 16, 17, 17], "heads of 17 points"),
    ],
)
def test_heads_that_can_be_of_several_are_refused_with_the_candidates(points: list[int], candidates: str) -> None:
    with pytest.raises(CheckpointError, match=candidates):
        name_heads(points, ())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t | {"backbone.extra": torch.ones(1)}, r"backbone\.extra has no place"),
        (lambda t: t | {"neck.weight": torch.ones(1)}, r"holds tensors that layout does not know: neck\.weight"),
        (lambda t: {n: v for n, v in t.items() if n != "backbone.last_norm.bias"}, r"last_norm\.bias is missing"),
        (lambda t: {n: v for n, v in t.items() if n != "keypoint_head.final_layer.weight"}, "file is incomplete"),
        (lambda t: t | {"keypoint_head.final_layer.weight": torch.ones(19, 8, 1, 1)}, "a head of 19 points"),
        (lambda t: t | {"backbone.pos_embed": torch.ones(1, 12, 32)}, "covers 11 patches"),
        (lambda t: t | {"backbone.patch_embed.proj.weight": torch.ones(32, 3, 14, 14)}, "32×3×14×14 instead of"),
    ],
    ids=["unknown", "foreign", "missing", "headless", "points", "grid", "shape"],
)
def test_every_tensor_is_used_or_dropped_by_name(read, change: Callable, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        read(change(VITPOSE.write(tiny_model(heads=("mpii",))).tensors))


def test_an_expert_without_a_head_is_refused(read) -> None:
    tensors = VITPOSE.write(tiny_model("tiny-plus", ("mpii", "aic"))).tensors
    tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith("associate_keypoint_heads.")}
    with pytest.raises(CheckpointError, match=r"experts\.1\.\w+ is an expert without a head"):
        read(tensors)


def test_models_of_other_families_are_not_written(tmp_path: Path) -> None:
    instance_norm = {"kind": "instance_norm", "deconv_channels": (8, 8), "conv_channels": (8,)}
    with pytest.raises(CheckpointError, match="classic or simple heads"):
        VITPOSE.write(tiny_model(head=instance_norm))


@pytest.mark.parametrize(
    ("changes", "sentence"), [({"position": "plain"}, "with a class slot"), ({"patch_padding": 0}, "this model's is 0")]
)
def test_what_a_file_does_not_say_must_be_as_published(changes: dict[str, object], sentence: str) -> None:
    """Read again, it would be another model under the same names."""
    with pytest.raises(CheckpointError, match=sentence):
        VITPOSE.write(tiny_model(backbone={"preset": "tiny", **changes}))


@pytest.mark.parametrize("layout", ["vitpose", "huggingface-vitpose", "mmpose-vitpose", "mae", "sapiens"])
@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"knowledge_tokens": 2}, "has no place for knowledge tokens, and without its 2"),
        ({"adapter_dim": 4}, "has no place for adapters"),
        ({"window": 2, "global_blocks": 1}, "attends within windows of 2×2 tokens, which the file could not say"),
    ],
    ids=["knowledge tokens", "adapters", "windows"],
)
def test_no_published_layout_says_what_is_not_published(layout: str, changes: dict[str, int], sentence: str) -> None:
    position = {"position": "plain"} if layout == "sapiens" else {}
    model = tiny_model(backbone={"preset": "tiny", **position, **changes}, input_size=(64, 64))
    with pytest.raises(CheckpointError, match=sentence):
        LAYOUTS[layout].write(model)


def test_each_file_is_recognised_by_one_layout_only() -> None:
    models = {"vitpose": tiny_model(), "huggingface-vitpose": tiny_model(), "mae": tiny_model()}
    for name, model in models.items():
        tensors = LAYOUTS[name].write(model).tensors
        assert [layout.name for layout in LAYOUTS.values() if layout.recognises(tensors)] == [name]


def test_hugging_face_has_no_room_for_a_broken_mlp_ratio() -> None:
    backbone = VitConfig(embed_dim=16, depth=1, num_heads=2, mlp_ratio=3.5)
    model = build_model(ModelConfig(backbone=backbone, input_size=(32, 32)), {"coco": load_skeleton("coco17")})
    with pytest.raises(CheckpointError, match=r"whole mlp_ratio only, and the model's is 3\.5"):
        LAYOUTS["huggingface-vitpose"].write(model)
