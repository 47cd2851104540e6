#!/usr/bin/env bash
# torch 2.13.0: a distributed checkpoint written with HuggingFaceStorageWriter(save_distributed=True) has a safetensors
# file per rank and nothing that says how many there are. HuggingFaceStorageReader takes the files that it finds in the
# folder for all, and a tensor's size for the farthest end of any piece. With rank 0's file gone, torch.distributed.
# checkpoint.load reports success and leaves rank 0's rows as they were before: random weights in half a model.
# One guesses that a missing shard is refused. (With the last rank's file gone it is: the size differs.)
#
# Seen (two processes, gloo; a tensor of 8 rows, 1 to 8, loaded into one filled with -1):
#   both files: 1 2 3 4 5 6 7 8; without the first: -1 -1 -1 -1 5 6 7 8 and no error; without the second: an
#   error about the size.
#   Fails if that changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3.11 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'torch==2.13.0' 'safetensors==0.8.0' numpy fsspec
cat > "$work/measure.py" <<'PYTHON'
import os
import shutil
import socket
import sys
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.tensor import Shard, distribute_tensor, init_device_mesh

FOLDER = Path(__file__).parent / "checkpoint"


def write(rank: int, port: int) -> None:
    """One of two ranks: saves its half of the rows."""
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), WORLD_SIZE="2")
    dist.init_process_group("gloo")
    rows = torch.arange(1.0, 9.0)
    weight = distribute_tensor(rows, init_device_mesh("cpu", (2,)), [Shard(0)])
    dcp.save({"weight": weight}, storage_writer=HuggingFaceStorageWriter(str(FOLDER), save_distributed=True))
    dist.destroy_process_group()


def loaded(without: int | None) -> str:
    """The rows after loading, or the error, with one of the files left out."""
    copy = FOLDER.with_name(f"without{without}")
    shutil.copytree(FOLDER, copy)
    if without is not None:
        sorted(copy.glob("*.safetensors"))[without].unlink()
    state = {"weight": torch.full((8,), -1.0)}
    try:
        dcp.load(state, storage_reader=HuggingFaceStorageReader(str(copy)))
    except CheckpointException as error:  # which derives from BaseException alone
        return type(error).__name__
    return " ".join(f"{value:g}" for value in state["weight"].tolist())


if __name__ == "__main__":
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(write, (port,), nprocs=2)
    whole, first, second = loaded(None), loaded(0), loaded(1)
    print(f"both files: {whole}\nwithout the first: {first}\nwithout the second: {second}")
    sys.exit(0 if (whole, first) == ("1 2 3 4 5 6 7 8", "-1 -1 -1 -1 5 6 7 8") and second == "CheckpointException" else 1)
PYTHON
"$work/venv/bin/python" -W ignore "$work/measure.py" 2> "$work/log" || { cat "$work/log"; exit 1; }
