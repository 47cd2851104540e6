"""The main job under torchrun, where no Ray can be imported."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tests.end_to_end.conftest import REPOSITORY, Job

pytestmark = pytest.mark.slow


def test_two_processes_of_torchrun_train_and_register_a_model(job: Job, tmp_path: Path) -> None:
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "__init__.py").write_text("raise ImportError('this job is to do without')\n")
    run = tmp_path / "run"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["pipelines/multidataset_train.py", "--config", str(job.config), "--set", f"run_folder={run}"]
    command += ["--set", "datasets=[{name: mpii, root: mpii, train: train, evaluate: val}]"]
    environment = {key: value for key, value in os.environ.items() if key != "MLFLOW_TRACKING_URI"}
    environment |= {"PYTHONPATH": f"{tmp_path}{os.pathsep}{REPOSITORY}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("register ") == 1, "rank 0 alone runs the job"
    client = MlflowClient(f"sqlite:///{run / 'mlflow.db'}")
    training = client.get_run(client.get_model_version("tiny", "1").tags["training_run_id"])
    assert [point.step for point in client.get_metric_history(training.info.run_id, "mpii/PCKh")] == [2, 4]
    _train_again_from_the_registry(run, tmp_path / "again", environment)


def _train_again_from_the_registry(run: Path, out: Path, environment: dict[str, str]) -> None:
    """With the version's own code, far from this clone."""
    command = [sys.executable, "-m", "posecore", "rerun", "models:/tiny@1", "--folder", str(run)]
    again = subprocess.run(
        [*command, "--out", str(out)], env=environment, capture_output=True, text=True, timeout=600, check=False
    )
    assert again.returncode == 0, again.stdout + again.stderr
    assert "models:/tiny-rerun/1 has the same weights, bit for bit: " in again.stdout
    assert (out / "code" / "posecore" / "workflows" / "rerun.py").exists()
