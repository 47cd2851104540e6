"""How fast is ingestion, next to webdataset's ShardWriter, plain tar and the decode limit?

All four handle the same image files, in one process, in interleaved repetitions; the figures are medians. ShardWriter
and tar only copy bytes; ours also validates headers and end marks, hashes images and tar, draws the masks, writes the
index and flushes to disk. ShardWriter is given the records it has to write as finished JSON bytes, and neither hashes
nor flushes.

    POSECORE_SAMPLES=<folder> python benchmarks/ingest.py
"""

import argparse
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import webdataset

from posecore.datasets.discovery import load_dataset, read_split
from posecore.ingest.plan import IngestSettings, ingest_job
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


def run_shard_writer(records: list[Record], root: Path, out: Path) -> None:
    out.mkdir()
    with webdataset.ShardWriter(str(out / "shard-%06d.tar"), maxcount=1000, verbose=0) as writer:
        for record in records:
            text = record_to_json(record)
            writer.write({"__key__": record.source_id, "jpg": (root / record.image).read_bytes(), "json": text})


def run_tar(root: Path, out: Path) -> None:
    out.mkdir()
    subprocess.run(["tar", "-cf", str(out / "images.tar"), "-C", str(root), "images"], check=True)


def run_decode(records: list[Record], root: Path) -> None:
    for record in records:
        data = np.frombuffer((root / record.image).read_bytes(), np.uint8)
        cv2.imdecode(data, cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory(prefix="posecore-bench-") as folder:
        root = Path(folder)
        records = replicate(Path(os.environ["POSECORE_SAMPLES"]) / "coco", root, options.images)
        megabytes = sum((root / record.image).stat().st_size for record in records) / 1e6
        out = root / "out"
        contestants: dict[str, Callable[[], None]] = {
            "ours, headers": lambda: run_ours(records, root, out, IngestSettings()),
            "webdataset ShardWriter": lambda: run_shard_writer(records, root, out),
            "tar": lambda: run_tar(root, out),
            "ours, full decode": lambda: run_ours(records, root, out, IngestSettings(decode="full")),
            "decode limit, one thread": lambda: run_decode(records, root),
        }
        seconds: dict[str, list[float]] = {name: [] for name in contestants}
        for _ in range(options.repeats):
            for name, contestant in contestants.items():
                start = time.perf_counter()
                contestant()
                seconds[name].append(time.perf_counter() - start)
                shutil.rmtree(out, ignore_errors=True)
        rate = {name: len(records) / statistics.median(times) for name, times in seconds.items()}
    print(f"{len(records)} JPEGs, {1e3 * megabytes / len(records):.0f} KB each, medians of {options.repeats}")
    for name, value in rate.items():
        print(f"{name:26s} {value:8.0f} images/s {value * megabytes / len(records):6.0f} MB/s")
    print(f"ours / ShardWriter         {rate['ours, headers'] / rate['webdataset ShardWriter']:8.2f}  (goal 1.0)")
    print(f"ours decoding / limit      {rate['ours, full decode'] / rate['decode limit, one thread']:8.2f}  (goal 0.8)")


if __name__ == "__main__":
    main()
