import shutil
from dataclasses import replace

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from posecore.cli import main
from posecore.datasets.discovery import load_dataset, read_split
from posecore.errors import LeakageError
from posecore.ingest.audit import compare, perceptual_hashes, refuse_leakage
from posecore.ingest.job import IngestSettings, ingest_job
from posecore.ingest.perceptual import near_pairs, perceptual_hash
from posecore.ingest.run import ingest
from posecore.shards.store import open_store
from tests.support.small_split import job, records


@pytest.mark.parametrize("max_distance", [0, 3, 4, 8, 11])
def test_the_search_finds_exactly_the_near_pairs(max_distance):
    random = np.random.default_rng(max_distance)
    a = random.integers(0, 1 << 63, 60, np.uint64)
    noise = np.array([sum(1 << int(bit) for bit in random.choice(64, n % 14, replace=False)) for n in range(60)])
    b = np.concatenate([a ^ noise.astype(np.uint64), random.integers(0, 1 << 63, 20, np.uint64)])
    distance = np.bitwise_count(a[:, None] ^ b[None, :])
    expected = np.argwhere(distance <= max_distance)
    rows_a, rows_b, distances = near_pairs(a, b, max_distance)
    assert np.array_equal(np.stack([rows_a, rows_b], axis=1), expected)
    assert np.array_equal(distances, distance[rows_a, rows_b])
    assert len(expected) >= 4


def test_distances_the_search_cannot_do_are_refused():
    empty = np.array([], np.uint64)
    assert len(near_pairs(empty, empty, 8)[0]) == 0
    with pytest.raises(ValueError, match="max_distance"):
        near_pairs(empty, empty, 12)


def test_uniform_and_broken_images_have_no_hash():
    grey = cv2.imencode(".png", np.full((64, 64), 128, np.uint8))[1].tobytes()
    assert not perceptual_hash(grey, 64, 64).usable
    assert not perceptual_hash(b"not an image", 64, 64).usable


@pytest.fixture
def stores(tmp_path):
    """Train: images 0 to 5. Val: one byte-identical copy, one re-encoded at half size, three others."""
    train = records(tmp_path / "a", 6)
    val = [replace(item, split="val", video_id=None) for item in records(tmp_path / "b", 5)]
    folder = tmp_path / "b" / "images"
    for index in (0, 1, 4):
        random = np.random.default_rng(100 + index).integers(0, 255, (6, 8, 3), np.uint8)
        pixels = cv2.resize(random, (64, 48), interpolation=cv2.INTER_CUBIC)
        (folder / f"{index}.jpg").write_bytes(cv2.imencode(".jpg", pixels)[1].tobytes())
    small = cv2.resize(cv2.imread(str(folder / "3.jpg")), (32, 24), interpolation=cv2.INTER_AREA)
    (folder / "3.jpg").write_bytes(cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, 60])[1].tobytes())
    val[3] = replace(val[3], width=32, height=24, instances=[])
    for index, item in enumerate(val):
        for person in item.instances:
            person.subject_id = "s0" if index == 4 else f"v{index}"
    val[4].video_id = "v"
    ingest(job(tmp_path / "a", tmp_path / "out"), train)
    ingest(job(tmp_path / "b", tmp_path / "out", split="val"), val)
    return open_store(tmp_path / "out" / "tiny" / "train"), open_store(tmp_path / "out" / "tiny" / "val")


def test_every_kind_of_overlap_is_found_and_named(stores):
    report = compare(*stores)
    found = [(pair.reason, pair.a.key, pair.b.key) for pair in report.pairs]
    assert found == [("exact", "2", "2"), ("perceptual", "3", "3"), ("subject", "0", "4"), ("video", "0", "4")]
    assert report.digests == tuple(store.manifest.digest for store in stores)
    with pytest.raises(LeakageError, match=r"tiny/train and tiny/val share 1 exact.*tiny/train/2 and tiny/val/2"):
        refuse_leakage([report])
    refuse_leakage([report], allow=True)


def test_sets_that_share_nothing_pass(stores, tmp_path):
    others = [replace(item, split="val", video_id=None) for item in records(tmp_path / "c", 12)[8:]]
    ingest(job(tmp_path / "c", tmp_path / "other", split="val"), others)
    report = compare(stores[0], open_store(tmp_path / "other" / "tiny" / "val"))
    assert report.counts() == {}
    refuse_leakage([report])


def test_hashes_are_kept_beside_the_index(stores, monkeypatch):
    first = perceptual_hashes(stores[0])
    (kept,) = stores[0].location.glob("hashes-*.parquet")
    assert stores[0].manifest.digest[:16] in kept.name
    monkeypatch.setattr("posecore.ingest.audit.perceptual_hash", None)
    assert perceptual_hashes(stores[0]) == first


@pytest.mark.parametrize(
    "damage", ["no rows", "a row less", "rows changed places", "one bit", "no image", "cut", "other"]
)
def test_a_cache_that_is_not_of_exactly_these_images_hides_no_leak(stores, damage):
    expected = compare(*stores).pairs
    hashes = [perceptual_hashes(store) for store in stores]
    (kept,) = stores[0].location.glob("hashes-*.parquet")
    table = pq.read_table(kept)
    if damage == "no rows":
        table = table.slice(0, 0)
    elif damage == "a row less":
        table = table.slice(0, 5)
    elif damage == "rows changed places":
        table = table.take([0, 1, 3, 2, 4, 5])
    elif damage == "one bit":
        bits = table["bits"].to_numpy() ^ np.array([0, 0, 0, 1 << 40, 0, 0], np.uint64)
        table = table.set_column(0, table.schema.field(0), pa.array(bits))
    elif damage == "no image":
        table = table.set_column(2, table.schema.field(2), pa.array([False] * 6))
    pq.write_table(table, kept)
    if damage == "cut":
        kept.write_bytes(kept.read_bytes()[:100])
    elif damage == "other":  # another split of as many images
        place = kept.parents[3]
        others = [replace(item, split="val") for item in records(place / "d", 6)]
        ingest(job(place / "d", place / "further", split="val"), others)
        further = open_store(place / "further" / "tiny" / "val")
        perceptual_hashes(further)
        shutil.copy(next(further.location.glob("hashes-*")), kept)
    assert [perceptual_hashes(store) for store in stores] == hashes
    assert compare(*stores).pairs == expected
    assert pq.read_table(kept).num_rows == 6, "and the cache is whole again"


def test_the_command_names_the_pairs(stores, capsys):
    assert main(["audit", str(stores[0].location), str(stores[1].location)]) == 1
    printed = capsys.readouterr().out
    assert "tiny/train/2 and tiny/val/2 (exact)" in printed
    assert "share 1 exact, 1 perceptual, 1 subject, 1 video." in printed


def ingested(samples, out, name, split):
    definition = load_dataset(name)
    item = ingest_job(definition, split, samples / name, out, IngestSettings())
    ingest(item, read_split(definition, split, samples / name))
    return open_store(item.folder)


@pytest.mark.samples
def test_wholebody_and_halpe_hold_the_same_photos(samples, tmp_path):
    wholebody = ingested(samples, tmp_path, "coco_wholebody", "val")
    halpe = ingested(samples, tmp_path, "halpe", "val")
    report = compare(wholebody, halpe)
    assert report.counts() == {"exact": 4}
    assert all(pair.a.key == pair.b.key for pair in report.pairs)
    with pytest.raises(LeakageError, match="coco_wholebody/val/785 and halpe/val/785"):
        refuse_leakage([report])
    coco = ingested(samples, tmp_path, "coco", "train")
    assert not compare(coco, wholebody).leaks


@pytest.mark.samples
def test_copies_of_photos_are_found_and_other_photos_are_not(samples, tmp_path):
    """The figures that the thresholds were chosen by, on fewer photos."""
    photos = sorted((samples / "coco" / "val2017").glob("*.jpg"))[:20]
    bits, copies = [], []
    for path in photos:
        pixels = cv2.imread(str(path), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
        height, width = pixels.shape[:2]
        bits.append(perceptual_hash(path.read_bytes(), width, height).bits)
        small = cv2.resize(pixels, None, fx=0.4, fy=0.4, interpolation=cv2.INTER_AREA)
        data = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, 60])[1].tobytes()
        copies.append(perceptual_hash(data, small.shape[1], small.shape[0]).bits)
    rows, columns, _ = near_pairs(np.array(bits, np.uint64), np.array(copies, np.uint64), 8)
    assert rows.tolist() == columns.tolist() == list(range(len(photos)))
