"""From a registered model's name to the model folder it was made from."""

import json
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import mlflow.artifacts
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import Model
from mlflow.models.model import MLMODEL_FILE_NAME

from posecore.errors import LineageError, PoseCoreError
from posecore.lineage.store.tracking import Tracking
from posecore.lineage.versions.tags import RegisteredVersion, near_models
from posecore.models.saving import CARD_FILE, MAX_CARD_BYTES
from posecore.storage import read_at_most

_NOT_SERVED = "artifacts/model"  # where the model lies among the files of one that has nothing to serve
_URI = re.compile(r"models:/(?P<name>[^/@]+)(?:@(?P<alias>[^/@]+)|/(?P<version>\d+))")


@contextmanager
def registered_model(uri: str, tracking: Tracking) -> Iterator[Path]:
    """The model folder behind ``models:/name@alias`` or ``models:/name/version``, until the block ends.

    Raises:
        LineageError: the URI has another form, there is no such version, its files cannot be fetched, or its record
            leads out of them.
        PoseCoreError: whatever the block raises about the folder, under the URI instead of a temporary path.
    """
    with registered_files(uri, tracking) as folder:
        try:
            stored = Path(Model.load(folder).flavors["python_function"]["artifacts"]["model"]["path"])
        except (MlflowException, OSError, KeyError, TypeError, ValueError) as error:
            detail = " ".join(str(error).split()).replace(str(folder), uri)
            raise LineageError(f"{uri}: its files cannot be read ({detail}).") from error
        if not (folder / stored).resolve().is_relative_to(folder.resolve()):
            raise LineageError(f"{uri}: its record names {str(stored)!r:.200}, outside its own files; do not use it.")
        try:
            yield folder / stored
        except PoseCoreError as error:  # the folder is gone when the message is read
            error.args = (str(error).replace(str(folder / stored), uri),)
            raise


@contextmanager
def registered_files(uri: str, tracking: Tracking) -> Iterator[Path]:
    """A folder with all files of a version, as MLflow keeps them, until the block ends.

    Raises:
        LineageError: the URI has another form, there is no such version, or its files cannot be fetched.
    """
    version = _version(uri, tracking)
    with tempfile.TemporaryDirectory() as scratch:
        try:
            folder = mlflow.artifacts.download_artifacts(
                artifact_uri=_location(version, tracking), dst_path=scratch, tracking_uri=tracking.uri
            )
        except (MlflowException, OSError, ValueError) as error:
            detail = " ".join(str(error).split()).replace(scratch, uri)
            raise LineageError(f"{uri}: its files cannot be read ({detail}).") from error
        yield Path(folder)


def registered_version(uri: str, tracking: Tracking) -> RegisteredVersion:
    """The version that ``models:/name@alias`` or ``models:/name/version`` names at this moment.

    Raises:
        LineageError: the URI has another form, or there is no such version.
    """
    version = _version(uri, tracking)
    return RegisteredVersion(version.name, int(version.version))


def named_version(uri: str, tracking: Tracking) -> RegisteredVersion:
    """The version that a URI names, whether it is still registered or not; only an alias is looked up.

    Raises:
        LineageError: the URI has another form, or there is no such alias.
    """
    found = _URI.fullmatch(uri)
    number = None if found is None else found["version"] or (found["alias"] if found["alias"].isdigit() else None)
    if found is None or number is None:
        return registered_version(uri, tracking)
    return RegisteredVersion(found["name"], int(number))


def weights_in_registry(tracking: Tracking, model: RegisteredVersion) -> str:
    """SHA-256 of a version's weights, as the card says that is registered with them.

    Raises:
        LineageError: there is no such version, or its card cannot be read.
    """
    place = _location(_version(model.uri, tracking), tracking).rstrip("/")
    with tempfile.TemporaryDirectory() as scratch:

        def fetched(path: str) -> Path:
            uri = f"{place}/{path}"
            found = mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=scratch, tracking_uri=tracking.uri)
            return Path(found)

        try:
            flavors = Model.load(fetched(MLMODEL_FILE_NAME)).flavors
            served = flavors.get("python_function", {}).get("artifacts", {})
            folder = str(served["model"]["path"]) if served else _NOT_SERVED
            return str(json.loads(read_at_most(fetched(f"{folder}/{CARD_FILE}"), MAX_CARD_BYTES))["weights_sha256"])
        except (MlflowException, OSError, KeyError, TypeError, ValueError) as error:
            detail = " ".join(str(error).split()).replace(scratch, model.uri)[:200]
            raise LineageError(f"{model.uri}: the card of its files cannot be read ({detail}).") from error


def _version(uri: str, tracking: Tracking) -> ModelVersion:
    found = _URI.fullmatch(uri)
    if found is None:
        raise LineageError(f"{uri}: a registered model is named models:/name@alias or models:/name/version.")
    name, alias, number = found["name"], found["alias"], found["version"]
    if alias is not None and alias.isdigit():  # which no alias can be
        alias, number = None, alias
    try:
        if alias is not None:
            return tracking.client.get_model_version_by_alias(name, alias)
        return tracking.client.get_model_version(name, number)
    except MlflowException as error:
        detail = " ".join(str(error).split())
        raise LineageError(f"{uri}: {detail.rstrip('.')}.{near_models(tracking, name)}") from None


def _location(version: ModelVersion, tracking: Tracking) -> str:
    """Where the files lie; MLflow itself would look a logged model up in the process's default store."""
    source = str(version.source)
    if not source.startswith("models:/"):
        return source
    return str(tracking.client.get_logged_model(source.rsplit("/", 1)[-1]).artifact_location)
