#!/usr/bin/env python
"""The whole system on one machine, with nothing but this repository: ``make demo``.

Renders five small synthetic datasets in the native formats of real ones, starts a local Ray behind a fresh token,
submits the main job to it exactly as a user would, and stops Ray again. The job prints the table of results.
"""

if __name__ == "__main__":  # before the imports below, which take a second
    from posecore.interruption import signals_end_the_process

    signals_end_the_process()

import os
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from posecore.command_parser import CommandParser
from posecore.interruption import Interrupted, signals_raise
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


@contextmanager
def local_ray(folder: Path, num_cpus: int) -> Iterator[str]:
    """A Ray head in a child process, for the time of the ``with`` block; yields its job server's address."""
    # A token of this run alone: Ray listens on more than loopback, and a job server runs what it is given.
    os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32))
    os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's own 15 has workers give way to whatever else runs
    # Ray Train leaves an actor on the node, for which a head that is told to stop waits 30 s as if it still served
    # somebody (findings/ray_head_drains_after_a_training.sh).
    os.environ["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"] = "0"
    # Ray warns of every folder that it leaves out by itself; .gitignore and .rayignore name them already.
    os.environ["RAY_OVERRIDE_RUNTIME_ENV_DEFAULT_EXCLUDES"] = ""
    # Of its own: a head beside another one on this machine would accept no jobs, because its agent has no port.
    port, agent_port = _free_port(), _free_port()
    command = ["ray", "start", "--head", "--block", "--port", "0", "--num-cpus", str(num_cpus)]
    command += ["--dashboard-host", "127.0.0.1", "--dashboard-port", str(port), "--disable-usage-stats"]
    command += ["--dashboard-agent-listen-port", str(agent_port)]
    with (folder / "ray.log").open("wb") as log:
        head = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    try:
        address = f"http://127.0.0.1:{port}"
        # The server answers earlier than the agent, by which it starts jobs.
        asked = (f"{address}/api/version", f"http://127.0.0.1:{agent_port}/api/local_raylet_healthz")
        _wait(lambda: all(map(_answers, asked)), head, f"Ray did not start; see {folder / 'ray.log'}.")
        yield address
    except Interrupted:  # nobody waits for what the job was doing
        _end(head, patience_s=1.0)
        raise
    finally:
        _end(head, patience_s=60.0)


def _end(head: subprocess.Popen[bytes], patience_s: float) -> None:
    """Has Ray stop its processes; after ``patience_s`` the system stops them."""
    head.terminate()
    try:
        head.wait(patience_s)
    except subprocess.TimeoutExpired:
        os.killpg(head.pid, signal.SIGKILL)
        head.wait()


def submit(address: str, command: list[str], head_log: Path) -> int:
    """``ray job submit`` as a user types it; returns its exit status."""
    job_id = f"demo-{secrets.token_hex(4)}"
    line = ["ray", "job", "submit", "--address", address, "--submission-id", job_id, "--working-dir", "."]
    line += ["--", *command]
    print("$ " + shlex.join(line), flush=True)
    deadline = time.monotonic() + 180
    while True:
        # In a session of its own: at Ctrl-C it would show where it was.
        with subprocess.Popen(line, cwd=REPOSITORY, start_new_session=True) as client:
            try:
                status = client.wait()
            except Interrupted:
                client.kill()
                raise
        # A head answers a little earlier than it accepts jobs.
        if status == 0 or _answers(f"{address}/api/jobs/{job_id}") or time.monotonic() > deadline:
            return status
        print(f"the cluster does not accept jobs yet (its log: {head_log}); trying again", flush=True)
        time.sleep(2)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


def _answers(url: str) -> bool:
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {os.environ['RAY_AUTH_TOKEN']}"})
    try:
        urllib.request.urlopen(request, timeout=5).close()
    except OSError:
        return False
    return True


def _wait(ready: Callable[[], bool], head: subprocess.Popen[bytes], failure: str) -> None:
    deadline = time.monotonic() + 180
    while not ready():
        if head.poll() is not None or time.monotonic() > deadline:
            raise SystemExit(failure)
        time.sleep(0.5)


def main() -> int:
    """Renders, submits, cleans up; returns the job's exit status, or 128 and the number of the signal that ended it."""
    try:
        with signals_raise():
            return _demo()
    except Interrupted as stop:
        print(f"{stop}: what is finished stays: run it again to go on.", file=sys.stderr)
        return stop.status


def _demo() -> int:
    parser = CommandParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=REPOSITORY / "demo", help="where everything is written")
    parser.add_argument("--config", default="pipelines/configs/demo.yaml", help="run file, relative to the repository")
    options = parser.parse_args()
    folder = options.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)

    print(f"rendering synthetic datasets into {folder / 'data'}", flush=True)
    render(folder / "data")

    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    job = ["python", "pipelines/multidataset_train.py", "--config", options.config]
    job += ["--set", f"data_folder={folder / 'data'}", "--set", f"run_folder={folder / 'run'}"]
    with local_ray(folder, num_cpus=max(2, os.cpu_count() or 1)) as address:
        return submit(address, job, folder / "ray.log")


if __name__ == "__main__":
    sys.exit(main())
