"""The result of a run is its best checkpoint, and a run without a better one ends early; in one process."""

import math
from pathlib import Path

import pytest

from posecore.errors import CheckpointError, ConfigError
from posecore.training.best import BestConfig, BestSoFar, result_of
from posecore.training.checkpoint import Checkpoint
from posecore.training.context import LocalContext
from posecore.training.engine import TorchEngineConfig
from posecore.training.loop import TrainingConfig, TrainResult
from posecore.training.spent import hardware_of_all
from tests.support.checkpoints import load_checkpoint
from tests.support.tiny_training import Stopped, stop_at, tiny_training, told_scores

SCORES = (0.1, 0.5, 0.4, math.nan, 0.3, 0.2, 0.9, 0.9)


def _run(run_dir: Path, stop_before: int | None = None) -> TrainResult:
    settings = {"evaluate_every": 1, "best": BestConfig(metric="people/score", patience=4)}
    return tiny_training(
        LocalContext(run_dir, num_to_keep=1),
        TorchEngineConfig(),
        steps=8,
        before_step=stop_at(stop_before),
        training=settings,
        judge=told_scores(SCORES),
    )


def test_a_run_without_a_better_step_ends_and_the_best_is_kept(tmp_path: Path) -> None:
    """With the state of an uninterrupted run, wherever it was stopped: within its patience, or after its end."""
    assert _run(tmp_path / "whole").step == 6
    best, last = result_of(LocalContext(tmp_path / "whole").store)
    assert [Checkpoint(folder).progress.step for folder in (best, last)] == [2, 6]
    assert Checkpoint(last).progress.best == (0.5, 2, 4)
    assert _run(tmp_path / "whole").step == 6, "it goes on for good if it forgets why it ended"
    with pytest.raises(Stopped):
        _run(tmp_path / "stopped", stop_before=4)
    assert _run(tmp_path / "stopped").step == 6
    others = result_of(LocalContext(tmp_path / "stopped").store)
    for ours, theirs in zip((best, last), others, strict=True):
        first, second = load_checkpoint(ours)[0].weights, load_checkpoint(theirs)[0].weights
        assert all(first[name].equal(second[name]) for name in first)
    progress = Checkpoint(others[1]).progress
    hardware = hardware_of_all(LocalContext(tmp_path).device)
    assert progress.hardware == {hardware: 6}, "three steps of each attempt"
    assert progress.seconds > Checkpoint(others[0]).progress.seconds > 0
    for file in best.iterdir():
        file.unlink()
    with pytest.raises(CheckpointError, match="the best checkpoint, of step 2, is gone; put it back"):
        result_of(LocalContext(tmp_path / "whole").store)


def test_less_may_be_better_and_a_hair_is_not() -> None:
    best = BestSoFar(BestConfig(metric="people/NME", better="less", least_change=0.1), None)
    found = [best.take({"people/NME": value}, step) for step, value in enumerate([3.0, 2.95, 2.5, 2.6])]
    assert found == [True, False, True, False]
    assert not best.has_lost_patience


def test_a_metric_that_nobody_finds_is_refused_with_those_that_are() -> None:
    with pytest.raises(ConfigError, match=r"there is no coco/PA; there are: coco/AP, coco/AR"):
        BestSoFar(BestConfig(metric="coco/PA"), None).take({"coco/AR": 1.0, "coco/AP": 1.0}, 1)
    with pytest.raises(ValueError, match="set evaluate_every"):
        TrainingConfig(steps=1, global_batch=1, best=BestConfig(metric="coco/AP"))
