#!/usr/bin/env python3
"""Moves an alias of a registered model if its policies allow it, undoes such a move, or tells its history.

    python pipelines/promote.py --register-policies policies.yaml --reason 'the board of 29 November'
    python pipelines/promote.py --model pose --version 3 --measure-holder
    python pipelines/promote.py --model pose --version 3 --alias trial --gate 'coco/AP>=0.6' --max-regression 0.005
    python pipelines/promote.py --model pose --rollback --dry-run
    python pipelines/promote.py --model pose --rollback --reason 'worse on preterm infants'
    python pipelines/promote.py --model pose --history

The exit status is 1, with the sentence of what does not hold, if the alias did not move.
"""

if __name__ == "__main__":  # before the imports below, which take seconds
    from posecore.interruption import signals_end_the_process

    signals_end_the_process()

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from posecore.cluster.launch import launched
from posecore.command_parser import CommandParser
from posecore.config import load_config
from posecore.errors import ConfigError, LineageError
from posecore.lineage.ancestry.terms import USE_CLASSES
from posecore.lineage.registry.gates import Gate, Requirements
from posecore.lineage.registry.moves import history
from posecore.lineage.registry.policies import Policies, policies_in_force, register_policies
from posecore.lineage.registry.promotion import Promotion, looked_at, prepare, promote, rollback, way_back
from posecore.lineage.store.tracking import Tracking, TrackingConfig, connect
from posecore.lineage.versions.tags import RegisteredVersion, look_up
from posecore.storage import as_path
from posecore.workflows.endings import exit_status
from posecore.workflows.machines import Machines


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    parser = build_parser()
    options = parser.parse_args(arguments)
    if options.model is None and not (options.register_policies or options.policies):
        parser.error("--model names the registered model")
    needs_reason = options.register_policies is not None or options.rollback
    if needs_reason and not (options.dry_run or options.reason.strip()):
        parser.error("--rollback and --register-policies need a reason: --reason 'worse on preterm infants'")
    if options.dry_run and options.measure_holder:
        parser.error("--measure-holder measures and records; leave out --dry-run")
    if options.measure_holder:
        return launched(lambda machines: _promote(options, machines))
    return exit_status(lambda: _run(options))


def build_parser() -> CommandParser:
    """The options of the command line."""
    parser = CommandParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="registered model")
    parser.add_argument("--alias", default="champion", help="alias to move (default: %(default)s)")
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--version", type=int, help="version that is to hold the alias")
    action.add_argument("--rollback", action="store_true", help="back to the version promoted before")
    action.add_argument("--history", action="store_true", help="print every attempt")
    action.add_argument("--register-policies", metavar="FILE", type=Path, help="YAML file that holds from now on")
    action.add_argument("--policies", action="store_true", help="print the policies that hold")
    parser.add_argument(
        "--gate", type=_gate, action="append", default=[], help="bound such as 'coco/AP>=0.6'; repeatable"
    )
    parser.add_argument("--max-regression", type=float, help="how much worse than the holder a gated metric may be")
    parser.add_argument(
        "--use", action="append", default=[], choices=USE_CLASSES, help="what all it came from must allow; repeatable"
    )
    parser.add_argument(
        "--measure-holder",
        action="store_true",
        help="first judge candidate and holder, where no evaluation has, on the same shards by this code",
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="say what would be done, and whether it may be; change nothing",
    )
    parser.add_argument("--reason", default="", help="why; required for --rollback and --register-policies")
    parser.add_argument("--folder", default="runs", help="run folder with the local tracking store (default: runs)")
    parser.add_argument(
        "--tracking-uri", help="MLflow server; default: MLFLOW_TRACKING_URI, else the run folder's file"
    )
    parser.add_argument("--experiment", default="promotions", help="experiment of the records (default: %(default)s)")
    return parser


def _gate(text: str) -> Gate:
    try:
        return Gate.parse(text)
    except ConfigError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _connected(options: argparse.Namespace) -> Tracking:
    config = TrackingConfig(uri=options.tracking_uri, experiment=options.experiment)
    return connect(config, options.folder, must_exist=True, records=not options.dry_run)


def _run(options: argparse.Namespace) -> None:
    if options.version is not None:
        _promote(options, None)
        return
    tracking = _connected(options)
    if options.register_policies is not None and options.dry_run:
        stated = load_config(options.register_policies, Policies)
        number = policies_in_force(tracking).number + 1
        print(f"policies {number} would hold: {len(stated.policies)}, of {_aliases(stated)}; nothing was changed.")
    elif options.register_policies is not None:
        number = register_policies(tracking, options.register_policies, options.reason)
        print(f"policies {number} hold from now on.")
    elif options.policies:
        found = policies_in_force(tracking)
        print(f"# policies {found.number}, {found.digest}\n{found.text.decode()}" if found.number else "no policies")
    elif options.history:
        _tell(tracking, options.model, options.alias)
    elif options.dry_run:
        way = way_back(tracking, options.model, options.alias)
        for version, why in way.passed_over:
            print(f"version {version.version} is passed over: {why}")
        before, after = (_holder(version) for version in (way.seen.holder, way.target))
        print(f"{options.model}: {options.alias} would move from {before} to {after}; nothing was changed.")
    else:
        now = rollback(tracking, options.model, options.alias, options.reason)
        print(f"{options.model}: {_holder(now)} is now {options.alias}.")


def _promote(options: argparse.Namespace, machines: Machines | None) -> None:
    beside = Requirements(gates=tuple(options.gate), max_regression=options.max_regression, use=options.use)
    tracking = _connected(options)
    candidate = RegisteredVersion(options.model, options.version)
    if options.dry_run:
        _foresee(tracking, prepare(tracking, candidate, options.alias, beside))
        return
    measure = None if machines is None else _measuring(machines, tracking, options)
    for check in promote(tracking, candidate, options.alias, beside, options.reason, measured_before=measure):
        print(check.statement)
    print(f"{options.model}: version {options.version} is now {options.alias}.")


def _foresee(tracking: Tracking, asked: Promotion) -> None:
    """Says what a promotion would find.

    Raises:
        LineageError: it would be refused.
    """
    checks = looked_at(tracking, asked)
    for each in checks:
        print(f"{'holds' if each.passed else 'FAILS'}  {each.statement}")
    candidate, seen = asked.candidate, asked.seen
    if failed := [each.statement for each in checks if not each.passed]:
        raise LineageError(f"{candidate.name} version {candidate.version} would not be promoted: {' '.join(failed)}")
    moves = f"{seen.alias} would move from {_holder(seen.holder)} to {_holder(candidate)}"
    print(f"{candidate.name}: {moves}; nothing was changed.")


def _measuring(machines: Machines, tracking: Tracking, options: argparse.Namespace) -> Callable[[Promotion], None]:
    # Imported here: torch is no part of a promotion that measures nothing.
    from posecore.workflows.measurement import measure_missing

    return lambda asked: measure_missing(machines, tracking, asked, as_path(options.folder) / "measurements")


def _aliases(found: Policies) -> str:
    return ", ".join(dict.fromkeys(policy.alias for policy in found.policies)) or "no alias"


def _holder(version: RegisteredVersion | None) -> str:
    return "no version" if version is None else f"version {version.version}"


def _tell(tracking: Tracking, model: str, alias: str) -> None:
    moves = history(tracking, model, alias)
    if not moves:
        look_up(tracking, model)
        print(f"{model}: no move of {alias} is recorded")
    for move in moves:
        outcome = "done" if move.done else "refused"
        versions = f"{move.source or '-'} -> {move.target or '-'}"
        print(f"{move.time:%Y-%m-%d %H:%M} {move.user:<12} {move.action:<10} {versions:<10} {outcome:<8} {move.reason}")


if __name__ == "__main__":
    sys.exit(main())
