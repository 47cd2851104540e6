import json
import os
import pickle
import uuid
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import webdataset
from blake3 import blake3
from upath import UPath

from posecore.errors import IntegrityError
from posecore.ingest.run import ingest
from posecore.shards.cache import CacheConfig
from posecore.shards.manifest import read_manifest
from posecore.shards.store import ShardStore, open_store
from tests.support.small_split import job, picture, records


@pytest.fixture
def folder(tmp_path):
    ingest(job(tmp_path / "raw", tmp_path / "out"), records(tmp_path / "raw", 10))
    return tmp_path / "out" / "tiny" / "train"


def flip(path, position):
    with path.open("r+b") as file:
        file.seek(position)
        value = file.read(1)[0]
        file.seek(position)
        file.write(bytes([value ^ 0x40]))


def test_every_sample_is_what_went_in(folder):
    store = open_store(folder)
    assert (len(store), store.num_images) == (15, 10)
    for row in range(10):
        sample = store.read_sample(row)
        assert sample.key == str(row)
        assert sample.image_bytes == picture(row) == store.read_image_bytes(row)
        assert sample.record.digest == f"blake3-{blake3(sample.image_bytes).hexdigest()}"
        assert [item.id for item in sample.record.instances] == [f"{row}-{x}" for x in "ab"[: 1 + row % 2]]
        assert sample.masks.state.shape == (1 + row % 2, len(store.manifest.vocabulary))
        assert np.array_equal(store.read_masks(row).state, sample.masks.state)
        assert store.read_record(row).source_id == sample.record.source_id
    store.verify()


def test_instances_point_at_their_images(folder):
    store = open_store(str(folder))
    rows = store.instances.to_pylist()
    assert [row["image_row"] for row in rows] == sorted(row["image_row"] for row in rows)
    for row in rows:
        found = store.read_record(row["image_row"]).instances[row["instance_index"]]
        assert (found.id, found.is_crowd) == (row["instance_id"], row["is_crowd"])
        assert found.bbox_xywh == (row["bbox_x"], row["bbox_y"], row["bbox_w"], row["bbox_h"])
        assert row["num_labelled"] == int((found.keypoints[:, 2] > 0).sum())
        image = store.images.slice(row["image_row"], 1).to_pylist()[0]
        assert all(image[name] == row[name] for name in ("shard", "sample_offset", "image_size", "digest", "key"))


def test_plain_webdataset_iterates_the_tars(folder):
    urls = sorted(str(path) for path in folder.glob("*.tar"))
    assert len(urls) == 3
    samples = list(webdataset.WebDataset(urls, shardshuffle=False).decode())
    assert [sample["__key__"] for sample in samples] == [str(index) for index in range(10)]
    for index, sample in enumerate(samples):
        assert set(sample) >= {"jpg", "json", "masks.npz"}
        assert sample["json"]["source_id"] == str(index)
    raw = next(iter(webdataset.WebDataset(urls, shardshuffle=False)))
    assert raw["jpg"] == picture(0)


@pytest.mark.parametrize("member", ["image", "json", "masks"])
def test_one_flipped_byte_is_detected_and_named(folder, member):
    store = open_store(folder)
    row = store.images.to_pylist()[5]
    flip(folder / "shard-000001.tar", row[f"{member}_offset"] + row[f"{member}_size"] // 2)
    with pytest.raises(IntegrityError, match=rf"shard-000001\.tar: the {member} of sample 5 at byte \d+"):
        store.read_sample(5)
    with pytest.raises(IntegrityError, match=rf"the {member} of sample 5"):
        store.verify()
    assert store.read_sample(4).key == "4"


def test_verify_sees_a_flipped_byte_in_padding(folder):
    flip(folder / "shard-000002.tar", -1 + (folder / "shard-000002.tar").stat().st_size)
    with pytest.raises(IntegrityError, match=r"shard-000002\.tar"):
        open_store(folder).verify()


@pytest.mark.parametrize("name", ["quarantine.parquet", "index.parquet", "images.parquet"])
def test_verify_reads_the_tables_too(folder, name):
    store = open_store(folder)
    flip(folder / name, 40)
    with pytest.raises(IntegrityError, match=rf"{name}: not the table that its manifest names"):
        store.verify()
    (folder / name).unlink()
    with pytest.raises(IntegrityError, match=rf"{name}: the table is missing"):
        store.verify()


def test_a_shortened_or_missing_shard_is_named(folder):
    store = open_store(folder)
    os.truncate(folder / "shard-000000.tar", 3000)
    with pytest.raises(IntegrityError, match=r"shard-000000\.tar: the shard ends"):
        store.read_sample(3)
    (folder / "shard-000001.tar").unlink()
    with pytest.raises(IntegrityError, match=r"shard-000001\.tar: the shard is missing"):
        open_store(folder).read_sample(5)


@pytest.mark.parametrize("name", ["index.parquet", "images.parquet"])
def test_altered_or_missing_tables_are_refused(folder, name):
    flip(folder / name, 100)
    with pytest.raises(IntegrityError, match=name):
        open_store(folder)
    (folder / name).unlink()
    with pytest.raises(IntegrityError, match=name):
        open_store(folder)


def test_an_altered_manifest_is_refused(folder):
    path = folder / "manifest.json"
    value = json.loads(path.read_text())
    assert value["digest"] == read_manifest(folder).digest
    path.write_text(json.dumps({**value, "num_images": 11}))
    with pytest.raises(IntegrityError, match="digest"):
        open_store(folder)
    path.write_text(json.dumps({**value, "format_version": 99}))
    with pytest.raises(IntegrityError, match="format version"):
        open_store(folder)
    path.write_text("{")
    with pytest.raises(IntegrityError, match="JSON"):
        open_store(folder)
    path.unlink()
    with pytest.raises(IntegrityError, match="ingest it first"):
        open_store(folder)


def test_threads_and_other_processes_read_the_same(folder):
    store = open_store(folder)
    with ThreadPoolExecutor(4) as pool:
        keys = list(pool.map(lambda row: store.read_sample(row % 10).key, range(200)))
    assert keys == [str(row % 10) for row in range(200)]
    again: ShardStore = pickle.loads(pickle.dumps(store))
    assert again.manifest.digest == store.manifest.digest
    assert again.read_image_bytes(7) == store.read_image_bytes(7)


def test_a_remote_split_is_read_through_a_bounded_cache(folder, tmp_path):
    remote = UPath(f"memory://{uuid.uuid4().hex}")
    for path in folder.iterdir():
        if path.is_file():
            (remote / path.name).write_bytes(path.read_bytes())
    largest = max(path.stat().st_size for path in folder.glob("*.tar"))
    cache = CacheConfig(folder=tmp_path / "cache", max_bytes=2 * largest)
    store = open_store(remote, cache)
    for row in [0, 5, 9, 1, 6]:
        assert store.read_image_bytes(row) == picture(row)
    store.verify()
    cached = list((tmp_path / "cache" / "shards").iterdir())
    assert 1 <= len(cached) <= 2
    assert sum(path.stat().st_size for path in cached) <= cache.max_bytes

    name = store.manifest.shards[0].name
    flipped = bytearray((folder / name).read_bytes())
    flipped[600] ^= 1
    for data, problem in ((flipped, "not those its manifest names"), (b"other bytes", "ends at byte 11")):
        (remote / name).write_bytes(bytes(data))
        with pytest.raises(IntegrityError, match=problem):
            open_store(remote, CacheConfig(folder=tmp_path / "fresh")).read_sample(0)
    assert list((tmp_path / "fresh" / "shards").iterdir()) == []
