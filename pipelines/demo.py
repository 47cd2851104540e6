#!/usr/bin/env python
"""The whole system on one machine, with nothing but this repository: ``make demo``.

Renders five small synthetic datasets in the native formats of real ones, starts a local Ray behind a fresh token,
submits the main job to it exactly as a user would, and stops Ray again. The job prints the table of results.
"""

import argparse
import os
import secrets
import shutil
import subprocess
import sys
import time
from pathlib import Path

from ray.job_submission import JobSubmissionClient

from posecore.synth.writers import DatasetName, write_dataset

REPOSITORY = Path(__file__).resolve().parents[1]
DATASETS: dict[DatasetName, tuple[int, int]] = {
    "coco": (480, 64),
    "coco_wholebody": (160, 32),
    "mpii": (240, 48),
    "ap10k": (240, 48),
    "syrip": (80, 48),
}
"""Images rendered for training and for validation."""


def render(folder: Path) -> None:
    """Renders every dataset that is not there yet; a half-rendered one never carries its final name."""
    for seed, (name, (num_train, num_val)) in enumerate(DATASETS.items()):
        target = folder / name
        if target.exists():
            continue
        aside = folder / f".{name}.part"
        shutil.rmtree(aside, ignore_errors=True)
        write_dataset(name, aside, num_train=num_train, num_val=num_val, image_size=(256, 256), seed=seed)
        aside.rename(target)


def start_ray(folder: Path, num_cpus: int, environment: dict[str, str]) -> tuple[subprocess.Popen[bytes], str]:
    """Starts a Ray head in the foreground of a child process and waits until its job server answers."""
    folder.mkdir(parents=True, exist_ok=True)
    port = 8265 + secrets.randbelow(1000)
    command = ["ray", "start", "--head", "--block", "--port", "0", "--num-cpus", str(num_cpus)]
    command += ["--dashboard-host", "127.0.0.1", "--dashboard-port", str(port), "--disable-usage-stats"]
    log = (folder / "ray.log").open("wb")
    head = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    address = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        if head.poll() is not None:
            raise SystemExit(f"Ray did not start; its output is in {log.name}.")
        try:
            JobSubmissionClient(address)
        except (ConnectionError, RuntimeError):
            time.sleep(0.5)
        else:
            return head, address
    head.terminate()
    raise SystemExit(f"Ray's job server did not answer at {address} within 90 s; its output is in {log.name}.")


def main() -> int:
    """Renders, submits, cleans up; returns the job's exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=REPOSITORY / "demo", help="where everything is written")
    parser.add_argument("--config", default="pipelines/configs/demo.yaml", help="run file, relative to the repository")
    options = parser.parse_args()
    folder = options.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)

    print(f"rendering synthetic datasets into {folder / 'data'}", flush=True)
    render(folder / "data")

    # A token of this run alone: Ray listens on more than loopback, and a job server runs what it is given.
    os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32))
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    head, address = start_ray(folder, num_cpus=max(2, os.cpu_count() or 1), environment=dict(os.environ))
    try:
        job = ["python", "pipelines/multidataset_train.py", "--config", options.config]
        job += ["--set", f"data_folder={folder / 'data'}", "--set", f"run_folder={folder / 'run'}"]
        submit = ["ray", "job", "submit", "--address", address, "--working-dir", ".", "--", *job]
        print("$ " + " ".join(submit), flush=True)
        return subprocess.run(submit, cwd=REPOSITORY, check=False).returncode
    finally:
        head.terminate()
        head.wait(timeout=60)


if __name__ == "__main__":
    sys.exit(main())
