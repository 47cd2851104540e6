"""The scripts of ``pipelines/`` as commands, which take the same arguments: a job need not be looked for."""

import sys
from collections.abc import Sequence
from importlib import import_module

from posecore.cli.commands import Commands

JOBS = {
    "ingest": ("ingest", "a download in, shards out"),
    "train": ("multidataset_train", "datasets with different skeletons in, one registered model out"),
    "adapt": ("adapt", "a trained model in, its child for another population out, and what that cost"),
    "distill": ("distill", "a trained model in, a small one that it has taught out"),
    "pretrain": ("pretrain", "pictures without labels in, a backbone to start from out"),
    "evaluate": ("evaluate", "a model judged on splits by each dataset's own protocol"),
    "promote": ("promote", "move an alias of a registered model if its gates hold"),
}
"""By command, the module and what it does."""


def add(commands: Commands) -> None:
    """Adds one command per job; its options are its own affair (:func:`run_job`)."""
    for name in JOBS:
        parser = commands.add_parser(name, add_help=False)
        parser.set_defaults(job=name)


def run_job(name: str, arguments: Sequence[str]) -> int:
    """Runs a job as its script does, and returns its exit status; a signal ends the process as it does there."""
    module = import_module(f"posecore.pipelines.{JOBS[name][0]}")
    sys.argv = [f"posecore {name}", *arguments]  # what its messages call it
    return int(module.main())
