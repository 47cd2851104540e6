"""Which jobs were run, as a store has recorded them: what became of each, and what it registered."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from mlflow.entities import Run, ViewType

from posecore.lineage.jobs.steps import JOB
from posecore.lineage.store.tracking import Tracking

_ENDED = {"FINISHED": "done", "FAILED": "failed", "KILLED": "stopped", "RUNNING": "running"}
_PAGE = 1000


@dataclass(frozen=True, kw_only=True)
class JobRun:
    """One submission of a job.

    Attributes:
        started: when, UTC.
        job: class of its run file, such as ``JobConfig``.
        name: as its run file says.
        user: who ran it.
        became: ``done``, ``failed``, ``stopped`` or ``running``.
        registered: address of the version that came out of it; "" for none.
        remark: its verdict, or why it failed; "" for neither.
    """

    started: datetime
    job: str
    name: str
    user: str
    became: str
    registered: str
    remark: str


def job_runs(tracking: Tracking) -> Sequence[JobRun]:
    """Every submission of every job that a store knows, the newest first."""
    client = tracking.client
    experiments = [each.experiment_id for each in client.search_experiments(view_type=ViewType.ACTIVE_ONLY)]
    found = client.search_runs(
        experiments, "tags.`posecore.kind` = 'workflow'", order_by=["attributes.start_time DESC"], max_results=_PAGE
    )
    return [_job_run(run) for run in found]


def _job_run(run: Run) -> JobRun:
    tags = run.data.tags
    return JobRun(
        started=datetime.fromtimestamp(run.info.start_time / 1000, UTC),
        job=tags.get(JOB, ""),
        name=run.info.run_name or "",
        user=tags.get("mlflow.user", ""),
        became=_ENDED.get(run.info.status, run.info.status.lower()),
        registered=tags.get("posecore.registered", ""),
        remark=tags.get("posecore.error", "") or tags.get("posecore.verdict", ""),
    )
