"""What ``posecore runs`` tells of jobs, of one run folder and of several."""

import shutil
from pathlib import Path

import pytest

from posecore.cli import main
from posecore.lineage.jobs.job_runs import job_runs
from posecore.lineage.store.tracking import Tracking, TrackingConfig, connect


def _submitted(tracking: Tracking, name: str, status: str, **tags: str) -> None:
    run = tracking.start_run(name, {"posecore.kind": "workflow", "posecore.job": "AdaptationJob"})
    run.set_tags({f"posecore.{key}": value for key, value in tags.items()})
    run.end(status)


def test_each_submission_says_what_became_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    tracking = connect(TrackingConfig(), Path("runs/first"))
    _submitted(tracking, "first", "FINISHED", registered="models:/first/1", verdict="may be promoted")
    _submitted(tracking, "first", "FAILED", error="DatasetError: nothing is there")
    tracking.start_run("a step", {"posecore.kind": "step"}).end()
    assert [(run.became, run.registered, run.remark) for run in job_runs(tracking)] == [
        ("failed", "", "DatasetError: nothing is there"), ("done", "models:/first/1", "may be promoted"),
    ]  # fmt: skip
    shutil.copytree("runs/first", "runs/second")
    assert main(["runs"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5
    assert sum("adapt  first" in line and "runs/second" in line for line in lines) == 2
    assert main(["promote", "--model", "first", "--version", "1"]) == 1
    assert capsys.readouterr().err.endswith("There are records in runs/first, runs/second.\n")
