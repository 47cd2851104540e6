"""What does a set behind S3 that is ten times as large as the cache cost, read in blocks of shards and without?

Writes a set of many shards (made-up bodies, pictures of noise), puts it behind a real S3 server on loopback (moto, in
a process of its own) and a line that delays every answer, and loads an epoch with two ranks on one machine, whose
training steps take a while, through one cache of a tenth of the set. Prints, for blocks and for the full shuffle:
fetches per shard, bytes on disk at most beside the bound (unlinked files that are still open included), time per step
waited for batches. The full shuffle is stopped after some steps, as every picture fetches a shard.

Then, without any pictures, how well blocks shuffle beside a full shuffle, for a set of 208 shards of 1000 images and
the same tenth:

- the entropy of the shards within a batch of 256, in nats;
- the distance in steps between two samples of one shard, median, as a share of the epoch;
- the share of samples with another sample of their subject in the same batch, subjects being runs of 30 images.

    python benchmarks/remote_loading.py [--shards 104] [--images 100] [--latency 0.05] [--full-steps 12]
"""

import argparse
import multiprocessing
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from posecore.config import parse_config
from posecore.loading.blocks import ShardBlocks
from posecore.loading.loader import Loader, LoadingConfig
from posecore.loading.mixture import MixtureConfig, MixtureSampler
from posecore.shards.cache import CacheConfig, ShardCache
from posecore.shards.store import ShardStore, open_store
from tests.support.s3_server import Line, bucket, s3_server, upload
from tests.support.tiny_store import instance, record, write_store

BATCH, RANKS, STEP_S = 16, 2, 0.02
SIZE = (64, 48)


def served(connection: Connection) -> None:
    """Runs the server until the other end is closed."""
    with s3_server() as address:
        connection.send(address)
        connection.recv()


@contextmanager
def server() -> Iterator[tuple[str, int]]:
    """A server in a process of its own."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=served, args=(there,))
    process.start()
    try:
        yield here.recv()
    finally:
        here.send(None)
        process.join()


class Disk:
    """Watches what a cache takes of the disk, unlinked files that this process has open included."""

    def __init__(self, cache: ShardCache, every_s: float = 0.02) -> None:
        self.most_bytes = 0
        self._every_s = every_s
        self._cache = cache
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> "Disk":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(self._every_s):
            with self._cache._alone():  # so that nothing moves while it is looked at
                self.most_bytes = max(self.most_bytes, taken(self._cache.folder))


def taken(folder: Path) -> int:
    """Bytes of the files in a folder, and of those once there that are still open."""
    sizes = {}
    for path in (*folder.glob("*"), *Path("/proc/self/fd").iterdir()):
        try:
            status, place = path.stat(), path.readlink() if path.is_symlink() else path
        except OSError:
            continue
        if str(place).startswith(str(folder)) and not path.is_dir():
            sizes[status.st_ino] = status.st_size
    return sum(sizes.values())


def make_store(folder: Path, shards: int, images: int) -> ShardStore:
    """Writes the set."""
    records = [
        record(
            "people",
            row,
            [instance(f"{row}-{place}", 17, (5.0, 8.0, 40.0, 30.0)) for place in range(2)],
            width=56,
            height=48,
        )
        for row in range(shards * images)
    ]
    return write_store(folder, "people", (), records=records, images_per_shard=images)


def load(line: Line, folder: Path, cache_bytes: int, shuffle: str, limit: int | None) -> dict[str, float]:
    """Loads an epoch, or a part of it."""
    values = {
        "mixture": {"entries": [{"name": "people"}], "shuffle": shuffle, "block_bytes": cache_bytes // 2},
        "augment": "published",
    }
    stores = [
        open_store(bucket(line.url) / "people", CacheConfig(folder=folder, max_bytes=cache_bytes)) for _ in range(RANKS)
    ]
    loaders = [
        Loader(
            {"people": store},
            parse_config(values, LoadingConfig, "benchmark"),
            input_size=SIZE,
            seed=1,
            global_batch=BATCH,
            rank=rank,
            world_size=RANKS,
        )
        for rank, store in enumerate(stores)
    ]
    line.fetches.clear()
    iterators = [iter(loader) for loader in loaders]
    waits = []
    steps = limit or loaders[0].sampler.steps_per_epoch - 32  # what is prefetched is of this epoch, too
    cache = stores[0].cache
    assert cache is not None
    with Disk(cache) as disk:
        for _ in range(steps):
            start = time.perf_counter()
            for iterator in iterators:
                next(iterator)
            waits.append(time.perf_counter() - start)
            time.sleep(STEP_S)
    for iterator in iterators:
        getattr(iterator, "close")()  # noqa: B009
    return {
        "steps": steps,
        "fetches": line.fetches.total(),
        "per_crop": line.fetches.total() / (steps * BATCH),
        "seen": len(line.fetches),
        "most_bytes": disk.most_bytes,
        "first_wait_s": waits[0],
        "wait_s": float(np.sum(waits[1:])) / (len(waits) - 1),
    }


def quality(blocked: bool, shards: int = 208, images: int = 1000, batch: int = 256) -> tuple[float, float, float]:
    """Entropy, distance and adjacency, as on top of this file."""
    random = np.random.default_rng(0)
    image = np.repeat(np.arange(shards * images), random.integers(1, 4, shards * images))
    shard, subject = image // images, image // 30
    config = parse_config({"entries": [{"name": "a"}]}, MixtureConfig, "benchmark")
    blocks = {"a": ShardBlocks(shard, np.full(shards, 100), shards * 100 // 20)} if blocked else None
    table = MixtureSampler(config, {"a": image}, 1, batch, blocks).table(0).instance[:-8]
    entropies, together = [], 0
    for row in table:
        counts = np.unique(shard[row], return_counts=True)[1] / batch
        entropies.append(-(counts * np.log(counts)).sum())
        times = np.unique(subject[row], return_counts=True)[1]
        together += int(times[times > 1].sum())
    steps = np.repeat(np.arange(len(table)), batch)
    order = np.argsort(shard[table.ravel()], kind="stable")
    of_shard = np.split(steps[order], np.flatnonzero(np.diff(shard[table.ravel()][order])) + 1)
    distances = [np.abs(random.permutation(places) - random.permutation(places)) for places in of_shard]
    return float(np.mean(entropies)), float(np.median(np.concatenate(distances)) / len(table)), together / table.size


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--shards", type=int, default=104)
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--latency", type=float, default=0.05)
    parser.add_argument("--full-steps", type=int, default=12)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, server() as address:
        folder = Path(name)
        store = make_store(folder / "local", arguments.shards, arguments.images)
        upload(store.location, bucket("http://{}:{}".format(*address)) / "people")
        total = sum(shard.size_bytes for shard in store.manifest.shards)
        bound = total // 10
        line = Line(address, arguments.latency)
        print(
            f"{arguments.shards} shards of {arguments.images} images, {total / 1e6:.0f} MB; "
            f"cache {bound / 1e6:.1f} MB; "
            f"{RANKS} ranks, {BATCH} crops and {STEP_S * 1000:.0f} ms a step, answers come "
            f"{arguments.latency * 1000:.0f} ms late\n"
        )
        print(
            f"{'':10}{'steps':>7}{'fetches':>9}{'shards':>8}{'each':>7}{'per crop':>10}{'MB on disk':>12}{'first':>8}"
            f"{'wait/step':>11}"
        )
        for shuffle, limit in (("blocks", None), ("full", arguments.full_steps)):
            found = load(line, folder / shuffle, bound, shuffle, limit)
            print(
                f"{shuffle:10}{found['steps']:7.0f}{found['fetches']:9.0f}{found['seen']:8.0f}"
                f"{found['fetches'] / found['seen']:7.2f}{found['per_crop']:10.3f}{found['most_bytes'] / 1e6:12.1f}"
                f"{found['first_wait_s']:6.2f} s{found['wait_s'] * 1000:8.1f} ms"
            )
        line.cut()
    print(f"\n{'':10}{'entropy of shards':>19}{'distance':>10}{'with its subject':>18}   (208 shards of 1000 images)")
    for label, blocked in (("blocks", True), ("full", False)):
        entropy, distance, together = quality(blocked)
        print(f"{label:10}{entropy:19.2f}{distance:10.3f}{together:17.1%}")


if __name__ == "__main__":
    main()
