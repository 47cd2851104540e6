"""What do ten million instances take of a rank: memory, time to open, and time to wait for an epoch's order?

Writes the tables of a split of made-up rows, 2.5 instances to an image, without any picture, and opens it in two
processes, one after the other, as two ranks of a node would. Each opens the store, makes a loader, asks for the first
epoch's order, then, after a pause in which training would go on, for the second's, and plans the crops of some batches.
Prints for each: the memory that is this process's alone (anonymous pages, of ``/proc/self/smaps_rollup``), the most it
ever was (a thread looks five times a second), and the seconds. The first rank makes what is shared; the second finds
it.

    python benchmarks/large_index.py [--rows 10000000] [--pause 120]
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from posecore.config import parse_config
from posecore.loading.loader import Loader, LoadingConfig
from posecore.loading.randomness import Redrawn
from posecore.shards.index import IMAGE_SCHEMA, instance_schema
from posecore.shards.manifest import Manifest, ShardEntry, write_manifest
from posecore.shards.store import open_store
from posecore.storage import sha256_of
from tests.support.tiny_store import write_store

KEYPOINTS, IMAGES_PER_SHARD, BATCH, PART = 17, 1000, 512, 200_000


def make_split(folder: Path, rows: int) -> Path:
    """Writes manifest and tables of a split without tars."""
    split, num_images = folder / "split", rows * 2 // 5
    split.mkdir()
    for name, schema, count in (
        ("images.parquet", IMAGE_SCHEMA, num_images),
        ("index.parquet", instance_schema(KEYPOINTS), rows),
    ):
        with pq.ParquetWriter(split / name, schema, compression="zstd", compression_level=1) as writer:
            for start in range(0, count, PART):
                writer.write_table(part(schema, np.arange(start, min(start + PART, count))), row_group_size=5000)
    manifest = write_store(folder / "tiny", "people", [1]).manifest
    shards = [
        ShardEntry(name=f"shard-{number:06d}.tar", digest=f"{number:064x}", size_bytes=1, num_images=1, num_instances=1)
        for number in range(-(-num_images // IMAGES_PER_SHARD))
    ]
    files = {name: sha256_of(split / name) for name in ("images.parquet", "index.parquet")}
    changes = {"shards": tuple(shards), "num_images": num_images, "num_instances": rows, "files": files}
    write_manifest(split, Manifest(**({name: getattr(manifest, name) for name in Manifest.model_fields} | changes)))
    return split


def part(schema: pa.Schema, rows: np.ndarray) -> pa.Table:
    """Some rows of a table."""
    is_images = "height" in schema.names
    image = rows if is_images else rows * 2 // 5
    given = {
        "key": [f"{number:012d}" for number in image.tolist()],
        "source_id": [f"{number:012d}" for number in image.tolist()],
        "digest": [f"{number * 7919:064x}" for number in image.tolist()],
        "shard": image // IMAGES_PER_SHARD,
        "image_row": image,
        "instance_id": [str(number) for number in rows.tolist()],
        "keypoints": pa.FixedSizeListArray.from_arrays(
            pa.array(np.tile(np.array([9.5, 8.25, 2], np.float32), KEYPOINTS * len(rows)), pa.float32()),
            type=instance_schema(KEYPOINTS).field("keypoints").type,
        ),
        "absent": [[]] * len(rows),
        "num_labelled": np.full(len(rows), KEYPOINTS),
        "is_crowd": np.zeros(len(rows), np.bool_),
        "width": np.full(len(rows), 640),
        "height": np.full(len(rows), 480),
    }
    for side in "xywh":
        given[f"bbox_{side}"] = 10.0 + rows % 97
    columns = {}
    for field in schema:
        if field.name in given:
            columns[field.name] = given[field.name]
        elif field.nullable:
            columns[field.name] = pa.nulls(len(rows), field.type)
        elif pa.types.is_string(field.type):
            columns[field.name] = ["image.jpg"] * len(rows)
        else:
            columns[field.name] = rows
    return pa.Table.from_pydict(columns, schema)


def private_mib() -> float:
    """Memory of this process that no file backs, which other processes could share."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Anonymous:")) / 1024


def rank(split: Path, pause_s: float) -> dict[str, float]:
    """Does what a rank does, and says what it took."""
    most, ended, found = 0.0, threading.Event(), {"begin_mib": private_mib()}

    def watch() -> None:
        nonlocal most
        while not ended.wait(0.2):
            most = max(most, private_mib())

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    config = parse_config({"mixture": {"entries": [{"name": "people"}]}}, LoadingConfig, "benchmark")
    start = time.perf_counter()
    store = open_store(split)
    found["open_s"] = time.perf_counter() - start
    start = time.perf_counter()
    loader = Loader({"people": store}, config, input_size=(256, 192), seed=1, global_batch=BATCH)
    found["loader_s"] = time.perf_counter() - start
    start = time.perf_counter()
    loader.sampler.table(0)
    found["first_s"] = time.perf_counter() - start
    time.sleep(pause_s)
    start = time.perf_counter()
    table = loader.sampler.table(1)
    found["next_s"] = time.perf_counter() - start
    start = time.process_time()
    for step in range(100):
        crops = np.asarray(table.instance[step], np.int64), np.asarray(table.number_of_pass[step], np.int64)
        loader._entries[0].plan(*crops, Redrawn())
    found["plan_us"] = (time.process_time() - start) / 100 / BATCH * 1e6
    found["end_mib"] = private_mib()
    ended.set()
    watcher.join()
    found["most_mib"] = most
    return found


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--pause", type=float, default=120.0)
    parser.add_argument("--rank", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.rank:
        print(json.dumps(rank(arguments.rank, arguments.pause)))
        return
    with tempfile.TemporaryDirectory() as name:
        split = make_split(Path(name), arguments.rows)
        environment = os.environ | {"POSECORE_CACHE": f"{name}/cache"}
        command = [sys.executable, __file__, "--pause", str(arguments.pause), "--rank", str(split)]
        print(f"{arguments.rows:,} instances\n")
        print(
            f"{'':8}{'before':>10}{'after':>10}{'most':>10}{'open':>9}{'loader':>9}{'order':>9}{'next':>9}{'plan':>13}"
        )
        for label in ("first", "second"):
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
            assert not done.returncode, done.stderr
            found = json.loads(done.stdout)
            memory = "".join(f"{found[key]:6.0f} MiB" for key in ("begin_mib", "end_mib", "most_mib"))
            times = "".join(f"{found[key]:7.2f} s" for key in ("open_s", "loader_s", "first_s", "next_s"))
            print(f"{label:8}{memory}{times}{found['plan_us']:6.1f} us/crop", flush=True)


if __name__ == "__main__":
    main()
