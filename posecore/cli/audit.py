"""``posecore audit``: what two ingested splits share."""

import argparse

from posecore.cli.commands import Commands
from posecore.ingest.audit import compare
from posecore.shards.store import open_store


def add(commands: Commands) -> None:
    """Adds ``audit``."""
    audit = commands.add_parser("audit", help="say what two ingested splits share; exit status 1 if anything")
    audit.add_argument("a", help="folder of an ingested split, local or an fsspec URL")
    audit.add_argument("b", help="the other one")
    audit.set_defaults(run=_audit)


def _audit(options: argparse.Namespace) -> int:
    report = compare(open_store(options.a), open_store(options.b))
    for pair in report.pairs:
        print(pair)
    counts = ", ".join(f"{count} {reason}" for reason, count in report.counts().items())
    print(f"{report.a} and {report.b} share {counts or 'nothing'}.")
    return 1 if report.leaks else 0
