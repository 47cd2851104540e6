"""Two processes see what one with the whole batch sees; what each alone knows of it is averaged before it is kept.

A step on two ranks is compared with one step in this process, never with another engine, which may err alike.
"""

import json
from pathlib import Path

import pytest
import torch

from posecore.methods.batch import to_device
from posecore.methods.supervised import SupervisedHeads
from posecore.training.best import result_of
from posecore.training.checkpoint import Checkpoint, step_of
from posecore.training.checkpoint_store import CheckpointStore
from posecore.training.context import LocalContext
from posecore.training.engine import TorchEngineConfig
from tests.support.checkpoints import State, load_checkpoint
from tests.support.launched_runs import TORCH, last_state, launch
from tests.support.tiny_training import LOG_FILE, described_method, tiny_batches, tiny_training

TAUGHT = {
    "strategy": "full",
    "replayed": [],
    "unlabelled": {"confidence": -1.0, "mask_share": 0.25, "ramp_up": 0.5},
    "unlabelled_sets": ["people"],
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")

    def run(name: str, steps: int, **fields: object) -> dict[str, object]:
        return {"run_dir": str(folder / name), "engine": TORCH, "steps": steps, "checkpoint_every": 1, **fields}

    blind = [run(f"blind{rank}", 3, method="plain", copy_of=str(folder / "plain"), blind=rank) for rank in range(2)]
    bad = run("bad", 5, method="plain", bad_samples=True)
    apart = run("apart", 1, apart=1)
    best = run("best", 6, method="plain", scores=[[0.1, 0.3, 0.2, 0.1, 0.9, 0.9], [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]])
    best["training"] = {"evaluate_every": 1, "best": {"metric": "people/score", "patience": 2}}
    plain, taught = run("plain", 2, method="plain"), run("taught", 2, adaptation=TAUGHT)
    launch([apart, best, plain, run("norms", 1), taught, *blind, bad], 2)
    return folder


def _state(runs: Path, name: str, step: int) -> State:
    (folder,) = (runs / name / "checkpoints").glob(f"step_{step:08d}_*")
    return load_checkpoint(folder)[0]


def test_gradients_are_those_of_the_whole_batch(runs: Path, tmp_path: Path) -> None:
    tiny_training(
        LocalContext(tmp_path), TorchEngineConfig(), steps=1, checkpoint_every=1, method=described_method("plain")
    )
    expected = last_state(tmp_path).exp_avg
    got = _state(runs, "plain", 1).exp_avg
    assert got.keys() == expected.keys()
    for name, moment in got.items():
        torch.testing.assert_close(moment, expected[name], rtol=1e-4, atol=1e-7)


def test_logged_losses_are_those_of_the_whole_batch(runs: Path, tmp_path: Path) -> None:
    logged: list[dict[str, float]] = []
    context = LocalContext(tmp_path, log=lambda metrics, step: logged.append(dict(metrics)))
    tiny_training(context, TorchEngineConfig(), steps=2, method=described_method("plain"))
    theirs = [json.loads(line) for line in (runs / "plain" / LOG_FILE).read_text().splitlines()]
    assert len(theirs) == len(logged) == 1
    for name in ("loss", "loss/people", "loss/dogs"):
        assert theirs[0][name] == pytest.approx(logged[0][name], rel=1e-4)
        assert theirs[0][name] > 0


@pytest.mark.parametrize("rank", [0, 1])
def test_a_checkpoint_that_one_rank_cannot_read_is_passed_over_by_both(runs: Path, rank: int) -> None:
    """Or they would train on from different steps. What both made again is what they had."""
    before, after = (
        {step_of(path.name): path for path in (runs / name / "checkpoints").iterdir()}
        for name in ("plain", f"blind{rank}")
    )
    assert sorted(after) == [1, 2, 3]
    assert after[1].name == before[1].name
    assert after[2].name != before[2].name
    again, first = (load_checkpoint(folders[2])[0].weights for folders in (after, before))
    assert all(torch.equal(tensor, first[name]) for name, tensor in again.items())


def test_ranks_that_share_no_folder_are_refused_before_the_first_step(runs: Path) -> None:
    """Rank 0 would wait for ever for what the other writes elsewhere."""
    first, second = ((runs / "apart" / f"refused_rank{rank}").read_text() for rank in range(2))
    assert first == second
    assert "rank 1 on " in first
    assert "put the run's folder on a disk that all nodes share, or behind a URL" in first
    assert list((runs / "apart" / "checkpoints").iterdir()) == []


def test_damaged_samples_of_all_ranks_are_in_the_checkpoint_and_counted(runs: Path) -> None:
    folders = sorted((runs / "bad" / "checkpoints").iterdir())
    assert Checkpoint(folders[-1]).progress.bad_samples == {"people": (0, 3, 100, 103)}
    logged = [json.loads(line) for line in (runs / "bad" / LOG_FILE).read_text().splitlines()]
    assert [(line["step"], line["bad_samples"]) for line in logged] == [(2, 2), (4, 4), (5, 4)]


def test_saved_statistics_are_the_mean_of_what_each_rank_saw(runs: Path) -> None:
    norms = []
    for rank in range(2):
        method = described_method(None)
        assert isinstance(method, SupervisedHeads)
        method.train()(to_device(next(tiny_batches(0, rank, 2)), torch.device("cpu")))
        norms.append({name: buffer for name, buffer in method.named_buffers() if "people" in name})
    saved = _state(runs, "norms", 1).buffers
    compared = [name for name in norms[0] if name.endswith("running_mean")]
    assert len(compared) == 2
    for name in compared:
        assert not torch.allclose(norms[0][name], norms[1][name], rtol=0.01, atol=0)
        torch.testing.assert_close(saved[name], (norms[0][name] + norms[1][name]) / 2, rtol=1e-4, atol=1e-9)


def test_a_mean_teacher_takes_in_the_mean_of_statistics(runs: Path) -> None:
    """Before the second step: half of it what the student began with, half what the student is after the first."""
    first = described_method(None, TAUGHT).state_dict()
    student, taught = _state(runs, "taught", 1).buffers, _state(runs, "taught", 2).buffers
    names = [name for name in taught if name.startswith("mean_teacher.") and name.endswith("running_var")]
    names = [name for name in names if "dogs" in name]
    assert names
    for name in names:
        own = name.replace("mean_teacher.", "method.")
        assert not torch.allclose(student[own], first[own])
        torch.testing.assert_close(taught[name], (first[own] + student[own]) / 2)


def test_ranks_agree_on_what_is_best_and_when_to_end(runs: Path) -> None:
    """By what rank 0 found: to the other one every step was better than the one before."""
    folder, last = result_of(CheckpointStore(runs / "best" / "checkpoints"))
    assert Checkpoint(folder).progress.step == 2
    assert Checkpoint(last).progress.step == 4
