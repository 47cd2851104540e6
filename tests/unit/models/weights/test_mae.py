from pathlib import Path

import pytest
import torch
from torch import Tensor

from posecore.errors import CheckpointError
from posecore.models.weights.mae import MAE
from posecore.models.weights.read import read_weights
from tests.support.tiny_weights import add_tiny_presets, tiny_model


@pytest.fixture(autouse=True)
def _presets(monkeypatch: pytest.MonkeyPatch) -> None:
    add_tiny_presets(monkeypatch)


def pretrained(side: int = 4, kernel: int = 16) -> dict[str, Tensor]:
    """A masked autoencoder of ``side`` × ``side`` patches, with its decoder, as published."""
    generator = torch.Generator().manual_seed(0)
    tensors = MAE.write(tiny_model(input_size=(side * 16, side * 16))).tensors
    tensors["patch_embed.proj.weight"] = torch.rand(32, 3, kernel, kernel, generator=generator)
    decoder = ("mask_token", "decoder_pos_embed", "decoder_embed.weight", "decoder_blocks.0.attn.qkv.weight")
    return tensors | {name: torch.rand(1, 2, 3, generator=generator) for name in decoder}


def saved(folder: Path, tensors: dict[str, Tensor]) -> Path:
    torch.save({"model": tensors, "optimizer": {}, "epoch": 800}, folder / "mae.pth")
    return folder / "mae.pth"


def test_the_encoder_is_read_and_the_rest_is_dropped_by_name(tmp_path: Path) -> None:
    tensors = pretrained()
    found = read_weights(saved(tmp_path, tensors))
    assert not found.heads
    assert found.input_size == (64, 64)
    assert found.config.backbone.patch_padding == 0  # as it was pre-trained
    dropped = found.card.lineage["weights"]["dropped"]
    assert dropped.keys() == {n for n in tensors if n.startswith(("cls_", "mask_", "decoder_", "norm."))}
    for name, tensor in found.backbone.state_dict().items():
        if not name.startswith("last_norm."):
            assert torch.equal(tensor, tensors[name]), name


def test_the_final_norm_is_not_transferred(tmp_path: Path) -> None:
    found = read_weights(saved(tmp_path, pretrained()))
    assert torch.equal(found.backbone.last_norm.weight, torch.ones(32))
    assert torch.equal(found.backbone.last_norm.bias, torch.zeros(32))
    assert "does not transfer the final norm" in found.card.lineage["weights"]["dropped"]["norm.weight"]


def test_slot_0_of_the_positional_embedding_stays(tmp_path: Path) -> None:
    tensors = pretrained()
    assert torch.equal(read_weights(saved(tmp_path, tensors)).backbone.pos_embed[0, 0], tensors["pos_embed"][0, 0])


def test_a_kernel_of_14_is_padded_to_16(tmp_path: Path) -> None:
    tensors = pretrained(kernel=14)
    kernel = read_weights(saved(tmp_path, tensors)).backbone.patch_embed.proj.weight
    assert torch.equal(kernel[:, :, 1:15, 1:15], tensors["patch_embed.proj.weight"])
    assert kernel.count_nonzero() == kernel[:, :, 1:15, 1:15].count_nonzero()


def test_what_does_not_belong_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="does not know: neck"):
        read_weights(saved(tmp_path, pretrained() | {"neck": torch.ones(1)}))
    with pytest.raises(CheckpointError, match="patches of 13 pixels"):
        read_weights(saved(tmp_path, pretrained(kernel=13)))
    with pytest.raises(CheckpointError, match="has no heads"):
        read_weights(saved(tmp_path, pretrained()), skeletons=tiny_model().skeletons)
    with pytest.raises(CheckpointError, match="layout mae holds dense vision transformers"):
        MAE.write(tiny_model("tiny-plus"))


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    model = read_weights(saved(tmp_path, pretrained()))
    written = MAE.write(model)
    assert written.dropped == {}
    again = read_weights(saved(tmp_path, written.tensors)).state_dict()
    assert all(torch.equal(tensor, again[name]) for name, tensor in model.state_dict().items())
    assert MAE.write(tiny_model()).dropped.keys() == {n for n in tiny_model().state_dict() if n.startswith("heads.")}
