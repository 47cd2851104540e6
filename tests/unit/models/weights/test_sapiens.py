"""The published names of Sapiens and Sapiens2, out and in again, and the traps in their files."""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from posecore.conventions import Conventions
from posecore.errors import CheckpointError
from posecore.models.architecture import ModelCard, ModelConfig
from posecore.models.backbones.sapiens2 import Sapiens2Config
from posecore.models.backbones.vit import VitConfig
from posecore.models.pose_model import PoseModel
from posecore.models.presets import Preset
from posecore.models.warm_start import warm_start
from posecore.models.weights.fit import fit
from posecore.models.weights.layouts import LAYOUTS
from posecore.models.weights.published_heads import SKELETONS
from posecore.models.weights.read import read_weights
from posecore.skeletons.library import load_skeleton
from posecore.skeletons.skeleton import Skeleton
from tests.support.sapiens_files import Shapes, filled, head, sapiens2_encoder, sapiens_encoder
from tests.support.tiny_weights import only_presets

WIDTHS = (32, 8, 8, 8, 8)
HEAD = {"kind": "instance_norm", "deconv_channels": (8, 8), "conv_channels": (8, 8)}
TINY: Mapping[str, Preset] = {
    # The same shapes under another family's name: what tells them apart is the layout.
    "vit-twin": {"backbone": VitConfig(embed_dim=32, depth=2, num_heads=2, position="plain")},
    "sapiens-tiny": {
        "backbone": VitConfig(embed_dim=32, depth=2, num_heads=2, position="plain"),
        "input_size": (64, 48),
        "heatmap_sigma": 6.0,
    },
    "sapiens-deep": {"backbone": VitConfig(embed_dim=32, depth=3, num_heads=2, position="plain")},
    "sapiens2-tiny": {
        "backbone": Sapiens2Config(embed_dim=32, depth=3, num_heads=4, num_full_blocks=1),
        "input_size": (64, 48),
        "heatmap_sigma": 6.0,
    },
    "sapiens2-tiny-4k": {
        "backbone": Sapiens2Config(embed_dim=32, depth=3, num_heads=4, num_full_blocks=1, tokenizer_depth=2),
        "input_size": (256, 192),
    },
}
ENCODER = sapiens_encoder(32, 2, positions=12)
ENCODER_2 = sapiens2_encoder(32, 3, num_heads=4, full_blocks=1)


@pytest.fixture(autouse=True)
def _presets(monkeypatch: pytest.MonkeyPatch) -> None:
    only_presets(monkeypatch, TINY)


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., PoseModel]:
    """Stores tensors as a publisher would and reads the file."""

    def read(tensors: dict[str, Tensor], skeletons: Mapping[str, Skeleton] | None = None) -> PoseModel:
        if any(name.endswith("storage_tokens") for name in tensors):
            save_file(tensors, tmp_path / "published.safetensors")
            return read_weights(tmp_path / "published.safetensors", skeletons=skeletons)
        is_pose = any(name.startswith("head.") for name in tensors)
        torch.save({"state_dict": tensors} if is_pose else tensors, tmp_path / "published.pth")
        return read_weights(tmp_path / "published.pth", skeletons=skeletons)

    return read


def _model(preset: str, heads: Sequence[str], **changes: object) -> PoseModel:
    initialisation = "kaiming" if preset.startswith("sapiens2") else "normal"
    config = ModelConfig.model_validate(
        {"backbone": preset, "head": {**HEAD, "initialisation": initialisation}, **changes}
    )
    skeletons = {dataset: load_skeleton(SKELETONS[dataset]) for dataset in heads}
    card = ModelCard(
        architecture=config, skeletons=skeletons, conventions={dataset: Conventions() for dataset in heads}
    )
    model = PoseModel(card).eval()
    model.load_state_dict(filled({name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}))
    return model


def _same(model: PoseModel, other: PoseModel) -> bool:
    a, b = model.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(torch.equal(tensor, b[name]) for name, tensor in a.items())


@pytest.mark.parametrize("dataset", ["coco", "coco_wholebody", "goliath"])
@pytest.mark.parametrize(
    ("layout", "preset"),
    [("sapiens", "sapiens-tiny"), ("sapiens2", "sapiens2-tiny"), ("huggingface-sapiens2", "sapiens2-tiny")],
)
def test_what_is_written_is_read_back(read: Callable, layout: str, preset: str, dataset: str) -> None:
    model = _model(preset, (dataset,))
    tensors = LAYOUTS[layout].write(model).tensors
    assert [found.name for found in LAYOUTS.values() if found.recognises(tensors)] == [layout]
    found = read(tensors, model.skeletons if dataset == "coco" else None)
    assert _same(model, found)
    assert found.config == model.config
    assert found.skeletons == model.skeletons
    assert found.card.lineage["weights"]["preset"] == preset
    assert found.card.lineage["weights"]["layout"] == layout
    assert list(found.card.licenses.values()) == [LAYOUTS[layout].license]


@pytest.mark.parametrize(
    ("layout", "preset", "expected"),
    [
        ("sapiens", "sapiens-tiny", ENCODER | head("head.", "final_layer", WIDTHS, 2, 16)),
        (
            "sapiens2",
            "sapiens2-tiny",
            ENCODER_2 | head("decode_head.", "conv_pose", WIDTHS, 2, 16) | {"backbone.rope_embed.periods": (2,)},
        ),
    ],
)
def test_published_names_and_shapes(layout: str, preset: str, expected: Shapes) -> None:
    tensors = LAYOUTS[layout].write(_model(preset, ("mpii",))).tensors
    assert {name: tuple(tensor.shape) for name, tensor in tensors.items()} == expected


@pytest.mark.parametrize("preset", ["sapiens2-0.4b", "sapiens2-5b", "sapiens2-1b-4k"])
def test_published_number_of_tensors(preset: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    with torch.device("meta"):
        config = ModelConfig.model_validate({"backbone": preset})
        model = PoseModel(ModelCard(architecture=config, skeletons={}, conventions={}))
    tensors = LAYOUTS["sapiens2"].write(model).tensors
    assert len(tensors) == {"sapiens2-0.4b": 414, "sapiens2-5b": 958, "sapiens2-1b-4k": 744}[preset]
    assert tensors["backbone.rope_embed.periods"].dtype == torch.bfloat16


@pytest.mark.parametrize("prefix", ["", "backbone."])
def test_pre_training_and_4k_files_of_sapiens2_are_read(read: Callable, prefix: str) -> None:
    shapes = sapiens2_encoder(32, 3, num_heads=4, full_blocks=1, tokenizer=2, prefix=prefix)
    found = read(filled(shapes))
    assert found.card.lineage["weights"]["preset"] == "sapiens2-tiny-4k"
    assert not found.heads
    assert torch.equal(found.backbone.tokenizer.w_cls, filled(shapes)[f"{prefix}tokenizer.w_cls"])


def test_the_rotation_of_a_file_must_be_ours(read: Callable) -> None:
    tensors = LAYOUTS["sapiens2"].write(_model("sapiens2-tiny", ("mpii",))).tensors
    name = "backbone.rope_embed.periods"
    assert list(read(tensors).card.lineage["weights"]["dropped"]) == [name]
    with pytest.raises(CheckpointError, match="not those of base 100 in bfloat16"):
        read(tensors | {name: tensors[name] * 2})


def test_a_pre_trained_sapiens_starts_a_pose_model(read: Callable) -> None:
    """Square positions become 4:3, the class slot goes, and patches are padded only from then on."""
    tensors = filled(sapiens_encoder(32, 2, positions=17, prefix="") | {"cls_token": (1, 1, 32)})
    parent = read(tensors)
    assert (parent.input_size, parent.config.backbone.patch_padding) == ((64, 64), 0)
    assert parent.card.lineage["weights"]["dropped"].keys() == {"cls_token"}
    assert torch.equal(parent.backbone.pos_embed, tensors["pos_embed"][:, 1:])
    child = PoseModel(_model("sapiens-tiny", ("coco",)).card)
    warm_start(child, parent)
    assert child.config.backbone.patch_padding == 2
    assert child.backbone.pos_embed.shape == (1, 12, 32)
    assert torch.equal(child.backbone.blocks[1].mlp.fc1.weight, tensors["layers.1.ffn.layers.0.0.weight"])
    assert torch.equal(child.backbone.last_norm.weight, tensors["ln1.weight"])


@pytest.mark.parametrize(("channels", "padding"), [(1, 0), (3, 2)])
def test_of_depth_and_normals_the_encoder_is_kept(read: Callable, channels: int, padding: int) -> None:
    found = read(filled(ENCODER | head("decode_head.", "conv_seg", WIDTHS, 2, channels)))
    assert found.config.backbone.patch_padding == padding
    dropped = found.card.lineage["weights"]["dropped"]
    assert dropped.keys() == head("decode_head.", "conv_seg", WIDTHS, 2, channels).keys()
    assert set(dropped.values()) == {"a pose model has no decoder of that kind"}


def test_of_other_tasks_of_sapiens2_the_encoder_is_kept(read: Callable) -> None:
    found = read(filled(ENCODER_2 | head("decode_head.", "conv_seg", WIDTHS, 2, 29)))
    assert not found.heads
    assert len(found.card.lineage["weights"]["dropped"]) == len(head("", "conv_seg", WIDTHS, 2, 29))


def test_shapes_alone_do_not_decide_the_family(read: Callable) -> None:
    """Targets of sigma 2 and a 4:3 crop of 256×192 belong to the other preset with the same shapes."""
    found = read(filled(ENCODER | head("head.", "final_layer", WIDTHS, 2, 16)))
    assert found.card.lineage["weights"]["preset"] == "sapiens-tiny"
    assert found.config.heatmap_sigma == 6.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t | {"backbone.extra": torch.ones(1)}, r"layout does not know: backbone\.extra"),
        (lambda t: t | {"backbone.layers.0.attn.gamma": torch.ones(1)}, r"does not know: backbone\.layers\.0\.attn"),
        (lambda t: t | {"neck.weight": torch.ones(1)}, r"layout does not know: (backbone\.)?neck\.weight"),
        (lambda t: t | {"head.norm.weight": torch.ones(8)}, r"heads\.mpii\.norm\.weight has no place"),
        (lambda t: {n: v for n, v in t.items() if n != "backbone.ln1.bias"}, r"last_norm\.bias is missing"),
        (lambda t: {n: v for n, v in t.items() if n != "backbone.pos_embed"}, "no pos_embed"),
        (lambda t: {n: v for n, v in t.items() if n != "head.final_layer.weight"}, "without a last convolution"),
        (lambda t: t | {"head.final_layer.weight": torch.ones(19, 8, 1, 1)}, "a head of 19 points"),
        (lambda t: t | {"backbone.pos_embed": torch.ones(1, 14, 32)}, "covers 14 patches"),
        (lambda t: {n: v for n, v in t.items() if not n.startswith("head.")} | {"decode_head.conv_seg.weight":
            torch.ones(28, 8, 1, 1)}, "28 channels, so it segments"),
    ],
    ids=["unknown", "unknown-part", "foreign", "normed", "missing", "no-grid", "no-last", "points", "grid", "segments"],
)  # fmt: skip
def test_every_tensor_of_sapiens_is_used_or_dropped_by_name(read: Callable, change: Callable, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        read(change(filled(ENCODER | head("head.", "final_layer", WIDTHS, 2, 16))))


@pytest.mark.parametrize("layout", ["sapiens", "sapiens2", "huggingface-sapiens2"])
def test_no_file_with_a_tensor_missing_or_added_passes_for_a_whole_one(layout: str) -> None:
    preset = "sapiens-tiny" if layout == "sapiens" else "sapiens2-tiny"
    tensors = LAYOUTS[layout].write(_model(preset, ("mpii",))).tensors
    broken = [
        {other: tensor for other, tensor in tensors.items() if other != name}
        for name in sorted(tensors.keys() - {"backbone.rope_embed.periods"})
        if not re.search(r"\.(blocks|layers?)\.[02]\.", name)  # block 1 stands for all
    ]
    for file in [*broken, tensors | {"backbone.mask_token": torch.ones(1, 1, 32)}]:
        with pytest.raises(CheckpointError, match=r"missing|incomplete|has no place|instead of|does not know"):
            fit(LAYOUTS[layout].read(file, ()), LAYOUTS[layout], "file", preset, {})


def test_a_wrong_preset_is_named_with_the_right_one(tmp_path: Path) -> None:
    torch.save(filled(ENCODER | head("head.", "final_layer", WIDTHS, 2, 16)), tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="holds the weights of sapiens-tiny, not of sapiens-deep"):
        read_weights(tmp_path / "a.pth", expect="sapiens-deep")


@pytest.mark.parametrize("layout", ["sapiens", "sapiens2", "huggingface-sapiens2"])
def test_one_head_is_written_and_the_others_are_named(layout: str) -> None:
    model = _model("sapiens-tiny" if layout == "sapiens" else "sapiens2-tiny", ("goliath", "coco"))
    written = LAYOUTS[layout].write(model)
    dropped = {f"heads.coco.{name}" for name in model.heads["coco"].state_dict()}
    assert written.dropped.keys() == dropped


def test_models_of_other_families_are_not_written() -> None:
    classic = _model("sapiens-tiny", ("coco",), head={"kind": "classic", "channels": 8})
    slotted = _model("sapiens-tiny", ("coco",), backbone={"preset": "sapiens-tiny", "position": "with_slot"})
    with pytest.raises(CheckpointError, match=r"holds instance_norm heads .* this model has ClassicHeadConfig"):
        LAYOUTS["sapiens"].write(classic)
    with pytest.raises(CheckpointError, match="with two transposed convolutions"):
        LAYOUTS["sapiens"].write(_model("sapiens-tiny", ("coco",), head={**HEAD, "deconv_channels": (8, 8, 8)}))
    with pytest.raises(CheckpointError, match="no slot for a class token"):
        LAYOUTS["sapiens"].write(slotted)
    unpadded = _model("sapiens-tiny", ("coco",), backbone={"preset": "sapiens-tiny", "patch_padding": 0})
    with pytest.raises(CheckpointError, match=r"patch padding 2, which its files do not say; this model's is 0"):
        LAYOUTS["sapiens"].write(unpadded)
    with pytest.raises(CheckpointError, match="holds Sapiens2 encoders, not vit"):
        LAYOUTS["sapiens2"].write(slotted)
    with pytest.raises(CheckpointError, match="has no tokenizer"):
        LAYOUTS["huggingface-sapiens2"].write(_model("sapiens2-tiny-4k", ()))
