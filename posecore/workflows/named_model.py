"""What a user names as a model, where a registered version is one more way to name it."""

from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path

REGISTRY = "models:/"
"""What the address of a registered version begins with."""


def is_registered(source: str | PathLike[str]) -> bool:
    """Whether a registered version is meant, also where its address is written wrongly."""
    return str(source).startswith(REGISTRY.rstrip("/"))


@contextmanager
def named_weights(source: str | PathLike[str], folder: str, tracking_uri: str | None) -> Iterator[str | Path]:
    """What :func:`~posecore.models.weights.read.read_weights` takes for a source, until the block ends.

    Args:
        source: anything that it takes, or ``models:/name@alias`` or ``models:/name/version``.
        folder: run folder with the local registry.
        tracking_uri: MLflow server; None takes ``MLFLOW_TRACKING_URI``, else the run folder's file.

    Raises:
        LineageError: the registry has no such model.
    """
    if not is_registered(source):
        yield Path(source) if isinstance(source, PathLike) else source
        return
    # Imported here because MLflow takes a second, which models from elsewhere should not wait for.
    from posecore.lineage.store.tracking import TrackingConfig, connect
    from posecore.lineage.versions.model_source import registered_model

    tracking = connect(TrackingConfig(uri=tracking_uri), folder, must_exist=True, records=False)
    with registered_model(str(source), tracking) as files:
        yield files
