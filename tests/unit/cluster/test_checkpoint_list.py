"""Ray's list of checkpoints, as Ray reads it, after whatever has happened to it and to the checkpoints."""

import asyncio
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from ray.train import Checkpoint, CheckpointConfig
from ray.train.v2._internal.exceptions import CheckpointManagerInitializationError
from ray.train.v2._internal.execution.checkpoint.checkpoint_manager import CheckpointManager
from ray.train.v2._internal.execution.context import StorageContext
from ray.train.v2._internal.execution.training_report import _TrainingReport

from posecore.cluster.checkpoint_list import LIST_FILE, mend_checkpoint_list
from posecore.storage import as_path
from posecore.training.checkpoint import MANIFEST_FILE

KEPT = 3


def _write(folder: Path, name: str) -> None:
    """Of a checkpoint only what is looked at: a file, and the manifest that states its size."""
    (folder / name).mkdir(parents=True)
    (folder / name / "state.json").write_bytes(b"{}")
    stated = {"state.json": {"num_bytes": 2, "sha256": "0" * 64}}
    (folder / name / MANIFEST_FILE).write_text(json.dumps({"format": 1, "files": stated}))


def _manager(folder: Path) -> CheckpointManager:
    """What Ray starts a training with, which reads the list."""
    return CheckpointManager(CheckpointConfig(num_to_keep=KEPT), StorageContext(str(folder.parent), folder.name))


def _names(folder: Path) -> list[str]:
    manager = _manager(folder)
    names = [Path(result.checkpoint.path).name for result in manager._checkpoint_results]
    newest = manager.latest_checkpoint_result
    assert (None if newest is None else Path(newest.checkpoint.path).name) == (names[-1] if names else None)
    return names


def _report(folder: Path, *names: str) -> None:
    async def report() -> None:
        manager = _manager(folder)
        for name in names:
            _write(folder, name)
            manager.register_checkpoint(_TrainingReport(Checkpoint.from_directory(str(folder / name)), {}, False))

    asyncio.run(report())


A, B, C = (f"step_0000000{step}_ws1_first" for step in (1, 2, 3))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run of three checkpoints, as Ray left it."""
    folder = tmp_path / "train"
    _report(folder, A, B, C)
    assert _names(folder) == [A, B, C]
    return folder


def test_a_true_list_is_left_alone(folder: Path) -> None:
    before = (folder / LIST_FILE).stat()
    mend_checkpoint_list(folder)
    assert (folder / LIST_FILE).stat() == before
    mend_checkpoint_list(folder.parent / "not_begun")
    assert not (folder.parent / "not_begun").exists()


def _of_another_ray(file: Path) -> None:
    state = json.loads(file.read_text())
    del state["current_report_index"]
    file.write_text(json.dumps(state))


@pytest.mark.parametrize(
    "damage",
    [lambda file: file.write_bytes(b""), lambda file: file.write_bytes(file.read_bytes()[:-9]), _of_another_ray],
    ids=["empty", "cut", "of another Ray"],
)
def test_a_list_that_ray_refuses_is_made_anew(folder: Path, damage: Callable[[Path], None]) -> None:
    damage(folder / LIST_FILE)
    with pytest.raises(CheckpointManagerInitializationError):
        _manager(folder)
    mend_checkpoint_list(folder)
    assert _names(folder) == [A, B, C]


def test_a_deleted_checkpoint_is_not_looked_for(folder: Path) -> None:
    shutil.rmtree(folder / C)
    with pytest.raises(CheckpointManagerInitializationError):
        _manager(folder)
    mend_checkpoint_list(folder)
    assert _names(folder) == [A, B]
    for name in (A, B):
        shutil.rmtree(folder / name)
    mend_checkpoint_list(folder)
    assert _names(folder) == []


def test_what_a_kill_left_between_writing_and_listing_counts(folder: Path) -> None:
    newer = "step_00000004_ws1_second"
    _write(folder, newer)
    mend_checkpoint_list(folder)
    assert _names(folder) == [A, B, C, newer]
    (folder / LIST_FILE).unlink()
    mend_checkpoint_list(folder)
    assert _names(folder) == [A, B, C, newer]


def test_damaged_checkpoints_take_no_whole_ones_place(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / C / "state.json").write_bytes(b"{")
    unfinished = folder / "step_00000002_ws1_second"
    unfinished.mkdir()
    mend_checkpoint_list(folder)
    said = capsys.readouterr().err
    assert said.startswith("a checkpoint is passed over: ")
    assert C in said
    assert said.count("\n") == 1
    assert _names(folder) == [A, B]
    assert (folder / C).exists(), "the file may come back from a copy"
    assert not unfinished.exists()
    again = "step_00000003_ws1_second"
    _report(folder, again)
    assert _names(folder) == [A, B, again]
    mend_checkpoint_list(folder)
    assert not (folder / C).exists()
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("readable", [True, False])
def test_where_none_is_whole_the_worker_is_shown_them(folder: Path, readable: bool) -> None:
    """It refuses to start from nothing, which would be hours of training lost without a word."""
    for name in (A, B, C):
        (folder / name / "state.json").unlink()
    if not readable:
        (folder / LIST_FILE).write_bytes(b"")
    mend_checkpoint_list(folder)
    assert _names(folder) == [A, B, C]


def test_a_list_behind_a_url() -> None:
    folder = as_path("memory://runs/train")
    for name in (A, B):
        for file, content in (("state.json", "{}"), (MANIFEST_FILE, '{"format": 1, "files": {}}')):
            (folder / name).mkdir(parents=True, exist_ok=True)
            (folder / name / file).write_text(content)
    (folder / "step_00000001_ws1_cut").mkdir()
    (folder / "step_00000001_ws1_cut" / "state.json").write_text("{}")
    mend_checkpoint_list(folder)
    listed = json.loads((folder / LIST_FILE).read_bytes())
    assert [result["checkpoint_dir_name"] for result in listed["checkpoint_results"]] == [A, B]
    assert not (folder / "step_00000001_ws1_cut").exists()
    mend_checkpoint_list(folder)
