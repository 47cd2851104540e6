"""Memory that a process still holds after it has freed it."""

import subprocess
import sys

import pytest

MIB = 1 << 20
# A large block is freed, after which glibc keeps smaller ones; then blocks of 2 MiB are freed between kept ones.
PROGRAM = """
import os, sys
import numpy as np
from posecore.training.host_memory import give_back_freed

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

if sys.argv[1] == "given-back":
    give_back_freed()
large = np.ones(30 << 17)
del large
before = resident()
blocks, kept = [], []
for _ in range(100):
    blocks.append(np.ones(1 << 18))
    kept.append(np.ones(1 << 9))
del blocks
print(resident() - before)
"""


def _held(how: str) -> int:
    run = subprocess.run([sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, check=True)
    return int(run.stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_freed_blocks_are_given_back() -> None:
    assert _held("kept") > 100 * MIB, "glibc gives back by itself: give_back_freed is needed no more"
    assert _held("given-back") < 20 * MIB
