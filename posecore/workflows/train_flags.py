"""The main job without writing a run file: data and model as flags."""

import argparse
import json
from collections.abc import Mapping, Sequence

from posecore.datasets.discovery import load_dataset
from posecore.errors import UsageError
from posecore.evaluation.protocols import metric_class
from posecore.schema import Json
from posecore.training.recipes import RECIPES
from posecore.workflows.data_flags import data_entry, declare_data

_NEEDED = ("data", "model")


def declare(parser: argparse.ArgumentParser) -> None:
    """Adds the flags; without ``--config`` the first two are needed."""
    declare_data(parser)
    parser.add_argument(
        "--model", metavar="PRESET", help="the architecture, for example vitpose-small; see `posecore models list`"
    )
    parser.add_argument(
        "--weights", metavar="SOURCE", help="to start from: a file, a folder, models:/name@alias, or a place on the hub"
    )
    parser.add_argument("--steps", type=int, help="optimiser steps")
    parser.add_argument("--name", help="of the registered model; default: model and datasets")
    parser.add_argument("--tracking-uri", help="MLflow store; else MLFLOW_TRACKING_URI, else a file in the run folder")


def overrides(options: argparse.Namespace) -> list[str]:
    """What the flags change in the run file, as ``key=value``.

    Raises:
        UsageError: a flag is missing or malformed, or a dataset has no split to train on.
        DatasetError: there is no such dataset.
    """
    changes: dict[str, Json] = {}
    entries = [data_entry(text) for text in options.data]
    name = options.name
    if options.config is None:
        missing = [f"--{flag}" for flag in _NEEDED if not getattr(options, flag)]
        if missing:
            raise UsageError(f"{', '.join(missing)}: missing; give both, or a run file with --config.")
        name = name or "-".join([options.model, *(str(entry["name"]) for entry in entries)])
        changes["run_folder"] = f"runs/{name}"
        changes |= _judged(entries)
        if not any(recipe.preset == options.model and recipe.job == "train" for recipe in RECIPES.values()):
            changes["recipe"] = {"auto_scale_lr": False}  # there is none whose rate belongs to another batch
    if name:
        changes["name"] = name
    if options.model:
        changes["model"] = {"backbone": options.model}
    if options.weights:
        changes["weights"] = {"source": options.weights}
    if entries:
        changes["datasets"] = entries
    if options.steps:
        changes["training.steps"] = options.steps
    if options.tracking_uri:
        changes["tracking.uri"] = options.tracking_uri
    return [f"{key}={json.dumps(value)}" for key, value in changes.items()]


def _judged(entries: Sequence[Mapping[str, Json]]) -> dict[str, Json]:
    """Whose best checkpoint is kept: the first set that is judged decides, by the metric of its protocol."""
    for entry in entries:
        evaluation = load_dataset(entry.get("definition", entry["name"])).evaluation
        if "evaluate" in entry and evaluation is not None:
            protocol = metric_class(evaluation.protocol)
            better = "more" if protocol.higher_is_better else "less"
            return {"training.best": {"metric": f"{entry['name']}/{protocol.primary}", "better": better, "patience": 5}}
    return {"training.best": None, "training.evaluate_every": 0}
