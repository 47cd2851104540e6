"""Training code that was edited between two submissions: what it makes is its own, and checkpoints are not mixed."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import posecore
from posecore.errors import CheckpointError
from posecore.lineage.code import version as code_version
from posecore.lineage.jobs.steps import Reuse, StepResult
from posecore.lineage.store.tracking import RunLog, Tracking
from posecore.methods.supervised import SupervisedHeads
from posecore.models.saving import load_model
from tests.support.in_process import submit
from tests.support.watched_training import STEPS, WatchedWorker, seen, watched_worker, write_stores

SOURCES = Path(posecore.__file__).parents[1]


@pytest.fixture
def worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WatchedWorker]:
    """A worker whose code is a copy of ours that the test may edit."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # on busy cores, several wait for one another longer than these steps take
    for package in ("posecore", "pipelines", "tests/support"):
        shutil.copytree(SOURCES / package, tmp_path / "code" / package, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(code_version, "_ROOT", tmp_path / "code")
    stores = write_stores(tmp_path / "stores")
    yield watched_worker(tmp_path / "record", {"people": stores["people"]})
    torch.set_num_threads(threads)


def edit_loss(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Multiplies the loss in the sources and in this process alike."""
    source = folder / "code" / "posecore" / "methods" / "supervised.py"
    source.write_text(source.read_text() + "\nLOUDER = 1000\n")
    as_it_was = SupervisedHeads.forward

    def louder(self: SupervisedHeads, *arguments: object) -> dict[str, torch.Tensor]:
        return {name: 1000 * value for name, value in as_it_was(self, *arguments).items()}

    monkeypatch.setattr(SupervisedHeads, "forward", louder)


def steps_made(worker: WatchedWorker) -> list[int]:
    made = list(seen(worker.record))
    for path in worker.record.glob("*.jsonl"):
        path.unlink()
    return made


def weights(step: StepResult) -> dict[str, torch.Tensor]:
    return load_model(step.values["folder"]).state_dict()


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(tensor, second[name]) for name, tensor in first.items())


def test_an_edited_loss_gives_other_weights(
    worker: WatchedWorker, tracking: Tracking, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = submit(tracking, tmp_path / "run", worker)
    assert submit(tracking, tmp_path / "run", worker).reused
    assert steps_made(worker) == list(range(STEPS))
    edit_loss(tmp_path, monkeypatch)
    said: list[str] = []
    after = submit(tracking, tmp_path / "run", worker, said=said)
    assert steps_made(worker) == list(range(STEPS))
    assert not after.reused
    assert not same(weights(before), weights(after))
    assert Path(before.values["run_dir"]).name in said[0], "nobody was told of the checkpoints left alone"


def test_a_run_that_reuses_nothing_starts_at_the_first_step(
    worker: WatchedWorker, tracking: Tracking, tmp_path: Path
) -> None:
    before = submit(tracking, tmp_path / "run", worker)
    steps_made(worker)
    again = submit(tracking, tmp_path / "run", worker, Reuse(finished=False))
    assert steps_made(worker) == list(range(STEPS))
    assert again.values["run_dir"] == before.values["run_dir"] + "-2"
    assert same(weights(before), weights(again))


def test_an_interrupted_run_goes_on_under_the_same_code_alone(
    worker: WatchedWorker, tracking: Tracking, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stops = watched_worker(worker.record, dict(worker.stores), stop_at=7)
    with pytest.raises(CheckpointError, match="stopped by the test"):
        submit(tracking, tmp_path / "run", stops)
    steps_made(worker)
    submit(tracking, tmp_path / "run", worker)
    assert steps_made(worker) == list(range(6, STEPS))

    edit_loss(tmp_path, monkeypatch)
    clean = submit(tracking, tmp_path / "run", worker)
    assert steps_made(worker) == list(range(STEPS))
    assert "resumed_code" not in load_model(clean.values["folder"]).card.lineage


def test_another_codes_checkpoints_are_gone_on_from_if_it_is_named(
    worker: WatchedWorker, tracking: Tracking, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stops = watched_worker(worker.record, dict(worker.stores), stop_at=7)
    with pytest.raises(CheckpointError, match="stopped by the test"):
        submit(tracking, tmp_path / "run", stops)
    (interrupted,) = (tmp_path / "run" / "training").glob("*/*")
    steps_made(worker)
    edit_loss(tmp_path, monkeypatch)

    with pytest.raises(CheckpointError, match=f"has checkpoints of {interrupted.name}, not of abcdef"):
        submit(tracking, tmp_path / "run", worker, Reuse(codes=("abcdef",)))
    kept = {path: path.read_bytes() for path in interrupted.rglob("*") if path.is_file()}
    mixed = submit(tracking, tmp_path / "run", worker, Reuse(codes=(interrupted.name,)))
    assert steps_made(worker) == list(range(6, STEPS))
    assert {path: path.read_bytes() for path in interrupted.rglob("*") if path.is_file()} == kept
    assert load_model(mixed.values["folder"]).card.lineage["resumed_code"] == interrupted.name
    run = tracking.client.get_run(mixed.run_id)
    assert run.data.tags["posecore.resumed_code"] == interrupted.name
    assert RunLog(tracking, mixed.run_id).read_file("outputs.json")

    assert submit(tracking, tmp_path / "run", worker, Reuse(codes=(interrupted.name,))).reused
    clean = submit(tracking, tmp_path / "run", worker)
    assert not clean.reused, "what two versions of the code have made passed for the work of one"
    assert steps_made(worker) == list(range(STEPS))
