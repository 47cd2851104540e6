"""Files that MLflow keeps for runs and models: what there is, how large, and their removal."""

from collections.abc import Callable, Iterator
from typing import Any

from mlflow.entities import FileInfo
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from posecore.errors import LineageError
from posecore.lineage.store.tracking import Tracking


def run_artifacts(tracking: Tracking, run_id: str) -> dict[str, int]:
    """Path to bytes of every artifact of a run.

    Raises:
        LineageError: they cannot be listed.
    """
    return _sizes(f"run {run_id}", lambda path: tracking.client.list_artifacts(run_id, path))


def model_artifacts(tracking: Tracking, model_id: str) -> dict[str, int]:
    """Path to bytes of every file of a logged model.

    Raises:
        LineageError: they cannot be listed.
    """
    return _sizes(f"model {model_id}", lambda path: tracking.client.list_logged_model_artifacts(model_id, path))


def _sizes(what: str, listed: Callable[[str | None], list[FileInfo]]) -> dict[str, int]:
    def walk(path: str | None) -> Iterator[tuple[str, int]]:
        for item in listed(path):
            if item.is_dir:
                yield from walk(item.path)
            else:
                yield item.path, int(item.file_size or 0)

    try:
        return dict(walk(None))
    except (MlflowException, OSError) as error:
        raise LineageError(f"{what}: its files cannot be listed ({' '.join(str(error).split())[:200]}).") from error


def artifact_place(tracking: Tracking, run_id: str) -> str:
    """Where a run's artifacts lie, as MLflow names it."""
    return str(tracking.client.get_run(run_id).info.artifact_uri)


def model_place(tracking: Tracking, model_id: str) -> str:
    """Where the files of a logged model lie, as MLflow names it.

    Raises:
        LineageError: the store does not say.
    """
    try:
        return str(tracking.client.get_logged_model(model_id).artifact_location)
    except MlflowException as error:
        raise LineageError(f"model {model_id}: {' '.join(str(error).split())[:200]}") from error


def remove_artifacts(tracking: Tracking, place: str, path: str | None = None) -> None:
    """Removes a file or folder below a place of artifacts, or all of it.

    Raises:
        LineageError: it cannot be removed.
    """
    try:
        repository: Any = get_artifact_repository(place, tracking_uri=tracking.uri)
        repository.delete_artifacts(path)
    except (MlflowException, OSError, NotImplementedError) as error:
        detail = " ".join(str(error).split())[:200]
        raise LineageError(f"{place}: {path or 'its content'} cannot be removed ({detail}).") from error
