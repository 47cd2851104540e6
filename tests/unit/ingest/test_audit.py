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
from posecore.ingest.audit import compare, refuse_leakage
from posecore.ingest.job import IngestSettings, ingest_job
from posecore.ingest.kept_hashes import perceptual_hashes
from posecore.ingest.perceptual import Likeness, PerceptualHashes, perceptual_hash
from posecore.ingest.run import ingest
from posecore.ingest.twins import first_twins
from posecore.shards.store import open_store
from tests.support.small_split import job, records


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
    monkeypatch.setattr("posecore.ingest.kept_hashes.perceptual_hash", None)
    assert same_hashes(perceptual_hashes(stores[0]), first)


def same_hashes(a, b):
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in ("bits", "thumbnails", "usable"))


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
    assert all(map(same_hashes, [perceptual_hashes(store) for store in stores], hashes))
    assert compare(*stores).pairs == expected
    assert pq.read_table(kept).num_rows == 6, "and the cache is whole again"


def test_the_command_names_the_pairs(stores, capsys):
    assert main(["audit", str(stores[0].location), str(stores[1].location)]) == 1
    printed = capsys.readouterr().out
    assert "tiny/train/2 and tiny/val/2 (exact)" in printed
    assert "share 1 exact, 1 perceptual, 1 subject, 1 video." in printed


def test_many_copies_of_one_picture_are_one_row_for_each_image_of_the_second_set(tmp_path, monkeypatch, capsys):
    stores = []
    for split, number in (("train", 5), ("val", 3)):
        copies = [replace(item, split=split, video_id=None, instances=[]) for item in records(tmp_path / split, number)]
        for path in (tmp_path / split / "images").iterdir():
            path.write_bytes((tmp_path / split / "images" / "0.jpg").read_bytes())
        ingest(job(tmp_path / split, tmp_path / "out", split=split), copies)
        stores.append(open_store(tmp_path / "out" / "tiny" / split))
    monkeypatch.setattr("posecore.ingest.audit.MOST_NAMED", 2)
    report = compare(*stores)
    assert report.counts() == {"exact": 3}
    assert report.shared.select("a", "b").rows() == [("0", "0"), ("0", "1"), ("0", "2")]
    assert [pair.b.key for pair in report.pairs] == ["0", "1"], "the others are counted, not named"
    out = tmp_path / "shared.csv"
    assert main(["audit", str(stores[0].location), str(stores[1].location), "--out", str(out)]) == 1
    assert capsys.readouterr().out.endswith("… and 1 more\ntiny/train and tiny/val share 3 exact.\n")
    assert out.read_text().splitlines() == ["reason,a,b,detail", *(f'exact,0,{key},""' for key in range(3))]
    with pytest.raises(LeakageError, match=r"share 3 exact: .*; and 1 more"):
        refuse_leakage([report])


def test_a_picture_that_a_stage_has_cut_is_known_by_its_source(tmp_path):
    root = tmp_path / "raw"
    records(root, 3)
    records(root, 3, split="val")
    cut = {"stage": "crop_bodies", "options": {"margin": 0}}
    whole, of_bodies = job(root, tmp_path / "whole"), job(root, tmp_path / "cut", split="val", stages=[cut])
    ingest(whole)
    ingest(of_bodies)
    report = compare(open_store(whole.folder), open_store(of_bodies.folder))
    assert report.shared.filter(reason="exact").select("a", "b").rows() == [("0", "0"), ("1", "1"), ("2", "2")]


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
    originals, copies = [], []
    for path in photos:
        pixels = cv2.imread(str(path), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
        height, width = pixels.shape[:2]
        originals.append(perceptual_hash(path.read_bytes(), width, height))
        small = cv2.resize(pixels, None, fx=0.4, fy=0.4, interpolation=cv2.INTER_AREA)
        data = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, 60])[1].tobytes()
        copies.append(perceptual_hash(data, small.shape[1], small.shape[0]))
    found = first_twins(PerceptualHashes.of(originals), PerceptualHashes.of(copies), Likeness())
    assert found.tolist() == list(range(len(photos)))
