"""What a training process imports before its first step."""

import subprocess
import sys

SCRIPT = """
import os, sys
import torch
from posecore.training.deepspeed_engine import _import_deepspeed
_import_deepspeed(torch.device("cpu"))
print([name for name in ("mlflow", "torch._inductor.compile_fx") if name in sys.modules])
import mlflow
print(type(torch.compile(torch.nn.Identity())).__name__, os.environ.get("TORCHDYNAMO_DISABLE"))
"""


def test_deepspeed_brings_neither_mlflow_nor_the_compiler_and_hinders_neither() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.splitlines()[-2:] == ["[]", "OptimizedModule None"]
