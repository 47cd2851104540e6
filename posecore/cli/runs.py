"""``posecore runs``: what was run, and what came out of it."""

import argparse
import os
from pathlib import Path

from posecore.cli.commands import Commands
from posecore.cli.model_argument import add_registry

_LONGEST_REMARK = 80


def add(commands: Commands) -> None:
    """Adds ``runs``."""
    runs = commands.add_parser("runs")
    add_registry(runs)
    runs.set_defaults(run=_runs)


def _runs(options: argparse.Namespace) -> int:
    # Imported here because MLflow takes a second, which no other command should wait for.
    from posecore.lineage.jobs.job_runs import job_runs
    from posecore.lineage.store.tracking import TrackingConfig, connect, record_folders
    from posecore.workflows.rerun import COMMANDS

    named = options.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")
    folders = [] if named else record_folders(Path(options.folder))
    rows = [("started (UTC)", "job", "name", "by", "became", "model", "in", "remark")]
    for folder in folders or [Path(options.folder)]:
        tracking = connect(TrackingConfig(uri=options.tracking_uri), folder, must_exist=True, records=False)
        for run in job_runs(tracking):
            job = COMMANDS.get(run.job, "evaluate" if run.job == "MeasurementJob" else run.job)
            remark = run.remark if len(run.remark) <= _LONGEST_REMARK else f"{run.remark[:_LONGEST_REMARK]} …"
            place = "the server" if named else str(folder)
            started = f"{run.started:%Y-%m-%d %H:%M}"
            rows.append((started, job, run.name, run.user, run.became, run.registered or "–", place, remark))
    rows[1:] = sorted(rows[1:], reverse=True)
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    return 0
