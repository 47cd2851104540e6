"""A run whose newest checkpoint is damaged goes on from the newest whole one, and says so."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from posecore.errors import CheckpointError
from posecore.training.checkpoint import MANIFEST_FILE, step_of
from posecore.training.context import LocalContext
from posecore.training.engine import TorchEngineConfig
from tests.support.checkpoints import load_checkpoint
from tests.support.launched_runs import last_state
from tests.support.tiny_training import tiny_training


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


def _changed(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


PIECES = "rank_00000-000.safetensors"
DAMAGES: dict[str, tuple[str, Callable[[Path], None], str]] = {
    "missing tensors": (PIECES, Path.unlink, "rank_00000-000.safetensors is missing"),
    "missing progress": ("state.json", Path.unlink, "state.json is missing"),
    "missing manifest": (MANIFEST_FILE, Path.unlink, "was never finished"),
    "cut tensors": (PIECES, _cut, "rank_00000-000.safetensors is not what was written"),
    "another byte": (PIECES, _changed, "rank_00000-000.safetensors is not what was written"),
    "cut manifest": (MANIFEST_FILE, _cut, "manifest.json is not readable as JSON"),
    "empty manifest": (MANIFEST_FILE, lambda path: path.write_bytes(b""), "manifest.json is not readable as JSON"),
    "another format": (MANIFEST_FILE, lambda path: path.write_text("{}"), "is not a checkpoint manifest of format"),
}


def _train(run_dir: Path, steps: int = 6, num_to_keep: int = 3) -> None:
    context = LocalContext(run_dir, num_to_keep=num_to_keep)
    tiny_training(context, TorchEngineConfig(), steps, checkpoint_every=2, drop_path=0.0)


def _folders(run_dir: Path) -> dict[int, Path]:
    return {step_of(path.name) or 0: path for path in (run_dir / "checkpoints").iterdir()}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with checkpoints of steps 2, 4 and 6."""
    folder = tmp_path_factory.mktemp("finished")
    _train(folder)
    return folder


@pytest.fixture
def run_dir(finished: Path, tmp_path: Path) -> Path:
    for step, folder in _folders(finished).items():
        copied = tmp_path / "checkpoints" / folder.name
        copied.mkdir(parents=True)
        for path in folder.iterdir():
            (copied / path.name).write_bytes(path.read_bytes())
        assert step in (2, 4, 6)
    return tmp_path


@pytest.mark.parametrize("damage", DAMAGES)
def test_the_newest_whole_checkpoint_is_taken_and_the_damage_named(
    finished: Path, run_dir: Path, damage: str, capsys: pytest.CaptureFixture
) -> None:
    name, spoil, what = DAMAGES[damage]
    spoil(_folders(run_dir)[6] / name)
    _train(run_dir)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("training goes on from the checkpoint of step 4: ")
    assert what in line
    expected, found = last_state(finished), last_state(run_dir)
    for section in ("weights", "exp_avg", "exp_avg_sq", "buffers"):
        ours, theirs = getattr(expected, section), getattr(found, section)
        assert all(torch.equal(tensor, theirs[key]) for key, tensor in ours.items()), section


def test_two_damaged_ones_are_both_named(run_dir: Path, capsys: pytest.CaptureFixture) -> None:
    for step in (4, 6):
        _cut(_folders(run_dir)[step] / PIECES)
    _train(run_dir)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("training goes on from the checkpoint of step 2: ")
    assert line.count("is not what was written") == 2


def test_whole_checkpoints_say_nothing(run_dir: Path, capsys: pytest.CaptureFixture) -> None:
    _train(run_dir)
    assert capsys.readouterr().err == ""


def test_none_whole_is_one_sentence_and_no_new_start(run_dir: Path) -> None:
    for folder in _folders(run_dir).values():
        _cut(folder / PIECES)
    with pytest.raises(
        CheckpointError, match=r"none of the run's 3 checkpoints is whole \(the newest: .*step_00000006"
    ):
        _train(run_dir)
    assert sorted(_folders(run_dir)) == [2, 4, 6]


def test_a_damaged_checkpoint_takes_no_whole_ones_place(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It stays until the run has overtaken it; the whole ones beside it are counted alone."""
    damaged = _folders(run_dir)[6]
    _cut(damaged / PIECES)
    context = LocalContext(run_dir, num_to_keep=2)
    kept: list[set[str]] = []
    remove = context.store.remove_superseded

    def watched(name: str, best: int | None) -> None:
        remove(name, best)
        kept.append({path.name for path in (run_dir / "checkpoints").iterdir()})

    monkeypatch.setattr(context.store, "remove_superseded", watched)
    tiny_training(context, TorchEngineConfig(), 6, checkpoint_every=1, drop_path=0.0)
    assert [sorted(step_of(name) for name in names if name != damaged.name) for names in kept] == [[4, 5], [5, 6]]
    assert [damaged.name in names for names in kept] == [True, False]
    for folder in _folders(run_dir).values():
        load_checkpoint(folder)


def test_what_is_damaged_among_the_older_ones_is_not_read(run_dir: Path, capsys: pytest.CaptureFixture) -> None:
    _cut(_folders(run_dir)[2] / PIECES)
    _train(run_dir, steps=8)
    assert capsys.readouterr().err == ""
    assert sorted(_folders(run_dir)) == [4, 6, 8]


def test_a_run_killed_while_it_wrote_its_first_checkpoint_starts_anew(
    finished: Path, run_dir: Path, capsys: pytest.CaptureFixture
) -> None:
    for folder in _folders(run_dir).values():
        (folder / MANIFEST_FILE).unlink()
    _train(run_dir)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("training starts anew: ")
    assert line.count("was never finished") == 3
    assert sorted(_folders(run_dir)) == [2, 4, 6]
    assert all(
        torch.equal(tensor, last_state(run_dir).tensors[key]) for key, tensor in last_state(finished).tensors.items()
    )
