#!/usr/bin/env python3
"""Moves an alias of a registered model if stated gates hold, undoes such a move, or tells its history.

    python pipelines/promote.py --model pose --version 3 --gate 'coco/AP>=0.6' --max-regression 0.005
    python pipelines/promote.py --model pose --rollback --reason 'worse on preterm infants'
    python pipelines/promote.py --model pose --history

The exit status is 1, with the failing gate's sentence, if the alias did not move.
"""

if __name__ == "__main__":  # before the imports below, which take seconds
    from posecore.interruption import signals_end_the_process

    signals_end_the_process()

import argparse
import sys
from collections.abc import Sequence

from posecore.config import load_config
from posecore.lineage.promotion import Gate, PromotionConfig, history, promote, rollback
from posecore.lineage.tracking import Tracking, TrackingConfig, connect
from posecore.lineage.versions import RegisteredVersion
from posecore.workflows.endings import exit_status


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    options = _parser().parse_args(arguments)

    def job() -> None:
        config = _gates(options)
        tracking = connect(
            TrackingConfig(uri=options.tracking_uri, experiment=options.experiment), options.folder, must_exist=True
        )
        if options.history:
            _tell(tracking, options.model, options.alias)
        elif options.rollback:
            now = rollback(tracking, options.model, options.alias, options.reason)
            holder = "no version" if now is None else f"version {now.version}"
            print(f"{options.model}: {holder} is now {options.alias}.")
        else:
            candidate = RegisteredVersion(options.model, options.version)
            for check in promote(tracking, candidate, options.alias, config, options.reason):
                print(check.statement)
            print(f"{options.model}: version {options.version} is now {options.alias}.")

    return exit_status(job)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="registered model")
    parser.add_argument("--alias", default="champion", help="alias to move (default: %(default)s)")
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--version", type=int, help="version that is to hold the alias")
    action.add_argument("--rollback", action="store_true", help="undo the last move")
    action.add_argument("--history", action="store_true", help="print every attempt")
    parser.add_argument("--gate", action="append", default=[], help="bound such as 'coco/AP>=0.6'; repeatable")
    parser.add_argument("--max-regression", type=float, help="how much worse than the holder a gated metric may be")
    parser.add_argument("--commercial-use", action="store_true", help="require licences that allow commercial use")
    parser.add_argument("--config", help="YAML file with gates, max_regression and commercial_use")
    parser.add_argument("--reason", default="", help="why; required for --rollback")
    parser.add_argument("--folder", default="runs", help="run folder with the local tracking store (default: runs)")
    parser.add_argument(
        "--tracking-uri", help="MLflow server; default: MLFLOW_TRACKING_URI, else the run folder's file"
    )
    parser.add_argument("--experiment", default="promotions", help="experiment of the records (default: %(default)s)")
    return parser


def _gates(options: argparse.Namespace) -> PromotionConfig:
    """The file's gates and those of the command line, which also overrides the file's margin."""
    config = PromotionConfig() if options.config is None else load_config(options.config, PromotionConfig)
    margin = config.max_regression if options.max_regression is None else options.max_regression
    return PromotionConfig(
        gates=(*config.gates, *(Gate.parse(text) for text in options.gate)),
        max_regression=margin,
        commercial_use=config.commercial_use or options.commercial_use,
    )


def _tell(tracking: Tracking, model: str, alias: str) -> None:
    for move in history(tracking, model, alias):
        outcome = "done" if move.done else "refused"
        versions = f"{move.source or '-'} -> {move.target or '-'}"
        print(f"{move.time:%Y-%m-%d %H:%M} {move.user:<12} {move.action:<8} {versions:<10} {outcome:<8} {move.reason}")


if __name__ == "__main__":
    sys.exit(main())
