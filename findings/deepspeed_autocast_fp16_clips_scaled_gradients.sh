#!/usr/bin/env bash
# DeepSpeed 0.19.8: with `torch_autocast` in float16 under ZeRO 1 and 2, gradient_clipping is applied to gradients that
# still hold the loss scale. The scale is a torch GradScaler's, 65,536 at first; unscale_and_clip_grads asks the
# optimiser's own loss_scale, which is 1, and the scaler takes its factor out afterwards. A gradient of norm 0.75
# clipped at 0.25 so moves the weights by 0.25 / 65,536 times the rate, and the norm reported is 65,536 times too large.
# One guesses that float16 clips as bfloat16 and float32 do; training goes on, hardly moves, and warns of nothing.
#
# Seen (one process, CPU, SGD with rate 1, gradient of norm 0.75, clipped at 0.25), length of the step and norm reported:
#   bfloat16, stages 1 and 2: 0.25 and 0.75; float16, stages 1 and 2: 3.815e-06 = 0.25 / 65536 and 49152 = 0.75 * 65536;
#   float16 without clipping: 0.75 and 49152. Fails if that changes.
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
import torch

deepspeed.init_distributed("gloo", verbose=False)


def step(dtype: str, stage: int, clip: float) -> tuple[float, float]:
    """Length of one step, and the gradient norm that DeepSpeed reports."""
    model = torch.nn.Linear(1, 1, bias=False)
    before = model.weight.detach().clone()
    config = {
        "train_micro_batch_size_per_gpu": 1,
        "zero_optimization": {"stage": stage},
        "zero_allow_untested_optimizer": True,
        "gradient_clipping": clip,
        "torch_autocast": {"enabled": True, "dtype": dtype},
    }
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=config)
    engine.backward(engine(torch.full((1, 1), 6.0)).float().sum() / 8)  # its gradient is 0.75, of the output 1/8
    engine.step()
    return float((model.weight.detach() - before).norm()), float(engine.get_global_grad_norm())


lines, right = [], True
for stage in (1, 2):
    for dtype, clip, length, norm in (
        ("bfloat16", 0.25, 0.25, 0.75),
        ("float16", 0.25, 0.25 / 65536, 0.75 * 65536),
        ("float16", 0.0, 0.75, 0.75 * 65536),
    ):
        moved, reported = step(dtype, stage, clip)
        lines.append(f"stage {stage}, {dtype}, clipped at {clip:g}: step {moved:.4g}, reported norm {reported:g}")
        right &= abs(moved / length - 1) < 0.01 and abs(reported / norm - 1) < 0.01
print("\n".join(lines))
sys.exit(0 if right else 1)
PYTHON
"$work/venv/bin/python" "$work/measure.py" 2> "$work/log" || { cat "$work/log"; exit 1; }
