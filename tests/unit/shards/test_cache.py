"""The cache of remote shards: one fetch for all, a bound that holds at any time, nothing left by who died."""

import threading
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest
from upath import UPath

from posecore.errors import ConfigError, StorageError
from posecore.shards import cache as cache_module
from posecore.shards.cache import CacheConfig, ShardCache
from tests.support.tiny_store import write_store


@pytest.fixture(scope="module")
def remote(tmp_path_factory):
    """Shards behind a URL, each with its entry of the manifest."""
    store = write_store(tmp_path_factory.mktemp("split"), "people", [1] * 42)
    folder = UPath(f"memory://{uuid.uuid4().hex}")
    for shard in store.manifest.shards:
        (folder / shard.name).write_bytes((store.location / shard.name).read_bytes())
    return [(folder / shard.name, shard) for shard in store.manifest.shards]


def cache_of(remote, folder, num_shards):
    return ShardCache(CacheConfig(folder=folder, max_bytes=num_shards * max(shard.size_bytes for _, shard in remote)))


def names(cache):
    return {path.name for path in cache.folder.iterdir()}


def test_a_shard_is_fetched_once_however_many_want_it(remote, tmp_path):
    caches = [cache_of(remote, tmp_path, 6) for _ in range(4)]
    with ThreadPoolExecutor(16) as pool:
        wanted = [(cache, *place) for place in remote for cache in caches for _ in range(4)]
        read = list(pool.map(lambda one: one[0].read(one[1], one[2], 0, 99), wanted))
    assert read[::16] == [source.read_bytes()[:99] for source, _ in remote]
    assert sum(cache.num_fetched for cache in caches) == 6


def test_the_bound_holds_while_many_fetch(remote, tmp_path):
    caches = [cache_of(remote, tmp_path, 2) for _ in range(2)]
    most, ended = 0, threading.Event()

    def watch():
        nonlocal most
        while not ended.is_set():
            with caches[0]._alone():
                most = max(most, sum(path.stat().st_size for path in caches[0].folder.iterdir()))

    watcher = threading.Thread(target=watch)
    watcher.start()
    with ThreadPoolExecutor(8) as pool:
        wanted = [(cache, *place) for _ in range(2) for place in remote for cache in caches]
        list(pool.map(lambda one: one[0].read(one[1], one[2], 0, 1), wanted))
    ended.set()
    watcher.join()
    assert 0 < most <= caches[0].max_bytes


def test_what_is_being_read_stays_and_the_latest_read_leaves_last(remote, tmp_path):
    cache = cache_of(remote, tmp_path, 3)
    for place in remote[:3]:
        cache.fetch(*place)
    with cache._held(*remote[0]):
        cache.fetch(*remote[1])  # now the second is the latest, the third the oldest
        cache.fetch(*remote[3])
        assert names(cache) == {f"{remote[place][1].digest}.tar" for place in (0, 1, 3)}
        for place in remote[4:]:
            cache.fetch(*place)
        assert f"{remote[0][1].digest}.tar" in names(cache)


def test_a_cache_full_of_what_is_being_read_says_so(remote, tmp_path, monkeypatch):
    monkeypatch.setattr(cache_module, "_PATIENCE_S", 0.1)
    cache = cache_of(remote, tmp_path, 1)
    with cache._held(*remote[0]), pytest.raises(StorageError, match=r"no room for a shard .*POSECORE_CACHE_BYTES"):
        cache.fetch(*remote[1])
    cache.fetch(*remote[1])
    assert names(cache) == {f"{remote[1][1].digest}.tar"}


def test_what_a_killed_process_left_is_taken_over_or_makes_room(remote, tmp_path):
    cache = cache_of(remote, tmp_path, 2)
    cache.fetch(*remote[0])
    for _, shard in remote[1:3]:  # what a process leaves that is killed while it fetches
        (cache.folder / f"{shard.digest}.part").write_bytes(bytes(shard.size_bytes))
    cache.fetch(*remote[1])
    source, shard = remote[1]
    assert cache.read(source, shard, 0, shard.size_bytes) == source.read_bytes()
    assert names(cache) == {f"{remote[place][1].digest}.tar" for place in (0, 1)}


def test_the_machine_may_say_how_large_the_cache_is(monkeypatch, tmp_path):
    monkeypatch.setenv("POSECORE_CACHE", str(tmp_path))
    monkeypatch.setenv("POSECORE_CACHE_BYTES", "2e9")
    cache = ShardCache(CacheConfig())
    assert (cache.folder, cache.max_bytes) == (tmp_path / "shards", 2_000_000_000)
    monkeypatch.setenv("POSECORE_CACHE_BYTES", "many")
    with pytest.raises(ConfigError, match="POSECORE_CACHE_BYTES: 'many' is no number"):
        ShardCache(CacheConfig())
