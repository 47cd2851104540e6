"""Shards behind a real S3 server that do not fit the cache: fetched once, within the bound, in one order."""

from itertools import islice

import pytest

from benchmarks.remote_loading import Disk
from posecore.config import parse_config
from posecore.errors import ConfigError, StorageError
from posecore.loading.loader import Loader, LoadingConfig
from posecore.loading.prefetch import ShardPrefetch
from posecore.shards import remote
from posecore.shards.cache import CacheConfig
from posecore.shards.store import open_store
from tests.support.s3_server import Line, bucket, s3_server, upload
from tests.support.tiny_store import instance, record, write_store

SHARDS, IMAGES = 82, 20
BATCH = 8
SLOWLY_S = 0.01


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    """82 shards of 20 images with one or two bodies each."""
    bodies = [
        [instance(f"{row}-{i}", 17, (5.0 + 9 * i, 8.0, 30.0, 40.0)) for i in range(1 + row % 2)]
        for row in range(SHARDS * IMAGES)
    ]
    records = [record("people", row, found, width=48, height=56) for row, found in enumerate(bodies)]
    return write_store(tmp_path_factory.mktemp("local"), "people", (), records=records, images_per_shard=IMAGES)


@pytest.fixture(scope="module")
def server(local):
    with s3_server() as address:
        upload(local.location, bucket("http://{}:{}".format(*address)) / "people")
        yield address


@pytest.fixture(scope="module")
def opened(server):
    line = Line(server, latency_s=SLOWLY_S)
    yield line
    line.cut()


@pytest.fixture
def line(opened):
    opened.fetches.clear()
    return opened


def largest(store):
    return max(shard.size_bytes for shard in store.manifest.shards)


def open_remote(line, folder, local, num_shards):
    """With a cache of so many shards."""
    return open_store(bucket(line.url) / "people", CacheConfig(folder=folder, max_bytes=num_shards * largest(local)))


def settings(local, num_shards, **fields):
    """Blocks of half of so many shards."""
    mixture = {"entries": [{"name": "people"}], "shuffle_window": 2, "block_bytes": num_shards * largest(local) // 2}
    return parse_config({"mixture": mixture | fields, "num_threads": 2}, LoadingConfig, "test")


def loader_of(store, config, rank=0, world_size=1, start_step=0):
    sizes = {"input_size": (64, 48), "seed": 11, "global_batch": BATCH}
    return Loader({"people": store}, config, rank=rank, world_size=world_size, start_step=start_step, **sizes)


def crops(batches):
    """The crops of all ranks of a step, sorted."""
    found = []
    for batch in batches:
        (group,) = batch.groups
        pixels = [image.tobytes() for image in batch.images]
        points = [points.tobytes() for points in group.keypoints_crop]
        found += zip(group.rows.tolist(), pixels, points, strict=True)
    return sorted(found)


def test_each_shard_is_fetched_once_an_epoch_within_a_tenth_by_any_number_of_ranks(local, line, tmp_path):
    config = settings(local, 8)
    whole = loader_of(local, settings(local, 8, shuffle="blocks"))
    expected = [crops([batch]) for batch in islice(whole, whole.sampler.steps_per_epoch)]

    stores = [open_remote(line, tmp_path, local, 8) for _ in range(2)]
    iterators = [iter(loader_of(store, config, rank, 2)) for rank, store in enumerate(stores)]
    with Disk(stores[0].cache, every_s=0.002) as disk:
        steps = [crops([next(iterator) for iterator in iterators]) for _ in expected[:-12]]
    for iterator in iterators:
        iterator.close()
    assert steps == expected[:-12]
    assert len(line.fetches) > 0.9 * SHARDS
    assert line.fetches.total() <= 1.1 * SHARDS
    assert largest(local) < disk.most_bytes <= 8 * largest(local)


def test_a_run_resumes_at_any_step_on_another_number_of_ranks(local, line, tmp_path):
    stop, config = 17, settings(local, 8)
    whole = loader_of(local, settings(local, 8, shuffle="blocks"))
    expected = [crops([batch]) for batch in islice(whole, 24)]
    loader = loader_of(open_remote(line, tmp_path, local, 8), config)
    steps = [crops([batch]) for batch in islice(loader, stop)]
    assert loader.state() == {"seed": 11, "step": stop}
    stores = [open_remote(line, tmp_path, local, 8) for _ in range(4)]
    iterators = [iter(loader_of(store, config, rank, 4, stop)) for rank, store in enumerate(stores)]
    steps += [crops([next(iterator) for iterator in iterators]) for _ in range(stop, 24)]
    for iterator in iterators:
        iterator.close()
    assert steps == expected


def test_this_block_and_the_next_are_fetched_ahead_and_no_more(local, line, tmp_path):
    store = open_remote(line, tmp_path, local, 40)
    loader = loader_of(store, settings(local, 40))
    table = loader.sampler.table(0)
    image_rows, begins = loader._entries[0].instances.image_rows, table.blocks[0].step
    name_of = [f"{shard.digest}.tar" for shard in store.manifest.shards]

    def needed(stop):
        return {name_of[shard] for shard in store.shard_of_image[image_rows[table.instance[:stop]]].ravel()}

    def there(*steps):
        fetching = ShardPrefetch(loader._remote, loader.sampler, loader._slots, lag=4)
        for step in steps:
            fetching.advance(step)
        fetching._pool.shutdown()
        return {path.name for path in store.cache.folder.iterdir()}

    over = begins[1] + loader.sampler.stretch + 4  # the first block is, for a rank that is 4 steps behind, too
    assert there(0, 3, over - 1) == needed(begins[2])
    assert there(over) >= needed(begins[3]) - needed(begins[1])
    assert set(line.fetches.values()) == {1}


def test_what_fits_the_cache_is_shuffled_as_a_whole(local, line, tmp_path):
    loader = loader_of(open_remote(line, tmp_path, local, 90), settings(local, 90))
    there = loader_of(local, settings(local, 8))
    steps = [[crops([batch]) for batch in islice(which, 2)] for which in (loader, there)]
    assert steps[0] == steps[1]
    assert loader.sampler.table(0).blocks == {}


def test_a_cache_too_small_for_two_blocks_is_refused(local, line, tmp_path):
    store = open_remote(line, tmp_path, local, 3)
    with pytest.raises(ConfigError, match=r"block_bytes: the cache .* set block_bytes to \d+ or less"):
        loader_of(store, settings(local, 4))
    with pytest.raises(ConfigError, match=r"a shard has .*POSECORE_CACHE_BYTES"):
        open_store(store.location, CacheConfig(folder=tmp_path, max_bytes=1000))


def test_lost_connections_are_made_again_and_then_given_up(local, server, tmp_path, monkeypatch):
    line = Line(server)
    monkeypatch.setattr(remote, "WAITS_S", (0.01,) * 3)
    store = open_remote(line, tmp_path, local, 4)
    monkeypatch.setattr(type(store.location.fs), "retries", 1)
    line.breaks = 2
    assert store.read_image_bytes(0) == local.read_image_bytes(0)
    assert line.fetches["shard-000000.tar"] == 3
    line.cut()
    with pytest.raises(StorageError, match=r"shard-000005.tar: cannot be read, tried 4 times \(.*\); see whether"):
        store.read_image_bytes(5 * IMAGES)
    assert [path.suffix for path in (tmp_path / "shards").iterdir()] == [".tar"]
    assert store.read_image_bytes(1) == local.read_image_bytes(1)
