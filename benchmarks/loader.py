"""How many training crops does one core make, next to mmpose's pipeline and to the limit of decoding and warping?

Reads a COCO download (the sample images will do: every image is listed several times under other names, so that no
cache can hold an epoch), ingests it aside and makes 256x192 crops with the full augmentation. Prints one table:

- ours: :class:`posecore.loading.loader.Loader`, one thread, once all memory of its batches was used before; and with
  pictures of the bodies cut beforehand;
- the limit: the very same crops by bare OpenCV, each image decoded once, each instance warped once, bytes in memory;
- a peer re-stated from its description: per instance decode, affine, warp, targets in numpy;
- mmpose's own training pipeline, if ``--mmpose-python`` names an interpreter that has mmpose.

Figures are crops per second of CPU time, so that other work on the machine matters less. The rows are measured in turn,
several rounds, of which the first only warms up; printed are the median of each row and of each round's ratio.

Two threads are held against one by the clock, which says something where two cores have nothing else to do.

A last row says how long the interpreter is held per crop, which bounds how many threads are of use: the loader's CPU
time but for that within the calls that let others in (reading, decoding, warping), in a pass of its own in which these
are timed; what the timing takes is measured on an empty call and left out.

    python benchmarks/loader.py [--coco-root DOWNLOAD] [--split train] [--mmpose-python /path/to/venv/bin/python]
"""

import argparse
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import cv2
import numpy as np
import simplejpeg

from posecore.config import parse_config
from posecore.datasets.discovery import load_dataset, read_split
from posecore.geometry import apply_affine
from posecore.ingest.job import IngestSettings, ingest_job
from posecore.ingest.run import ingest
from posecore.loading.augment import Region
from posecore.loading.crop import region_matrix
from posecore.loading.loader import Loader, LoadingConfig
from posecore.loading.precut import PrecutSettings, write_precut
from posecore.loading.samples import UsableInstances
from posecore.schema import Record
from posecore.shards.store import ShardStore, open_store

INPUT_SIZE = (256, 192)
GLOBAL_BATCH = 32
TIMED_CALLS = 20_000
WARM_WINDOWS = 3  # until then batches are made in fresh memory
DECODE = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION

MMPOSE = """
import sys, json, time, numpy as np, cv2, torch
cv2.setNumThreads(1); torch.set_num_threads(1)
from mmengine.registry import init_default_scope
import mmpose.datasets.transforms, mmpose.codecs
from mmpose.registry import TRANSFORMS
from mmengine.dataset import Compose
init_default_scope("mmpose")
meta = json.load(open(sys.argv[1]))
codec = dict(type="UDPHeatmap", input_size=(192, 256), heatmap_size=(48, 64), sigma=2)
pipeline = [TRANSFORMS.build(item) for item in (
    dict(type="LoadImage"), dict(type="GetBBoxCenterScale"), dict(type="RandomFlip", direction="horizontal"),
    dict(type="RandomHalfBody"), dict(type="RandomBBoxTransform"),
    dict(type="TopdownAffine", input_size=(192, 256), use_udp=True), dict(type="GenerateTarget", encoder=codec),
    dict(type="PackPoseInputs"))]
def one(item):
    x, y, w, h = item["bbox"]
    points = np.array(item["keypoints"], np.float32)
    data = dict(img_path=item["path"], bbox=np.array([[x, y, x + w, y + h]], np.float32),
        bbox_score=np.ones(1, np.float32), keypoints=points[None, :, :2],
        keypoints_visible=np.minimum(1, points[None, :, 2]), id=1, img_id=1,
        flip_indices=meta["flip_indices"], flip_pairs=[], upper_body_ids=meta["upper"], lower_body_ids=meta["lower"])
    for transform in pipeline:
        data = transform(data)
    return data
items = meta["items"]
for item in items[:10]: one(item)
start = time.process_time()
for item in items: one(item)
print(len(items) / (time.process_time() - start))
"""


def copies(records: list[Record], count: int) -> Iterator[Record]:
    """The records, each several times under other ids."""
    for number in range(count):
        for record in records:
            instances = [replace(instance, id=f"{number}-{instance.id}") for instance in record.instances]
            yield replace(record, source_id=f"{number}-{record.source_id}", instances=instances)


def make_store(root: Path, split: str, folder: Path, count: int) -> ShardStore:
    """Ingests the copies below ``folder``."""
    definition = load_dataset("coco")
    records = [item for item in read_split(definition, split, root) if isinstance(item, Record) and item.instances]
    job = ingest_job(definition, split, root, folder, IngestSettings())
    ingest(job, copies(records, count))
    return open_store(job.folder)


def ours(
    store: ShardStore,
    pictures: str = "whole",
    begun: Callable[[], None] = lambda: None,
    threads: int = 1,
    clock: Callable[[], float] = time.process_time,
) -> tuple[float, float, list[tuple[int, np.ndarray]]]:
    """Crops/s, decoded images per crop, and the (image row, matrix) of every crop made; ``begun`` is called before."""
    values = {"mixture": {"entries": [{"name": "coco"}]}, "num_threads": threads, "pictures": pictures}
    config = parse_config(values, LoadingConfig, "benchmark")
    loader = Loader({"coco": store}, config, input_size=INPUT_SIZE, seed=1, global_batch=GLOBAL_BATCH)
    image_rows = store.instances["image_row"].to_numpy()
    widths = store.images["width"].to_numpy()
    made = []
    window = config.mixture.shuffle_window
    warming = WARM_WINDOWS * window
    steps = loader.sampler.steps_per_epoch - warming
    iterator = iter(loader)
    for _ in range(warming):
        next(iterator)
    iterator.close()  # waits for what is in the making, which the next iterator makes again
    decoded = loader.num_decoded
    iterator = iter(loader)
    begun()
    start = clock()
    for _ in range((steps - 1) // window * window):
        (group,) = next(iterator).groups
        made.append((group.rows, group.center, group.scale, group.rotation, group.flipped))
    iterator.close()  # waits for the epoch's last block, which is in the making
    elapsed = clock() - start
    crops = []
    for batch in made:
        for row, center, scale, rotation, flipped in zip(*batch, strict=True):
            region = Region(center.astype(float), scale.astype(float), rotation, flipped)
            image_row = int(image_rows[row])
            crops.append((image_row, region_matrix(region, int(widths[image_row]), INPUT_SIZE, "udp")))
    return steps * GLOBAL_BATCH / elapsed, (loader.num_decoded - decoded) / (steps * GLOBAL_BATCH), crops


def held(store: ShardStore) -> float:
    """Microseconds per crop within which the loader holds the interpreter."""
    within = calls = warps = 0

    def timed(call: Callable[..., Any]) -> Callable[..., Any]:
        def timing(*given: Any, **named: Any) -> Any:
            nonlocal within, calls, warps
            start = time.thread_time_ns()
            result = call(*given, **named)
            within += time.thread_time_ns() - start
            calls += 1
            warps += "dst" in named
            return result

        return timing

    def begun() -> None:
        nonlocal within, calls, warps
        within = calls = warps = 0

    start = time.thread_time_ns()
    empty = timed(lambda: None)
    for _ in range(TIMED_CALLS):
        empty()
    overhead = (time.thread_time_ns() - start - within) / TIMED_CALLS
    with ExitStack() as stack:
        for module, name in ((os, "pread"), (simplejpeg, "decode_jpeg"), (cv2, "warpAffine")):
            stack.enter_context(patch.object(module, name, timed(getattr(module, name))))
        rate, _, _ = ours(store, begun=begun)
    return 1e6 / rate - (within + calls * overhead) / 1e3 / warps


def limit(store: ShardStore, crops: list[tuple[int, np.ndarray]]) -> float:
    """Crops/s of decoding every image once and warping every crop once, with everything else prepared."""
    of_image: dict[int, list[np.ndarray]] = {}
    for image_row, matrix in crops:
        of_image.setdefault(image_row, []).append(matrix)
    files = {row: np.frombuffer(store.read_image_bytes(row), np.uint8) for row in of_image}
    out = np.empty((*INPUT_SIZE, 3), np.uint8)
    start = time.process_time()
    for row, matrices in of_image.items():
        image = cv2.imdecode(files[row], DECODE)
        for matrix in matrices:
            cv2.warpAffine(image, matrix, INPUT_SIZE[::-1], dst=out, flags=cv2.INTER_LINEAR)
    return len(crops) / (time.process_time() - start)


def restated(store: ShardStore, crops: list[tuple[int, np.ndarray]]) -> float:
    """Crops/s of a loader that decodes per instance and draws targets one by one in numpy."""
    chosen = crops[:400]
    files = {row: np.frombuffer(store.read_image_bytes(row), np.uint8) for row, _ in chosen}
    points = np.random.default_rng(0).uniform(0, 400, (17, 2))
    axis_x, axis_y = np.arange(48.0), np.arange(64.0)[:, None]
    start = time.process_time()
    for row, matrix in chosen:
        image = cv2.imdecode(files[row], DECODE)
        crop = cv2.warpAffine(image, matrix, INPUT_SIZE[::-1], flags=cv2.INTER_LINEAR)
        np.ascontiguousarray(crop.transpose(2, 0, 1))
        target = np.zeros((17, 64, 48), np.float32)
        for index, (x, y) in enumerate(apply_affine(points, matrix) / 4):
            target[index] = np.exp(-((axis_x - x) ** 2 + (axis_y - y) ** 2) / 8)
    return len(chosen) / (time.process_time() - start)


def mmpose(python: str, store: ShardStore, root: Path, folder: Path) -> float:
    """Crops/s of mmpose's own transforms, on the instances of the first images."""
    definition = store.manifest.definition
    images = store.manifest.definition.splits[store.manifest.split].images
    usable = UsableInstances.of(store)
    items = []
    places = store.instances["instance_index"].to_numpy()[usable.rows]
    for image_row, place in list(zip(usable.image_rows.tolist(), places.tolist(), strict=True))[:400]:
        record = store.read_record(image_row)
        instance = record.instances[place]
        path = root / record.image
        items.append(
            {
                "path": str(path if path.exists() else root / images / record.image),
                "bbox": instance.bbox_xywh,
                "keypoints": instance.keypoints.tolist(),
            }
        )
    meta = {
        "items": items,
        "flip_indices": definition.skeleton.flip_indices.tolist(),
        "upper": np.flatnonzero(definition.skeleton.upper_body_mask).tolist(),
        "lower": np.flatnonzero(definition.skeleton.lower_body_mask).tolist(),
    }
    path = folder / "items.json"
    path.write_text(json.dumps(meta))
    result = subprocess.run([python, "-c", MMPOSE, str(path)], capture_output=True, text=True, check=True)
    return float(result.stdout.split()[-1])


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    samples = os.environ.get("POSECORE_SAMPLES")
    parser.add_argument(
        "--coco-root",
        type=Path,
        default=Path(samples) / "coco" if samples else None,
        required=samples is None,
        help="folder of a COCO download; POSECORE_SAMPLES/coco if that is set",
    )
    parser.add_argument("--split", default="train")
    parser.add_argument("--copies", type=int, default=45, help="how often every image is listed")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--mmpose-python", help="interpreter of an environment with mmpose")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store = make_store(arguments.coco_root, arguments.split, folder, arguments.copies)
        cut = write_precut(Path(store.location), PrecutSettings(input_size=INPUT_SIZE).terms(store))
        cut_bytes = sum(shard.size_bytes for shard in cut.shards)
        whole_bytes = sum(shard.size_bytes for shard in store.manifest.shards)
        rounds, holds, gains = [], [], []
        for _ in range(arguments.rounds + 1):
            rate, decoded, crops = ours(store)
            rates = {
                "posecore": rate,
                "posecore, cut beforehand": ours(store, "precut")[0],
                "limit: decode once, warp": limit(store, crops),
            }
            rates["peer, re-stated: decode each"] = restated(store, crops)
            if arguments.mmpose_python:
                rates["peer: mmpose pipeline"] = mmpose(arguments.mmpose_python, store, arguments.coco_root, folder)
            rounds.append(rates)
            holds.append(held(store))
            one, two = (ours(store, threads=threads, clock=time.perf_counter)[0] for threads in (1, 2))
            gains.append(two / one)
    usable = len({row for row, _ in crops})
    best = usable / len(crops)
    print(f"{len(crops)} crops of {usable} images; ours decoded {decoded:.2f} images per crop (at best {best:.2f})\n")
    print(f"{'':30}{'crops/s':>10}{'ours is':>10}   rounds")
    for name in rounds[0]:
        ratios = [rates["posecore"] / rates[name] for rates in rounds[1:]]
        rate = median(rates[name] for rates in rounds[1:])
        print(f"{name:30}{rate:10,.0f}{median(ratios):9.2f}x   {' '.join(f'{ratio:.2f}' for ratio in ratios)}")
    print(
        f"pictures cut beforehand: {cut_bytes / 1e3 / sum(shard.num_images for shard in cut.shards):.0f} KB each, "
        f"{cut_bytes / whole_bytes:.1f} times the shards' bytes"
    )
    of_rounds = " ".join(f"{gain:.2f}" for gain in gains[1:])
    print(f"{'two threads / one by the clock':30}{'':10}{median(gains[1:]):9.2f}x   {of_rounds}")
    of_round = " ".join(f"{hold:.0f}" for hold in holds[1:])
    print(f"{'interpreter held, µs per crop':30}{median(holds[1:]):10,.0f}{'':10}   {of_round}")


if __name__ == "__main__":
    main()
