"""``posecore audit``: what two ingested splits share."""

import argparse
from pathlib import Path

from posecore.cli.commands import Commands
from posecore.ingest.audit import compare
from posecore.shards.store import open_store
from posecore.storage import write_atomically


def add(commands: Commands) -> None:
    """Adds ``audit``."""
    audit = commands.add_parser("audit")
    audit.add_argument("a", help="folder of an ingested split, local or an fsspec URL")
    audit.add_argument("b", help="the other one")
    audit.add_argument("--out", type=Path, help="CSV file for all that is shared, of which the first are printed")
    audit.set_defaults(run=_audit)


def _audit(options: argparse.Namespace) -> int:
    report = compare(open_store(options.a), open_store(options.b))
    for pair in report.pairs:
        print(pair)
    if report.shared.height > len(report.pairs):
        print(f"… and {report.shared.height - len(report.pairs)} more")
    if options.out is not None:
        write_atomically(options.out, report.shared.write_csv().encode())
    print(f"{report}.")
    return 1 if report.leaks else 0
