#!/usr/bin/env bash
# Ray 2.60: a head started with `ray start --head --block` stops within seconds of SIGTERM if it has run nothing, but
# waits its whole drain time, 30 s, once a job on it has used Ray Train, although the job has ended and succeeded. Each
# trainer starts a detached PlacementGroupCleaner actor, and a node with a living actor never counts as drained.
# RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S=0 in the head's environment stops it at once. One guesses that a cluster whose
# only job has ended has nothing to drain; a script that starts, submits and stops pays half a minute each time.
#
# Seen: idle 2.0 s, after a training 32.1 s, after a training without draining 1.6 s. Fails if that changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3.11 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'ray[default,train]==2.60.0'
cat > "$work/measure.py" <<'PYTHON'
import os
import secrets
import subprocess
import sys
import time
import urllib.request

binaries = os.path.dirname(sys.executable)
os.environ["PATH"] = binaries + os.pathsep + os.environ["PATH"]
os.environ.update(RAY_AUTH_MODE="disabled", RAY_USAGE_STATS_ENABLED="0")


job = sys.argv[1]


def seconds_to_stop(submits: bool, drain_s: str) -> float:
    port = 20000 + secrets.randbelow(20000)
    command = ["ray", "start", "--head", "--block", "--port", "0", "--num-cpus", "2"]
    command += ["--dashboard-host", "127.0.0.1", "--dashboard-port", str(port)]
    environment = os.environ | {"RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": drain_s}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    head = subprocess.Popen(command, env=environment, start_new_session=True, **quiet)
    try:
        deadline = time.monotonic() + 90
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/api/version", timeout=5).close()
                break
            except OSError:
                assert time.monotonic() < deadline, "the head did not start"
                time.sleep(0.5)
        while submits:
            line = ["ray", "job", "submit", "--address", f"http://127.0.0.1:{port}", "--", "python", job]
            if subprocess.run(line, **quiet).returncode == 0:
                break
            assert time.monotonic() < deadline, "no job was accepted"
            time.sleep(2)
        time.sleep(3)
    finally:
        head.terminate()
        began = time.monotonic()
        head.wait(timeout=120)
    return time.monotonic() - began


idle, after, undrained = seconds_to_stop(False, "30"), seconds_to_stop(True, "30"), seconds_to_stop(True, "0")
print(f"seconds to stop: idle {idle:.1f}, after a training {after:.1f}, after a training without draining {undrained:.1f}")
sys.exit(0 if idle < 15 and after > 25 and undrained < 15 else 1)
PYTHON
cat > "$work/job.py" <<'PYTHON'
import ray.train
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

DataParallelTrainer(lambda: None, scaling_config=ray.train.ScalingConfig(num_workers=1)).fit()
PYTHON
"$work/venv/bin/python" "$work/measure.py" "$work/job.py"
