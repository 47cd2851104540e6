"""``posecore rerun``: a registered version trained again from the registry alone."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from posecore.cli.commands import Commands
from posecore.cli.model_argument import add_registry
from posecore.counting import counted

if TYPE_CHECKING:
    from posecore.workflows.rerun import Recorded


def add(commands: Commands) -> None:
    """Adds ``rerun``."""
    rerun = commands.add_parser(
        "rerun",
        epilog="exit status: 0 the weights are the same, 1 they are not, and the reasons are named, or it failed",
    )
    rerun.add_argument("model", help="models:/name/version, models:/name@version or models:/name@alias")
    rerun.add_argument("--out", required=True, help="new folder for code and run")
    rerun.add_argument("--data-folder", help="where the downloads lie now, if not where they lay")
    rerun.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="override one setting of the job"
    )
    rerun.add_argument("--dry-run", action="store_true", help="say what would be trained again, from what; do nothing")
    add_registry(rerun)
    rerun.set_defaults(run=_rerun)


def foreseen(recorded: "Recorded", out: Path, data_folder: str | None) -> str:
    """What would be trained again, in a few lines.

    Args:
        recorded: the version.
        out: new folder.
        data_folder: where the downloads lie now, if not where they lay.
    """
    by = "Ray" if recorded.with_ray else "torchrun"
    data = [f"{each['name']} {each['root']}" for each in recorded.config.get("datasets", ())]
    return "\n".join(
        [
            f"version   {recorded.version.uri}",
            f"job       posecore {recorded.job}, {counted(recorded.processes, 'process')} by {by}",
            f"code      {recorded.tags.get('code', '')[:12]}",
            f"data      {', '.join(data)} of {data_folder or recorded.config.get('data_folder', '.')}",
            f"out       {out}",
        ]
    )


def _rerun(options: argparse.Namespace) -> int:
    # Imported here because MLflow takes a second, which no other command should wait for.
    from posecore.errors import LineageError
    from posecore.lineage.store.tracking import TrackingConfig, connect
    from posecore.lineage.versions.model_source import registered_version
    from posecore.workflows import rerun

    tracking = connect(
        TrackingConfig(uri=options.tracking_uri), options.folder, must_exist=True, records=not options.dry_run
    )
    recorded = rerun.read_recorded(tracking, registered_version(options.model, tracking))
    out = Path(options.out).resolve()
    if out.exists() and any(out.iterdir()):
        raise LineageError(f"--out {out}: there is something in it already; name a new folder.")
    if options.dry_run:
        print(foreseen(recorded, out, options.data_folder))
        return 0
    out.mkdir(parents=True, exist_ok=True)
    print(f"{recorded.version.uri}: posecore {recorded.job}, code {recorded.tags.get('code', '')[:12]}", flush=True)
    result = rerun.rerun(tracking, recorded, out, options.data_folder, options.set)
    before, after = result.weights
    if result.equal:
        print(f"{result.again.uri} has the same weights, bit for bit: {before}")
        return 0
    print(f"{result.again.uri} has other weights, {after[:12]} and not {before[:12]}:", file=sys.stderr)
    for reason in result.reasons or ["nothing that is recorded differs; docs/determinism.md says what else may"]:
        print(f"  {reason}", file=sys.stderr)
    print(f"  what was installed then: {out / 'installed.txt'}", file=sys.stderr)
    return 1
