"""``posecore rerun``: a registered version trained again from the registry alone."""

import argparse
import sys
from pathlib import Path

from posecore.cli.commands import Commands
from posecore.cli.model_argument import add_registry


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
    add_registry(rerun)
    rerun.set_defaults(run=_rerun)


def _rerun(options: argparse.Namespace) -> int:
    # Imported here because MLflow takes a second, which no other command should wait for.
    from posecore.errors import LineageError
    from posecore.lineage.model_source import registered_version
    from posecore.lineage.tracking import TrackingConfig, connect
    from posecore.workflows import rerun

    tracking = connect(TrackingConfig(uri=options.tracking_uri), options.folder, must_exist=True)
    recorded = rerun.read_recorded(tracking, registered_version(options.model, tracking))
    out = Path(options.out).resolve()
    if out.exists() and any(out.iterdir()):
        raise LineageError(f"--out {out}: there is something in it already; name a new folder.")
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
