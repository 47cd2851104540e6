"""The model that several commands take: a folder, a file, a published name, a place on the hub, or a registered one."""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MODEL_HELP = (
    "model folder, checkpoint file, published name (posecore models list), place on the hub, or models:/name@alias of "
    "the registry"
)


def add_registry(parser: argparse._ActionsContainer) -> None:
    """Adds the options that say where the registry is."""
    parser.add_argument("--folder", default="runs", help="run folder with the local registry (default: runs)")
    parser.add_argument(
        "--tracking-uri", help="MLflow server; default: MLFLOW_TRACKING_URI, else the run folder's file"
    )


@contextmanager
def weights_source(options: argparse.Namespace) -> Iterator[str | Path]:
    """What :func:`~posecore.models.weights.read.read_weights` takes for ``options.model``, until the block ends.

    Raises:
        LineageError: the registry has no such model.
    """
    if not options.model.startswith("models:"):
        yield options.model
        return
    # Imported here because MLflow takes a second, which models from elsewhere should not wait for.
    from posecore.lineage.model_source import registered_model
    from posecore.lineage.tracking import TrackingConfig, connect

    tracking = connect(TrackingConfig(uri=options.tracking_uri), options.folder, must_exist=True)
    with registered_model(options.model, tracking) as folder:
        yield folder
