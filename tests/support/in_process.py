"""Steps that train, with their worker called in this process and not by Ray."""

from pathlib import Path

import pytest

from posecore.cluster.training import RUN_NAME, RayTrainingConfig, TrainedRun
from posecore.lineage.steps import EVERYTHING, Reuse, StepResult, Workflow
from posecore.lineage.tracking import Tracking
from posecore.training.context import LocalContext
from posecore.workflows.datasets_job import DatasetsJob
from posecore.workflows.train_step import train_step
from tests.support.checkpoints import newest
from tests.support.watched_training import WatchedWorker


def train_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has a job's train step call its worker here; checkpoints lie where Ray Train has them."""

    def train(worker: WatchedWorker, run_dir: Path, *_: object) -> TrainedRun:
        context = LocalContext(run_dir / RUN_NAME)
        result = worker(context)
        checkpoint = newest(context)
        return TrainedRun(checkpoint=checkpoint, metrics=result.metrics)

    monkeypatch.setattr("posecore.workflows.train_step.train_with_ray", train)
    monkeypatch.setattr("posecore.workflows.train_step.log_dataset_inputs", lambda *_: None)


def submit(
    tracking: Tracking, folder: Path, worker: WatchedWorker, reuse: Reuse = EVERYTHING, said: list[str] | None = None
) -> StepResult:
    """One submission of a job whose only step trains.

    Args:
        tracking: the store.
        folder: of the run.
        worker: what is trained.
        reuse: what of earlier submissions may be used.
        said: receives the workflow's lines.
    """
    entries = [{"name": name, "root": name, "train": "train"} for name in worker.stores]
    job = DatasetsJob.model_validate({"name": "job", "run_folder": str(folder), "datasets": entries})
    lines: list[str] = [] if said is None else said
    with Workflow(tracking, "job", folder, job, reuse=reuse, report=lines.append) as workflow:
        return train_step(workflow, "train", job, RayTrainingConfig(), worker, [])
