import json
from pathlib import Path

import pytest
import torch

from posecore.errors import CheckpointError, IntegrityError
from posecore.methods.supervised import SupervisedHeads
from posecore.training.checkpoint import (
    MANIFEST_FILE,
    Progress,
    checkpoint_name,
    load_checkpoint,
    load_trained,
    save_checkpoint,
    step_of,
)
from posecore.training.engine import EngineState
from tests.support.tiny_training import tiny_model


def _state() -> EngineState:
    method = SupervisedHeads(tiny_model())
    weights = dict(method.named_parameters())
    return EngineState(
        weights={name: tensor.detach().clone() for name, tensor in weights.items()},
        exp_avg={name: torch.randn_like(tensor) for name, tensor in weights.items()},
        exp_avg_sq={name: torch.rand_like(tensor) for name, tensor in weights.items()},
        buffers=dict(method.named_buffers()),
        optimizer_steps=41,
    )


PROGRESS = Progress(step=41, seed=3, world_size=2, config={"global_batch": 8})


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    state = _state()
    save_checkpoint(tmp_path / "c", state, PROGRESS)
    loaded, progress = load_checkpoint(tmp_path / "c")
    assert progress == PROGRESS
    assert loaded.optimizer_steps == 41
    for section in ("weights", "exp_avg", "exp_avg_sq", "buffers"):
        ours, theirs = getattr(state, section), getattr(loaded, section)
        assert set(ours) == set(theirs)
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    method = SupervisedHeads(tiny_model())
    assert load_trained(tmp_path / "c", method) == 41
    assert torch.equal(method.state_dict()["model.backbone.pos_embed"], state.weights["model.backbone.pos_embed"])


def test_a_truncated_changed_or_missing_file_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "c"
    save_checkpoint(folder, _state(), PROGRESS)
    tensors = folder / "state.safetensors"
    whole = tensors.read_bytes()
    tensors.write_bytes(whole[:-10])
    with pytest.raises(IntegrityError, match=r"state.safetensors is not what was written \(\d+ of \d+ bytes"):
        load_checkpoint(folder)
    tensors.write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
    with pytest.raises(IntegrityError, match=r"state.safetensors is not what was written"):
        load_checkpoint(folder)
    tensors.unlink()
    with pytest.raises(IntegrityError, match=r"state.safetensors is missing"):
        load_checkpoint(folder)
    (folder / MANIFEST_FILE).write_text("[")
    with pytest.raises(IntegrityError, match="not readable as JSON"):
        load_checkpoint(folder)
    (folder / MANIFEST_FILE).unlink()
    with pytest.raises(CheckpointError, match="never finished"):
        load_checkpoint(folder)


def test_files_of_another_attempt_are_ignored(tmp_path: Path) -> None:
    folder = tmp_path / "c"
    save_checkpoint(folder, _state(), PROGRESS)
    (folder / "state_of_a_dead_rank.safetensors").write_bytes(b"stale")
    load_checkpoint(folder)


def test_another_format_is_refused(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, _state(), PROGRESS)
    manifest = json.loads((tmp_path / MANIFEST_FILE).read_text()) | {"format": 99}
    (tmp_path / MANIFEST_FILE).write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match="not a checkpoint manifest of format 1"):
        load_checkpoint(tmp_path)


def test_the_name_tells_step_world_size_and_attempt() -> None:
    name = checkpoint_name(500, 2, "a1b2")
    assert name == "step_00000500_ws2_a1b2"
    assert step_of(name) == 500
    assert step_of("step_5") is None
