"""Where runs are recorded: an MLflow server, or by default a SQLite file in the run folder; and writing to a run.

MLflow's own default is ``mlflow.db`` in the current directory, which under ``ray job submit`` is thrown away with the
job. Here every location is absolute, and an unreachable server is reported within seconds, before anything starts.
"""

import logging
import os
import re
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, TypeVar

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from pydantic import Field
from sqlalchemy.exc import SQLAlchemyError

from posecore.config import Config
from posecore.errors import ConfigError, LineageError, PreflightError
from posecore.lineage.store.identity import user_of
from posecore.lineage.store.outage import STORE_ERRORS, is_busy, may_pass
from posecore.lineage.store.parameters import LONGEST_VALUE
from posecore.lineage.store.reachable import check_reachable, shown_uri
from posecore.lineage.store.sqlite_store import create_store
from posecore.storage import AnyPath, as_path, folder_of_machine, local_copy

T = TypeVar("T")
# It logs the stack of calls of an error that it raises as well: on a full disk, one per attempt.
logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
# A bar for every small artifact would bury the job's own progress.
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
# MLflow's client would try a silent server for a quarter of an hour without a word; Tracking.ask waits instead.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")

_FILE = "mlflow.db"
_BATCH_PARAMS = 100  # MLflow's limit for one call


class TrackingConfig(Config):
    """Where to record.

    Attributes:
        uri: MLflow tracking URI; None means the environment's MLFLOW_TRACKING_URI, or else a SQLite file in the run
            folder.
        experiment: MLflow experiment that holds the runs.
        artifact_root: where a new experiment keeps its artifacts; None means ``artifacts/`` in the run folder for
            SQLite, and the server's own choice otherwise.
        patience_s: how long a job waits for a store that stopped answering while the job ran.
    """

    uri: str | None = None
    experiment: str = "posecore"
    artifact_root: str | None = None
    patience_s: float = Field(default=600.0, ge=0)


@dataclass(frozen=True, slots=True)
class Tracking:
    """A tracking store that answered. Small and picklable: workers get it from the driver.

    Attributes:
        uri: absolute tracking URI, also the registry's.
        experiment: name of the experiment.
        experiment_id: MLflow's id of it; "" where there is none and nothing will be recorded.
        patience_s: how long to wait for a store that stopped answering.
    """

    uri: str
    experiment: str
    experiment_id: str
    patience_s: float = 600.0

    @property
    def client(self) -> MlflowClient:
        """An MLflow client of this store, one per process."""
        return _client(self.uri)

    @property
    def user(self) -> str:
        """Who records, as the store knows them."""
        return user_of(self.uri)

    def to_look_at(self) -> str:
        """Where a browser finds the experiment, or the command by which it does. Without a password."""
        if self.uri.startswith(("http://", "https://")):
            return f"{shown_uri(self.uri).rstrip('/')}/#/experiments/{self.experiment_id}"
        if shown_uri(self.uri) != self.uri and os.environ.get("MLFLOW_TRACKING_URI") == self.uri:
            return 'mlflow ui --backend-store-uri "$MLFLOW_TRACKING_URI"'
        return f"mlflow ui --backend-store-uri {shlex.quote(shown_uri(self.uri))}"

    def ask(self, call: Callable[[MlflowClient], T]) -> T:
        """The store's answer to a call that may be repeated; a store that stopped answering is waited for.

        Raises:
            LineageError: it did not answer for ``patience_s`` seconds.
            MlflowException: it refused.
        """
        until, said = time.monotonic() + self.patience_s, False
        failures, wait_s = 0, 0.125
        while True:
            try:
                check_reachable(self.uri)
                return call(self.client)
            except (PreflightError, *STORE_ERRORS) as error:
                away = isinstance(error, PreflightError) or is_busy(error)
                failures += not away
                # A store that answers /health and fails all the same is given three tries, not all the patience.
                if not away and (not may_pass(error) or failures == 3):
                    raise
                if time.monotonic() >= until:
                    detail = " ".join(str(error).split())
                    raise LineageError(
                        f"the tracking store {shown_uri(self.uri)} did not answer for {self.patience_s:g} s: {detail}. "
                        "What is finished stays: submit the same job again once it answers."
                    ) from None
                if not said and wait_s > 1:  # others who write the same file are soon done
                    print(
                        f"the tracking store {shown_uri(self.uri)} does not answer; waiting for it, at most "
                        f"{self.patience_s:g} s (tracking.patience_s).",
                        file=sys.stderr,
                        flush=True,
                    )
                    said = True
                time.sleep(min(wait_s, max(0.0, until - time.monotonic())))
                wait_s = min(2 * wait_s, 2.0)

    def start_run(self, name: str, tags: Mapping[str, str], parent_run_id: str | None = None) -> "RunLog":
        """Starts a run without touching MLflow's global "active run"."""
        all_tags = {**tags, "mlflow.user": self.user}
        if parent_run_id is not None:
            all_tags["mlflow.parentRunId"] = parent_run_id
        run = self.ask(lambda client: client.create_run(self.experiment_id, tags=all_tags, run_name=name))
        return RunLog(tracking=self, run_id=run.info.run_id)


@dataclass(frozen=True, slots=True)
class RunLog:
    """Writes to one run, from the driver or, being picklable, from any worker.

    Attributes:
        tracking: the store.
        run_id: MLflow's id of the run.
    """

    tracking: Tracking
    run_id: str

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """Records numbers at a step; characters MLflow refuses in a name (``@``, ``%``) become ``_``."""
        now_ms = int(time.time() * 1000)
        values = [Metric(metric_name(key), float(value), now_ms, step) for key, value in metrics.items()]
        self.tracking.ask(lambda client: client.log_batch(self.run_id, metrics=values))

    def log_measured(
        self, model_id: str, metrics: Mapping[str, float], step: int, dataset: tuple[str, str] | None = None
    ) -> None:
        """Records numbers of a logged model, and of this run.

        Args:
            model_id: of the model.
            metrics: by name.
            step: of the training that made it.
            dataset: name and digest, as MLflow has them, of what they were measured on.
        """
        now_ms = int(time.time() * 1000)
        name, digest = dataset or (None, None)
        values = [
            Metric(metric_name(key), float(value), now_ms, step, model_id, name, digest, self.run_id)
            for key, value in metrics.items()
        ]
        self.tracking.ask(lambda client: client.log_batch(self.run_id, metrics=values))

    def log_params(self, params: Mapping[str, object]) -> None:
        """Records settings; longer values are cut at MLflow's limit."""
        values = [Param(metric_name(key), str(value)[:LONGEST_VALUE]) for key, value in params.items()]
        for start in range(0, len(values), _BATCH_PARAMS):
            some = values[start : start + _BATCH_PARAMS]
            self.tracking.ask(partial(_log_params, self.run_id, some))

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Sets or replaces tags."""
        values = [RunTag(key, value) for key, value in tags.items()]
        self.tracking.ask(lambda client: client.log_batch(self.run_id, tags=values))

    def log_file(self, path: str | AnyPath, folder: str | None = None) -> None:
        """Copies a file, or all files of a folder, to the run's artifacts."""
        with local_copy(as_path(path)) as local:
            if local.is_dir():
                self.tracking.ask(lambda client: client.log_artifacts(self.run_id, str(local), folder))
            else:
                self.tracking.ask(lambda client: client.log_artifact(self.run_id, str(local), folder))

    def log_dict(self, value: Mapping[str, Any], artifact: str) -> None:
        """Writes a JSON or YAML artifact, by its suffix."""
        self.tracking.ask(lambda client: client.log_dict(self.run_id, dict(value), artifact))

    def log_text(self, text: str, artifact: str) -> None:
        """Writes a text artifact."""
        self.tracking.ask(lambda client: client.log_text(self.run_id, text, artifact))

    def log_table(self, columns: Mapping[str, Sequence[str]], artifact: str) -> None:
        """Writes a table that MLflow shows as one; columns of equal length, ``artifact`` ending in ``.json``.

        A table that is there already stays as it is: MLflow would append to it.
        """
        table = {name: list(cells) for name, cells in columns.items()}

        def write(client: MlflowClient) -> None:
            folder = artifact.rpartition("/")[0] or None
            if artifact not in {item.path for item in client.list_artifacts(self.run_id, folder)}:
                client.log_table(self.run_id, table, artifact)

        self.tracking.ask(write)

    def read_file(self, artifact: str) -> bytes:
        """Content of one artifact.

        Raises:
            LineageError: the run has no such artifact, or its store does not answer.
        """
        with tempfile.TemporaryDirectory() as folder:
            try:
                return Path(self.tracking.client.download_artifacts(self.run_id, artifact, folder)).read_bytes()
            except (MlflowException, OSError) as error:
                detail = " ".join(str(error).split())
                raise LineageError(f"run {self.run_id}: artifact {artifact} cannot be read ({detail}).") from error

    def begin_again(self, tags: Mapping[str, str]) -> None:
        """Opens an ended run, to go on with what it did not finish."""
        self.tracking.ask(lambda client: client.update_run(self.run_id, "RUNNING"))
        self.set_tags(tags)

    def end_failed(self, error: BaseException) -> bool:
        """Closes the run of something that failed, and says why; False if the store does not answer now."""
        try:
            check_reachable(self.tracking.uri, 2.0)  # whoever waits for the error should not wait for a server
            self.tracking.client.set_tag(
                self.run_id, "posecore.error", " ".join(f"{type(error).__name__}: {error}".split())[:1000]
            )
            self.tracking.client.set_terminated(self.run_id, "FAILED" if isinstance(error, Exception) else "KILLED")
        except (PreflightError, *STORE_ERRORS):
            return False
        return True

    def end(self, status: str = "FINISHED") -> None:
        """Closes the run as ``FINISHED``, ``FAILED`` or ``KILLED``."""
        self.tracking.ask(lambda client: client.set_terminated(self.run_id, status))


def connect(
    config: TrackingConfig,
    folder: str | AnyPath,
    timeout_s: float = 5.0,
    *,
    must_exist: bool = False,
    records: bool = True,
) -> Tracking:
    """Finds the tracking store, checks that it answers, and creates the experiment if it is new.

    Args:
        config: where to record.
        folder: run folder; holds the SQLite file and the artifacts unless the configuration says otherwise.
        timeout_s: how long a server may take to answer.
        must_exist: refuse to create an empty SQLite store; for commands that only ask.
        records: whether anything will be recorded; if not, no experiment is made for it.

    Raises:
        PreflightError: the server does not answer in time, or is not an MLflow server.
        ConfigError: a SQLite URI with a relative path, a folder whose path cannot stand in one, or a remote folder
            without a named store.
        LineageError: its file may not be read or written; or it refused, for instance because the experiment was
            deleted, or does not exist.
    """
    place = as_path(folder)
    named = config.uri or os.environ.get("MLFLOW_TRACKING_URI")
    if not named and not isinstance(place, Path):
        raise ConfigError(
            f"tracking.uri: {place} cannot hold the SQLite file that runs are recorded in; name an MLflow server, here "
            "or in MLFLOW_TRACKING_URI."
        )
    folder = folder_of_machine(place)
    if not named and any(mark in str(folder) for mark in "?%"):
        raise ConfigError(
            f"folder {folder}: ? and % mean something else in the address of the record that is kept there; choose a "
            "folder without them."
        )
    uri = named or f"sqlite:///{folder / _FILE}"
    check_reachable(uri, timeout_s)
    if must_exist and uri.startswith("sqlite:") and not Path(uri.removeprefix("sqlite:///")).exists():
        below = [str(each) for each in record_folders(place)[:3]] if isinstance(place, Path) else []
        near = f" There are records in {', '.join(below)}." if below else ""
        raise LineageError(f"nothing has been recorded at {uri}; name the run folder or the server of the jobs.{near}")
    if uri.startswith("sqlite:"):
        _refuse_unwritable(Path(uri.removeprefix("sqlite:///")), records)
    root = config.artifact_root
    if root is None and uri.startswith("sqlite:"):
        root = str(folder / "artifacts")
    if root is not None and "://" not in root:
        root = Path(root).resolve().as_uri()
    try:
        if uri.startswith("sqlite:") and not (file := Path(uri.removeprefix("sqlite:///"))).exists():
            create_store(file)
        return Tracking(
            uri=uri,
            experiment=config.experiment,
            experiment_id=_experiment(uri, config.experiment, root, records),
            patience_s=config.patience_s,
        )
    except (MlflowException, SQLAlchemyError) as error:
        detail = " ".join(str(error).split())
        raise LineageError(f"tracking store {shown_uri(uri)}: {detail}") from error
    except ModuleNotFoundError as error:
        raise LineageError(
            f"tracking store {shown_uri(uri)}: the database's driver {error.name} is not installed; install it, or "
            "name one that is in the address, such as postgresql+psycopg2://."
        ) from error


def record_folders(folder: Path) -> list[Path]:
    """Run folders with a record of their own: a folder itself, else those directly in it."""
    return [folder] if (folder / _FILE).exists() else sorted(path.parent for path in folder.glob(f"*/{_FILE}"))


def _refuse_unwritable(file: Path, records: bool) -> None:
    """Refuses a store that the system would not let be read, or be written where that is wanted."""
    wanted = os.R_OK | os.W_OK if records else os.R_OK
    effective = os.access in os.supports_effective_ids
    for place in (file, file.parent):  # SQLite keeps a journal beside its file
        if place.exists() and not os.access(place, wanted, effective_ids=effective):
            raise LineageError(
                f"{place}: you may not {'write' if records else 'read'} there, where runs are recorded; ask whoever "
                "owns it, or name another run folder or a server."
            )


def _log_params(run_id: str, params: Sequence[Param], client: MlflowClient) -> None:
    client.log_batch(run_id, params=params)


def metric_name(name: str) -> str:
    """The name with every character MLflow refuses replaced by ``_``."""
    return re.sub(r"[^\w\-. :/]", "_", name)


@lru_cache(maxsize=8)
def _client(uri: str) -> MlflowClient:
    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def _experiment(uri: str, name: str, artifact_root: str | None, records: bool) -> str:
    client = _client(uri)
    found = client.get_experiment_by_name(name)
    if found is None and not records:
        return ""
    if found is None:
        location = None if artifact_root is None else f"{artifact_root.rstrip('/')}/{name}"
        try:
            return str(client.create_experiment(name, artifact_location=location))
        except MlflowException:
            # Another driver may have created it between the two calls.
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
    if found.lifecycle_stage != "active":
        raise LineageError(
            f"experiment {name!r} was deleted in {shown_uri(uri)}; restore it (mlflow experiments restore "
            f"--experiment-id {found.experiment_id}) or choose another tracking.experiment."
        )
    return str(found.experiment_id)
