import json
from pathlib import Path

import pytest
import torch

from posecore.errors import CheckpointError, IntegrityError
from posecore.models.heads import SimpleHeadConfig
from posecore.models.pose_model import PoseModel
from posecore.models.saving import CARD_FILE, WEIGHTS_FILE, load_model, load_weights, save_model
from tests.support.tiny_training import INPUT_SIZE, tiny_model


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = tiny_model()
    model.train()(torch.randn(2, 3, *INPUT_SIZE), [("people", 0, 1), ("dogs", 1, 2)])
    save_model(model, tmp_path / "model")
    loaded = load_model(tmp_path / "model")
    assert not loaded.training
    assert loaded.card == model.card
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name


def test_names_are_those_of_the_published_files() -> None:
    names = set(tiny_model().state_dict())
    for name in (
        "backbone.pos_embed",
        "backbone.patch_embed.proj.weight",
        "backbone.blocks.0.norm1.weight",
        "backbone.blocks.0.attn.qkv.bias",
        "backbone.blocks.1.mlp.fc2.weight",
        "backbone.last_norm.bias",
        "heads.dogs.deconv_layers.0.weight",
        "heads.dogs.deconv_layers.4.running_var",
        "heads.dogs.final_layer.bias",
    ):
        assert name in names


def test_a_damaged_or_half_written_model_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    with pytest.raises(CheckpointError, match="holds no whole model"):
        load_model(folder)
    save_model(tiny_model(), folder)
    weights = (folder / WEIGHTS_FILE).read_bytes()
    (folder / WEIGHTS_FILE).write_bytes(weights[:-1] + bytes([weights[-1] ^ 1]))
    with pytest.raises(IntegrityError, match="hashes differ"):
        load_model(folder)
    (folder / WEIGHTS_FILE).unlink()
    with pytest.raises(CheckpointError, match="holds no whole model"):
        load_model(folder)
    (folder / CARD_FILE).write_text("{")
    (folder / WEIGHTS_FILE).write_bytes(weights)
    with pytest.raises(IntegrityError, match="not readable as JSON"):
        load_model(folder)
    (folder / CARD_FILE).write_text(json.dumps({"format": 7}))
    with pytest.raises(CheckpointError, match="not a model card of format 1"):
        load_model(folder)


def test_another_architecture_is_refused_in_one_sentence() -> None:
    model = tiny_model()
    architecture = model.config.model_copy(update={"head": SimpleHeadConfig()})
    other = PoseModel(model.card.model_copy(update={"architecture": architecture}))
    with pytest.raises(CheckpointError) as refusal:
        load_weights(model, other.state_dict(), origin="other.safetensors")
    message = str(refusal.value)
    assert message.startswith(
        "other.safetensors belongs to another architecture; missing: heads.people.deconv_layers.0"
    )
    assert "and 21 more" in message
    assert "heads.people.final_layer.weight (5, 32, 3, 3) instead of (5, 8, 1, 1)" in message
    extra = {**model.state_dict(), "cls_token": torch.zeros(1)}
    with pytest.raises(CheckpointError, match="unexpected: cls_token"):
        load_weights(model, extra, origin="x")
