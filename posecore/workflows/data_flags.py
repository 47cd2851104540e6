"""``--data``: the datasets of a job, without writing a run file."""

import argparse
from pathlib import Path

from posecore.datasets.definition import DatasetDefinition
from posecore.datasets.discovery import load_dataset
from posecore.errors import UsageError
from posecore.schema import Json


def declare_data(parser: argparse.ArgumentParser) -> None:
    """Adds the flag, which may be given several times."""
    parser.add_argument(
        "--data",
        action="append",
        default=[],
        metavar="DATASET[:TRAIN[:EVALUATE]]=ROOT",
        help="a dataset to learn and to be judged on, by its name or its dataset.yaml, and the folder of its download; "
        "repeat for several. Without splits, the first that is meant for training and the first that is meant for "
        "evaluation",
    )


def data_entry(text: str) -> dict[str, Json]:
    """``DATASET[:TRAIN[:EVALUATE]]=ROOT`` as an entry of ``datasets``; a local root counts from where we are.

    Raises:
        UsageError: it is no such text, or none of the dataset's splits is meant for training and none is named.
        DatasetError: there is no such dataset.
    """
    what, separator, root = text.partition("=")
    dataset, *splits = what.split(":")
    if not (separator and dataset and root) or len(splits) > 2 or not all(splits):
        raise UsageError(f"--data {text}: expected DATASET[:TRAIN[:EVALUATE]]=ROOT, for example coco=/data/coco.")
    is_file = dataset.endswith((".yaml", ".yml"))
    if is_file or not splits:
        definition = load_dataset(dataset)
        splits = splits or _usual_splits(definition, dataset)
    entry: dict[str, Json] = {"name": definition.name if is_file else dataset}
    if is_file:
        entry["definition"] = str(Path(dataset).resolve())
    entry["root"] = root if "://" in root else str(Path(root).resolve())
    return entry | dict(zip(("train", "evaluate"), splits, strict=False))


def _usual_splits(definition: DatasetDefinition, called: str) -> list[str]:
    training = [split for split, part in definition.splits.items() if part.use == "train"]
    evaluation = [split for split, part in definition.splits.items() if part.use == "eval"]
    if not training:
        raise UsageError(
            f"--data {called}: none of its splits ({', '.join(definition.splits)}) is meant for training; name one, "
            f"--data {called}:{next(iter(definition.splits))}=ROOT."
        )
    return training[:1] + evaluation[:1]
