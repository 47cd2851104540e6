#!/usr/bin/env bash
# DeepSpeed 0.19.8: stage 3 keeps float32 weights twice. Where the weights of a model are float32 already, and on the
# optimiser's device, `_create_fp32_partitions` means to let the optimiser work on them ("In such cases we don't need
# another copy of the weights"). It compares `tensor.device == self.device`, a torch.device with the text
# `current_device_name()`, which is never true; so every rank holds 4 bytes more of each parameter that it updates.
# One guesses 16 bytes per parameter, divided by the ranks, and finds 20. Nothing warns of it.
#
# Seen (one process, CPU): the optimiser's weights are other memory than the model's. Fails if that changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3.11 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'torch==2.13.0' 'deepspeed==0.19.8' setuptools
cat > "$work/measure.py" <<'PYTHON'
import os
import socket
import sys

with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
os.environ.update(DS_ACCELERATOR="cpu", RANK="0", LOCAL_RANK="0", WORLD_SIZE="1")
os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))

import deepspeed
import deepspeed.ops
import torch

deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # would be compiled
deepspeed.init_distributed("gloo", verbose=False)
model = torch.nn.Linear(64, 64)
engine, zero, _, _ = deepspeed.initialize(
    model=model,
    optimizer=torch.optim.AdamW(model.parameters()),
    config={
        "train_micro_batch_size_per_gpu": 1,
        "zero_optimization": {"stage": 3},
        "zero_allow_untested_optimizer": True,
    },
)
own, master = zero.fp16_partitioned_groups_flat[0], zero.fp32_partitioned_groups_flat[0]
print(f"model {own.dtype} on {own.device}, optimiser {master.dtype} on {master.device}")
print(f"same device by type: {own.device == master.device}; as DeepSpeed asks: {own.device == zero.device}")
twice = own.data_ptr() != master.data_ptr()
print("kept twice" if twice else "kept once")
sys.exit(not (twice and own.dtype == master.dtype == torch.float32))
PYTHON
"$work/venv/bin/python" "$work/measure.py"
