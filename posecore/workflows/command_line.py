"""The command line of jobs that have a run file."""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml

from posecore.command_parser import CommandParser
from posecore.config import load_config, stated_values
from posecore.datasets.definition import DatasetDefinition
from posecore.lineage.jobs.steps import Reuse
from posecore.workflows.data_steps import check_sources
from posecore.workflows.datasets_job import DatasetsJob
from posecore.workflows.machines import Machines

_JobT = TypeVar("_JobT", bound=DatasetsJob)


@dataclass(frozen=True)
class Flags:
    """Settings that a job takes by flags of their own as well.

    Attributes:
        declare: adds them to the parser.
        overrides: the ``key=value`` that a parsed command line stands for; those of ``--set`` come after them.
        run_file: what they change where no ``--config`` is given; None requires one.
        foresee: what ``--dry-run`` says of the job before its run file, and refuses; None says nothing.
    """

    declare: Callable[[argparse.ArgumentParser], None]
    overrides: Callable[[argparse.Namespace], list[str]]
    run_file: Path | None = None
    foresee: Callable[[Any], None] | None = None


def foresee_recipe(check: Callable[[Any, Mapping[str, DatasetDefinition]], None], config: Any) -> None:
    """Says which recipe a job would follow, and refuses what it would: :attr:`Flags.foresee` of jobs that follow one.

    Args:
        check: of the completed run file and its datasets' definitions; writes nothing.
        config: the run file.
    """
    definitions = {entry.name: entry.load() for entry in config.datasets}
    followed = config.followed(definitions)
    for line in followed.lines():
        print(line, file=sys.stderr)
    check(followed.config, definitions)


def job_parser(description: str | None, flags: Flags | None = None) -> CommandParser:
    """The options of a job that has a run file.

    Args:
        description: help text.
        flags: of this job alone; without any, or without a run file of theirs, ``--config`` is required.
    """
    parser = CommandParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    usual = None if flags is None else flags.run_file
    default = "" if usual is None else f"; default {usual.name}, changed by the flags below"
    parser.add_argument("--config", required=usual is None, default=None, help=f"run file (YAML){default}")
    if flags is not None:
        flags.declare(parser)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override one setting")
    parser.add_argument("--allow-leakage", action="store_true", help="go on although train and evaluation sets overlap")
    parser.add_argument(
        "--verify", action="store_true", help="read what finished steps wrote, and make anew what is not as it was"
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="look whether the data are there, print the run file that this stands for, and stop",
    )
    earlier = parser.add_mutually_exclusive_group()
    earlier.add_argument("--no-reuse", action="store_true", help="run every step again, and train from the first step")
    earlier.add_argument(
        "--resume-from-code",
        action="append",
        default=[],
        metavar="DIGEST",
        help="go on from the checkpoints of this other version of the code; recorded in the run and the version",
    )
    return parser


def read_job(
    parser: CommandParser,
    config_class: type[_JobT],
    run: Callable[[_JobT, Reuse, Machines], object],
    arguments: Sequence[str] | None,
    flags: Flags | None = None,
) -> Callable[[Machines], None]:
    """The job named on the command line, which wants machines to run on.

    Args:
        parser: of :func:`job_parser`, with the same flags.
        config_class: what the run file must be.
        run: given the configuration, what of earlier submissions may be used, and who does the work.
        arguments: None for the process's own.
        flags: of this job alone.
    """
    usual = None if flags is None else flags.run_file
    options = parser.parse_args(arguments)

    def job(machines: Machines) -> None:
        run_file, overrides = options.config, [*options.set, *(["allow_leakage=true"] if options.allow_leakage else [])]
        if flags is not None:
            run_file, overrides = run_file or usual, [*flags.overrides(options), *overrides]
        reuse = Reuse(finished=not options.no_reuse, codes=tuple(options.resume_from_code), verify=options.verify)
        config = load_config(run_file, config_class, overrides)
        if options.dry_run:
            check_sources(config, {entry.name: entry.load() for entry in config.datasets})
            _check_weights(config)
            if flags is not None and flags.foresee is not None:
                flags.foresee(config)
            print(yaml.safe_dump(stated_values(run_file, overrides), sort_keys=False), end="")
            return
        run(config, reuse, machines)

    return job


def _check_weights(config: Any) -> None:
    """Refuses weights that a job begins with and that can be nowhere; the registry and the hub are not asked."""
    # Imported here because torch takes seconds, which no other start of a job waits for.
    from posecore.models.weights.read import refuse_nowhere
    from posecore.workflows.named_model import is_registered

    for name in ("weights", "parent", "teacher"):
        named = getattr(config, name, None)
        if named is not None and (name == "weights" or not is_registered(named.source)):  # those are never
            refuse_nowhere(named.source)
