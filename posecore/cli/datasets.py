"""``posecore datasets``: what datasets there are, and what a download looks like."""

import argparse

from posecore.cli.commands import Commands
from posecore.datasets.check import check_split, present_splits
from posecore.datasets.discovery import dataset_folders, load_dataset
from posecore.viz.dataset_gallery import write_dataset_gallery


def add(commands: Commands) -> None:
    """Adds ``datasets list | show | check``."""
    group = commands.add_parser("datasets", help="what datasets there are, and what a download looks like")
    actions = group.add_subparsers(dest="action", required=True)
    actions.add_parser("list", help="all known datasets").set_defaults(run=_list_datasets)
    show = actions.add_parser("show", help="write an HTML gallery and a PNG contact sheet of annotated images")
    show.add_argument("name", help="a dataset, or the path of a dataset.yaml")
    show.add_argument("--root", required=True, help="folder of the download, local or an fsspec URL")
    show.add_argument("--split", help="default: the definition's first")
    show.add_argument("--out", required=True, help="folder to write into")
    show.add_argument("--num", type=int, default=24, help="images to show at most (default: 24)")
    show.set_defaults(run=_show_dataset)
    check = actions.add_parser("check", help="say what is wrong with a download; exit status 1 if anything is an error")
    check.add_argument("name", help="a dataset, or the path of a dataset.yaml")
    check.add_argument("--root", required=True, help="folder of the download, local or an fsspec URL")
    check.add_argument("--split", help="default: every split whose annotations are there")
    check.set_defaults(run=_check_dataset)


def _list_datasets(options: argparse.Namespace) -> int:
    rows = [("name", "title", "keypoints", "splits", "licence", "commercial use")]
    for name in dataset_folders():
        definition = load_dataset(name)
        commercial = {True: "yes", False: "no", None: "not stated"}[definition.license.commercial_use]
        keypoints, splits = str(definition.skeleton.num_keypoints), ", ".join(definition.splits)
        rows.append((name, definition.title, keypoints, splits, definition.license.id, commercial))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    return 0


def _show_dataset(options: argparse.Namespace) -> int:
    definition = load_dataset(options.name)
    split = options.split or next(iter(definition.splits))
    print(write_dataset_gallery(definition, split, options.root, options.out, options.num))
    return 0


def _check_dataset(options: argparse.Namespace) -> int:
    definition = load_dataset(options.name)
    splits = [options.split] if options.split else present_splits(definition, options.root)
    reports = [check_split(definition, split, options.root) for split in splits or definition.splits]
    for report in reports:
        print(report)
    left = [split for split in definition.splits if split not in splits]
    if left and splits and not options.split:
        print(f"not in this download: {', '.join(left)}")
    return int(any(report.has_errors for report in reports))
