"""A server as a laboratory has it: PostgreSQL below it, artifacts handed through it, and a log-in before it."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
import torch
from mlflow.exceptions import MlflowException

from posecore.config import Config
from posecore.errors import LineageError
from posecore.lineage.jobs import twins
from posecore.lineage.jobs.steps import Outputs, Workflow
from posecore.lineage.registry.registration import register_model
from posecore.lineage.store.tracking import RunLog, Tracking, TrackingConfig, connect
from posecore.lineage.versions.dataset_inputs import DatasetUse
from posecore.lineage.versions.model_source import registered_model
from posecore.lineage.versions.tags import EvaluationResult
from posecore.models.architecture import ModelConfig
from posecore.models.backbones.vit import VitConfig
from posecore.models.heads.classic import ClassicHeadConfig
from posecore.models.pose_model import build_model
from posecore.models.saving import load_model, save_model
from posecore.skeletons.library import load_skeleton
from tests.support.postgres import PASSWORD, postgres
from tests.support.tracking_server import TrackingServer

pytestmark = pytest.mark.slow
ADMIN = {"MLFLOW_TRACKING_USERNAME": "head-nurse", "MLFLOW_TRACKING_PASSWORD": "a password of twelve"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrackingServer]:
    folder = tmp_path_factory.mktemp("server")
    settings = folder / "login.ini"
    with postgres(tmp_path_factory.mktemp("postgres")) as address:
        store = address.format(password=quote(PASSWORD, safe=""))
        settings.write_text(
            f"[mlflow]\ndefault_permission = READ\ndatabase_uri = sqlite:///{folder}/users.db\n"
            f"admin_username = {ADMIN['MLFLOW_TRACKING_USERNAME']}\n"
            f"admin_password = {ADMIN['MLFLOW_TRACKING_PASSWORD']}\n"
            "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
        )
        options = ["--app-name", "basic-auth"]
        environment = {"MLFLOW_AUTH_CONFIG_PATH": str(settings), "MLFLOW_FLASK_SERVER_SECRET_KEY": "of this test"}
        with TrackingServer(folder, store, options, **environment) as running:
            yield running


@pytest.fixture
def tracking(server: TrackingServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tracking:
    for name, value in ADMIN.items():
        monkeypatch.setenv(name, value)
    return connect(TrackingConfig(uri=server.uri), tmp_path)


def test_a_job_records_registers_and_reads_back(tracking: Tracking, tmp_path: Path) -> None:
    torch.manual_seed(0)
    backbone = VitConfig(embed_dim=16, depth=1, num_heads=2)
    config = ModelConfig(backbone=backbone, head=ClassicHeadConfig(channels=8), input_size=(64, 48))
    model = build_model(config, {"coco": load_skeleton("coco17")})
    folder = Path(str(save_model(model, tmp_path / "model")))
    use = DatasetUse(name="coco", split="train", digest="a" * 64, role="training", license="CC0-1.0")
    judged = [EvaluationResult(name="coco", digest="b" * 64, metrics={"AP": 0.5, "AP (M)": float("nan")})]

    def execute(log: RunLog) -> Outputs:
        version = register_model(log, "pose", folder, [use], judged, parameters={"lr": "0.1"}, training={"loss": 1.0})
        return Outputs({"uri": version.uri}, versions=(version,))

    for expected in ("ran", "reused"):
        said: list[str] = []
        with Workflow(tracking, "job", tmp_path / "run", Config(), report=said.append) as workflow:
            result = workflow.step("register", execute, inputs={}, code=["posecore.errors"])
        assert expected in said[-1]
    assert result.values["uri"] == "models:/pose/1", "and nothing is registered twice"
    with registered_model("models:/pose@1", tracking) as files:
        again = load_model(files)
    assert all(tensor.equal(again.state_dict()[name]) for name, tensor in model.state_dict().items())
    stored = tracking.client.get_logged_model(tracking.client.get_model_version("pose", "1").source.split("/")[-1])
    assert stored.artifact_location.startswith("mlflow-artifacts:"), "the store itself is the server's business"
    assert stored.params["lr"] == "0.1"
    assert stored.params["lineage.training.coco/train"] == "a" * 12
    assert {metric.key: metric.value for metric in stored.metrics}["coco/AP"] == 0.5


def test_who_does_not_log_in_is_told_so(
    tracking: Tracking, server: TrackingServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "another one of twelve")
    with pytest.raises(LineageError, match=r"^tracking store http://127\.0\.0\.1:\d+: .*(401|authenticated)"):
        connect(TrackingConfig(uri=server.uri, experiment="new"), tmp_path)


def test_the_later_of_two_drivers_on_machines_without_a_common_folder_waits(
    tracking: Tracking, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One run file on two machines, whose folders of one name are two: the locks of neither are there for the other."""
    monkeypatch.setattr(twins, "_BEAT_S", 0.2)
    monkeypatch.setattr(twins, "_LOOK_S", 0.1)
    order: list[str] = []
    said: list[str] = []

    def drive() -> None:
        with Workflow(tracking, "job", tmp_path / "b", Config(), report=said.append):
            order.append("second")

    other = threading.Thread(target=drive)
    with Workflow(tracking, "job", tmp_path / "a", Config(), report=said.append):
        _hide_locks(tmp_path / "a")
        other.start()
        until = time.monotonic() + 60
        while not said:
            assert time.monotonic() < until
            time.sleep(0.05)
        order.append("first")
    other.join(60)
    assert order == ["first", "second"]
    assert said[0].startswith("job ")
    assert "waiting for another driver of the same job on " in said[0]


def _hide_locks(folder: Path) -> None:
    """As it looks from another machine."""
    for lock in (folder / "locks").iterdir():
        lock.unlink()


def test_a_driver_that_died_elsewhere_is_not_waited_for_for_ever(
    tracking: Tracking, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(twins, "_PATIENCE_S", 1.0)
    monkeypatch.setattr(twins, "_LOOK_S", 0.1)
    dead = Workflow(tracking, "other", tmp_path / "a", Config(), report=lambda line: None)
    dead.__enter__()
    dead._held.close()  # as a machine that lost its power: no sign, and no word
    _hide_locks(tmp_path / "a")
    with Workflow(tracking, "other", tmp_path / "b", Config(), report=lambda line: None):
        closed = tracking.client.get_run(dead.run.run_id)
    assert closed.info.status == "KILLED"
    assert closed.data.tags["posecore.error"] == "its driver gave no sign of life for 1 s"
    with pytest.raises(MlflowException):
        tracking.client.get_model_version("other", "1")
