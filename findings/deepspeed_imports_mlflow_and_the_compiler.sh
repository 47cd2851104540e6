#!/usr/bin/env bash
# DeepSpeed 0.19.8: `import deepspeed` imports MLflow where that is installed, for its autotuner, which nothing asked
# for; and the first `deepspeed.initialize` with any optimiser imports torch's whole inductor, as the check of supported
# optimisers imports DeepSpeed's own Muon, whose functions are decorated with `torch.compile`. One guesses that a
# training which neither tunes, tracks nor compiles loads none of them; every rank of every start pays seconds for both.
#
# Seen (one process, CPU): mlflow after the import, torch._inductor.compile_fx after initialize and not before it.
# Fails if that changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3.11 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'torch==2.13.0' 'deepspeed==0.19.8' 'mlflow==3.17.2' setuptools
cat > "$work/look.py" <<'PYTHON'
import os
import socket
import sys

with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
os.environ.update(DS_ACCELERATOR="cpu", RANK="0", LOCAL_RANK="0", WORLD_SIZE="1")
os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))

import torch


def loaded() -> list[str]:
    return [name for name in ("mlflow", "torch._inductor.compile_fx") if name in sys.modules]


before = loaded()
import deepspeed
import deepspeed.ops

imported = loaded()
deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # would be compiled
deepspeed.init_distributed("gloo", verbose=False)
model = torch.nn.Linear(64, 64)
deepspeed.initialize(
    model=model,
    optimizer=torch.optim.AdamW(model.parameters()),
    config={
        "train_micro_batch_size_per_gpu": 1,
        "zero_optimization": {"stage": 2},
        "zero_allow_untested_optimizer": True,
    },
)
print("after torch:", before, "after deepspeed:", imported, "after initialize:", loaded())
assert before == [], before
assert imported == ["mlflow"], imported
assert loaded() == ["mlflow", "torch._inductor.compile_fx"], loaded()
PYTHON
"$work/venv/bin/python" "$work/look.py" 2>/dev/null
