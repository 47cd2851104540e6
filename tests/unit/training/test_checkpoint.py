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


SHA = "0" * 64


@pytest.mark.parametrize(
    ("manifest", "what"),
    [
        ("[1]", "is not a checkpoint manifest of format 1"),
        ('{"format": 1}', "files"),
        ('{"format": 1, "files": {}}', "does not name state.safetensors"),
        (f'{{"format": 1, "files": {{"state.safetensors": {{"num_bytes": -1, "sha256": "{SHA}"}}}}}}', "num_bytes"),
        (f'{{"format": 1, "files": {{"state.safetensors": {{"num_bytes": 1e400, "sha256": "{SHA}"}}}}}}', "num_bytes"),
        ('{"format": 1, "files": {"state.safetensors": {"num_bytes": 5, "sha256": "../../x"}}}', "sha256"),
        (
            f'{{"format": 1, "files": {{"state.safetensors": {{"num_bytes": {1 << 60}, "sha256": "{SHA}"}}}}}}',
            rf"\(\d+ of {1 << 60} bytes",
        ),
        ('{"format": 1, "files": ' + "[" * 5000 + "]" * 5000 + "}", "manifest.json"),
        (" " * ((1 << 20) + 1), "is larger than any manifest"),
    ],
)
def test_an_absurd_manifest_is_refused_in_one_sentence(tmp_path: Path, manifest: str, what: str) -> None:
    save_checkpoint(tmp_path, _state(), PROGRESS)
    (tmp_path / MANIFEST_FILE).write_text(manifest)
    with pytest.raises((CheckpointError, IntegrityError), match=what) as refusal:
        load_checkpoint(tmp_path)
    assert "\n" not in str(refusal.value)
    assert len(str(refusal.value)) < 1000


def test_progress_of_a_size_that_no_such_file_has_is_not_read(tmp_path: Path) -> None:
    """It is as sparse as it can be; the manifest states its size truthfully."""
    save_checkpoint(tmp_path, _state(), PROGRESS)
    size = (16 << 20) + 1
    with (tmp_path / "state.json").open("r+b") as file:
        file.truncate(size)
    manifest = json.loads((tmp_path / MANIFEST_FILE).read_text())
    manifest["files"]["state.json"]["num_bytes"] = size
    (tmp_path / MANIFEST_FILE).write_text(json.dumps(manifest))
    with pytest.raises(IntegrityError, match=r"state\.json is larger than any such file"):
        load_checkpoint(tmp_path)


SECTIONS = ("weights", "exp_avg", "exp_avg_sq", "buffers", "average", "anchor")


@pytest.mark.parametrize("section", SECTIONS)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_tensor_that_is_not_finite_is_neither_saved_nor_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, section: str, value: float
) -> None:
    state = _state()
    tensors = getattr(state, section)
    tensors["model.one"], tensors["model.other"] = torch.zeros(3), torch.tensor([0.0, value, 0.0])
    with pytest.raises(CheckpointError, match=f"in {section}/model.other; it is not saved") as refusal:
        save_checkpoint(tmp_path / "c", state, PROGRESS)
    assert "model.one" not in str(refusal.value)
    assert not (tmp_path / "c").exists()
    with monkeypatch.context() as without:  # as a version of the code without the check had written it
        without.setattr("posecore.training.checkpoint.refuse_nonfinite_state", lambda *_: None)
        save_checkpoint(tmp_path / "c", state, PROGRESS)
    with pytest.raises(CheckpointError, match=f"in {section}/model.other; its run had diverged"):
        load_checkpoint(tmp_path / "c")


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
