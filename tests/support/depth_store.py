"""A split whose even images have depth, for tests of what reads it."""

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from posecore.schema import DepthImage, Record
from posecore.shards.store import ShardStore
from tests.support.tiny_store import instance, record, write_store

HEIGHT, WIDTH = 120, 160
METRES_PER_UNIT = 0.002


def depth_pixels(number: int) -> NDArray[np.uint16]:
    """(120, 160) values from which a pixel's place can be read, with a hole."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    pixels = (1 + 20_000 * number + rows * WIDTH + columns).astype(np.uint16)
    pixels[40:50, 30:45] = 0
    return pixels


def write_depth(root: Path, number: int, pixels: NDArray[np.generic] | None = None) -> str:
    """Writes the depth picture of an image and returns its path below the root."""
    name = f"depth/{number}.png"
    (root / "depth").mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(root / name), depth_pixels(number) if pixels is None else pixels)
    return name


def depth_records(root: Path, name: str, num_images: int) -> list[Record]:
    """Records of one body each; those with even numbers have depth, whose files are written below ``root``."""
    records = []
    for number in range(num_images):
        item = record(name, number, [instance(f"{number}", 17, (35.0, 20.0, 60.0, 80.0))], WIDTH, HEIGHT)
        if number % 2 == 0:
            item.depth = DepthImage(image=write_depth(root, number), metres_per_unit=METRES_PER_UNIT)
        records.append(item)
    return records


def depth_store(folder: Path, num_images: int = 3, name: str = "infants") -> ShardStore:
    """The ingested split."""
    return write_store(folder, name, [], records=depth_records(folder / "raw", name, num_images))
