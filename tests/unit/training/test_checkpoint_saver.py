"""What rank 0 makes of the pieces of the others: two ranks that are two threads of this process."""

import time
from pathlib import Path

import pytest
import torch

from posecore.errors import CheckpointError
from posecore.training import checkpoint_saver
from posecore.training.checkpoint import Counts, Progress
from posecore.training.checkpoint_pieces import Piece
from posecore.training.checkpoint_saver import CheckpointSaver
from posecore.training.context import LocalContext

PROGRESS = Progress(step=4, seed=0, world_size=2, config={})


def saver(folder: Path, rank: int) -> CheckpointSaver:
    context = LocalContext(folder)
    context.rank, context.world_size, context.attempt = rank, 2, "a"
    return CheckpointSaver(context)


def save(of_rank: CheckpointSaver, name: str) -> None:
    of_rank.save([Piece.whole(f"model/{name}", torch.ones(3))], Counts(optimizer_steps=4), PROGRESS)


def leave_with_an_error(of_rank: CheckpointSaver) -> None:
    error = RuntimeError("of this rank")
    of_rank.__exit__(RuntimeError, error, None)


def test_a_rank_that_is_late_is_waited_for_and_its_pieces_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint_saver, "_PATIENCE_S", 0.0)  # which a healthy run needs none of
    with saver(tmp_path, 0) as first, saver(tmp_path, 1) as second:
        save(first, "a")
        time.sleep(0.2)
        assert first._context.store.newest() is None
        save(second, "b")
        first.finish()
        newest = first._context.store.newest()
    assert newest is not None
    assert {path.name for path in newest.iterdir()} == {
        "manifest.json", "state.json", "rank_00000-000.safetensors", "rank_00001-000.safetensors",
    }  # fmt: skip


def test_after_an_error_here_the_others_get_their_time_and_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint_saver, "_PATIENCE_S", 0.3)
    first = saver(tmp_path, 0)
    save(first, "a")
    leave_with_an_error(first)
    assert first._context.store.newest() is None

    monkeypatch.setattr(checkpoint_saver, "_PATIENCE_S", 60.0)
    with saver(tmp_path, 1) as second:
        first = saver(tmp_path, 0)
        save(first, "a")
        save(second, "b")
        leave_with_an_error(first)
        assert first._context.store.newest() is not None, "all had written theirs"


def test_a_store_that_refuses_is_quoted(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("a file where a folder is to be made")
    one = CheckpointSaver(LocalContext(tmp_path))
    save(one, "a")
    with pytest.raises(CheckpointError, match=r"cannot be written \((File exists|Not a directory)\); the one before"):
        one.finish()
