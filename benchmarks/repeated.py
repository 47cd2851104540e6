"""Experiments of many training runs: each is done once and is one line of a file; tables show mean and spread."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from posecore.models.pose_model import PoseModel
from posecore.models.saving import save_model
from posecore.training.context import LocalContext
from posecore.workflows.multidataset_worker import MultiDatasetWorker


@dataclass(frozen=True)
class Results:
    """The runs of an experiment; several processes may share the folder, each with seeds of its own.

    Attributes:
        out: folder of the experiment.
    """

    out: Path

    def once(self, arm: str, seed: int, run: Callable[[Path], Mapping[str, Any]]) -> None:
        """Runs an arm with a seed unless its result is there; a run that was stopped goes on in its folder."""
        if any(row["arm"] == arm and row["seed"] == seed for row in self.rows()):
            return
        outcome = run(self.folder(arm, seed))
        with self._file.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"arm": arm, "seed": seed, **outcome}) + "\n")

    def rows(self) -> list[dict[str, Any]]:
        """All results so far: ``arm``, ``seed`` and what the run returned."""
        return [json.loads(line) for line in self._file.read_text().splitlines()] if self._file.exists() else []

    def folder(self, arm: str, seed: int) -> Path:
        """Where a run keeps its checkpoints and its model."""
        return self.out / "runs" / f"{arm.replace(':', '_')}_{seed}"

    @property
    def _file(self) -> Path:
        self.out.mkdir(parents=True, exist_ok=True)
        return self.out / "results.jsonl"


def trained(worker: MultiDatasetWorker, folder: Path) -> tuple[PoseModel, float]:
    """Trains in this process: the model, also saved as ``folder/model``, and the processor's seconds it took."""
    context = LocalContext(folder)
    began = time.process_time()
    worker(context)
    seconds = time.process_time() - began
    checkpoint = context.store.newest()
    assert checkpoint is not None
    model = worker.trained_model(checkpoint)
    save_model(model, folder / "model")
    return model, seconds


def spread(values: Sequence[float], digits: int = 1) -> str:
    """Mean ± standard deviation; of a single value, the value."""
    if not values:
        return "–"
    return f"{mean(values):.{digits}f}" + (f" ± {stdev(values):.{digits}f}" if len(values) > 1 else "")
