"""``posecore datasets``: what datasets there are, and what a download looks like."""

import argparse
import os
import re
import sys
from pathlib import Path
from typing import Any

from posecore.cli.commands import Commands, input_size, positive
from posecore.config import apply_override, parse_config
from posecore.counting import counted
from posecore.datasets.add_split import propose_split, write_split
from posecore.datasets.check import check_split, present_splits
from posecore.datasets.definition import DatasetDefinition
from posecore.datasets.discovery import dataset_folders, load_dataset
from posecore.datasets.new import propose, write_definition
from posecore.datasets.recognise import recognise
from posecore.errors import PoseCoreError, UsageError
from posecore.evaluation.protocols import protocol_problem
from posecore.ingest.stage_check import check_stages, made_of, may_scale
from posecore.ingest.stage_code import foreign_code
from posecore.labels.export import IMAGES_NAME, WRITERS, export, pictures_of_files, pictures_of_store, read_predictions
from posecore.loading.augment import AugmentConfig
from posecore.loading.augment_presets import AUGMENT_PRESETS
from posecore.shards.manifest import MANIFEST_NAME
from posecore.shards.store import open_store
from posecore.viz.augmentation_sheet import write_augmentation_sheet
from posecore.viz.dataset_gallery import write_dataset_gallery, write_worst


def add(commands: Commands) -> None:
    """Adds ``datasets list | show | check | new | add | export | augmentations``."""
    group = commands.add_parser("datasets")
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
    check.add_argument("--out", help="folder to draw the three worst bodies of each split into")
    check.set_defaults(run=_check_dataset)
    new = actions.add_parser("new", help="write a definition of your own labels, and check it")
    new.add_argument(
        "--from", dest="places", type=Path, action="append", required=True,
        help="file or folder that the tool has written; several make one set, under one head",
    )  # fmt: skip
    new.add_argument("--name", default="", help="of the dataset and its skeleton (default: that of the file or folder)")
    new.add_argument("--like", default="", help="a skeleton whose union names and OKS constants like-named points take")
    new.add_argument("--names", default="", help="names of the points, by commas, where the tool has none")
    new.add_argument("--images", default="", help="folder of pictures or films below that of --from, if not found")
    new.add_argument("--license", default="own", help="licence of the pictures (default: own)")
    new.add_argument(
        "--into", type=Path, help="folder of definitions (default: the first on POSECORE_DATASETS, else my_datasets)"
    )
    new.set_defaults(run=_new_dataset)
    more = actions.add_parser("add", help="add a split to a definition: what came back of a labelling tool")
    more.add_argument("name", help="a dataset, or the path of a dataset.yaml")
    more.add_argument("--root", type=Path, required=True, help="folder of the download")
    more.add_argument("--from", dest="place", type=Path, required=True, help="file or folder of the tool, below --root")
    more.add_argument("--split", default="corrected", help="name of the new split (default: corrected)")
    more.add_argument("--use", choices=["train", "eval", "any"], default="train", help="what for (default: train)")
    more.add_argument("--images", default="", help="folder of pictures or films below that of --from, if not found")
    more.set_defaults(run=_add_split)
    out = actions.add_parser(
        "export", help="write labels, or predictions as pre-labels to correct, as files of a labelling tool"
    )
    out.add_argument(
        "source", type=Path, help="folder of an ingested split, or one that `posecore predict` has written"
    )
    out.add_argument("--format", required=True, choices=list(WRITERS), help="of the tool")
    out.add_argument("--out", type=Path, required=True, help="folder to write into")
    out.add_argument("--pictures", type=Path, help="of predictions: folder of the pictures or films")
    out.add_argument("--head", default="", help="of predictions: whose points (default: the first)")
    out.add_argument("--min-score", type=float, default=0.0, help="of predictions: points below are left out")
    out.set_defaults(run=_export)
    augmentations = actions.add_parser(
        "augmentations", help="write an HTML gallery and a PNG contact sheet of crops as training will see them"
    )
    augmentations.add_argument("store", help="folder of an ingested split, local or an fsspec URL")
    augmentations.add_argument(
        "--augment", default="published", help=f"one of {', '.join(AUGMENT_PRESETS)} (default: published)"
    )
    augmentations.add_argument(
        "--set", action="append", default=[], metavar="FIELD=VALUE", help="another value of one of its fields"
    )
    augmentations.add_argument("--input", default="256x256", metavar="HxW", help="crop size (default: 256x256)")
    augmentations.add_argument("--out", required=True, help="folder to write into")
    augmentations.add_argument("--num", type=positive, default=8, help="instances to show at most (default: 8)")
    augmentations.add_argument("--passes", type=positive, default=7, help="augmented crops of each (default: 7)")
    augmentations.add_argument("--seed", type=int, default=0, help="of the run (default: 0)")
    augmentations.set_defaults(run=_show_augmentations)


def _list_datasets(options: argparse.Namespace) -> int:
    rows, broken = [("name", "title", "keypoints", "splits", "licence", "commercial use")], 0
    for name in dataset_folders():
        try:
            definition = load_dataset(name)
        except PoseCoreError as error:
            print(f"error: {error}", file=sys.stderr, flush=True)
            broken += 1
            continue
        commercial = {True: "yes", False: "no", None: "not stated"}[definition.license.commercial_use]
        keypoints, splits = str(definition.skeleton.num_keypoints), ", ".join(definition.splits)
        rows.append((name, definition.title, keypoints, splits, definition.license.id, commercial))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    return int(broken > 0)


def _load_and_say(name: str) -> DatasetDefinition:
    """The definition; says what code of others it is about to run, because a definition that names code is code."""
    definition = load_dataset(name)
    for line in foreign_code(definition):
        print(f"code: {definition.name} runs {line}", file=sys.stderr, flush=True)
    return definition


def _show_dataset(options: argparse.Namespace) -> int:
    definition = _load_and_say(options.name)
    split = options.split or next(iter(definition.splits))
    print(write_dataset_gallery(definition, split, options.root, options.out, options.num))
    return 0


def _show_augmentations(options: argparse.Namespace) -> int:
    values: dict[str, Any] = {"preset": options.augment}
    for override in options.set:
        apply_override(values, override)
    augment, size = parse_config(values, AugmentConfig, origin="--augment"), input_size(options.input)
    page = write_augmentation_sheet(
        open_store(options.store),
        augment,
        size,
        options.out,
        num_instances=options.num,
        num_passes=options.passes,
        seed=options.seed,
    )
    print(page)
    return 0


def _new_dataset(options: argparse.Namespace) -> int:
    stem = options.places[0].resolve().name.partition(".")[0]
    name = options.name or re.sub(r"[^A-Za-z0-9_]+", "_", stem).strip("_").lower()
    names = [part.strip() for part in options.names.split(",") if part.strip()]
    ask = input if sys.stdin.isatty() else None
    ones = [recognise(place) for place in options.places]
    proposal = propose(name, ones, options.like, names, options.images, ask)
    found = proposal.found
    stated = [text for text in os.environ.get("POSECORE_DATASETS", "").split(os.pathsep) if text]
    into = options.into or Path(stated[0] if stated else "my_datasets")
    path = write_definition(proposal, into, options.license)
    print(
        f"{found.kind}: {counted(len(found.names), 'point')} "
        f"({', '.join(found.names)})\n{path}\n{path.with_name('skeleton.yaml')}"
    )
    for remark in proposal.remarks:
        print(f"  please confirm: {remark}")
    known = str(into.resolve()) in [str(Path(text).resolve()) for text in stated]
    if not known:
        os.environ["POSECORE_DATASETS"] = os.pathsep.join([*stated, str(into.resolve())])
    status = _check(name, str(found.root), None, None)
    run = path.with_name("train.yaml")
    if not known:  # after the check, whose lines are many: what follows fails without it
        print(f"so that it is found: export POSECORE_DATASETS={os.environ['POSECORE_DATASETS']}")
    print(f"next: posecore train --config {run}")
    return status


def _add_split(options: argparse.Namespace) -> int:
    found = recognise(options.place)
    added = propose_split(_load_and_say(options.name), found, options.split, options.root, options.use, options.images)
    print(f"{found.kind}: {counted(added.num_pictures, 'picture')}, {counted(added.num_bodies, 'body')}")
    moved = f"{counted(added.num_touched, 'point')} of {counted(added.num_corrected, 'body')}"
    print(f"  a person has set or moved {moved} (extras.touched)")
    for reason, count in sorted(added.left_out.items()):
        print(f"  left out: {count} × {reason}")
    path = write_split(added)
    if path is None:
        print(f"add this line below splits: of {added.definition.folder / 'dataset.yaml'}:\n  {added.line}")
        return 0
    print(f"split {added.name} is in {path}")
    return _check(options.name, str(options.root), added.name, None)


def _export(options: argparse.Namespace) -> int:
    if (options.source / MANIFEST_NAME).exists():
        store = open_store(options.source)
        pictures, split = pictures_of_store(store), store.manifest.split
        skeleton = store.manifest.definition.skeleton
    else:
        if options.pictures is None and (options.source / IMAGES_NAME).exists():
            raise UsageError(f"{options.source} holds predictions; say where their pictures are: --pictures FOLDER.")
        found = read_predictions(options.source, options.head, options.min_score)
        pictures, split = pictures_of_files(found.records, options.pictures or options.source), "prelabels"
        skeleton = found.skeleton
    done = export(pictures, skeleton, split, options.format, options.out)
    written = f"{counted(done.num_pictures, 'picture')}, {counted(done.num_bodies, 'body')}"
    print(f"{written} in {options.out / 'images' / split}")
    for path in done.files:
        print(path)
    for what, count in sorted(done.lost.items()):
        print(f"  not kept by {options.format}: {count} × {what}")
    for reason in done.missing[:3]:
        print(f"  left out: {reason}")
    if len(done.missing) > 3:
        print(f"  left out: {counted(len(done.missing), 'picture')} in all")
    return 0


def _check_dataset(options: argparse.Namespace) -> int:
    return _check(options.name, options.root, options.split, options.out)


def _check(name: str, root: str, only: str | None, out: str | None) -> int:
    definition = _load_and_say(name)
    unjudged = protocol_problem(definition.evaluation, definition.skeleton)
    if not any(split.use == "eval" for split in definition.splits.values()):
        unjudged = None
    if unjudged is not None:
        print(f"error: evaluation: {unjudged}")
    splits = [only] if only else present_splits(definition, root)
    healthy = unjudged is None
    for split in splits or definition.splits:
        report = check_split(definition, split, root, made_of(definition), may_scale(definition))
        print(report)
        healthy &= not report.has_errors
        if report.worst and out:
            page = write_worst(definition, root, report.worst, f"{out}/{split}")
            print(f"  the three worst bodies: {page}")
        elif report.worst and report.has_errors:
            print("  to see the three worst bodies, add --out FOLDER")
        if report.sample:
            stages = check_stages(definition, split, root, report.sample)
            print(stages)
            healthy &= not stages.problem
    left = [split for split in definition.splits if split not in splits]
    if left and splits and not only:
        print(f"not in this download: {', '.join(left)}")
    return int(not healthy)
