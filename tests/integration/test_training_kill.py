"""A training worker killed under Ray changes nothing; another number of workers sees the same samples.

The whole chain runs: ingested shards, the loader with full augmentation, the loop, DeepSpeed, Ray Train.
"""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from posecore.cluster.training import check_resources, train_with_ray
from posecore.errors import CheckpointError, DivergenceError, PreflightError
from posecore.training.optimizer import OptimizerConfig
from posecore.workflows.machines import WorkersConfig
from tests.support.checkpoints import load_checkpoint
from tests.support.watched_training import (
    STEPS,
    assert_same_bits,
    seen,
    train_undisturbed,
    watched_worker,
    write_stores,
)

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.usefixtures("local_ray")]


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return write_stores(tmp_path_factory.mktemp("stores"))


def _cluster(num_workers: int, max_failures: int = 1) -> WorkersConfig:
    return WorkersConfig(num_workers=num_workers, cpus_per_worker=0.5, max_failures=max_failures, poll_interval_s=0.2)


def _checkpoint(run_dir: Path, step: int) -> Path:
    (found,) = (run_dir / "checkpoints").glob(f"step_{step:08d}_*")
    return found


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory, stores: dict[str, str]) -> Path:
    """A run on two workers of which one is killed in step 5, and that gives up for good in step 8."""
    folder = tmp_path_factory.mktemp("stopped")
    worker = watched_worker(folder / "seen", stores, zero_stage=2, kill_at=5, stop_at=8)
    with pytest.raises(CheckpointError, match="stopped by the test"):
        train_with_ray(worker, folder / "run", _cluster(2, max_failures=3))
    return folder


def test_a_killed_worker_changes_no_bit(tmp_path: Path, stores: dict[str, str], stopped: Path) -> None:
    """Compared with a run that knows no Ray. And an error that would come again is no failure to be retried."""
    alone = tmp_path / "alone"
    train_undisturbed(watched_worker(tmp_path / "seen", stores, zero_stage=2), alone)
    assert (stopped / "seen" / "killed").exists()
    attempts = [len(list((stopped / "seen").glob(f"rank{rank}_*.jsonl"))) for rank in (0, 1)]
    assert attempts == [2, 2], "a second attempt, from the checkpoint of step 3, and no third"
    for rank in ("0", "1"):
        undisturbed = seen(tmp_path / "seen", rank)
        assert list(undisturbed) == list(range(STEPS))
        assert seen(stopped / "seen", rank) == {step: undisturbed[step] for step in range(8)}
    assert_same_bits(_checkpoint(alone, 6), _checkpoint(stopped / "run", 6), steps=6)


def test_stopped_on_two_workers_and_resumed_on_one(tmp_path: Path, stores: dict[str, str], stopped: Path) -> None:
    """With another engine as well; a damaged checkpoint is passed over."""
    run_dir = shutil.copytree(stopped / "run", tmp_path / "run")
    (_checkpoint(run_dir, 6) / "rank_00001-000.safetensors").write_bytes(b"cut")
    on_two = seen(stopped / "seen")
    worker = watched_worker(tmp_path / "seen", stores)
    resumed = train_with_ray(worker, run_dir, _cluster(1))
    on_one = seen(tmp_path / "seen")
    progress = load_checkpoint(resumed.checkpoint)[1]
    assert (progress.step, progress.world_size) == (STEPS, 1)
    assert list(on_one) == [3, 4, 5, 6, 7, 8, 9], "from the checkpoint of step 3"
    for step in (3, 4, 5, 6, 7):
        assert sorted(on_one[step]) == sorted(on_two[step])
    model = worker.trained_model(resumed.checkpoint)
    assert set(model.heads) == {"people", "animals"}
    assert model.card.licenses == {"people": "CC0-1.0", "animals": "CC0-1.0"}


def test_a_run_that_diverges_is_not_started_again(tmp_path: Path, stores: dict[str, str]) -> None:
    """It would diverge again, three times; what it had saved before is kept."""
    worker = watched_worker(tmp_path / "seen", stores)
    absurd = worker.training.model_copy(update={"optimizer": OptimizerConfig(lr=1e25), "checkpoint_every": 1})
    with pytest.raises(DivergenceError, match=r"training diverged in step [12]: "):
        train_with_ray(replace(worker, training=absurd), tmp_path / "run", _cluster(2, max_failures=3))
    assert len(list((tmp_path / "seen").glob("rank0_*"))) == 1
    for folder in (tmp_path / "run").glob("checkpoints/step_*"):
        load_checkpoint(folder)


def test_workers_that_do_not_fit_are_refused_at_once() -> None:
    with pytest.raises(PreflightError, match="a cluster with 2 CPU has no room for 8 training workers with 1 CPU each"):
        check_resources(WorkersConfig(num_workers=8))
    with pytest.raises(PreflightError, match="strict-spread: of 1 node 1 have room for 1 training worker, and 2 must"):
        check_resources(WorkersConfig(num_workers=2, placement="strict-spread"))
    with pytest.raises(PreflightError, match="gpus_per_worker"):
        check_resources(WorkersConfig(num_workers=1, gpus_per_worker=1))
