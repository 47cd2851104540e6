"""A training worker killed under Ray changes nothing; another number of workers sees the same samples.

The whole chain runs: ingested shards, the loader with full augmentation, the loop, DeepSpeed, Ray Train.
"""

import json
import os
import signal
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from pipelines.multidataset_worker import MultiDatasetWorker
from pipelines.ray_training import RayTrainingConfig, check_resources, train_with_ray
from posecore.errors import CheckpointError, PreflightError
from posecore.loading.loader import LoadingConfig
from posecore.loading.mixture import MixtureConfig, MixtureEntry
from posecore.models.heads import ClassicHeadConfig
from posecore.models.pose_model import ModelConfig
from posecore.models.vit import VitConfig
from posecore.schema import CropBatch
from posecore.shards.store import ShardStore
from posecore.training.checkpoint import load_checkpoint
from posecore.training.context import TrainContext
from posecore.training.engine import DeepSpeedEngineConfig, TorchEngineConfig
from posecore.training.loop import TrainingConfig
from tests.support.tiny_store import write_store

pytestmark = [pytest.mark.ray, pytest.mark.slow]
STEPS = 10


@dataclass(frozen=True, kw_only=True)
class _WatchedWorker(MultiDatasetWorker):
    """Notes every crop it trains on. Rank 1 kills itself once at ``kill_at``; the run gives up at ``stop_at``."""

    record: Path
    kill_at: int | None = None
    stop_at: int | None = None

    def batches(self, stores: Mapping[str, ShardStore], context: TrainContext, start: int) -> Iterable[CropBatch]:
        path = self.record / f"rank{context.rank}_of{context.world_size}_{context.attempt}.jsonl"
        with path.open("a", buffering=1) as file:
            for batch in MultiDatasetWorker.batches(self, stores, context, start):
                killed = self.record / "killed"
                if batch.step == self.kill_at and context.rank == 1 and not killed.exists():
                    killed.touch()
                    os.kill(os.getpid(), signal.SIGKILL)
                if batch.step == self.stop_at:
                    raise CheckpointError("stopped by the test")
                names = [f"{group.dataset}/{row}" for group in batch.groups for row in group.rows]
                file.write(json.dumps({"step": batch.step, "names": names}) + "\n")
                yield batch


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("stores")
    people = write_store(folder, "people", [1, 2, 1, 3, 1, 2])
    animals = write_store(folder, "animals", [1, 1, 2], skeleton="ap10k17")
    return {"people": str(people.location), "animals": str(animals.location)}


@pytest.fixture(autouse=True)
def _pickled_by_value(local_ray: None) -> Iterator[None]:
    """Ray's workers cannot import this module."""
    import ray

    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield
    ray.cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


def _worker(record: Path, stores: dict[str, str], zero_stage: int | None = None, **stops: int) -> _WatchedWorker:
    record.mkdir(exist_ok=True)
    engine = TorchEngineConfig() if zero_stage is None else DeepSpeedEngineConfig(zero_stage=zero_stage)
    return _WatchedWorker(
        model=ModelConfig(
            backbone=VitConfig(embed_dim=32, depth=2, num_heads=2, drop_path=0.2),
            head=ClassicHeadConfig(channels=8),
            input_size=(64, 48),
        ),
        training=TrainingConfig(
            steps=STEPS, global_batch=4, seed=5, engine=engine, checkpoint_every=3, log_every=5, progress=False
        ),
        loading=LoadingConfig(
            mixture=MixtureConfig(entries=tuple(MixtureEntry(name=name) for name in stores)), num_threads=1
        ),
        stores=stores,
        record=record,
        **stops,
    )


def _cluster(num_workers: int, max_failures: int = 1) -> RayTrainingConfig:
    return RayTrainingConfig(
        num_workers=num_workers, cpus_per_worker=0.5, max_failures=max_failures, poll_interval_s=0.2
    )


def _seen(record: Path, rank: str = "*") -> dict[int, list[str]]:
    """Step to the crops trained on. Attempts that made the same step must agree; ranks are put together."""
    steps: dict[int, dict[str, list[str]]] = {}
    for path in sorted(record.glob(f"rank{rank}_*.jsonl")):
        for line in path.read_text().splitlines():
            entry = json.loads(line)
            of_rank = path.name.split("_")[0] + path.name.split("_")[1]
            known = steps.setdefault(entry["step"], {}).setdefault(of_rank, entry["names"])
            assert known == entry["names"], f"{path.name} saw other crops in step {entry['step']}"
    return {step: [name for names in by_rank.values() for name in names] for step, by_rank in sorted(steps.items())}


def test_a_killed_worker_changes_no_bit(tmp_path: Path, stores: dict[str, str]) -> None:
    seen_alone, seen_killed = tmp_path / "seen_alone", tmp_path / "seen_killed"
    alone = train_with_ray(_worker(seen_alone, stores, zero_stage=2), tmp_path / "alone", _cluster(2))
    killed = train_with_ray(_worker(seen_killed, stores, zero_stage=2, kill_at=5), tmp_path / "killed", _cluster(2))
    assert (seen_killed / "killed").exists()
    assert len(list(seen_killed.glob("rank1_*.jsonl"))) == 2, "a second attempt, from the checkpoint of step 3"
    for rank in ("0", "1"):
        assert list(_seen(seen_alone, rank)) == list(range(STEPS))
        assert _seen(seen_alone, rank) == _seen(seen_killed, rank)
    first, second = load_checkpoint(alone.checkpoint)[0], load_checkpoint(killed.checkpoint)[0]
    assert second.optimizer_steps == STEPS
    for section in ("weights", "exp_avg", "exp_avg_sq", "buffers"):
        ours, theirs = getattr(first, section), getattr(second, section)
        assert set(ours) == set(theirs)
        for name in ours:
            assert torch.equal(ours[name], theirs[name]), f"{section}/{name}"


def test_stopped_on_two_workers_and_resumed_on_one(tmp_path: Path, stores: dict[str, str]) -> None:
    run_dir, seen = tmp_path / "run", tmp_path / "seen"
    with pytest.raises(CheckpointError, match="stopped by the test"):
        train_with_ray(_worker(seen, stores, stop_at=5), run_dir, _cluster(2, max_failures=0))
    on_two = _seen(seen)
    for path in seen.iterdir():
        path.unlink()
    worker = _worker(seen, stores)
    resumed = train_with_ray(worker, run_dir, _cluster(1))
    on_one = _seen(seen)
    progress = load_checkpoint(resumed.checkpoint)[1]
    assert (progress.step, progress.world_size) == (STEPS, 1)
    assert list(on_two) == [0, 1, 2, 3, 4]
    assert list(on_one) == [3, 4, 5, 6, 7, 8, 9], "from the checkpoint of step 3"
    for step in (3, 4):
        assert sorted(on_one[step]) == sorted(on_two[step])
    model = worker.trained_model(resumed.checkpoint)
    assert set(model.heads) == {"people", "animals"}
    assert model.card.licenses == {"people": "CC0-1.0", "animals": "CC0-1.0"}


def test_workers_that_do_not_fit_are_refused_at_once() -> None:
    with pytest.raises(PreflightError, match="8 training workers with 1 CPU each do not fit a cluster with 2 CPU"):
        check_resources(RayTrainingConfig(num_workers=8))
    with pytest.raises(PreflightError, match="gpus_per_worker"):
        check_resources(RayTrainingConfig(num_workers=1, gpus_per_worker=1))
