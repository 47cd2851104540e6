"""How long ``import posecore`` and some commands take, side by side with another checkout of this repository.

    python -m benchmarks.imports [--other ../older] [--rounds 7] [--only export]

Each is a process of its own, in turn; the first round, which compiles, is left out. ``predict`` has one small photo and
a model of the tests, so that what it takes is what it imports. Beside them stands ``import torch``. ``export`` has
models of the published sizes, with random weights.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import cv2
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
COMMAND = ["-c", "import sys; from posecore.cli import main; sys.exit(main(sys.argv[1:]))"]
MODEL = """
import sys
from posecore.models.saving import save_model
from tests.support.tiny_training import tiny_model
save_model(tiny_model(), sys.argv[1])
"""
PRESET = """
import sys
from posecore.config import parse_config
from posecore.models.architecture import ModelConfig
from posecore.models.pose_model import build_model
from posecore.models.saving import save_model
from posecore.skeletons.library import load_skeleton
config = parse_config({"backbone": sys.argv[1]}, ModelConfig, "benchmark")
save_model(build_model(config, {"coco": load_skeleton("coco17")}).eval(), sys.argv[2])
"""
EXPORTED = ("rtmpose-m", "vitpose-small")
LAYOUTS = ("picture", "crops", "rtmlib")


def timed(words: list[str], checkout: Path) -> tuple[float, float]:
    """Seconds of processor time, user and system, and by the clock, of one process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.perf_counter()
    subprocess.run(
        [sys.executable, *words],
        cwd=checkout,
        env=os.environ | {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": ""},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=True,
    )
    took = time.perf_counter() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, took


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--other", type=Path, help="another checkout, such as `git worktree add` makes")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", default="", metavar="WORD", help="leave out what has not this word in its name")
    options = parser.parse_args()
    checkouts = {"here": ROOT} | ({"other": options.other.resolve()} if options.other else {})
    with tempfile.TemporaryDirectory() as scratch:
        photo = Path(scratch) / "photo.jpg"
        cv2.imwrite(str(photo), np.full((64, 48, 3), 99, np.uint8))
        for name, checkout in checkouts.items():
            timed(["-c", MODEL, f"{scratch}/{name}"], checkout)
        for preset in EXPORTED:
            timed(["-c", PRESET, preset, f"{scratch}/{preset}"], ROOT)
        predict = [*COMMAND, "predict", str(photo), "--out", f"{scratch}/out", "--model"]
        tasks = {
            "python": ["-c", "pass"],
            "import torch": ["-c", "import torch"],
            "import posecore": ["-c", "import posecore"],
            "posecore --help": [*COMMAND, "--help"],
            "posecore models list": [*COMMAND, "models", "list"],
            "posecore predict, drawn": [*predict, "{model}", "--format", "drawn"],
            "posecore predict": [*predict, "{model}"],
            **{
                f"posecore export, {preset}, {layout}": [
                    *(*COMMAND, "export", f"{scratch}/{preset}", "--layout", layout),
                    *("--out", f"{scratch}/out.onnx", "--folder", f"{scratch}/nowhere"),
                ]
                for preset in EXPORTED
                for layout in LAYOUTS
            },
        }
        tasks = {task: words for task, words in tasks.items() if options.only in task}
        times: dict[tuple[str, str], list[tuple[float, float]]] = {}
        for turn in range(options.rounds + 1):
            for task, words in tasks.items():
                for name, checkout in checkouts.items():
                    found = timed([word.replace("{model}", f"{scratch}/{name}") for word in words], checkout)
                    if turn:
                        times.setdefault((task, name), []).append(found)
    print(f"{'':42}" + "".join(f"{name:>24}" for name in checkouts))
    print(f"{'':42}" + f"{'processor':>14}{'clock':>10}" * len(checkouts))
    for task in tasks:
        medians = [[median(column) for column in zip(*times[task, name], strict=True)] for name in checkouts]
        print(f"{task:42}" + "".join(f"{used:12.2f} s{took:8.2f} s" for used, took in medians))


if __name__ == "__main__":
    main()
