"""Steps that train, in this process and not on Ray."""

from pathlib import Path

from posecore.lineage.jobs.steps import EVERYTHING, Reuse, StepResult
from posecore.lineage.store.tracking import Tracking
from posecore.shards.store import open_store
from posecore.workflows.data_steps import Split
from posecore.workflows.datasets_job import DatasetsJob
from posecore.workflows.job import JobWorkflow
from posecore.workflows.machines import WorkersConfig
from posecore.workflows.train_step import train_step
from posecore.workflows.without_ray import ThisProcess
from tests.support.watched_training import WatchedWorker


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
    manifests = {name: open_store(location).manifest for name, location in worker.stores.items()}
    splits = [
        Split(entry, "training", worker.stores[entry.name], manifest.digest, manifest.definition)
        for entry, manifest in zip(job.datasets, manifests.values(), strict=True)
    ]
    lines: list[str] = [] if said is None else said
    with JobWorkflow(ThisProcess(), tracking, job, reuse, report=lines.append) as workflow:
        return train_step(workflow, "train", job, WorkersConfig(), worker, splits)
