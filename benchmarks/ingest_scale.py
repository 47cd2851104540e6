"""What does ingestion hold in memory, and how long does it plan, as a split grows?

Annotations are made up and there are few pictures or none: only what grows with the number of images is looked at.
Three questions, each asked of several sizes in processes of their own:

    python benchmarks/ingest_scale.py plan --images 30000 100000 300000
    python benchmarks/ingest_scale.py read --images 10000 100000
    python benchmarks/ingest_scale.py driver --images 50000 200000 --bodies 2

``plan`` writes the tables of a reader's parts and times the plan of the shards, with ids in the order of the parts and
shuffled. ``read`` makes a COCO file and reads it by entries and as a whole. ``driver`` ingests a whole split on a local
Ray, every image one of a few small files, and looks at the memory of the process that asked for it.
"""

import argparse
import math
import multiprocessing
import random
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import orjson
import pyarrow as pa

from posecore.datasets.definition import DatasetDefinition
from posecore.datasets.discovery import load_dataset, source_for
from posecore.formats import json_lists
from posecore.formats.coco import CocoReader
from posecore.formats.reader import ReaderOfParts, Source
from posecore.ingest.job import IngestSettings, ingest_job
from posecore.ingest.plan import plan_shards
from posecore.ingest.read import IMAGES_PER_PART
from posecore.ingest.run import ingest
from posecore.schema import Instance, Record
from posecore.tables.columns import IMAGE_COLUMNS, Annotations, instance_columns
from posecore.tables.parts import PartEntry, write_part

K = 17
NUM_PICTURES = 8


def made_up_parts(folder: Path, num_images: int, bodies: int, shuffled: bool) -> list[PartEntry]:
    """The parts a reader of COCO would leave."""
    rng = np.random.default_rng(0)
    ids = rng.permutation(num_images) if shuffled else np.arange(num_images)
    schema = instance_columns(K)
    entries = []
    for number, first in enumerate(range(0, num_images, IMAGES_PER_PART)):
        some = ids[first : first + IMAGES_PER_PART]
        n, m = len(some), len(some) * bodies
        points = (rng.random((m, 3 * K), np.float32) * 600).astype(np.float32)
        points[:, 2::3] = 2
        box = rng.random((m, 4)) * 300 + 1
        images = {
            "source_id": [str(i) for i in some],
            "image": [f"images/{i % NUM_PICTURES}.jpg" for i in some],
            "width": np.full(n, 64, np.int32),
            "height": np.full(n, 48, np.int32),
        }
        instances = {
            "image_row": np.repeat(np.arange(n), bodies),
            "id": [f"{i}-{body}" for i in some for body in range(bodies)],
            **{f"bbox_{side}": box[:, column] for column, side in enumerate("xywh")},
            "keypoints": pa.FixedSizeListArray.from_arrays(
                pa.array(points.ravel()), type=schema.field("keypoints").type
            ),
            "area": box[:, 2] * box[:, 3],
            "area_rule": ["box"] * m,
            "category": ["person"] * m,
            "category_id": np.ones(m, np.int64),
            "is_crowd": np.zeros(m, np.bool_),
            "absent": pa.ListArray.from_arrays(np.zeros(m + 1, np.int32), pa.array([], pa.int32())),
            "num_keypoints": np.full(m, K, np.int32),
        }
        made = Annotations(_table(images, IMAGE_COLUMNS, n), _table(instances, schema, m))
        entries.append(write_part(folder, number, made, []))
    return entries


def _table(columns: dict[str, Any], schema: pa.Schema, rows: int) -> pa.Table:
    arrays = [pa.array(columns[f.name], f.type) if f.name in columns else pa.nulls(rows, f.type) for f in schema]
    return pa.table(arrays, schema=schema)


def plan_one(num_images: int, bodies: int, shuffled: bool) -> dict[str, float]:
    """Seconds and peak of one plan, in this process alone."""
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        entries = made_up_parts(scratch, num_images, bodies, shuffled)
        job = ingest_job(load_dataset("coco"), "train", scratch, scratch / "out", IngestSettings())
        before, cpu, wall = _own_peak(), time.process_time(), time.perf_counter()
        plan = plan_shards(job, scratch, entries)
        assert sum(shard.num_images for shard in plan.shards) == num_images
        return {
            "wall_s": time.perf_counter() - wall,
            "cpu_s": time.process_time() - cpu,
            "before": before,
            "peak": _own_peak(),
        }


class MadeUpReader(ReaderOfParts):
    """Records of one of a few pictures each, ``<root>/parts.txt`` saying how many, and with how many bodies."""

    def parts(self, source: Source) -> Sequence[str]:
        """First images."""
        num_images, _ = (source.root / "parts.txt").read_text().split()
        return [str(first) for first in range(0, int(num_images), IMAGES_PER_PART)]

    def read_part(self, source: Source, part: str) -> Iterator[Record]:
        """Its images."""
        num_images, bodies = map(int, (source.root / "parts.txt").read_text().split())
        rng = np.random.default_rng(int(part))
        for number in range(int(part), min(int(part) + IMAGES_PER_PART, num_images)):
            points = np.concatenate([rng.integers(0, 40, (bodies, K, 2)), np.full((bodies, K, 1), 2)], axis=2)
            made = [
                Instance(
                    id=f"{number}-{body}", bbox_xywh=(1.5, 2.5, 30.25, 40.5), keypoints=of.astype(np.float32),
                    area=900.25, area_rule="box",
                )
                for body, of in enumerate(points)
            ]  # fmt: skip
            yield Record(
                dataset=source.dataset, split=source.split, source_id=str(number),
                image=f"images/{number % NUM_PICTURES}.jpg", width=64, height=48, instances=made,
            )  # fmt: skip


def drive(num_images: int, bodies: int) -> dict[str, float]:
    """Seconds and the driver's own peak of one ingestion on a local Ray."""
    from posecore.cluster.connection import connect_to_ray
    from posecore.cluster.ingestion import OnRay

    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "root"
        (root / "images").mkdir(parents=True)
        (root / "parts.txt").write_text(f"{num_images} {bodies}")
        for number in range(NUM_PICTURES):
            pixels = np.random.default_rng(number).integers(0, 255, (48, 64, 3), np.uint8)
            (root / "images" / f"{number}.jpg").write_bytes(cv2.imencode(".jpg", pixels)[1].tobytes())
        values = {**dict(definition()), "reader": "benchmarks.ingest_scale:MadeUpReader"}
        connect_to_ray()
        before, cpu, wall = _own_peak(), time.process_time(), time.perf_counter()
        made_up = DatasetDefinition.model_validate(values)
        manifest = ingest(ingest_job(made_up, "train", root, Path(folder) / "out", IngestSettings()), executor=OnRay())
        assert manifest.num_images == num_images
        seconds = {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}
        return {**seconds, "before": before, "peak": _own_peak()}


def write_coco(path: Path, num_images: int, bodies: int) -> None:
    """A COCO file whose annotations stand in no order, with a polygon each."""
    rng = random.Random(0)
    order = list(range(num_images * bodies))
    rng.shuffle(order)
    with path.open("wb") as file:
        file.write(b'{"images":[')
        for number in range(num_images):
            image = {"id": number, "file_name": f"{number % NUM_PICTURES}.jpg", "width": 64, "height": 48}
            file.write((b"," if number else b"") + orjson.dumps(image))
        file.write(b'],"annotations":[')
        for place, number in enumerate(order):
            points = [value for _ in range(K) for value in (rng.randint(0, 63), rng.randint(0, 47), 2)]
            body = {
                "id": number, "image_id": number // bodies, "category_id": 1, "bbox": [1.5, 2.5, 30.25, 40.5],
                "area": 900.25, "iscrowd": 0, "num_keypoints": K, "keypoints": points,
                "segmentation": [[round(rng.random() * 40, 2) for _ in range(40)]],
            }  # fmt: skip
            file.write((b"," if place else b"") + orjson.dumps(body))
        file.write(b'],"categories":[{"id":1,"name":"person"}]}')


def definition() -> DatasetDefinition:
    """COCO's points in a file of one's own."""
    split = {"annotations": "a.json", "images": "images"}
    return DatasetDefinition.model_validate(
        {**dict(load_dataset("coco")), "area_rule": "box", "splits": {"train": split}}
    )


def read_one(path: Path, whole: bool) -> dict[str, float]:
    """Seconds and peak of reading one file, in this process alone."""
    json_lists.STREAMED_FROM_BYTES = 1 << 60 if whole else 0
    source = replace(source_for(definition(), "train", path.parent), annotations=path.name)
    before, cpu, wall = _own_peak(), time.process_time(), time.perf_counter()
    num_images = sum(1 for _ in CocoReader().read(source))
    seconds = {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}
    return {**seconds, "before": before, "peak": _own_peak(), "num_images": num_images}


def _own_peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0


def alone(function: Callable[..., Any], *arguments: Any) -> Any:
    """The answer of a function in a new process."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def exponent(sizes: list[int], seconds: list[float]) -> float:
    """Slope of time over size, both as logarithms."""
    return float(np.polyfit([math.log(size) for size in sizes], [math.log(value) for value in seconds], 1)[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("question", choices=["plan", "read", "driver"])
    parser.add_argument("--images", type=int, nargs="+", required=True)
    parser.add_argument("--bodies", type=int, default=10)
    parser.add_argument("--ids", choices=["in-order", "shuffled"], nargs="+", default=["in-order", "shuffled"])
    arguments = parser.parse_args()
    sizes, bodies = arguments.images, arguments.bodies
    if arguments.question == "plan":
        print("| images | ids | s | s of processor | peak, MB | before, MB |\n|--:|---|--:|--:|--:|--:|")
        for shuffled in [ids == "shuffled" for ids in arguments.ids]:
            seconds = []
            for size in sizes:
                found = alone(plan_one, size, bodies, shuffled)
                seconds.append(found["cpu_s"])
                print(f"| {size:,} | {'shuffled' if shuffled else 'in order'} | {_row(found)} |", flush=True)
            if len(sizes) > 1:
                print(f"exponent of the processor's time: {exponent(sizes, seconds):.2f}", flush=True)
    elif arguments.question == "driver":
        print("| images | s | s of the driver's processor | its peak, MB | before, MB | KiB per image |")
        print("|--:|--:|--:|--:|--:|--:|")
        for size in sizes:
            found = alone(drive, size, bodies)
            print(f"| {size:,} | {_row(found)} | {(found['peak'] - found['before']) / 1024 / size:.3f} |", flush=True)
    else:
        print(
            "| images | file, MB | read | s | s of processor | peak, MB | before, MB |\n|--:|--:|---|--:|--:|--:|--:|"
        )
        for size in sizes:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "a.json"
                alone(write_coco, path, size, bodies)
                for whole in (False, True):
                    found = alone(read_one, path, whole)
                    how, megabytes = "whole" if whole else "by entries", path.stat().st_size / 1e6
                    print(f"| {size:,} | {megabytes:,.0f} | {how} | {_row(found)} |", flush=True)


def _row(found: dict[str, float]) -> str:
    seconds = f"{found['wall_s']:.1f} | {found['cpu_s']:.1f}"
    return f"{seconds} | {found['peak'] / 1e6:,.0f} | {found['before'] / 1e6:,.0f}"


if __name__ == "__main__":
    sys.exit(main())
