"""A worker of the main job on two tiny ingested datasets that writes down what it sees, and dies when told to."""

import json
import os
import pickle
import signal
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from posecore.conventions import Conventions
from posecore.errors import CheckpointError
from posecore.loading.loader import LoadingConfig
from posecore.loading.mixture import MixtureConfig, MixtureEntry
from posecore.models.architecture import ModelConfig
from posecore.models.backbones.vit import VitConfig
from posecore.models.heads.classic import ClassicHeadConfig
from posecore.schema import CropBatch
from posecore.shards.store import ShardStore
from posecore.storage import AnyPath
from posecore.training.context import LocalContext, TrainContext
from posecore.training.engine import DeepSpeedEngineConfig, TorchEngineConfig
from posecore.training.loop import TrainingConfig
from posecore.workflows.multidataset_worker import MultiDatasetWorker
from tests.support.checkpoints import load_checkpoint, newest
from tests.support.launched_runs import launch_ranks
from tests.support.tiny_store import write_store

STEPS = 10


@dataclass(frozen=True, kw_only=True)
class WatchedWorker(MultiDatasetWorker):
    """Rank 1 kills itself once at ``kill_at``; the run gives up at ``stop_at``.

    At ``wait_at``, every rank waits until there is a file ``go`` beside what it writes down.
    """

    record: Path
    kill_at: int | None = None
    stop_at: int | None = None
    wait_at: int | None = None

    def batches(
        self,
        stores: Mapping[str, ShardStore],
        context: TrainContext,
        start: int,
        conventions: Mapping[str, Conventions],
    ) -> Iterable[CropBatch]:
        path = self.record / f"rank{context.rank}_of{context.world_size}_{context.attempt}.jsonl"
        with path.open("a", buffering=1) as file:
            for batch in MultiDatasetWorker.batches(self, stores, context, start, conventions):
                killed = self.record / "killed"
                if batch.step == self.kill_at and context.rank == 1 and not killed.exists():
                    killed.touch()
                    os.kill(os.getpid(), signal.SIGKILL)
                if batch.step == self.stop_at:
                    raise CheckpointError("stopped by the test")
                names = [f"{group.dataset}/{row}" for group in batch.groups for row in group.rows]
                file.write(json.dumps({"step": batch.step, "names": names}) + "\n")
                while batch.step == self.wait_at and not (self.record / "go").exists():
                    time.sleep(0.01)
                yield batch


def write_stores(folder: Path) -> dict[str, str]:
    """Name to location of two small splits with different skeletons."""
    people = write_store(folder, "people", [1, 2, 1, 3, 1, 2])
    animals = write_store(folder, "animals", [1, 1, 2], skeleton="ap10k17")
    return {"people": str(people.location), "animals": str(animals.location)}


def watched_worker(record: Path, stores: dict[str, str], zero_stage: int | None = None, **stops: int) -> WatchedWorker:
    record.mkdir(parents=True, exist_ok=True)
    engine = TorchEngineConfig() if zero_stage is None else DeepSpeedEngineConfig(zero_stage=zero_stage)
    return WatchedWorker(
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


def train_undisturbed(worker: WatchedWorker, run_dir: Path) -> AnyPath:
    """Trains in two processes without Ray; returns the last checkpoint."""
    run_dir.mkdir(parents=True)
    (run_dir / "worker.pickle").write_bytes(pickle.dumps(worker))
    launch_ranks(["-m", "tests.support.watched_training", str(run_dir)], world_size=2)
    return newest(run_dir)


def seen(record: Path, rank: str = "*") -> dict[int, list[str]]:
    """Step to the crops trained on. Attempts that made the same step must agree; ranks are put together."""
    steps: dict[int, dict[str, list[str]]] = {}
    for path in sorted(record.glob(f"rank{rank}_*.jsonl")):
        for line in path.read_text().splitlines():
            entry = json.loads(line)
            of_rank = path.name.split("_")[0] + path.name.split("_")[1]
            known = steps.setdefault(entry["step"], {}).setdefault(of_rank, entry["names"])
            assert known == entry["names"], f"{path.name} saw other crops in step {entry['step']}"
    return {step: [name for names in by_rank.values() for name in names] for step, by_rank in sorted(steps.items())}


def assert_same_bits(first: AnyPath, second: AnyPath, steps: int = STEPS) -> None:
    """Two checkpoints hold the same weights, moments and statistics."""
    ours, theirs = load_checkpoint(first)[0], load_checkpoint(second)[0]
    assert ours.optimizer_steps == theirs.optimizer_steps == steps
    for section in ("weights", "exp_avg", "exp_avg_sq", "buffers"):
        tensors, others = getattr(ours, section), getattr(theirs, section)
        assert set(tensors) == set(others)
        for name, tensor in tensors.items():
            assert torch.equal(tensor, others[name]), f"{section}/{name}"


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    pickle.loads((folder / "worker.pickle").read_bytes())(LocalContext(folder))
