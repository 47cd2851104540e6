from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from posecore.errors import CheckpointError
from posecore.models.backbones.vit import VitConfig
from posecore.models.catalog import CATALOG
from posecore.models.presets import PRESETS
from posecore.models.saving import save_model
from posecore.models.sources import initial_weights
from posecore.models.weights.initial import WeightsConfig
from posecore.models.weights.layouts import LAYOUTS
from posecore.models.weights.read import read_weights
from posecore.models.weights.vitpose import VITPOSE
from posecore.models.weights.write import write_weights
from posecore.skeletons.library import load_skeleton
from posecore.storage import sha256_of
from tests.support.tiny_weights import COCO, SIX, add_tiny_presets, tiny_model

HEADS = {"coco": "coco17"}


@pytest.fixture(autouse=True)
def _presets(monkeypatch: pytest.MonkeyPatch) -> None:
    add_tiny_presets(monkeypatch)
    monkeypatch.setitem(PRESETS, "tiny-wide", {"backbone": VitConfig(embed_dim=48, depth=2, num_heads=2)})


@pytest.fixture
def file(tmp_path: Path) -> Path:
    write_weights(tiny_model(), "vitpose", tmp_path / "tiny.pth")
    return tmp_path / "tiny.pth"


def test_where_weights_came_from_is_on_record(file: Path) -> None:
    card = read_weights(file, skeletons=COCO).card
    record = card.lineage["weights"]
    assert record["source"] == str(file)
    assert record["sha256"] == sha256_of(file)
    assert (record["layout"], record["preset"], record["license"]) == ("vitpose", "tiny", "Apache-2.0")
    assert card.licenses == {str(file): "Apache-2.0"}


def test_a_wrong_preset_is_answered_with_the_right_one(file: Path) -> None:
    with pytest.raises(CheckpointError, match=r"holds the weights of tiny, not of tiny-wide \(backbone\.pos_embed is"):
        read_weights(file, "tiny-wide", COCO)
    assert read_weights(file, "tiny", COCO).config.backbone.embed_dim == 32
    with pytest.raises(CheckpointError, match="no preset or published model is called 'vitpose-bass'"):
        read_weights(file, "vitpose-bass")


def test_another_number_of_points_than_stated_is_refused(file: Path) -> None:
    with pytest.raises(CheckpointError, match="head 'mpii' has 17 points, but skeleton mpii16 has 16"):
        read_weights(file, skeletons={"mpii": load_skeleton("mpii16")})
    with pytest.raises(CheckpointError, match=r"holds 1 head \(17 points\) but 2 are named"):
        read_weights(file, skeletons={name: load_skeleton("coco17") for name in ("a", "b")})


def test_a_size_of_no_preset_is_answered_with_the_closest(tmp_path: Path) -> None:
    tensors = VITPOSE.write(tiny_model()).tensors
    del tensors["backbone.blocks.1.attn.proj.bias"]
    torch.save(tensors, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=r"fits no preset; the closest is tiny: .*attn\.proj\.bias is missing"):
        read_weights(tmp_path / "x.pth", skeletons=COCO)


def test_half_precision_becomes_single(tmp_path: Path) -> None:
    tensors = {n: t.half() if t.is_floating_point() else t for n, t in VITPOSE.write(tiny_model()).tensors.items()}
    save_file(tensors, tmp_path / "x.safetensors")
    model = read_weights(tmp_path / "x.safetensors", skeletons=COCO)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert model.heads["coco"].deconv_layers[1].num_batches_tracked.dtype == torch.int64


def test_a_model_hangs_on_no_file(file: Path) -> None:
    model = read_weights(file, skeletons=COCO)
    before = model.backbone.pos_embed.clone()
    file.write_bytes(b"")
    assert torch.equal(model.backbone.pos_embed, before)
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_an_unknown_layout_is_named_by_its_tensors(tmp_path: Path) -> None:
    torch.save({"conv1.weight": torch.ones(1)}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=r"a layout we do not know: its tensors are called conv1\.weight"):
        read_weights(tmp_path / "x.pth")


def test_folders(tmp_path: Path) -> None:
    folder = Path(str(save_model(tiny_model(), tmp_path / "own")))
    assert list(read_weights(folder, "tiny").heads) == ["coco"]
    with pytest.raises(CheckpointError, match="is not a tiny-wide"):
        read_weights(folder, "tiny-wide")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"holds neither model\.json nor safetensors"):
        read_weights(tmp_path / "empty")
    for name in ("a", "b"):
        save_file({"x": torch.ones(1)}, tmp_path / "empty" / f"{name}.safetensors")
    with pytest.raises(CheckpointError, match=r"holds 2 files of weights, such as a\.safetensors"):
        read_weights(tmp_path / "empty")


def test_nothing_there() -> None:
    with pytest.raises(CheckpointError, match="is no file or folder here, no published model"):
        read_weights("nothing.pth")
    with pytest.raises(CheckpointError, match=r"by hand, .* by way of https://github\.com/ViTAE-Transformer"):
        read_weights("vitpose-base")


def test_writing_refuses_what_does_not_fit(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no layout is called 'onnx'\. There are posecore, vitpose"):
        write_weights(tiny_model(), "onnx", tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=r"must end in \.safetensors, \.pth or \.pt"):
        write_weights(tiny_model(), "vitpose", tmp_path / "x")
    with pytest.raises(CheckpointError, match="is a folder, weights and config"):
        write_weights(tiny_model(), "huggingface-vitpose", tmp_path / "x.pth")
    for name in ("sapiens", "sapiens2", "posebh"):
        with pytest.raises(CheckpointError, match=f"layout {name}"):
            LAYOUTS[name].write(tiny_model())
    assert not list(tmp_path.iterdir())


def test_fine_tuning_starts_from_a_file_and_says_so(file: Path) -> None:
    child = tiny_model(heads=("coco", "mpii"), input_size=(128, 96))
    report = initial_weights(child, WeightsConfig(source=str(file), sha256=sha256_of(file), preset="tiny", heads=HEADS))
    parent = tiny_model()
    assert torch.equal(child.backbone.blocks[1].mlp.fc1.weight, parent.backbone.blocks[1].mlp.fc1.weight)
    assert torch.equal(child.heads["coco"].final_layer.weight, parent.heads["coco"].final_layer.weight)
    record = child.card.lineage["weights"]
    assert (record["source"], record["sha256"]) == (str(file), sha256_of(file))
    assert record["copied"] == report.as_dict()
    assert child.card.licenses[str(file)] == "Apache-2.0"


def test_a_model_of_ours_passes_its_own_start_on(file: Path, tmp_path: Path) -> None:
    middle = tiny_model()
    initial_weights(middle, WeightsConfig(source=str(file), heads=HEADS))
    folder = Path(str(save_model(middle, tmp_path / "middle")))
    child = tiny_model(heads=("mpii",))
    initial_weights(child, WeightsConfig(source=str(folder)))
    record = child.card.lineage["weights"]
    assert (record["layout"], record["source"]) == ("posecore", str(folder))
    assert record["origin"]["source"] == str(file)


@pytest.mark.parametrize(
    ("layout", "name"),
    [
        ("vitpose", "backbone.pos_embed"),
        ("vitpose", "backbone.blocks.0.mlp.fc2.weight"),
        ("vitpose", "keypoint_head.final_layer.weight"),
        ("vitpose", "keypoint_head.deconv_layers.0.weight"),
        ("huggingface-vitpose", "backbone.encoder.layer.1.attention.attention.key.weight"),
        ("posebh", "proto_head.kpt_prototype.prototypes"),
    ],
)
def test_a_tensor_without_its_axes_is_refused(layout: str, name: str, tmp_path: Path) -> None:
    model = tiny_model(embedding={"dim": 8, "channels": 8} if layout == "posebh" else None)
    tensors = LAYOUTS[layout].write(model).tensors
    assert name in tensors
    save_file(tensors | {name: torch.tensor(1.0)}, tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match=f"looks like {layout}, but has tensors of shapes that no such file has"):
        read_weights(tmp_path / "x.safetensors", skeletons=COCO)


def test_terms_of_a_file_are_those_of_what_was_published_with_its_heads(tmp_path: Path) -> None:
    """Its layout's general terms would say that what was trained on COCO-WholeBody is free for any use."""
    path = tmp_path / "x.pth"
    write_weights(tiny_model("tiny-plus", SIX), "vitpose", path)
    published = CATALOG["vitpose-plus-base"]
    assert read_weights(path).card.licenses == {str(path): published.license_id}
    assert published.license.commercial_use is None
