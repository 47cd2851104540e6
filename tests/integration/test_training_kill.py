"""A training worker killed under Ray changes nothing; another number of workers sees the same samples."""

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from pipelines.ray_training import RayTrainingConfig, check_resources, train_with_ray
from posecore.errors import CheckpointError, PreflightError
from posecore.training.checkpoint import load_checkpoint
from posecore.training.context import TrainContext
from posecore.training.engine import DeepSpeedEngineConfig, TorchEngineConfig
from posecore.training.loop import TrainResult
from tests.support import tiny_training

pytestmark = [pytest.mark.ray, pytest.mark.slow]
STEPS = 10


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    os.environ["RAY_AUTH_MODE"] = "disabled"
    import ray

    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    ray.cloudpickle.register_pickle_by_value(tiny_training)
    yield
    ray.cloudpickle.unregister_pickle_by_value(tiny_training)
    ray.shutdown()


def _worker(
    record: Path, zero_stage: int | None = None, kill_at: int | None = None, stop_at: int | None = None
) -> Callable[[TrainContext], TrainResult]:
    """A worker that notes what it sees; rank 1 dies once at ``kill_at``, the whole run gives up at ``stop_at``."""
    record.mkdir(parents=True, exist_ok=True)
    engine = TorchEngineConfig() if zero_stage is None else DeepSpeedEngineConfig(zero_stage=zero_stage)
    train = tiny_training.tiny_training

    def work(context: TrainContext) -> TrainResult:
        def before_step(step: int) -> None:
            marker = record / "killed"
            if step == kill_at and context.rank == 1 and not marker.exists():
                marker.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            if step == stop_at:
                raise CheckpointError("stopped by the test")

        name = f"rank{context.rank}_of_{context.world_size}_{context.attempt}.jsonl"
        return train(context, engine, steps=STEPS, record=record / name, before_step=before_step)

    return work


def _places(record: Path) -> dict[int, list[int]]:
    """Step to the sorted places of the global batch that were trained on, over all ranks, last attempt of each step."""
    seen: dict[int, dict[str, list[int]]] = {}
    for path in sorted(record.glob("rank*.jsonl"), key=lambda p: p.stat().st_mtime):
        attempt = path.stem.rsplit("_", 1)[1]
        for line in path.read_text().splitlines():
            entry = json.loads(line)
            seen.setdefault(entry["step"], {}).setdefault(attempt, []).extend(entry["places"])
    return {step: sorted(list(attempts.values())[-1]) for step, attempts in seen.items()}


def _order_of_rank(record: Path, rank: int) -> dict[int, list[int]]:
    """Step to this rank's places; every attempt must agree on them."""
    order: dict[int, list[int]] = {}
    for path in record.glob(f"rank{rank}_*.jsonl"):
        for line in path.read_text().splitlines():
            entry = json.loads(line)
            assert order.setdefault(entry["step"], entry["places"]) == entry["places"]
    return order


@pytest.mark.parametrize("zero_stage", [None, 2])
def test_a_killed_worker_changes_no_bit(tmp_path: Path, cluster: None, zero_stage: int | None) -> None:
    config = RayTrainingConfig(num_workers=2, poll_interval_s=0.2)
    alone = train_with_ray(_worker(tmp_path / "seen_a", zero_stage), tmp_path / "a", config)
    killed = train_with_ray(_worker(tmp_path / "seen_b", zero_stage, kill_at=5), tmp_path / "b", config)
    assert (tmp_path / "seen_b" / "killed").exists()
    assert len(list((tmp_path / "seen_b").glob("rank1_*.jsonl"))) == 2, "one more attempt, from a checkpoint"
    first, _ = load_checkpoint(alone.checkpoint)
    second, progress = load_checkpoint(killed.checkpoint)
    assert progress.step == STEPS
    for section in ("weights", "exp_avg", "exp_avg_sq", "buffers"):
        ours, theirs = getattr(first, section), getattr(second, section)
        assert set(ours) == set(theirs)
        for name in ours:
            assert torch.equal(ours[name], theirs[name]), f"{section}/{name}"
    for rank in (0, 1):
        order = _order_of_rank(tmp_path / "seen_a", rank)
        assert sorted(order) == list(range(STEPS))
        assert order == _order_of_rank(tmp_path / "seen_b", rank)


def test_stopped_on_two_workers_and_resumed_on_one(tmp_path: Path, cluster: None) -> None:
    run_dir, seen = tmp_path / "run", tmp_path / "seen"
    with pytest.raises(CheckpointError, match="stopped by the test"):
        train_with_ray(
            _worker(seen, stop_at=5), run_dir, RayTrainingConfig(num_workers=2, max_failures=0, poll_interval_s=0.2)
        )
    resumed = train_with_ray(_worker(seen), run_dir, RayTrainingConfig(num_workers=1, poll_interval_s=0.2))
    _, progress = load_checkpoint(resumed.checkpoint)
    assert (progress.step, progress.world_size) == (STEPS, 1)
    assert _places(seen) == {step: list(range(8)) for step in range(STEPS)}
    assert {path.name.split("_")[2] for path in seen.iterdir()} == {"1", "2"}


def test_workers_that_do_not_fit_are_refused_at_once(cluster: None) -> None:
    with pytest.raises(PreflightError, match="8 training workers with 1 CPU each do not fit a cluster with 4 CPU"):
        check_resources(RayTrainingConfig(num_workers=8))
    with pytest.raises(PreflightError, match="gpus_per_worker"):
        check_resources(RayTrainingConfig(num_workers=1, gpus_per_worker=1))
