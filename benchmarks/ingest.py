"""How fast is ingestion, next to webdataset's ShardWriter, plain tar and the decode limit?

All handle the same image files, each in one process, in interleaved repetitions; the figures are medians. ShardWriter
and tar only copy bytes, to memory that the system brings to disk later; ours also validates headers and end marks,
hashes images and tar, writes the masks and the index and waits until everything is on disk. ShardWriter either
makes its JSON from the records, as ours does, or is given it as finished bytes. The decode limit decodes one picture
after the other, as ours does. Last, two processes ingest a half each at a time, beside one that ingests all: by the
clock, so it wants two cores that nobody else uses.

    POSECORE_SAMPLES=<folder> python benchmarks/ingest.py
"""

import argparse
import gc
import multiprocessing
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import webdataset

from posecore.datasets.discovery import load_dataset, read_split
from posecore.ingest.job import IngestSettings, ingest_job
from posecore.ingest.run import ingest
from posecore.schema import Record, record_to_json


def replicate(samples: Path, folder: Path, num_images: int) -> list[Record]:
    """The people images of the COCO samples, copied until there are ``num_images`` files of about 160 KB on average."""
    definition = load_dataset("coco")
    source = [item for item in read_split(definition, "train", samples) if isinstance(item, Record)]
    records = []
    for number in range(num_images):
        original = source[number % len(source)]
        name = f"images/{number:06d}.jpg"
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(samples / original.image, folder / name)
        instances = [replace(item, id=f"{number}-{item.id}") for item in original.instances]
        records.append(replace(original, source_id=str(number), image=name, instances=instances))
    return records


def run_ours(records: list[Record], root: Path, out: Path, settings: IngestSettings) -> None:
    ingest(ingest_job(load_dataset("coco"), "train", root, out, settings), records)


def run_half(number: int, root: Path, out: Path) -> None:
    """In a process that was forked with all records."""
    half = len(_records) // 2
    run_ours(_records[number * half : (number + 1) * half], root, out / str(number), IngestSettings())


def run_two(pool: ProcessPoolExecutor, root: Path, out: Path) -> None:
    for done in [pool.submit(run_half, number, root, out) for number in range(2)]:
        done.result()


_records: list[Record] = []


def run_shard_writer(records: list[Record], root: Path, out: Path, texts: list[bytes] | None = None) -> None:
    out.mkdir()
    with webdataset.ShardWriter(str(out / "shard-%06d.tar"), maxcount=1000, verbose=0) as writer:
        for number, record in enumerate(records):
            text = texts[number] if texts else record_to_json(record)
            writer.write({"__key__": record.source_id, "jpg": (root / record.image).read_bytes(), "json": text})


def run_tar(root: Path, out: Path) -> None:
    out.mkdir()
    subprocess.run(["tar", "-cf", str(out / "images.tar"), "-C", str(root), "images"], check=True)


def run_decode(records: list[Record], root: Path) -> None:
    def decode(record: Record) -> None:
        data = np.frombuffer((root / record.image).read_bytes(), np.uint8)
        cv2.imdecode(data, cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)

    for record in records:
        decode(record)


TWO = "ours, two processes"


def processor_seconds() -> float:
    """Of this process and the finished ones it started."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--no-decode", action="store_true", help="leave out full decoding and its limit")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory(prefix="posecore-bench-") as folder:
        root = Path(folder)
        records = replicate(Path(os.environ["POSECORE_SAMPLES"]) / "coco", root, options.images)
        megabytes = sum((root / record.image).stat().st_size for record in records) / 1e6
        out = root / "out"
        texts = [record_to_json(record) for record in records]
        _records[:] = records
        gc.freeze()  # these objects are the benchmark's: nobody who ingests has all records in memory
        pool = ProcessPoolExecutor(2, multiprocessing.get_context("fork"))
        run_two(pool, root, out)  # starts both
        shutil.rmtree(out)
        contestants: dict[str, Callable[[], None]] = {
            "ours": lambda: run_ours(records, root, out, IngestSettings()),
            "ShardWriter": lambda: run_shard_writer(records, root, out),
            "ShardWriter, JSON given": lambda: run_shard_writer(records, root, out, texts),
            "tar": lambda: run_tar(root, out),
            TWO: lambda: run_two(pool, root, out),
            "ours, full decode": lambda: run_ours(records, root, out, IngestSettings(decode="full")),
            "decode limit": lambda: run_decode(records, root),
        }
        if options.no_decode:
            contestants = {name: run for name, run in contestants.items() if "decode" not in name}
        runs: dict[str, list[tuple[float, float]]] = {name: [] for name in contestants}
        for _ in range(options.repeats):
            for name, contestant in contestants.items():
                start, busy = time.perf_counter(), processor_seconds()
                contestant()
                runs[name].append((time.perf_counter() - start, processor_seconds() - busy))
                shutil.rmtree(out, ignore_errors=True)
        pool.shutdown()
    wall, busy_for = ({name: statistics.median(run[i] for run in of) for name, of in runs.items()} for i in (0, 1))
    print(f"{len(records)} JPEGs, {1e3 * megabytes / len(records):.0f} KB each, medians of {options.repeats}")
    for name, seconds in wall.items():
        rate = f"{len(records) / seconds:8.0f} images/s {megabytes / seconds:6.0f} MB/s"
        busy = "" if name == TWO else f"{1e6 * busy_for[name] / len(records):7.0f} us of processor per image"
        print(f"{name:26s}{rate} {busy}")
    ratios = [one[0] / two[0] for one, two in zip(runs["ours"], runs[TWO], strict=True)]
    print(
        f"{TWO} / ours by the clock: {statistics.median(ratios):.2f} (goal 1.8; {min(ratios):.2f} to {max(ratios):.2f})"
    )
    pairs = [("ours", name, 1.3) for name in ("ShardWriter", "ShardWriter, JSON given")]
    pairs += [] if options.no_decode else [("ours, full decode", "decode limit", 0.8)]
    for name, limit, goal in pairs:
        ratios = [theirs[0] / mine[0] for mine, theirs in zip(runs[name], runs[limit], strict=True)]
        print(
            f"{name} / {limit}: {wall[limit] / wall[name]:.2f} (goal {goal}; single repetitions {min(ratios):.2f} to "
            f"{max(ratios):.2f}), by processor time {busy_for[limit] / busy_for[name]:.2f}"
        )


if __name__ == "__main__":
    main()
