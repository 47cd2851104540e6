#!/usr/bin/env python
"""How long is it from a submitted job to its first training step, next to another build's?

::

    python benchmarks/first_step.py
    python benchmarks/first_step.py --against /path/of/another/checkout --rounds 3

Renders a few bodies and runs ``pipelines/multidataset_train.py`` of each build once to its first training step, so that
shards are whole. Then, in turns, it submits the same job with another seed: two workers under Ray, ZeRO-3, fresh
weights. Stated are the seconds until the checkpoint of the first step is whole, and the processor time of all processes
of the job until then, which matters where the machine has other work. There the job is ended, with all that it started.
"""

import argparse
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.largest_model import _descendants, _kill
from posecore.synth.writers import write_dataset

TICKS = os.sysconf("SC_CLK_TCK")
LIMIT_S = 280.0


def job(folder: Path, preset: str, seed: int) -> Path:
    """A run file that every build understands."""
    values: dict[str, Any] = {
        "name": "first",
        "run_folder": str(folder / "run"),
        "data_folder": str(folder / "data"),
        "datasets": [{"name": "coco", "root": "coco", "train": "train", "evaluate": "val"}],
        "model": {"backbone": {"preset": preset}, "input_size": [64, 48]},
        "training": {
            "steps": 2,
            "global_batch": 4,
            "checkpoint_every": 1,
            "log_every": 1,
            "seed": seed,
            "engine": {"kind": "deepspeed", "zero_stage": 3, "precision": "bf16"},
            "progress": False,
        },
        "cluster": {"num_workers": 2, "cpus_per_worker": 0.5},
        "inference": {"batch_size": 1, "num_threads": 1, "flip_test": False},
        "worst_cases": 0,
    }
    path = folder / f"job_{seed}.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def submit(build: Path, config: Path) -> "subprocess.Popen[bytes]":
    """The main job of a checkout, its output beside the run file."""
    environment = os.environ | {"PYTHONPATH": str(build), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "pipelines/multidataset_train.py", "--config", str(config)]
    log = config.with_suffix(".log").open("wb")
    return subprocess.Popen(command, cwd=build, env=environment, stdout=log, stderr=subprocess.STDOUT)


def first_step(build: Path, folder: Path, preset: str, seed: int) -> tuple[float, float]:
    """Seconds, and seconds of processors, until the first step of a job is in a whole checkpoint."""
    before = set(_steps(folder))
    began, used = time.monotonic(), dict[int, float]()
    config = job(folder, preset, seed)
    running = submit(build, config)
    try:
        while not set(_steps(folder)) - before:
            for pid in _descendants(running.pid) | {running.pid}:
                used[pid] = max(used.get(pid, 0.0), _processor(pid))
            if running.poll() is not None or time.monotonic() - began > LIMIT_S:
                sys.exit(f"no first step in {build}:\n{config.with_suffix('.log').read_text()[-3000:]}")
            time.sleep(0.1)
        return time.monotonic() - began, sum(used.values())
    finally:
        _end(running)


def _steps(folder: Path) -> list[Path]:
    """Whole checkpoints, wherever a build has them; the job is ended at the first."""
    return list((folder / "run" / "training").rglob("manifest.json"))


def _processor(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / TICKS


def _end(running: "subprocess.Popen[bytes]") -> None:
    for pid in _descendants(running.pid) | {running.pid}:
        _kill(pid)
    running.wait()


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="vit-tiny")
    parser.add_argument("--against", type=Path, help="another checkout")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="kept, with whole shards for the next time")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that a job is ended with this
    here = Path(__file__).resolve().parents[1]
    builds = {"this build": here} | ({"the other": options.against.resolve()} if options.against else {})
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in builds}
    with (
        nullcontext(options.folder) if options.folder else tempfile.TemporaryDirectory(prefix="first-step-") as scratch
    ):
        for number in range(options.rounds + 1):
            for name, build in builds.items():
                folder = Path(scratch) / name.replace(" ", "-")
                data = folder / "data" / "coco"
                if number == 0:
                    if data.exists():
                        continue
                    write_dataset("coco", data, num_train=16, num_val=4, image_size=(256, 256), seed=0)
                took = first_step(build, folder, options.preset, seed=int(time.time()))
                print(name, number, [f"{value:.1f}" for value in took], flush=True)
                if number:
                    found[name].append(took)
    print("| build | first step, s | processors, s |\n|---|--:|--:|")
    for name, rows in found.items():
        print(f"| {name} | {' | '.join(f'{statistics.median(column):.1f}' for column in zip(*rows, strict=True))} |")


if __name__ == "__main__":
    main()
