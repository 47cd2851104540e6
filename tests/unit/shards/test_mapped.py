"""Tables mapped from disk: the same rows, one copy, kept while in use, bounded."""

import io
import shutil
import uuid
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from upath import UPath

from posecore.errors import IntegrityError
from posecore.shards import mapped, store
from posecore.shards.cache import CacheConfig
from posecore.shards.mapped import mapped_table
from posecore.shards.store import ShardStore
from posecore.storage import sha256_of
from tests.support.tiny_store import instance, record, write_store


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    """Images with and without bodies, and bodies with points that do not exist."""
    bodies = [
        [instance(f"{row}-{i}", 17, (5.0, 8.0, 60.0, 80.0), absent=tuple(range(i))) for i in range(row % 4)]
        for row in range(50)
    ]
    for of_image in bodies:
        for body in of_image:
            body.keypoints[list(body.absent)] = 0
    return write_store(
        tmp_path_factory.mktemp("split"), "people", (), records=[record("people", *item) for item in enumerate(bodies)]
    )


@pytest.fixture
def opened(split, tmp_path, monkeypatch):
    monkeypatch.setattr(store, "LEAST_ROWS", 1)
    monkeypatch.setattr(mapped, "_PART_ROWS", 20)
    return ShardStore(split.location, CacheConfig(folder=tmp_path))


def test_rows_are_those_of_the_file(split, opened):
    for name in ("images", "instances"):
        assert getattr(opened, name).equals(getattr(split, name))
        assert getattr(opened, name).schema.equals(getattr(split, name).schema, check_metadata=True)
    rows = np.arange(len(split))
    np.testing.assert_array_equal(opened.labels.keypoints(rows), split.labels.keypoints(rows))
    np.testing.assert_array_equal(opened.labels.state(rows), split.labels.state(rows))
    assert (split.labels.state(rows) == 4).any()
    assert opened.read_sample(7).key == split.read_sample(7).key


def test_columns_of_numbers_are_the_mapped_file_itself(opened, tmp_path):
    maps = [line for line in Path("/proc/self/maps").read_text().splitlines() if str(tmp_path / "tables") in line]
    for column in ("bbox_w", "image_row", "num_labelled"):
        values = opened.instances[column].to_numpy()
        address = values.__array_interface__["data"][0]
        ranges = [[int(end, 16) for end in line.split()[0].split("-")] for line in maps if f"/{column}.values" in line]
        assert any(low <= address < high for low, high in ranges)
        assert not values.flags.writeable


def test_another_process_takes_what_is_there(opened, split, tmp_path, monkeypatch):
    monkeypatch.setattr(mapped, "_write", None)  # nobody turns a table a second time
    again = ShardStore(split.location, CacheConfig(folder=tmp_path))
    assert again.instances.equals(opened.instances)


def test_a_file_with_other_content_is_refused(split, tmp_path):
    path = tmp_path / "index.parquet"
    path.write_bytes((split.location / "index.parquet").read_bytes())
    with pytest.raises(IntegrityError, match=r"index.parquet: not the table that its manifest names"):
        mapped_table(path, "0" * 64, tmp_path / "tables")
    assert list((tmp_path / "tables").iterdir()) == []


def test_a_large_table_that_is_gone_is_named(split, tmp_path, monkeypatch):
    monkeypatch.setattr(store, "LEAST_ROWS", 1)
    folder = shutil.copytree(split.location, tmp_path / "split")
    (folder / "images.parquet").unlink()
    with pytest.raises(IntegrityError, match=r"images.parquet: the table is missing"):
        ShardStore(folder, CacheConfig(folder=tmp_path))


def test_a_remote_table_is_mapped(split, tmp_path):
    data = (split.location / "index.parquet").read_bytes()
    path = UPath(f"memory://{uuid.uuid4().hex}/index.parquet")
    path.write_bytes(data)
    found = mapped_table(path, sha256_of(path), tmp_path / "tables")
    assert found.table.equals(pq.read_table(io.BytesIO(data)))
    assert not list(tmp_path.rglob("source.parquet"))  # of which a copy was made


def test_tables_nobody_uses_are_removed_beyond_a_bound(tmp_path, monkeypatch):
    monkeypatch.setattr(mapped, "_MOST_BYTES", 1)
    schema = pa.schema([pa.field("number", pa.int64(), nullable=False)])
    kept = []
    for number in range(3):
        path = tmp_path / f"{number}.parquet"
        pq.write_table(pa.table({"number": [number] * 9}, schema), path)
        kept.append(mapped_table(path, sha256_of(path), tmp_path / "tables"))
        if number == 1:
            kept.clear()  # the first two are no longer in use
    assert len(list((tmp_path / "tables").iterdir())) == 1
    assert kept[0].table["number"].to_pylist() == [2] * 9
