"""Runs in groups of processes, connected over loopback as torchrun would."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.support import tiny_training
from tests.support.checkpoints import State, load_checkpoint, newest
from tests.support.ports import free_port

TORCH = {"kind": "torch"}
REPOSITORY = Path(__file__).resolve().parents[2]


def zero(stage: int, **settings: object) -> dict[str, Any]:
    """DeepSpeed in full precision."""
    return {"kind": "deepspeed", "zero_stage": stage, "precision": "fp32", **settings}


def launch(runs: list[dict[str, Any]], world_size: int) -> None:
    """Makes runs of :mod:`tests.support.tiny_training` one after the other in a group of processes."""
    launch_ranks([tiny_training.__file__, json.dumps(runs)], world_size)


def launch_ranks(program: Sequence[str], world_size: int) -> None:
    """Runs a program of Python's, with its arguments, in a group of processes; every process must end well."""
    shared = {"WORLD_SIZE": str(world_size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    shared |= {"OMP_NUM_THREADS": "1", "PATH": ""}  # with no compiler within reach, nothing can be built at run time
    processes = [
        subprocess.Popen(
            [sys.executable, *program],
            cwd=REPOSITORY,
            env=os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for rank in range(world_size)
    ]
    for process in processes:
        output, _ = process.communicate(timeout=800)
        assert process.returncode == 0, output.decode()[-3000:]


def last_state(run_dir: Path) -> State:
    """What the newest checkpoint of a run holds."""
    folder = newest(run_dir)
    return load_checkpoint(folder)[0]
