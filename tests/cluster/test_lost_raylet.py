"""A job whose Ray processes are killed ends soon, with one sentence."""

import subprocess
import sys

import pytest

pytestmark = [pytest.mark.ray, pytest.mark.slow]

JOB = """
import os, signal, subprocess, sys
import ray
from posecore.cluster.connection import connect_to_ray
from posecore.cluster.endings import exit_status

@ray.remote
def wait():
    import time
    time.sleep(100)

def job():
    connect_to_ray()
    pending = wait.remote()
    children = subprocess.check_output(["ps", "-ww", "-o", "pid=,args=", "--ppid", str(os.getpid())], text=True)
    (raylet,) = [line.split()[0] for line in children.splitlines() if "raylet/raylet " in line]
    os.kill(int(raylet), signal.SIGKILL)
    ray.get(pending)

sys.exit(exit_status(job))
"""


def test_a_killed_raylet_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    ended = subprocess.run([sys.executable, "-c", JOB], capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode == 1
    assert "this machine's Ray process (raylet) is gone; what is finished stays" in ended.stderr
    assert "Traceback" not in ended.stderr + ended.stdout
