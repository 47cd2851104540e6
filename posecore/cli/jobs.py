"""The scripts of ``pipelines/`` as commands, which take the same arguments: a job need not be looked for."""

import sys
from collections.abc import Sequence
from importlib import import_module
from types import ModuleType

from posecore.cli.commands import Commands
from posecore.errors import PoseCoreError, status_of

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
    """Adds one command per job with the options of its script; without them where the script's packages are missing."""
    for name in JOBS:
        try:
            script = _script(name).build_parser()
        except PoseCoreError:
            commands.add_parser(name)
        else:
            commands.add_parser(name, description=script.description, parents=[script], add_help=False)


def run_job(name: str, arguments: Sequence[str]) -> int:
    """Runs a job as its script does, and returns its exit status; a signal ends the process as it does there."""
    try:
        module = _script(name)
    except PoseCoreError as error:
        print(f"error: {error}", file=sys.stderr)
        return status_of(error)
    sys.argv = [f"posecore {name}", *arguments]  # what its messages call it
    return int(module.main())


def _script(name: str) -> ModuleType:
    """A job's script.

    Raises:
        ConfigError: a package that it needs is not installed.
    """
    return import_module(f"posecore.pipelines.{JOBS[name][0]}")
