"""The command line: thin wrappers, one subcommand group per room of the library."""

import argparse
import sys
from collections.abc import Sequence
from typing import get_args

from tqdm import tqdm

from posecore.datasets.check import check_split, present_splits
from posecore.datasets.discovery import dataset_folders, load_dataset
from posecore.errors import PoseCoreError
from posecore.ingest.audit import compare
from posecore.shards.store import open_store
from posecore.storage import as_path, write_atomically
from posecore.synth.writers import DatasetName, write_dataset
from posecore.viz.dataset_gallery import write_dataset_gallery
from posecore.viz.gallery import encode_jpeg
from posecore.viz.synthetic_sheet import synthetic_sheet


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status: 0 done, 1 a deliberate error or a failed check, 2 bad usage."""
    parser = argparse.ArgumentParser(prog="posecore", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    _add_datasets(commands)
    _add_synth(commands)
    _add_audit(commands)
    _add_lineage(commands)
    options = parser.parse_args(arguments)
    try:
        return int(options.run(options))
    except (PoseCoreError, OSError) as error:  # an OSError names the file, as ours do
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
    check = actions.add_parser("check", help="say what is wrong with a download; exit status 1 if anything is an error")
    check.add_argument("name", help="a dataset, or the path of a dataset.yaml")
    check.add_argument("--root", required=True, help="folder of the download, local or an fsspec URL")
    check.add_argument("--split", help="default: every split whose annotations are there")
    check.set_defaults(run=_check_dataset)


def _add_audit(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
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


def _add_synth(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    synth = commands.add_parser("synth", help="render a synthetic dataset in the native format of a real one")
    synth.add_argument("--dataset", required=True, choices=get_args(DatasetName), help="whose format")
    synth.add_argument("--out", required=True, help="folder of the dataset, made if missing")
    synth.add_argument("--num-train", type=int, default=200, help="training pictures (default: 200)")
    synth.add_argument("--num-val", type=int, default=50, help="validation pictures (default: 50)")
    synth.add_argument("--seed", type=int, default=0, help="the same seed, the same pictures (default: 0)")
    synth.add_argument("--size", type=int, default=256, help="side of the square pictures in pixels (default: 256)")
    synth.set_defaults(run=_synthesise)
    sheet = commands.add_parser("synth-sheet", help="one JPEG that shows the synthetic bodies and their labels")
    sheet.add_argument("--out", required=True, help="JPEG file to write")
    sheet.add_argument("--seed", type=int, default=0, help="of the bodies shown (default: 0)")
    sheet.set_defaults(run=_write_synthetic_sheet)


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


def _write_synthetic_sheet(options: argparse.Namespace) -> int:
    write_atomically(as_path(options.out), encode_jpeg(synthetic_sheet(options.seed)))
    print(options.out)
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


def _add_lineage(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    group = commands.add_parser("lineage", help="what a model has seen, and which models have seen something")
    group.add_argument("--folder", default="runs", help="run folder with the local tracking store (default: runs)")
    group.add_argument("--tracking-uri", help="MLflow server; default: MLFLOW_TRACKING_URI, else the run folder's file")
    group.set_defaults(run=_answer_lineage)
    questions = group.add_subparsers(dest="question", required=True)
    model = questions.add_parser("model", help="data, parents and figures of a model version")
    model.add_argument("name", help="registered model")
    model.add_argument("version", type=int, help="its version number")
    dataset = questions.add_parser("dataset", help="every model trained on a dataset, itself or its ancestors")
    dataset.add_argument("name_or_digest", help="coco, coco/train, or a digest (at least 8 digits of it)")
    dataset.add_argument("--evaluated", action="store_true", help="also models only evaluated on it")
    image = questions.add_parser("image", help="every model trained on an image")
    image.add_argument("sha256", help="hash of the image file")
    subject = questions.add_parser("subject", help="every model trained on a person or animal")
    subject.add_argument("id", help="as in the dataset's records")
    license_ = questions.add_parser("license", help="every model trained on data with these terms of commercial use")
    license_.add_argument("commercial_use", choices=["allowed", "not stated", "forbidden"])


def _answer_lineage(options: argparse.Namespace) -> int:
    # Imported here because MLflow takes a second, which no other command should wait for.
    from posecore.lineage import answers
    from posecore.lineage.query import LineageGraph
    from posecore.lineage.tracking import TrackingConfig, connect
    from posecore.lineage.versions import RegisteredVersion

    graph = LineageGraph.load(connect(TrackingConfig(uri=options.tracking_uri), options.folder, must_exist=True))
    complete = True
    if options.question == "model":
        lines = answers.describe_model(graph, RegisteredVersion(options.name, options.version))
    elif options.question == "dataset":
        lines = answers.describe_sightings(graph.of_dataset(options.name_or_digest, evaluated=options.evaluated))
    elif options.question == "license":
        lines = answers.describe_sightings(graph.of_license(options.commercial_use))
    else:
        trace = graph.of_image(options.sha256) if options.question == "image" else graph.of_subject(options.id)
        lines, complete = answers.describe_trace(trace), not trace.unread
    print("\n".join(lines))
    return 0 if complete else 1


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


if __name__ == "__main__":
    sys.exit(main())
