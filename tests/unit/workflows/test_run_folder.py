"""Which checkpoints a training begins with: copies of others', whole, or a sentence."""

import shutil
from pathlib import Path

import pytest

from posecore.errors import CheckpointError
from posecore.storage import as_path
from posecore.training.checkpoint import MANIFEST_FILE
from posecore.workflows import run_folder
from posecore.workflows.machines import RUN_NAME
from posecore.workflows.run_folder import LABEL_LOSSES, copy_run


@pytest.fixture
def trial(tmp_path: Path) -> Path:
    """A run with a checkpoint, and the losses recorded before."""
    checkpoint = tmp_path / "trial" / RUN_NAME / "step_00000030_a"
    checkpoint.mkdir(parents=True)
    (checkpoint / "weights").write_bytes(b"weights")
    (checkpoint / MANIFEST_FILE).write_bytes(b"{}")
    (tmp_path / "trial" / LABEL_LOSSES / "infants").mkdir(parents=True)
    (tmp_path / "trial" / LABEL_LOSSES / "infants" / "step_000000010.npz").write_bytes(b"")
    return tmp_path / "trial"


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_checkpoints_and_recorded_losses_are_copied(trial: Path, tmp_path: Path) -> None:
    copy_run(trial, tmp_path / "child")
    assert names(tmp_path / "child") == names(trial)


def test_of_several_checkpoints_the_newest_is_whole_first(trial: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy to a store that is killed between two of them would else go on from the oldest."""
    for name in ("step_00000010_c", "step_00000020_b"):
        shutil.copytree(trial / RUN_NAME / "step_00000030_a", trial / RUN_NAME / name)
    written: list[str] = []
    monkeypatch.setattr(run_folder, "write_atomically", lambda path, _: written.append(str(path)))
    copy_run(trial, as_path("memory://runs/child"))
    whole = [path for path in written if path.endswith(MANIFEST_FILE)]
    assert [Path(path).parent.name[:13] for path in whole] == ["step_00000030", "step_00000020", "step_00000010"]
    assert written[-3:] == whole


@pytest.mark.parametrize("left", ["nothing", "an empty folder", "no manifest"])
def test_checkpoints_that_are_gone_are_told(trial: Path, tmp_path: Path, left: str) -> None:
    if left == "no manifest":
        next(trial.rglob(MANIFEST_FILE)).unlink()
    else:
        shutil.rmtree(trial / RUN_NAME)
        if left == "an empty folder":
            (trial / RUN_NAME).mkdir()
    with pytest.raises(CheckpointError, match=r"trial: its checkpoints, .* are gone; .* --no-reuse"):
        copy_run(trial, tmp_path / "child")
    assert not (tmp_path / "child" / RUN_NAME).exists()


def test_what_is_left_of_an_unfinished_copy_is_replaced(trial: Path, tmp_path: Path) -> None:
    """Such as by a person who deleted a checkpoint that could not be read."""
    (tmp_path / "child" / RUN_NAME / "step_00000060_b").mkdir(parents=True)
    (tmp_path / "child" / RUN_NAME / "step_00000060_b" / "weights").write_bytes(b"")
    copy_run(trial, tmp_path / "child")
    assert names(tmp_path / "child") == names(trial)
