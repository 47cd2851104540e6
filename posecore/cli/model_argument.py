"""The model that several commands take: a folder, a file, a published name, a place on the hub, or a registered one."""

import argparse
import sys
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

from posecore.counting import counted
from posecore.workflows.named_model import named_weights

if TYPE_CHECKING:
    from posecore.models.architecture import ModelCard
    from posecore.skeletons.skeleton import Skeleton

MODEL_HELP = (
    "model folder, checkpoint or ONNX file, published name (posecore models list), place on the hub, or "
    "models:/name@alias of the registry"
)
_BACKBONE_ALONE = ["none"]


def add_registry(parser: argparse._ActionsContainer, *, again: bool = False) -> None:
    """Adds the options that say where the registry is.

    Args:
        parser: gets them.
        again: of a command below one that has them: what is said there holds unless it is said here.
    """
    folder, uri = (argparse.SUPPRESS, argparse.SUPPRESS) if again else ("runs", None)
    parser.add_argument("--folder", default=folder, help="run folder with the local registry (default: runs)")
    parser.add_argument(
        "--tracking-uri",
        default=uri,
        help="MLflow server; default: MLFLOW_TRACKING_URI, else the run folder's file",
    )


def weights_source(options: argparse.Namespace) -> AbstractContextManager[str | Path]:
    """What :func:`~posecore.models.weights.read.read_weights` takes for ``options.model``, until the block ends.

    Raises:
        LineageError: the registry has no such model.
    """
    return named_weights(options.model, options.folder, options.tracking_uri)


def add_reading(parser: argparse._ActionsContainer, backbone: bool = True) -> None:
    """Adds the options that say what is in a file of weights.

    Args:
        parser: gets them.
        backbone: whether the backbone alone may be wanted.
    """
    parser.add_argument("--expect", metavar="NAME", help="preset or published model that a file of weights must be of")
    parser.add_argument(
        "--heads", nargs="+", default=[], metavar="DATASET[=SKELETON]",
        help="datasets of the file's heads, in its order, where their numbers of points do not say"
        + ("; none: the backbone" if backbone else ""),
    )  # fmt: skip


_SCENE_READING = {
    ("grouping", "peak_threshold"): ("associative", "a bottom-up model"),
    ("selection", "least_score"): ("queries", "a one-stage model"),
}
"""How whole pictures are read: part of the settings and its field, whose name the option has → kind of head, and what
models of it are called."""


def add_scene_reading(parser: argparse._ActionsContainer) -> None:
    """Adds the options that say how sure points and bodies of whole pictures must be."""
    parser.add_argument(
        "--peak-threshold", type=float, metavar="SCORE",
        help="peaks with a lower score are no points, of a bottom-up model (default: 0.1; young ones need more)",
    )  # fmt: skip
    parser.add_argument(
        "--least-score", type=float, metavar="SCORE",
        help="bodies with a lower score are none, of a one-stage model (default: 0.1)",
    )  # fmt: skip


def scene_settings(options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """What was said of them, as settings of inference have it."""
    return {part: {name: said} for part, name in _SCENE_READING if (said := getattr(options, name)) is not None}


def check_scene_reading(options: argparse.Namespace, card: "ModelCard") -> None:
    """Returns if a model goes by what was said.

    Raises:
        UsageError: it is of another kind.
    """
    from posecore.errors import UsageError

    for (_, name), (kind, what) in _SCENE_READING.items():
        if getattr(options, name) is not None and card.architecture.head.kind != kind:
            raise UsageError(f"--{name.replace('_', '-')} is for {what}, which this one is not; leave it out.")


def backbone_alone(options: argparse.Namespace) -> bool:
    """Whether ``--heads none`` was given."""
    return bool(options.heads == _BACKBONE_ALONE)


def stated_heads(options: argparse.Namespace) -> dict[str, str]:
    """Name or file of the skeleton by dataset, as ``--heads`` says.

    Raises:
        UsageError: a dataset without a skeleton is no published one.
    """
    # Imported here because torch takes seconds, which --help should not wait for.
    from posecore.errors import UsageError
    from posecore.models.weights.published_heads import SKELETONS

    stated = {}
    for head in [] if backbone_alone(options) else options.heads:
        dataset, _, name = head.partition("=")
        if not name and dataset not in SKELETONS:
            raise UsageError(f"--heads {head}: say which skeleton, for example {head}=coco17.")
        stated[dataset] = name or SKELETONS[dataset]
    return stated


def say_guesses(card: "ModelCard") -> None:
    """Calls a guess a guess: whose the points of a head are, where their number alone spoke for it."""
    from posecore.models.weights.read import guessed_heads

    for dataset, count in guessed_heads(card).items():
        print(
            f"note: that the {counted(count, 'point')} are those of {dataset} is guessed from their number; confirm "
            f"it with --heads {dataset}, or name your own: --heads NAME=SKELETON",
            file=sys.stderr,
        )


def stated_skeletons(options: argparse.Namespace) -> "dict[str, Skeleton]":
    """As :func:`stated_heads`, read.

    Raises:
        UsageError: likewise.
        ConfigError: there is no such skeleton.
    """
    from posecore.skeletons.library import load_skeleton

    return {dataset: load_skeleton(name) for dataset, name in stated_heads(options).items()}
