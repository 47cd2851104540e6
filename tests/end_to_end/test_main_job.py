"""The main job from raw files to a registered model, run again, changed, and refused."""

import os
import re
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient

from pipelines import demo
from pipelines.multidataset_train import main
from posecore.lineage.registry.registration import default_store
from tests.end_to_end.conftest import DATASETS, Job

SPLITS = {"train": "training", "val": "evaluation"}
pytestmark = [pytest.mark.ray, pytest.mark.slow]


@contextmanager
def another_rays_port() -> Iterator[None]:
    """Takes the port that every Ray's agent would have by default, without which it accepts no jobs."""
    with socket.socket() as taken:
        with suppress(OSError):  # another Ray of this machine has it already
            taken.bind(("", 52365))
            taken.listen()
        yield


def steps(output: str) -> dict[str, str]:
    """Step → ran, reused or failed, in order."""
    return dict(re.findall(r"^([a-z]+(?::\w+)*) +(ran|reused|failed) ", output, re.MULTILINE))


@pytest.fixture(scope="module")
def first_run(job: Job, local_ray: None) -> dict[str, str]:
    done = job.submit()
    assert done.status == 0, done.out + done.err
    return steps(done.out)


def test_every_step_runs_in_order(first_run: dict[str, str]) -> None:
    ingested = [f"ingest:{name}:{split}" for name in DATASETS for split in ("train", "val")]
    judged = [f"evaluate:{name}" for name in DATASETS]
    assert list(first_run) == [*ingested, "audit", "train", *judged, "register", "report"]
    assert set(first_run.values()) == {"ran"}


def test_the_registered_version_names_its_data_and_metrics(job: Job, first_run: dict[str, str]) -> None:
    client = MlflowClient(f"sqlite:///{job.run_folder / 'mlflow.db'}")
    version = client.get_model_version("tiny", "1")
    for name in DATASETS:
        assert any(tag.startswith(f"dataset.training.{name}/train") for tag in version.tags), version.tags
        assert any(tag.startswith(f"evaluation.{name}.") for tag in version.tags), version.tags
    training_run = client.get_run(version.tags["training_run_id"])
    inputs = {
        item.dataset.name: {tag.key: tag.value for tag in item.tags} for item in training_run.inputs.dataset_inputs
    }
    roles = {name: tags["mlflow.data.context"] for name, tags in inputs.items()}
    assert roles == {f"{name}/{split}": role for name in DATASETS for split, role in SPLITS.items()}
    assert {f"loss/{name}" for name in DATASETS} <= set(training_run.data.metrics)
    judged_at = [point.step for point in client.get_metric_history(training_run.info.run_id, "mpii/PCKh")]
    assert judged_at == [2, 4]
    pictures = {
        item.path.partition("+timestamp")[0] for item in client.list_artifacts(training_run.info.run_id, "images")
    }
    assert pictures == {f"images/predictions {name}+step+{step}" for name in DATASETS for step in (2, 4)}


def test_pages_that_compare_versions_have_what_differs(job: Job, first_run: dict[str, str]) -> None:
    """Parameters and metrics of the version's run, of its logged model, and of the submission, which are compared."""
    client = MlflowClient(f"sqlite:///{job.run_folder / 'mlflow.db'}")
    version = client.get_model_version("tiny", "1")
    model = client.get_logged_model(version.source.removeprefix("models:/"))
    registered, trained = client.get_run(version.run_id), client.get_run(version.tags["training_run_id"])
    submission = client.get_run(registered.data.tags["mlflow.parentRunId"])
    for parameters in (model.params, registered.data.params, submission.data.params):
        assert parameters["training.global_batch"] == "8"
        assert parameters["datasets.mpii.train"] == "train"
    assert " on 1 host" in model.params["hardware"]
    measured = {metric.key: metric for metric in model.metrics}
    ground_truth = next(tag for tag in version.tags if tag.startswith("evaluation.mpii."))
    judged = measured["mpii/PCKh"]
    found = {point.step: point.value for point in client.get_metric_history(trained.info.run_id, "mpii/PCKh")}
    best = min(step for step, value in found.items() if value == max(found.values()))
    assert trained.data.metrics["best_step"] == best
    assert trained.data.metrics["best/mpii/PCKh"] == found[best]
    assert trained.data.metrics["steps_made"] == 4
    assert (judged.step, f"evaluation.{judged.dataset_name}.{judged.dataset_digest}") == (best, ground_truth)
    assert submission.data.metrics["mpii/PCKh"] == registered.data.metrics["mpii/PCKh"] == judged.value
    assert measured["training/gradient_norm"].value == trained.data.metrics["gradient_norm"] > 0
    assert measured["training/training_s"].value > 0
    for run in (trained, submission):
        shares = [float(tag.value) for each in run.inputs.dataset_inputs for tag in each.tags if tag.key == "weight"]
        assert len(shares) == len(DATASETS)
        assert sum(shares) == pytest.approx(1)


def test_the_registered_version_loads_as_pyfunc(job: Job, first_run: dict[str, str]) -> None:
    with default_store(f"sqlite:///{job.run_folder / 'mlflow.db'}"):
        model = mlflow.pyfunc.load_model("models:/tiny/1")
    photo = next((job.data_folder / "coco" / "val2017").iterdir()).read_bytes()
    answer = model.predict([{"image": photo}], params={"dataset": "coco"})
    assert len(answer) == 1


def test_an_identical_submission_reuses_every_step(job: Job, first_run: dict[str, str]) -> None:
    again = job.submit()
    assert again.status == 0, again.out + again.err
    assert steps(again.out) == dict.fromkeys(first_run, "reused")


def test_submitted_to_a_cluster_by_its_own_name(
    job: Job,
    first_run: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """``ray job submit -- pipelines/multidataset_train.py …``: the script finds its interpreter, and nothing warns."""
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN"):
        monkeypatch.setenv(name, "")  # restored afterwards, whatever local_ray sets
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    command = ["pipelines/multidataset_train.py", "--config", str(job.config)]
    with another_rays_port(), demo.local_ray(tmp_path, num_cpus=2) as address:
        status = demo.submit(address, command, tmp_path / "ray.log")
    said = capfd.readouterr()
    assert status == 0, said.out + said.err
    assert set(steps(said.out).values()) == {"reused"}
    assert not re.search("warn", said.out + said.err, re.IGNORECASE), said.out + said.err


@pytest.mark.usefixtures("this_process")
def test_other_pictures_in_the_report_re_run_no_training(job: Job, first_run: dict[str, str]) -> None:
    changed = job.submit("worst_cases=3")
    assert changed.status == 0, changed.out + changed.err
    ran = [name for name, what in steps(changed.out).items() if what == "ran"]
    # The figures are the same, so there is nothing new to register.
    assert ran == [*(f"evaluate:{name}" for name in DATASETS), "report"]


@pytest.mark.usefixtures("this_process")
def test_a_changed_dataset_re_runs_only_what_depends_on_it(job: Job, first_run: dict[str, str]) -> None:
    """Whoever did the work: what is reused was made on Ray."""
    changed = job.submit("datasets.1.changes={max_loss: 0.06}")
    assert changed.status == 0, changed.out + changed.err
    reused = [name for name, what in steps(changed.out).items() if what == "reused"]
    assert reused == [f"ingest:{name}:{split}" for name in ("coco", "ap10k") for split in ("train", "val")]


@pytest.mark.usefixtures("this_process")
def test_a_training_that_diverges_ends_the_job_and_registers_nothing(job: Job, first_run: dict[str, str]) -> None:
    failed = job.submit("training.optimizer.lr=1e25", "name=diverging")
    assert failed.status == 1
    assert re.search(r"^error: training diverged in step [12]: .*$", failed.err, re.MULTILINE), failed.err
    assert "Traceback" not in failed.err
    assert steps(failed.out).get("register") is None
    client = MlflowClient(f"sqlite:///{job.run_folder / 'mlflow.db'}")
    assert client.search_registered_models("name = 'diverging'") == []


def test_a_submitted_job_wants_absolute_folders(
    job: Job, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    assert main(["--config", str(job.config), "--set", "run_folder=runs/x"]) == 1
    assert "run_folder: runs/x is relative" in capsys.readouterr().err


def test_a_run_folder_that_cannot_be_is_refused(
    job: Job, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    below_a_file = job.config / "runs"
    assert main(["--config", str(job.config), "--set", f"run_folder={below_a_file}"]) == 1
    assert capsys.readouterr().err == f"error: run_folder {below_a_file} cannot be made: Not a directory.\n"
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")  # nobody is asked for anything
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    assert main(["--config", str(job.config), "--set", "run_folder=s3://bucket/runs"]) == 1
    assert "run_folder s3://bucket/runs cannot be written" in capsys.readouterr().err


def test_a_leak_is_refused_by_name(job: Job, tmp_path: Path) -> None:
    leaking = "datasets=[{name: coco, root: coco, train: train, evaluate: train}]"
    refused = job.submit(leaking, f"run_folder={tmp_path}", "training.best=null")
    assert refused.status == 1
    assert re.search(r"coco/train/(\S+) and coco/train/\1 \(exact\)", refused.err)
    assert "--allow-leakage" in refused.err
    assert "Traceback" not in refused.err


def test_an_unreachable_tracking_server_stops_the_job_before_it_starts(job: Job, tmp_path: Path) -> None:
    refused = job.submit("tracking.uri=http://127.0.0.1:9", f"run_folder={tmp_path}")
    assert refused.status == 1
    assert refused.err.startswith("error: MLflow server http://127.0.0.1:9 does not answer")
    assert steps(refused.out) == {}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.stepz=3", "training.stepz: Extra inputs are not permitted"),
        ("datasets.0.definition=cocoo", "unknown dataset 'cocoo'"),
        ("datasets.0.changes={license: 3}", "datasets.coco.changes: license"),
        ("training.global_batch=7", "training.global_batch 7 cannot be cut evenly"),
        ("datasets.0.train=trian", "has no split 'trian'"),
        ("training.best.metric=mpi/PCKh", "begin it with coco/ or mpii/ or ap10k/."),
        ("data_folder=/nowhere", "coco train: annotations/person_keypoints_train2017.json is missing below /nowhere"),
    ],
)
def test_a_wrong_setting_is_one_sentence(
    job: Job, tmp_path: Path, override: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = [override, f"run_folder={tmp_path}", "cluster.num_workers=2"]
    status = main(["--config", str(job.config), *(part for item in settings for part in ("--set", item))])
    said = capsys.readouterr().err
    assert status in (1, 2)
    assert message in said
    assert said.count("\n") == 1
