"""Distillation without writing a run file: teacher, student and data as flags."""

import argparse
import json
from pathlib import Path

from posecore.datasets.discovery import load_dataset
from posecore.errors import ConfigError
from posecore.schema import Json

_NEEDED = ("teacher", "student", "data")


def declare(parser: argparse.ArgumentParser) -> None:
    """Adds the flags; without ``--config`` the first three are needed."""
    parser.add_argument("--teacher", metavar="MODEL", help="models:/name@alias or /version, a file, a name")
    parser.add_argument("--student", metavar="PRESET", help="the small model, for example rtmpose-m")
    parser.add_argument(
        "--data",
        action="append",
        default=[],
        metavar="DATASET[:TRAIN[:EVALUATE]]=ROOT",
        help="a dataset to learn and to be judged on, and the folder of its download; repeat for several. Without "
        "splits, the first that is meant for training and the first that is meant for evaluation",
    )
    parser.add_argument("--name", help="of the registered model; default: the student's, with -distilled")
    parser.add_argument("--tracking-uri", help="MLflow store; else MLFLOW_TRACKING_URI, else a file in the run folder")


def overrides(options: argparse.Namespace) -> list[str]:
    """What the flags change in the run file, as ``key=value``.

    Raises:
        ConfigError: a flag is missing or malformed, or a dataset has no split to train on.
        DatasetError: there is no such dataset.
    """
    changes: dict[str, Json] = {}
    name = options.name
    if options.config is None:
        missing = [f"--{flag}" for flag in _NEEDED if not getattr(options, flag)]
        if missing:
            raise ConfigError(f"{', '.join(missing)}: missing; give all of them, or a run file with --config.")
        name = name or f"{options.student}-distilled"
        changes["run_folder"] = f"runs/{name}"
    if name:
        changes["name"] = name
    if options.teacher:
        changes["teacher"] = {"source": options.teacher}
    if options.student:
        changes["student"] = {"backbone": options.student}
    if options.data:
        changes["datasets"] = [_entry(text) for text in options.data]
    if options.tracking_uri:
        changes["tracking.uri"] = options.tracking_uri
    return [f"{key}={json.dumps(value)}" for key, value in changes.items()]


def _entry(text: str) -> dict[str, Json]:
    """``DATASET[:TRAIN[:EVALUATE]]=ROOT`` as an entry of ``datasets``; a local root counts from where we are."""
    what, separator, root = text.partition("=")
    name, *splits = what.split(":")
    if not (separator and name and root) or len(splits) > 2 or not all(splits):
        raise ConfigError(f"--data {text}: expected DATASET[:TRAIN[:EVALUATE]]=ROOT, for example coco=/data/coco.")
    if not splits:
        splits = _usual_splits(name)
    entry: dict[str, Json] = {"name": name, "root": root if "://" in root else str(Path(root).resolve())}
    return entry | dict(zip(("train", "evaluate"), splits, strict=False))


def _usual_splits(name: str) -> list[str]:
    splits = load_dataset(name).splits
    training = [split for split, definition in splits.items() if definition.use == "train"]
    evaluation = [split for split, definition in splits.items() if definition.use == "eval"]
    if not training:
        raise ConfigError(
            f"--data {name}: none of its splits ({', '.join(splits)}) is meant for training; name one, "
            f"--data {name}:{next(iter(splits))}=ROOT."
        )
    return training[:1] + evaluation[:1]
