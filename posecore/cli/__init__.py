"""The command line: thin wrappers, one module per group of commands, each with ``add(commands)``."""

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module

from posecore.errors import PoseCoreError, QuestionError
from posecore.interruption import Interrupted, signals_raise

_GROUPS = (
    "datasets",
    "stages",
    "synth",
    "audit",
    "labels",
    "models",
    "plan",
    "predict",
    "score",
    "view",
    "export",
    "lineage",
    "compare",
    "rerun",
    "withdraw",
    "jobs",
)
"""Modules of commands, in the order of the help."""
_DESCRIPTION = "Pose datasets, models and predictions; every command explains itself with --help."


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status.

    Returns:
        0 done, 1 a deliberate error or a failed check, 2 bad usage or a question about something that is nowhere
        recorded, 128 and the signal's number if one ended it.
    """
    parser = argparse.ArgumentParser(prog="posecore", description=_DESCRIPTION)
    commands = parser.add_subparsers(dest="command", required=True)
    for group in _needed(sys.argv[1:] if arguments is None else arguments):
        import_module(f"posecore.cli.{group}").add(commands)
    options, further = parser.parse_known_args(arguments)
    if "job" in options:
        return int(import_module("posecore.cli.jobs").run_job(options.job, further))
    if further:
        parser.error(f"unrecognized arguments: {' '.join(further)}")
    try:
        with signals_raise():
            return int(options.run(options))
    except Interrupted as stop:
        print(f"{stop}.", file=sys.stderr)
        return stop.status
    except (PoseCoreError, OSError) as error:  # an OSError names the file, as ours do
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, QuestionError) else 1


def _needed(arguments: Sequence[str]) -> Sequence[str]:
    """The module of a command that is called as it is, which then imports nothing of the others; all of them else."""
    return [name for name in _GROUPS if [name] == list(arguments[:1])] or _GROUPS
