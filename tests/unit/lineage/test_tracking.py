import errno
import http.server
import logging
import socket
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import TEMPORARILY_UNAVAILABLE
from requests.exceptions import ConnectionError as NoConnection

from posecore.errors import ConfigError, LineageError, PreflightError
from posecore.lineage.store.outage import system_error_behind
from posecore.lineage.store.reachable import check_reachable
from posecore.lineage.store.sqlite_store import create_store
from posecore.lineage.store.tracking import Tracking, TrackingConfig, connect
from tests.support.ports import free_port


def _copy_when_there(path: Path, copy: Path) -> None:
    while not path.exists():
        time.sleep(0.001)
    copy.write_bytes(path.read_bytes())


def _version(file: Path) -> list[tuple[str]]:
    """Of a store's tables; MLflow notes it after each step of making them."""
    with closing(sqlite3.connect(file)) as database:
        return database.execute("SELECT version_num FROM alembic_version").fetchall()


def test_the_default_is_an_absolute_sqlite_file_in_the_run_folder(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("posecore.lineage.store.tracking.create_store", create_store)  # not a copy, as other tests'
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "job").mkdir()
    monkeypatch.chdir(tmp_path)
    path, first = tmp_path / "job" / "mlflow.db", tmp_path_factory.mktemp("copy") / "first.db"
    watch = threading.Thread(target=_copy_when_there, args=(path, first), daemon=True)
    watch.start()
    tracking = connect(TrackingConfig(), "job")
    watch.join()
    assert _version(first) == _version(path), "a start that was interrupted would leave a file that no other accepts"
    assert [item.name for item in path.parent.iterdir()] == ["mlflow.db"]
    experiment = tracking.client.get_experiment(tracking.experiment_id)
    assert tracking.uri == f"sqlite:///{tmp_path}/job/mlflow.db"
    assert experiment.artifact_location == f"file://{tmp_path}/job/artifacts/posecore"
    assert {path.name for path in tmp_path.iterdir()} == {"job"}, "MLflow wrote into the current directory"
    assert connect(TrackingConfig(), "job") == tracking


@pytest.mark.parametrize("name", ["run?1", "100%"])
def test_a_folder_that_would_be_another_one_in_an_address_is_refused(tmp_path: Path, name: str) -> None:
    """Of ``run?1`` SQLAlchemy makes the file ``run`` beside it, the same for ``run?2``."""
    with pytest.raises(ConfigError, match="choose a folder without them"):
        connect(TrackingConfig(), tmp_path / name)


def test_the_environment_names_the_server_unless_the_configuration_does(
    store_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = f"sqlite:///{store_folder}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert connect(TrackingConfig(), store_folder / "other").uri == uri
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nonsense")
    assert connect(TrackingConfig(uri=uri), store_folder / "other").uri == uri


def test_a_sqlite_path_that_no_file_can_have_is_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLflow itself would try for minutes, without a word."""
    (tmp_path / "mlflow.db").mkdir()
    with pytest.raises(PreflightError, match="that is no file"):
        check_reachable(f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setattr("os.access", lambda *_: False)  # as on a disk mounted to be read: root may write anywhere else
    with pytest.raises(PreflightError, match="is no folder that can be written"):
        check_reachable(f"sqlite:///{tmp_path}/new.db")


def test_a_relative_sqlite_path_is_refused() -> None:
    with pytest.raises(ConfigError, match="must be absolute"):
        check_reachable("sqlite:///mlflow.db")


def test_an_unknown_scheme_is_refused() -> None:
    with pytest.raises(ConfigError, match="expected http"):
        check_reachable("databricks")


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port where connections are accepted by the system and never answered."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(1)
        yield server.getsockname()[1]


@pytest.fixture
def closed_port() -> int:
    return free_port()


def test_a_server_that_is_not_there_is_reported_at_once(closed_port: int, tmp_path: Path) -> None:
    with pytest.raises(PreflightError, match=rf"127\.0\.0\.1:{closed_port} does not answer .*Connection refused"):
        connect(TrackingConfig(uri=f"http://127.0.0.1:{closed_port}"), tmp_path)


def test_a_server_that_hangs_is_reported_after_the_timeout(silent_port: int, tmp_path: Path) -> None:
    with pytest.raises(PreflightError, match=r"does not answer \(timed out\); start the server"):
        connect(TrackingConfig(uri=f"http://127.0.0.1:{silent_port}"), tmp_path, timeout_s=0.5)


def test_a_database_that_is_not_there_is_reported_without_its_password(closed_port: int, tmp_path: Path) -> None:
    with pytest.raises(PreflightError, match="does not answer") as caught:
        connect(TrackingConfig(uri=f"postgresql://me:hidden@127.0.0.1:{closed_port}/db"), tmp_path)
    assert "hidden" not in str(caught.value)


class Page(http.server.BaseHTTPRequestHandler):
    """Answers ``/other/health`` with a page and everything else with 403, as MLflow does for a foreign host name."""

    def do_GET(self) -> None:
        self.send_response(200 if self.path.startswith("/other") else 403)
        self.end_headers()
        self.wfile.write(b"<html>hello</html>")

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.mark.parametrize(("path", "message"), [("", "403 .*--allowed-hosts"), ("/other", "not an MLflow server")])
def test_a_wrong_server_is_named(path: str, message: str) -> None:
    with http.server.HTTPServer(("127.0.0.1", 0), Page) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        with pytest.raises(PreflightError, match=message):
            check_reachable(f"http://127.0.0.1:{server.server_port}{path}")
        thread.join()


def test_a_deleted_experiment_is_explained(tracking: Tracking, store_folder: Path) -> None:
    tracking.client.delete_experiment(tracking.experiment_id)
    with pytest.raises(LineageError, match="was deleted"):
        connect(TrackingConfig(uri=tracking.uri, experiment=tracking.experiment), store_folder)


def test_a_file_that_is_no_database_is_explained(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("not a database, only a long enough text to be seen as one\n" * 20)
    with pytest.raises(LineageError, match="not a database"):
        connect(TrackingConfig(uri=f"sqlite:///{tmp_path}/mlflow.db"), tmp_path)


def test_a_write_that_the_database_refuses_is_raised_and_not_logged_too(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tracking = connect(TrackingConfig(), tmp_path)
    run = tracking.client.create_run(tracking.experiment_id)
    with sqlite3.connect(tracking.uri.removeprefix("sqlite:///")) as database:
        database.execute("DROP TABLE metrics")
    database.close()
    logging.getLogger("mlflow").addHandler(caplog.handler)
    try:
        with pytest.raises(MlflowException, match="metrics"):
            tracking.client.log_metric(run.info.run_id, "loss", 1.0)
    finally:
        logging.getLogger("mlflow").removeHandler(caplog.handler)
    assert not caplog.records


def test_a_database_that_others_hold_is_waited_for_and_a_full_one_is_not(
    tracking: Tracking, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both are TEMPORARILY_UNAVAILABLE to MLflow."""
    monkeypatch.setattr("posecore.lineage.store.tracking.time.sleep", lambda _: None)
    calls: list[str] = []

    def fail(text: str, times: int) -> str:
        calls.append(text)
        if len(calls) > times:
            return "answer"
        raise MlflowException(f"(sqlite3.OperationalError) {text}", error_code=TEMPORARILY_UNAVAILABLE)

    assert tracking.ask(lambda _: fail("database is locked", 10)) == "answer"
    calls.clear()
    with pytest.raises(MlflowException, match="disk is full"):
        tracking.ask(lambda _: fail("database or disk is full", 10))
    assert len(calls) == 3


def test_what_the_system_said_is_found_behind_the_words_of_mlflow() -> None:
    def copy(error: Exception) -> MlflowException:
        try:
            try:
                raise error
            except OSError as first:
                raise RuntimeError("copying failed") from first
        except RuntimeError:
            return _raised(MlflowException("please specify another code path"))

    def _raised(error: MlflowException) -> MlflowException:
        try:
            raise error
        except MlflowException as caught:
            return caught

    full = OSError(errno.ENOSPC, "No space left on device", "/tmp/model")
    assert system_error_behind(copy(full)) is full
    assert system_error_behind(copy(NoConnection("refused"))) is None
    assert system_error_behind(MlflowException("no such run")) is None


@pytest.mark.parametrize(
    ("uri", "told"),
    [
        ("http://host:5000/", "http://host:5000/#/experiments/3"),
        ("https://me:secret@host", "https://me:***@host/#/experiments/3"),
        ("sqlite:////a b/mlflow.db", "mlflow ui --backend-store-uri 'sqlite:////a b/mlflow.db'"),
        ("postgresql://me:secret@host/db", "mlflow ui --backend-store-uri 'postgresql://me:***@host/db'"),
    ],
)
def test_what_is_told_of_a_store_leads_to_it(uri: str, told: str) -> None:
    """``mlflow ui`` cannot show a server, which has pages of its own."""
    assert Tracking(uri=uri, experiment="x", experiment_id="3").to_look_at() == told


def test_a_password_that_the_environment_has_is_left_there(monkeypatch: pytest.MonkeyPatch) -> None:
    uri = "postgresql://me:secret@host/db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    told = Tracking(uri=uri, experiment="x", experiment_id="3").to_look_at()
    assert told == 'mlflow ui --backend-store-uri "$MLFLOW_TRACKING_URI"'


def test_a_database_without_a_driver_is_said_to_have_none(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as database:
        uri = f"mysql+nosuchdriver://me:secret@127.0.0.1:{database.getsockname()[1]}/db"
        with pytest.raises((LineageError, ConfigError), match=r"me:\*\*\*@127"):
            connect(TrackingConfig(uri=uri), tmp_path)
        uri = uri.replace("mysql+nosuchdriver", "mssql+pymssql")
        with pytest.raises(LineageError, match=r"the database's driver pymssql is not installed; install it, or name"):
            connect(TrackingConfig(uri=uri), tmp_path)
