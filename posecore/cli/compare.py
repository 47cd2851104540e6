"""``posecore compare``: what differs between two registered versions, and which pictures got better and worse."""

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from posecore.cli.commands import Commands, refuse_folder
from posecore.cli.model_argument import add_registry
from posecore.errors import LineageError

if TYPE_CHECKING:
    from posecore.lineage.versions.difference import Differing, VersionDifference
    from posecore.viz.version_comparison import Rows, SetSection, VersionPage


def add(commands: Commands) -> None:
    """Adds ``compare``."""
    compare = commands.add_parser(
        "compare",
        epilog="exit status: 0 all could be compared, 1 something could not, which the page names",
    )
    compare.add_argument("first", help="models:/name/version, models:/name@version or models:/name@alias")
    compare.add_argument("second", help="likewise")
    compare.add_argument("--out", default="comparison.html", help="page to write (default: %(default)s)")
    compare.add_argument("--pictures", type=int, default=12, help="of bodies that gained, and that lost, on each set")
    compare.add_argument(
        "--no-predictions", action="store_true", help="ask the record alone: no figures, intervals and pictures"
    )
    compare.add_argument("--batch-size", type=int, default=32, help="crops at a time (default: %(default)s)")
    compare.add_argument("--no-flip-test", action="store_true", help="one forward pass per crop instead of two")
    add_registry(compare)
    compare.set_defaults(run=_compare)


def _compare(options: argparse.Namespace) -> int:
    # Imported here because MLflow and torch take seconds, which no other command should wait for.
    from posecore.config import COMMAND_LINE, parse_config
    from posecore.evaluation.inference import InferenceSettings
    from posecore.lineage.jobs.exports import record_page
    from posecore.lineage.store.tracking import TrackingConfig, connect
    from posecore.lineage.versions.difference import compare_versions
    from posecore.lineage.versions.model_source import registered_version
    from posecore.storage import as_path
    from posecore.viz.version_comparison import SetSection, write_version_page
    from posecore.workflows.version_comparison import judge_both

    refuse_folder(options.out, "comparison.html")
    values = {"batch_size": options.batch_size, "flip_test": not options.no_flip_test}
    settings = parse_config(values, InferenceSettings, origin=COMMAND_LINE)
    tracking = connect(TrackingConfig(uri=options.tracking_uri), options.folder, must_exist=True)
    versions = [registered_version(name, tracking) for name in (options.first, options.second)]
    difference = compare_versions(tracking, versions[0], versions[1])
    sets: list[SetSection] = []
    unknown = list(difference.unknown)
    if not options.no_predictions:
        found, why = judge_both(tracking, difference, settings, options.pictures)
        sets = [SetSection(**vars(each)) for each in found]
        unknown += why
    page = _page(difference, sets, unknown)
    print("\n".join(_lines(page)))
    written = write_version_page(as_path(options.out), page)
    print(f"page      {written}")
    try:
        print(f"recorded in run {record_page(tracking, 'compare', difference.digests, written)}")
    except LineageError as error:
        print(f"not recorded, so a withdrawal does not find the page: {error}")
    return 1 if unknown else 0


def _page(difference: "VersionDifference", sets: "Sequence[SetSection]", unknown: Sequence[str]) -> "VersionPage":
    from posecore.viz.version_comparison import VersionPage

    return VersionPage(
        first=difference.first.version.uri,
        second=difference.second.version.uri,
        tables={
            "settings": _rows(difference.parameters),
            "code": _rows(difference.code),
            "packages": _rows(difference.packages),
            "weights": _rows(difference.weights),
        },
        data=[(f"{each.label}, {each.role}: {each.said}.", each.added, each.removed) for each in difference.data],
        sets=sets,
        unknown=unknown,
    )


def _rows(found: "Sequence[Differing]") -> "Rows":
    return [(each.name, each.first or "–", each.second or "–") for each in found]


def _lines(page: "VersionPage") -> list[str]:
    """What the terminal shows."""
    lines = [f"{page.first} and {page.second}"]
    for each in page.sets:
        lines += [f"  {each.name}: {name}  {cells[0]}  {cells[1]}  {cells[2]}" for name, cells, _ in each.lines]
    lines += [f"data: {sentence}" for sentence, _, _ in page.data]
    for title, rows in page.tables.items():
        lines += [f"{title}: {name}  {before} → {after}" for name, before, after in rows]
    return lines + [f"unknown: {sentence}" for sentence in page.unknown]
