"""Registering a trained model: logged with a signature, versioned, and tagged with everything it was made from."""

import logging
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version as installed_version
from pathlib import Path

import mlflow.pyfunc
from mlflow.entities import LoggedModelInput, LoggedModelOutput, LoggedModelStatus
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import Model
from packaging.version import Version

import posecore.lineage
from posecore.config import digest_json
from posecore.errors import LineageError
from posecore.lineage import pyfunc_signature
from posecore.lineage.ancestry.graph import Node
from posecore.lineage.ancestry.permissions import Verdict, verdicts
from posecore.lineage.ancestry.query import LineageGraph
from posecore.lineage.ancestry.records import VersionRecord, read_records
from posecore.lineage.code.archive import ARCHIVE_FILE, write_archive
from posecore.lineage.code.snapshot import installed_distributions
from posecore.lineage.code.version import git_sha, source_digest
from posecore.lineage.registry.model_card import model_card
from posecore.lineage.serving_limits import ServingLimits
from posecore.lineage.store.ledger import begin, is_ledger
from posecore.lineage.store.outage import system_error_behind
from posecore.lineage.store.parameters import FACTS
from posecore.lineage.store.tracking import RunLog, metric_name
from posecore.lineage.versions.dataset_inputs import DatasetUse, short_digest
from posecore.lineage.versions.tags import (
    RESUMED_CODE,
    SHA256,
    VERSION,
    EvaluationResult,
    RegisteredVersion,
    dataset_tags,
    evaluation_tag,
)
from posecore.lineage.versions.weights_use import WeightsUse, weights_of, weights_tags
from posecore.models.saving import WEIGHTS_FILE, read_card, verify_model
from posecore.storage import sha256_of

# It tells everybody, at each registration, that an example is compared with a signature, which both are made here.
logging.getLogger("mlflow.pyfunc").setLevel(logging.WARNING)

_DIGITS = 12
_TRACKING_VARIABLE = "MLFLOW_TRACKING_URI"
SERVED_PACKAGES = (
    "PyYAML",
    "blake3",
    "huggingface_hub",
    "jaxtyping",
    "mlflow",
    "numpy",
    "opencv-python-headless",
    "orjson",
    "pandas",
    "polars",
    "pyarrow",
    "pycocotools",
    "pydantic",
    "pydantic_core",
    "safetensors",
    "scipy",
    "simplejpeg",
    "torch",
    "universal-pathlib",
    "xxhash",
)
"""What a server installs from a package index: all that the library needs to predict, and not the library itself."""


def register_model(
    run: RunLog,
    name: str,
    model_folder: Path,
    datasets: Sequence[DatasetUse],
    evaluations: Sequence[EvaluationResult],
    *,
    parent: RegisteredVersion | None = None,
    tags: Mapping[str, str] | None = None,
    summary: str = "",
    parameters: Mapping[str, str] | None = None,
    training: Mapping[str, float] | None = None,
) -> RegisteredVersion:
    """Logs a model folder as an MLflow model and registers it as a new version with its whole lineage.

    The version exists only once the model's files are stored; its tags are set in the same call that creates it.

    Args:
        run: the run that made the model.
        name: registered model; created if new.
        model_folder: as :func:`posecore.models.saving.save_model` writes it.
        datasets: every split it was trained or evaluated on.
        evaluations: its metrics.
        parent: the version it was fine-tuned, adapted or distilled from.
        tags: further tags, such as an allowed leak.
        summary: one paragraph for the model card.
        parameters: what MLflow's pages compare: the configuration, and what it ran on.
        training: the last metrics of its training; shown as ``training/<name>``.

    Raises:
        LineageError: the registry refused, or no training data is named.
        CheckpointError: there is no whole model in the folder, or a weight of it is not finite.
        IntegrityError: its weights are not those that were saved.
    """
    if not any(use.role == "training" for use in datasets) and parent is None:
        raise LineageError(f"model {name}: neither training data nor a parent is named; lineage would be empty.")
    if is_ledger(name):
        raise LineageError(f"model {name}: lists of the registry are called so; choose another name.")
    verify_model(model_folder)
    client = run.tracking.client
    weights, sha256 = weights_of(model_folder), sha256_of(model_folder / WEIGHTS_FILE)
    binding: list[DatasetUse | WeightsUse] = [*(use for use in datasets if use.role == "training"), *weights]
    version_tags = {
        **dataset_tags(datasets),
        **weights_tags(weights),
        **dict(evaluation_tag(result) for result in evaluations),
        SHA256: sha256,
        "license": ", ".join(sorted({use.license for use in binding})),
        "run_id": run.run_id,
        "code": source_digest(),
        "git": git_sha(),
        **_resumed_code(model_folder),
        **(tags or {}),
    }
    allowed = _allowed(run, name, sha256, datasets, weights, parent)
    version_tags["commercial_use"] = next(each.word for each in allowed if each.use == "commercial")
    try:
        if parent is not None:
            version_tags["parent"] = parent.uri
            parent_model = _logged_model_id(client.get_model_version(parent.name, str(parent.version)))
            client.log_inputs(run.run_id, models=[LoggedModelInput(parent_model)])
        metrics = {result.name: result.metrics for result in evaluations}
        card = model_card(name, model_folder, datasets, metrics, allowed, parent.uri if parent else None, summary)
        compared = {**(parameters or {}), **_facts(datasets, version_tags)}
        run.log_params(compared)
        model_id = _log_model(run, name, model_folder, card, version_tags, compared)
        step = int(read_card(model_folder).lineage.get("step", 0))
        run.log_measured(model_id, {f"training/{key}": value for key, value in (training or {}).items()}, step)
        for result in evaluations:
            shown = {f"{result.name}/{key}": value for key, value in {**result.metrics, **result.groups}.items()}
            run.log_measured(model_id, shown, step, (result.name, short_digest(result.digest)))
        begin(run.tracking, name)
        with default_store(run.tracking.uri):
            created = client.create_model_version(
                name, f"models:/{model_id}", run_id=run.run_id, tags=version_tags, description=card, model_id=model_id
            )
        client.set_logged_model_tags(model_id, {VERSION: f"{name}/{created.version}"})
    except MlflowException as error:
        if (behind := system_error_behind(error)) is not None:
            raise behind from None
        raise LineageError(f"model {name} was not registered: {' '.join(str(error).split())}") from error
    return RegisteredVersion(name, int(created.version))


def _allowed(
    run: RunLog,
    name: str,
    sha256: str,
    datasets: Sequence[DatasetUse],
    weights: Sequence[WeightsUse],
    parent: RegisteredVersion | None,
) -> list[Verdict]:
    """What the version that is about to be may be used for, by all that the store records of what it came from."""
    records = read_records(run.tracking)
    candidate = VersionRecord(
        version=RegisteredVersion(name, 0),
        deleted=False,
        model_id="",
        run_id=run.run_id,
        user=run.tracking.user,
        sha256=sha256,
        parent="" if parent is None else parent.uri,
        aliases=(),
        uses=list(datasets),
        weights=list(weights),
        tags={},
    )
    records.versions.append(candidate)
    return verdicts(LineageGraph(records), Node("weights", sha256))


def _facts(datasets: Sequence[DatasetUse], tags: Mapping[str, str]) -> dict[str, str]:
    """Data, code and packages as parameters, for pages that compare nothing else."""
    packages = digest_json(installed_distributions())
    facts = {"code": tags["code"][:_DIGITS], "git": tags["git"], "packages": packages[:_DIGITS]}
    facts |= {f"{use.role}.{use.label}": use.digest[:_DIGITS] for use in datasets}
    return {f"{FACTS}{name}": value for name, value in facts.items()}


def _resumed_code(model_folder: Path) -> dict[str, str]:
    lineage = read_card(model_folder).lineage
    return {RESUMED_CODE: str(lineage[RESUMED_CODE])} if RESUMED_CODE in lineage else {}


def _log_model(
    run: RunLog, name: str, model_folder: Path, card: str, tags: Mapping[str, str], parameters: Mapping[str, str]
) -> str:
    """Stores the files as an MLflow "logged model" of the run and returns its id.

    Done by the client and not by ``mlflow.pyfunc.log_model``, which works through process-wide state (active run,
    tracking URI) that a driver with threads and workers must not touch.
    """
    client = run.tracking.client
    logged = client.create_logged_model(
        run.tracking.experiment_id,
        name=name,
        source_run_id=run.run_id,
        tags={**tags, "mlflow.user": run.tracking.user},
        params={metric_name(key): value for key, value in parameters.items()},
    )
    try:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / "model"
            described = Model(artifact_path=logged.artifact_location, run_id=run.run_id, model_id=logged.model_id)
            if pyfunc_signature.has_heads(model_folder):
                mlflow.pyfunc.save_model(
                    str(folder),
                    python_model=str(Path(posecore.lineage.__file__).with_name("pyfunc_model.py")),
                    artifacts={"model": str(model_folder)},
                    signature=pyfunc_signature.signature(model_folder),
                    input_example=pyfunc_signature.input_example(),
                    model_config=ServingLimits().model_dump(),  # MLflow lets only keys be set that are stored
                    pip_requirements=requirements(),
                    mlflow_model=described,
                )
            else:  # a pre-trained encoder: kept and traced like any model, but it has nothing to serve
                shutil.copytree(model_folder, folder / "artifacts" / "model")
                described.save(str(folder / "MLmodel"))
            write_archive(folder / ARCHIVE_FILE)
            (folder / "MODEL_CARD.md").write_text(card, encoding="utf-8")
            client.log_model_artifacts(logged.model_id, str(folder))
    except BaseException:
        client.finalize_logged_model(logged.model_id, LoggedModelStatus.FAILED)
        raise
    client.finalize_logged_model(logged.model_id, LoggedModelStatus.READY)
    client.log_outputs(run.run_id, [LoggedModelOutput(logged.model_id, step=0)])
    return str(logged.model_id)


def requirements() -> list[str]:
    """What a server needs, in the versions that are installed here, under names that the public index has."""
    # A build for a kind of processor (2.13.0+cpu) has an index of its own.
    return [f"{name}=={Version(installed_version(name)).public}" for name in SERVED_PACKAGES]


@contextmanager
def default_store(uri: str) -> Iterator[None]:
    """Makes a store the process's default for one call: MLflow's SQL registry looks logged models up there."""
    before = mlflow.get_tracking_uri() if mlflow.is_tracking_uri_set() else None
    # MLflow writes the variable as well, and would have the next job of this process record elsewhere.
    variable = os.environ.get(_TRACKING_VARIABLE)
    mlflow.set_tracking_uri(uri)
    try:
        yield
    finally:
        mlflow.set_tracking_uri(before)
        os.environ.pop(_TRACKING_VARIABLE, None)
        if variable is not None:
            os.environ[_TRACKING_VARIABLE] = variable


def _logged_model_id(version: ModelVersion) -> str:
    # ModelVersion.model_id is None on SQLite stores; the source always names it.
    return str(version.source).rsplit("/", 1)[-1]
