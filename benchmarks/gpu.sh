#!/usr/bin/env bash
# Rates, memory, feed and parity on one GPU, in at most nine minutes; `benchmarks/gpu.sh toy` runs it on a CPU in small.
#
#     bash benchmarks/gpu.sh > gpu.txt
set -u
cd "$(dirname "$0")/.."
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}
ends=$((SECONDS + 540))
failed=0

ask() { # at most so many seconds, and no longer than the nine minutes
    local most=$(($1 < ends - SECONDS ? $1 : ends - SECONDS))
    shift
    if ((most < 5)); then
        echo "left out, for want of time: $*"
    elif ! timeout "$most" python -W ignore benchmarks/gpu.py "$@"; then
        echo "failed: $*"
        failed=1
    fi
}

python - <<'PYTHON'
import torch
device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
print(f"{device}, torch {torch.__version__}")
PYTHON
if [ "${1:-}" = toy ]; then
    models=("vit-nano" "vit-micro")
    few=(--batch 2 --seconds 1) feed=(--pictures 24 --seconds 1)
else
    models=("vitpose-huge" "sapiens-1b --checkpointing")
    few=(--seconds 15) feed=(--seconds 15)
fi
ask 60 parity --preset "${models[0]}"
echo "| preset | precision | crops | crops/s | MFU | peak planned, GiB | measured | off |"
echo "|---|---|--:|--:|--:|--:|--:|--:|"
for model in "${models[@]}"; do
    for precision in bf16 bf16-weights fp32; do
        # shellcheck disable=SC2086 # a model may have an option
        ask 100 step --preset $model --precision "$precision" "${few[@]}"
    done
done
ask 90 feed "${feed[@]}"
exit "$failed"
