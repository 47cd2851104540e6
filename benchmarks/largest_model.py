#!/usr/bin/env python
"""Does a large model train, die, and go on with other processes, through the main job on this one machine?

::

    python benchmarks/largest_model.py --preset vitpose-huge
    python benchmarks/largest_model.py --preset vitpose-giant --without-ray

Renders a few bodies and submits ``pipelines/multidataset_train.py`` for five steps with a checkpoint after the third.
Once that is whole, the job is killed with all it started (SIGKILL), and submitted again with another number of training
processes; it must go on from that checkpoint and register the model. Memory is read twice a second: what all processes
of the job hold together (proportional set sizes, which count shared pages once), the largest of them, and how little
the machine had left. ``bf16-weights`` under ZeRO-3, activation checkpointing, two or three crops per process.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import yaml

from posecore.synth.writers import write_dataset
from posecore.training.checkpoint import Checkpoint

JOB = Path(__file__).resolve().parents[1] / "pipelines" / "multidataset_train.py"
KILLED_AFTER, STEPS = 3, 5
GIB = 2**30
LEAST_LEFT = 1.0  # GiB; a machine without memory ends whichever process it likes


class Watched:
    """A job and whatever it started."""

    def __init__(self, command: Sequence[str], log: Path) -> None:
        self._log = log.open("wb")
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        self._job = subprocess.Popen(command, stdout=self._log, stderr=subprocess.STDOUT, env=environment)
        self._seen: set[int] = {self._job.pid}
        self.peak = self.largest = 0.0
        self.left = float("inf")

    def look(self) -> bool:
        """Reads what is held; says whether the job still runs."""
        self._seen |= _descendants(self._job.pid)
        held = [_proportional(pid) for pid in self._seen]
        self.peak, self.largest = max(self.peak, sum(held)), max(self.largest, *held)
        self.left = min(self.left, _available())
        return self._job.poll() is None

    def kill(self) -> None:
        """Ends all of it at once."""
        self._seen |= _descendants(self._job.pid)
        for pid in self._seen:
            _kill(pid)
        self._job.wait()
        while any(_proportional(pid) for pid in self._seen):
            time.sleep(0.2)

    @property
    def status(self) -> int | None:
        """Of the job's end."""
        return self._job.returncode


def _descendants(pid: int) -> set[int]:
    parents: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents.setdefault(int(fields[1]), []).append(int(folder.name))
    found, waiting = set(), [pid]
    while waiting:
        children = parents.get(waiting.pop(), [])
        found.update(children)
        waiting += children
    return found


def _proportional(pid: int) -> float:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) * 1024 / GIB for line in lines if line.startswith("Pss:")), 0.0)


def _available() -> float:
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 / GIB for line in lines if line.startswith("MemAvailable"))


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def run_file(options: argparse.Namespace, folder: Path, workers: int) -> Path:
    """A run of the main job, as YAML."""
    config = {
        "name": "largest",
        "run_folder": str(folder / "run"),
        "data_folder": str(folder / "data"),
        "datasets": [{"name": "coco", "root": "coco", "train": "train", "evaluate": "val"}],
        "model": {
            "backbone": {"preset": options.preset, "activation_checkpointing": True},
            "input_size": options.input,
        },
        "recipe": "none",
        "loading": {"num_threads": 1},
        "training": {
            "steps": STEPS,
            "global_batch": options.crops,
            "log_every": 1,
            "checkpoint_every": KILLED_AFTER,
            "engine": {"kind": "deepspeed", "zero_stage": 3, "precision": options.precision},
            "progress": False,
        },
        "cluster": {"num_workers": workers, "cpus_per_worker": 0.5, "num_to_keep": 1, "start_timeout_s": 120},
        "inference": {"batch_size": 1, "num_threads": 1, "flip_test": False},
        "worst_cases": 0,
    }
    path = folder / f"run_{workers}.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def command_of(options: argparse.Namespace, run: Path, workers: int) -> list[str]:
    """How the job is submitted."""
    if options.without_ray:
        torchrun = ["torchrun", "--standalone", "--nproc-per-node", str(workers)]
        return [*torchrun, str(JOB), "--config", str(run)]
    return [sys.executable, str(JOB), "--config", str(run)]


def newest(folder: Path) -> Checkpoint | None:
    """The whole checkpoint with the most steps."""
    whole = sorted(folder.glob("run/**/checkpoints/step_*/manifest.json"))
    return Checkpoint(whole[-1].parent) if whole else None


def main() -> None:
    """Prints what happened."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="vitpose-huge")
    parser.add_argument("--precision", default="bf16-weights")
    parser.add_argument("--input", type=int, nargs=2, default=(64, 48), help="height and width")
    parser.add_argument("--workers", type=int, nargs=2, default=(2, 3), help="before and after the kill")
    parser.add_argument("--crops", type=int, default=6, help="per step")
    parser.add_argument("--without-ray", action="store_true", help="started by torchrun")
    parser.add_argument("--folder", type=Path, help="kept, and gone on with; default: a temporary one")
    options = parser.parse_args()
    options.input = list(options.input)
    folder = options.folder or Path(tempfile.mkdtemp(prefix="largest-"))
    (folder / "data").mkdir(parents=True, exist_ok=True)
    if not (folder / "data" / "coco").exists():
        write_dataset("coco", folder / "data" / "coco", num_train=16, num_val=4, image_size=(256, 256), seed=0)
    try:
        first, second = options.workers
        rows = [] if newest(folder) else [attempt(options, folder, first, kill=True)]
        rows.append(attempt(options, folder, second, kill=False))
    finally:
        if options.folder is None:
            shutil.rmtree(folder)
    print("| processes | ended | seconds | all processes, GiB | largest one | bytes per parameter | left free, GiB |")
    print("|--:|---|--:|--:|--:|--:|--:|")
    for row in rows:
        print(row)


def attempt(options: argparse.Namespace, folder: Path, workers: int, kill: bool) -> str:
    """Submits the job once; a row of the table."""
    began = time.monotonic()
    log = folder / f"log_{workers}.txt"
    watched = Watched(command_of(options, run_file(options, folder, workers), workers), log)
    while watched.look():
        if watched.left < LEAST_LEFT:
            watched.kill()
            sys.exit(f"ended, as the machine had {watched.left:.2f} GiB left; the job held {watched.peak:.2f} GiB.")
        if kill and newest(folder) is not None:
            watched.kill()
            break
        time.sleep(0.5)
    checkpoint = newest(folder)
    if checkpoint is None or (not kill and watched.status):
        sys.exit(f"the job ended with status {watched.status}:\n{log.read_text()[-4000:]}")
    parameters = sum(_size(shape) for shape in checkpoint.shapes("weights").values())
    progress = checkpoint.progress
    expected = KILLED_AFTER if kill else STEPS
    assert (progress.step, progress.world_size) == (expected, workers), progress
    ended = f"killed after step {progress.step}" if kill else f"registered after step {progress.step}"
    share = watched.peak * GIB / parameters
    figures = f"{watched.peak:.2f} | {watched.largest:.2f} | {share:.1f} | {watched.left:.2f}"
    print(json.dumps({"preset": options.preset, "parameters": parameters, "checkpoint": checkpoint.folder.name}))
    print(log.read_text()[-1500:])
    return f"| {workers} | {ended} | {time.monotonic() - began:.0f} | {figures} |"


def _size(shape: Sequence[int]) -> int:
    count = 1
    for length in shape:
        count *= length
    return count


if __name__ == "__main__":
    main()
