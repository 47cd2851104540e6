"""Distillation without writing a run file: teacher, student and data as flags."""

import argparse
import json

from posecore.errors import UsageError
from posecore.schema import Json
from posecore.workflows.data_flags import data_entry, declare_data

_NEEDED = ("teacher", "student", "data")


def declare(parser: argparse.ArgumentParser) -> None:
    """Adds the flags; without ``--config`` the first three are needed."""
    parser.add_argument("--teacher", metavar="MODEL", help="models:/name@alias or /version, a file, a name")
    parser.add_argument("--student", metavar="PRESET", help="the small model, for example rtmpose-m")
    declare_data(parser)
    parser.add_argument("--name", help="of the registered model; default: the student's, with -distilled")
    parser.add_argument("--tracking-uri", help="MLflow store; else MLFLOW_TRACKING_URI, else a file in the run folder")


def overrides(options: argparse.Namespace) -> list[str]:
    """What the flags change in the run file, as ``key=value``.

    Raises:
        UsageError: a flag is missing or malformed, or a dataset has no split to train on.
        DatasetError: there is no such dataset.
    """
    changes: dict[str, Json] = {}
    name = options.name
    if options.config is None:
        missing = [f"--{flag}" for flag in _NEEDED if not getattr(options, flag)]
        if missing:
            raise UsageError(f"{', '.join(missing)}: missing; give all of them, or a run file with --config.")
        name = name or f"{options.student}-distilled"
        changes["run_folder"] = f"runs/{name}"
    if name:
        changes["name"] = name
    if options.teacher:
        changes["teacher"] = {"source": options.teacher}
    if options.student:
        changes["student"] = {"backbone": options.student}
    if options.data:
        changes["datasets"] = [data_entry(text) for text in options.data]
    if options.tracking_uri:
        changes["tracking.uri"] = options.tracking_uri
    return [f"{key}={json.dumps(value)}" for key, value in changes.items()]
