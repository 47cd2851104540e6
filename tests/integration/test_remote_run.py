"""A run whose folder is a URL of an S3 server: nothing of it lies on this machine but locks and caches."""

import os
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import mlflow
import pytest
import torch
import yaml
from mlflow import MlflowClient
from s3fs import S3FileSystem
from upath import UPath

from pipelines.adapt import main as adapt
from pipelines.distill import main as distill
from pipelines.multidataset_train import main
from posecore.config import load_config
from posecore.errors import ConfigError, PreflightError, StorageError
from posecore.lineage.registry.registration import default_store
from posecore.lineage.store.tracking import TrackingConfig, connect
from posecore.models.architecture import ModelConfig
from posecore.models.backbones.vit import VitConfig
from posecore.models.heads.classic import ClassicHeadConfig
from posecore.models.pose_model import build_model
from posecore.models.saving import save_model
from posecore.skeletons.library import load_skeleton
from posecore.sole_driver import Lease
from posecore.storage import as_path, folder_of_machine, local_copy, make_folder
from posecore.synth.writers import write_dataset
from posecore.workflows.data_steps import check_run_folder
from posecore.workflows.distillation.job import DistillationJob
from tests.support.s3_server import BUCKET, s3_server


@pytest.fixture(scope="module")
def store() -> Iterator[UPath]:
    """A bucket, reached as users reach theirs: by a URL, and credentials in the environment."""
    with s3_server() as (host, port), pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "TORCHELASTIC_RUN_ID": "test",  # as torchrun sets it: this process does the work
        }.items():
            patch.setenv(name, value)
        S3FileSystem.clear_instance_cache()  # one that another test made knows neither this server nor its credentials
        yield as_path(f"s3://{BUCKET}")
    S3FileSystem.clear_instance_cache()


def _steps(said: str, how: str) -> list[str]:
    return re.findall(rf"^(\S+) +{how} ", said, re.MULTILINE)


def test_the_main_job_runs_registers_and_is_reused(
    store: UPath, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("POSECORE_CACHE", str(tmp_path / "cache"))
    write_dataset("mpii", tmp_path / "mpii", num_train=8, num_val=4, image_size=(96, 96), seed=0)
    tracking = f"sqlite:///{tmp_path / 'mlflow.db'}"
    values = {
        "name": "far",
        "run_folder": f"s3://{BUCKET}/runs/far",
        "data_folder": str(tmp_path),
        "tracking": {"uri": tracking, "artifact_root": str(tmp_path / "artifacts")},
        "datasets": [{"name": "mpii", "root": "mpii", "train": "train", "evaluate": "val"}],
        "ingest": {"images_per_shard": 3},
        "model": {
            "backbone": {"preset": "vit-nano"},
            "head": {"kind": "classic", "channels": 8},
            "input_size": [64, 48],
        },
        "training": {"steps": 4, "global_batch": 4, "checkpoint_every": 2, "engine": {"kind": "torch"}},
        "worst_cases": 1,
    }
    file = tmp_path / "far.yaml"
    file.write_text(yaml.safe_dump(values))

    assert main(["--config", str(file)]) == 0
    said = capsys.readouterr().out
    assert re.findall(r"^(\S+) +ran ", said, re.MULTILINE)[-4:] == ["train", "evaluate:mpii", "register", "report"]
    written = {path.name for path in (store / "runs" / "far").rglob("*")}
    assert {"shard-000000.tar", "manifest.json", "model.safetensors", "report.html"} <= written
    left = {path.name for path in (tmp_path / "cache" / "runs").rglob("*") if path.is_file()}
    assert all(name.endswith(".lock") or name == "machine" for name in left), (
        "the curve arrived, and all else is in the store"
    )

    client = MlflowClient(tracking)
    run = client.get_run(client.get_model_version("far", "1").tags["training_run_id"])
    assert run.data.metrics["loss/mpii"] > 0
    with default_store(tracking):
        model = mlflow.pyfunc.load_model("models:/far/1")
    photo = next((tmp_path / "mpii" / "images").iterdir()).read_bytes()
    assert len(model.predict([{"image": photo}], params={"dataset": "mpii"})) == 1

    assert main(["--config", str(file)]) == 0
    again = capsys.readouterr().out
    assert not _steps(again, "ran")

    for copy in (store / "elsewhere" / "far", tmp_path / "far"):
        if isinstance(copy, Path):
            store.fs.get(f"{BUCKET}/elsewhere/far", str(copy), recursive=True)
        else:
            store.fs.copy(f"{BUCKET}/runs/far", f"{BUCKET}/elsewhere/far", recursive=True)
            store.fs.rm(f"{BUCKET}/runs/far", recursive=True)
        file.write_text(yaml.safe_dump(values | {"run_folder": str(copy)}))
        assert main(["--config", str(file)]) == 0
        copied = capsys.readouterr().out
        assert _steps(copied, "reused") == _steps(again, "reused")
        assert f"(folder {copy}/training/" in copied


def test_of_two_that_make_a_folder_one_is_told_that_it_did(store: UPath, tmp_path: Path) -> None:
    for place in (store / "made", tmp_path / "made"):
        assert make_folder(place)
        assert not make_folder(place)


def test_drivers_on_machines_that_share_a_store_wait_for_each_other(store: UPath, tmp_path: Path) -> None:
    """A holder that gives no more signs of life is dead, at once if it was on the same machine."""
    place, waited, order = store / "locks" / "step", [], []
    with Lease(place, tmp_path / "a", waited.append, beat_s=0.1, patience_s=60):

        def second() -> None:
            with Lease(place, tmp_path / "b", waited.append):
                order.append("second")

        other = Thread(target=second)
        other.start()
        while not waited:
            time.sleep(0.01)
        order.append("first")
    other.join()
    assert order == ["first", "second"]
    assert waited == [f"{socket.gethostname()}, process {os.getpid()}"]

    dead = Lease(place, tmp_path / "a", waited.append, beat_s=1e6)
    dead.__enter__()
    with Lease(place, tmp_path / "a", waited.append):
        assert len(waited) == 1, "of this machine, and so dead"
    dead = Lease(place, tmp_path / "a", waited.append, beat_s=1e6)
    dead.__enter__()
    with Lease(place, tmp_path / "b", waited.append, patience_s=0.5):
        assert len(waited) == 2
        with pytest.raises(StorageError, match="another driver has gone on with this"):
            dead.__exit__(None, None, None)
    assert not place.exists()


def test_a_copy_lasts_as_long_as_its_block(store: UPath) -> None:
    (store / "copied" / "sub" / "file").write_bytes(b"content")
    with local_copy(store / "copied") as folder:
        assert (folder / "sub" / "file").read_bytes() == b"content"
    assert not folder.exists()
    with local_copy(store / "copied" / "sub" / "file") as copy:
        assert copy.name == "file"
        assert copy.read_bytes() == b"content"
    with local_copy(Path(__file__)) as own:
        assert own == Path(__file__)


def test_a_store_that_is_not_there_is_refused_before_anything_starts(store: UPath) -> None:
    check_run_folder(store / "anywhere")
    with pytest.raises(Exception, match=r"run_folder s3://no-such-bucket/run cannot be written \(.*check the address"):
        check_run_folder(as_path("s3://no-such-bucket/run"))


def test_credentials_given_after_a_refusal_are_used(store: UPath, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = os.environ["AWS_SECRET_ACCESS_KEY"]
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")  # where else they might come from
    S3FileSystem.clear_instance_cache()
    with pytest.raises(PreflightError, match=r"cannot be written \(NoCredentialsError"):
        check_run_folder(as_path(f"s3://{BUCKET}/later"))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", secret)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret)
    check_run_folder(as_path(f"s3://{BUCKET}/later"))


def test_a_remote_run_needs_a_tracking_server(store: UPath, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(
        ConfigError, match=r"tracking.uri: s3://\S+ cannot hold the SQLite file .* name an MLflow server"
    ):
        connect(TrackingConfig(), store / "run")


def test_what_belongs_to_a_run_and_stays_on_a_machine_has_a_place(store: UPath, tmp_path: Path) -> None:
    assert folder_of_machine(tmp_path) == tmp_path.resolve()
    first, second = folder_of_machine(store / "a"), folder_of_machine(f"s3://{BUCKET}/a")
    assert first == second != folder_of_machine(store / "b")


@pytest.mark.slow
def test_an_adaptation_and_a_distillation_leave_everything_in_the_store(
    store: UPath, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Parent and start, recorded losses of labels, their tables and pictures, an adapter, a teacher and its student."""
    monkeypatch.setenv("POSECORE_CACHE", str(tmp_path / "cache"))
    write_dataset("syrip", tmp_path / "syrip", num_train=8, num_val=4, image_size=(96, 96), seed=0)
    torch.manual_seed(0)
    architecture = ModelConfig(
        backbone=VitConfig(embed_dim=16, depth=1, num_heads=2), head=ClassicHeadConfig(channels=8), input_size=(64, 48)
    )
    save_model(build_model(architecture, {"coco": load_skeleton("coco17")}), tmp_path / "parent")
    values: dict[str, Any] = {
        "name": "child",
        "run_folder": f"s3://{BUCKET}/runs/child",
        "data_folder": str(tmp_path),
        "tracking": {"uri": f"sqlite:///{tmp_path / 'mlflow.db'}", "artifact_root": str(tmp_path / "artifacts")},
        "datasets": [{"name": "syrip", "root": "syrip", "train": "train", "evaluate": "val"}],
        "training": {"steps": 4, "global_batch": 4, "evaluate_every": 1, "schedule": {"kind": "cosine"}},
        "inference": {"flip_test": False},
    }
    adapting = {"parent": str(tmp_path / "parent"), "target": "syrip", "method": {"strategy": "lora"}}
    file = tmp_path / "child.yaml"
    file.write_text(yaml.safe_dump(values | adapting | {"label_check": {"pictures": 2}}))
    assert adapt(["--config", str(file)]) == 0
    said = capsys.readouterr().out
    assert {"proportions:syrip", "train", "labels:syrip", "report"} <= set(_steps(said, "ran"))
    written = {path.name for path in (store / "runs" / "child").rglob("*")}
    assert {"step_000000004.npz", "suspicious_labels.csv", "adapter_model.safetensors", "adaptation.html"} <= written
    child = re.findall(r"\(folder (\S+)\)", said)[0]
    assert child.startswith(f"s3://{BUCKET}/runs/child/")

    teaching = {"name": "student", "run_folder": f"s3://{BUCKET}/runs/student", "teacher": str(tmp_path / "parent")}
    teaching |= {"student": architecture.model_dump(mode="json"), "method": {"feature_weight": 0.001}}
    file.write_text(yaml.safe_dump(values | teaching | {"second_stage": 0.5}))
    assert distill(["--config", str(file)]) == 0
    assert {"stage1", "stage2", "measure", "register"} <= set(_steps(capsys.readouterr().out, "ran"))


def test_stored_answers_refuse_a_url() -> None:
    demo = Path(__file__).parents[2] / "pipelines" / "configs" / "distill.yaml"
    with pytest.raises(ConfigError, match="cache: stored answers are read where they lie, and run_folder s3://b/run"):
        load_config(demo, DistillationJob, ["run_folder=s3://b/run", "cache=float16"])
