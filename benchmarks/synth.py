"""How many pictures per second does one core render? Claim: at least 100 at 256 x 256, for every kind of body.

Run: OMP_NUM_THREADS=1 python benchmarks/synth.py. Prints CPU time and wall time per kind, rendering alone and with the
JPEG and the annotations written, and the limit set by JPEG encoding alone.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import cv2

from posecore.synth.scene import Kind, render
from posecore.synth.writers import encode_jpeg, write_dataset


def rates(work: Callable[[int], object], count: int) -> tuple[float, float]:
    """Calls ``work`` with 0 to count - 1; calls per second of CPU time and of wall time."""
    cpu, wall = time.process_time(), time.perf_counter()
    for index in range(count):
        work(index)
    return count / (time.process_time() - cpu), count / (time.perf_counter() - wall)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num", type=int, default=200, help="pictures per measurement (default: 200)")
    parser.add_argument("--size", type=int, default=256, help="side of the pictures in pixels (default: 256)")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    size = (options.size, options.size)
    print(f"{options.num} pictures of {options.size} x {options.size}, one thread\n")
    print(f"{'what':38} {'images/s of CPU':>16} {'images/s of wall':>17}")
    for kind in get_args(Kind):
        render(kind, 0, 0, size)
        cpu, wall = rates(lambda index, kind=kind: render(kind, 0, index, size), options.num)
        print(f"{'render ' + kind:38} {cpu:16.0f} {wall:17.0f}")
    with tempfile.TemporaryDirectory() as folder:
        cpu, wall = rates(
            lambda index: write_dataset("coco", Path(folder) / str(index), options.num, 0, size, seed=index), 1
        )
        print(f"{'write coco (render, encode, annotate)':38} {cpu * options.num:16.0f} {wall * options.num:17.0f}")
    scene = render("adult", 0, 1, size)
    cpu, wall = rates(lambda index: encode_jpeg(scene), options.num)
    print(f"{'limit: encode a JPEG':38} {cpu:16.0f} {wall:17.0f}")


if __name__ == "__main__":
    main()
