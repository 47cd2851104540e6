"""The command line: thin wrappers, one subcommand group per room of the library."""

import argparse
import sys
from collections.abc import Sequence
from typing import get_args

from tqdm import tqdm

from posecore.datasets.discovery import dataset_folders, load_dataset
from posecore.errors import PoseCoreError
from posecore.synth.writers import DatasetName, write_dataset
from posecore.viz.dataset_gallery import write_dataset_gallery


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status: 0 done, 1 a deliberate error or a failed check, 2 bad usage."""
    parser = argparse.ArgumentParser(prog="posecore", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    _add_datasets(commands)
    _add_synth(commands)
    options = parser.parse_args(arguments)
    try:
        return int(options.run(options))
    except PoseCoreError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _add_datasets(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
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


def _add_synth(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    synth = commands.add_parser("synth", help="render a synthetic dataset in the native format of a real one")
    synth.add_argument("--dataset", required=True, choices=get_args(DatasetName))
    synth.add_argument("--out", required=True, help="folder of the dataset, made if missing")
    synth.add_argument("--num-train", type=int, default=200, help="training pictures (default: 200)")
    synth.add_argument("--num-val", type=int, default=50, help="validation pictures (default: 50)")
    synth.add_argument("--seed", type=int, default=0)
    synth.add_argument("--size", type=int, default=256, help="side of the square pictures in pixels (default: 256)")
    synth.set_defaults(run=_synthesise)


def _synthesise(options: argparse.Namespace) -> int:
    with tqdm(total=options.num_train + options.num_val, unit="image", desc=options.dataset) as bar:
        root = write_dataset(
            options.dataset,
            options.out,
            options.num_train,
            options.num_val,
            (options.size, options.size),
            options.seed,
            progress=lambda done, total: bar.update(),
        )
    print(root)
    return 0


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


if __name__ == "__main__":
    sys.exit(main())
