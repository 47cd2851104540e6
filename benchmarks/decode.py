"""How fast are 133-point heatmaps decoded, next to whole-map blurring?

Prints one table: ours, a peer written from the published formula (OpenCV blur of every whole map), mmpose's own
decoder if ``--mmpose-python`` names an interpreter that has mmpose, and the limit, which is finding the maxima alone.
One thread, same maps, same run.

    python benchmarks/decode.py [--mmpose-python /path/to/venv/bin/python]
"""

import argparse
import os
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import cv2
import numpy as np
import torch

from posecore.codecs.heatmap import HeatmapCodec

NUM_CROPS, NUM_POINTS = 32, 133

MMPOSE = """
import sys, time, numpy as np, torch, cv2
torch.set_num_threads(1); cv2.setNumThreads(1)
from mmpose.codecs import UDPHeatmap
codec = UDPHeatmap(input_size=(192, 256), heatmap_size=(48, 64), sigma=2, blur_kernel_size=11)
maps = np.load(sys.argv[1])
best = 1e9
for _ in range(3):
    start = time.perf_counter()
    for crop in maps:
        codec.decode(crop.copy())
    best = min(best, time.perf_counter() - start)
print(best)
"""


def predictions() -> np.ndarray:
    """(32, 133, 64, 48) float32 maps like a trained model's: Gaussians with noise."""
    random = np.random.default_rng(0)
    points = torch.from_numpy(random.uniform(0, [192, 256], (NUM_CROPS, NUM_POINTS, 2))).float()
    maps = HeatmapCodec().encode(points, torch.ones(NUM_CROPS, NUM_POINTS))[0].numpy()
    return (maps + 0.02 * random.random(maps.shape)).astype(np.float32)


def whole_maps(maps: np.ndarray) -> np.ndarray:
    """Decodes as published: blur and logarithm of whole maps with OpenCV, then the Taylor step for all at once."""
    count, num_points, _, width = maps.shape
    place = maps.reshape(count, num_points, -1).argmax(-1)
    blurred = np.stack([[cv2.GaussianBlur(heatmap, (11, 11), 0) for heatmap in crop] for crop in maps])
    logs = np.log(np.clip(blurred, 0.001, 50))
    padded = np.pad(logs, ((0, 0), (0, 0), (1, 1), (1, 1)), mode="edge").reshape(count * num_points, -1)
    x, y = place.ravel() % width, place.ravel() // width
    each, row = np.arange(count * num_points), width + 2
    here = (y + 1) * row + x + 1

    def at(shift: int) -> np.ndarray:
        return padded[each, here + shift].astype(np.float64)

    gradient = np.stack([at(1) - at(-1), at(row) - at(-row)], axis=-1)[..., None] / 2
    xx, yy = at(1) - 2 * at(0) + at(-1), at(row) - 2 * at(0) + at(-row)
    xy = (at(row + 1) - at(1) - at(row) + 2 * at(0) - at(-1) - at(-row) + at(-row - 1)) / 2
    hessian = np.stack([np.stack([xx, xy], -1), np.stack([xy, yy], -1)], -2) + np.finfo(np.float32).eps * np.eye(2)
    points = np.stack([x, y], axis=-1) - (np.linalg.inv(hessian) @ gradient)[..., 0]
    return points.reshape(count, num_points, 2)


def best_of(function: Callable[[], object], repeats: int = 5) -> float:
    """Shortest of several runs, in seconds."""
    durations = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        durations.append(time.perf_counter() - start)
    return min(durations)


def mmpose_seconds(python: str, maps: np.ndarray) -> float:
    """The same maps through mmpose's ``UDPHeatmap.decode``, crop by crop as its test pipeline does."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "maps.npy"
        np.save(path, maps)
        result = subprocess.run([python, "-c", MMPOSE, str(path)], capture_output=True, text=True, check=True)
    return float(result.stdout.split()[-1])


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--mmpose-python", help="interpreter of an environment with mmpose")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    maps = predictions()
    tensor = torch.from_numpy(maps)
    codec = HeatmapCodec()
    difference = np.abs(codec.decode(tensor)[0].numpy() - whole_maps(maps)).max()
    seconds = {
        "posecore": best_of(lambda: codec.decode(tensor)),
        "peer: whole maps, OpenCV": best_of(lambda: whole_maps(maps), 3),
    }
    if arguments.mmpose_python:
        seconds["peer: mmpose UDPHeatmap"] = mmpose_seconds(arguments.mmpose_python, maps)
    seconds["limit: argmax alone"] = best_of(lambda: maps.reshape(NUM_CROPS, NUM_POINTS, -1).argmax(-1))
    print(
        f"{NUM_CROPS} crops x {NUM_POINTS} maps of 64x48, one thread; largest difference {difference:.1e} heatmap px\n"
    )
    print(f"{'':28}{'keypoints/s':>14}{'ours is':>10}")
    for name, duration in seconds.items():
        print(f"{name:28}{maps.shape[0] * maps.shape[1] / duration:14,.0f}{duration / seconds['posecore']:9.2f}x")


if __name__ == "__main__":
    main()
