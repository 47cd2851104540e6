"""One split from records to shards, in this process: what is kept, what is rejected, what is never half-written."""

import errno
import json
import math
import os
import resource
import shutil
import struct
import subprocess
import tarfile
import threading
import uuid
import zlib
from dataclasses import replace

import cv2
import numpy as np
import polars
import pyarrow.parquet as pq
import pytest
from upath import UPath

from posecore.config import digest_json
from posecore.errors import IngestError, IntegrityError
from posecore.ingest.executor import InProcess
from posecore.ingest.plan import plan_shards
from posecore.ingest.read import write_parts
from posecore.ingest.run import advice, ingest
from posecore.ingest.write import sample_key, write_shard
from posecore.schema import Reject
from posecore.shards.editions import edition_folder, find_edition
from posecore.shards.store import open_store
from tests.support.small_disk import small_disk
from tests.support.small_split import definition, instance, job, picture, records, tree


@pytest.fixture
def root(tmp_path):
    return tmp_path / "raw"


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def with_settings(job, **changes):
    return replace(job, settings=job.settings.model_copy(update=changes))


def png_of_nothing(number=0):
    """A PNG whose every checksum holds, and whose pixels are too few; of other bytes for each number."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 64, 48, 8, 2, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(bytes([number]) * 50))
    return b"\x89PNG\r\n\x1a\n" + header + pixels + chunk(b"IEND", b"")


def planned(item, source):
    """The plan of a split, its files in the scratch folder beside the shards."""
    scratch = item.folder / ".ingest"
    return plan_shards(item, scratch, write_parts(source, item, scratch))


def quarantine(out):
    return pq.read_table(out / "tiny" / "train" / "quarantine.parquet").to_pylist()


def test_equal_inputs_give_equal_bytes_in_any_order_of_sources_and_shards(root, tmp_path):
    source = records(root, 10)

    class Backwards(InProcess):
        def write(self, plan):
            return [write_shard(plan.job, plan.scratch, shard) for shard in reversed(plan.shards)]

    first = ingest(job(root, tmp_path / "a"), source)
    second = ingest(job(root, tmp_path / "b"), records(root, 10)[::-1], Backwards())
    assert first.digest == second.digest
    assert tree(tmp_path / "a" / "tiny" / "train") == tree(tmp_path / "b" / "tiny" / "train")
    assert [shard.num_images for shard in first.shards] == [4, 4, 2]


def test_numbers_are_in_numeric_order(root, out):
    ingest(job(root, out), records(root, 12))
    assert open_store(out / "tiny" / "train").images["key"].to_pylist() == [str(index) for index in range(12)]


def test_other_tools_read_the_tables(root, out):
    ingest(job(root, out), records(root, 3))
    frame = polars.read_parquet(out / "tiny" / "train" / "index.parquet")
    assert frame["bbox_w"].to_list() == [20.0] * 4
    assert not any(isinstance(kind, polars.Object) for kind in frame.dtypes)


def spoil(root, kind):
    path = root / "images" / "2.jpg"
    data = path.read_bytes()
    if kind == "missing-image":
        path.unlink()
    elif kind == "unreadable-image":
        path.unlink()
        path.mkdir()
    elif kind == "empty-image":
        path.write_bytes(b"")
    elif kind == "not-an-image":
        path.write_bytes(b"GIF89a" + data)
    elif kind == "truncated-image":
        path.write_bytes(data[: len(data) * 2 // 3])
    elif kind == "size-mismatch":
        path.write_bytes(cv2.imencode(".png", np.zeros((48, 65, 3), np.uint8))[1].tobytes())
    elif kind == "too-many-pixels":
        head = cv2.imencode(".jpg", np.zeros((48, 64), np.uint8))[1].tobytes()
        at = head.index(b"\xff\xc0") + 5
        path.write_bytes(head[:at] + b"\xff\xff\xff\xff" + head[at + 4 :])


@pytest.mark.parametrize(
    "reason",
    [
        "missing-image",
        "unreadable-image",
        "empty-image",
        "not-an-image",
        "truncated-image",
        "size-mismatch",
        "too-many-pixels",
    ],
)
def test_unusable_images_go_to_quarantine_and_the_rest_goes_on(root, out, reason):
    source = records(root, 6)
    spoil(root, reason)
    manifest = ingest(job(root, out, max_loss=0.5), source)
    assert manifest.rejects == {reason: 1}
    assert open_store(out / "tiny" / "train").images["key"].to_pylist() == ["0", "1", "3", "4", "5"]
    (row,) = quarantine(out)
    assert (row["stage"], row["source"], row["source_id"]) == ("image", "images/2.jpg", "2")
    assert row["detail"].count("2.jpg") == 1


def test_cut_pngs_and_bytes_after_the_end_mark(root, out):
    source = records(root, 3)
    png = cv2.imencode(".png", cv2.imdecode(np.frombuffer(picture(0), np.uint8), 1))[1].tobytes()
    (root / "images" / "0.jpg").write_bytes(png)
    (root / "images" / "1.jpg").write_bytes(picture(1) + b"appended by a camera")
    (root / "images" / "2.jpg").write_bytes(png[:-20])
    manifest = ingest(job(root, out, max_loss=0.5), source)
    assert manifest.rejects == {"truncated-image": 1}
    with tarfile.open(out / "tiny" / "train" / "shard-000000.tar") as tar:
        assert tar.getnames()[::3] == ["0.png", "1.jpg"], "the extension says what the bytes are"


def test_full_decoding_finds_what_headers_cannot(root, out):
    source = records(root, 3)
    (root / "images" / "0.jpg").write_bytes(png_of_nothing())
    jpeg = picture(1)
    middle = jpeg.index(b"\xff\xda") + 200
    (root / "images" / "1.jpg").write_bytes(jpeg[:middle] + bytes(100) + jpeg[middle + 100 :])
    plain = job(root, out, max_loss=0.8)
    assert ingest(with_settings(plain, decode_share=0.0), source).rejects == {}
    manifest = ingest(with_settings(plain, decode="full"), source)
    assert manifest.rejects == {"undecodable-image": 2}
    details = [row["detail"] for row in quarantine(out)]
    assert "no decoder reads it" in details[0]
    assert "Corrupt JPEG data" in details[1]
    assert advice(manifest) is None, "nothing is left to be found"


def test_a_share_is_decoded_whatever_the_shards_and_the_reader_is_told_what_it_means(root, tmp_path):
    source = records(root, 20)
    for number in range(10):
        (root / "images" / f"{number}.jpg").write_bytes(png_of_nothing(number))
    found = [
        ingest(with_settings(job(root, tmp_path / str(size), size, max_loss=0.9), decode_share=0.5), source)
        for size in (3, 20)
    ]
    rejected = [
        sorted(row["source_id"] for row in quarantine(tmp_path / str(size)) if row["reason"] == "undecodable-image")
        for size in (3, 20)
    ]
    assert rejected[0] == rejected[1]
    assert 1 < len(rejected[0]) < 10
    assert f"tiny train: {len(rejected[0])} of the 50% of the images" in advice(found[0])
    assert "--decode full" in advice(found[0])


def test_flipped_bytes_are_found_by_default(root, out):
    source = records(root, 2)
    png = cv2.imencode(".png", cv2.imdecode(np.frombuffer(picture(0), np.uint8), 1))[1].tobytes()
    middle = len(png) // 2
    (root / "images" / "0.jpg").write_bytes(png[:middle] + bytes(64) + png[middle + 64 :])
    assert ingest(job(root, out, max_loss=0.5), source).rejects == {"damaged-image": 1}


FAR = 10 * 64
"""Ten of the longer sides of the pictures."""


@pytest.mark.parametrize("stated", [True, False], ids=["size stated", "size from the file"])
@pytest.mark.parametrize(
    ("reason", "changes"),
    [
        ("far-box", {"bbox_xywh": (4.0, 5.0, 4e11, 30.0)}),
        ("far-box", {"bbox_xywh": (-FAR - 1.0, 5.0, FAR + 20.0, 30.0)}),
        ("far-box", {"head_bbox_xyxy": (1.0, 1.0, 9.0, FAR + 1.0)}),
        ("far-box", {"center": (1.0, 1.0), "scale": (4.0, 2.0 * FAR + 4.0)}),
        ("far-box", {"center": (math.nan, 1.0), "scale": (4.0, 4.0)}),
        ("far-keypoints", {"keypoints": np.array([[300 * 64, 6, 2], [7, 8, 1], [0, 0, 0]], np.float32)}),
        ("far-keypoints", {"keypoints": np.array([[5, 6, 2], [7, -FAR - 1, 1], [0, 0, 0]], np.float32)}),
    ],
)
def test_numbers_that_cannot_be_pixels_of_their_picture_are_quarantined(root, out, reason, changes, stated):
    source = records(root, 2)
    if not stated:
        source = [replace(item, width=0, height=0) for item in source]
    source[0].instances.append(instance("far", **changes))
    source[0].instances.append(
        instance("near", bbox_xywh=(-FAR, 5.0, 2.0 * FAR, 30.0), center=(0, 0), scale=(FAR, FAR))
    )
    plain = job(root, out, max_loss=0.5)
    manifest = ingest(plain, source)
    assert manifest.rejects == {reason: 1}
    (row,) = quarantine(out)
    assert (row["stage"], row["instance_id"]) == ("image", "far")
    kept = open_store(out / "tiny" / "train").read_record(0).instances
    assert [item.id for item in kept] == ["0-a", "near"]
    plan = planned(plain, source)
    assert all(write_shard(plain, plan.scratch, shard).reused for shard in plan.shards)


@pytest.mark.parametrize("kind", ["pipe", "link to nothing", "giant"])
def test_what_is_no_picture_file_is_neither_waited_for_nor_read(root, out, kind):
    source = records(root, 2)
    path = root / "images" / "0.jpg"
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "link to nothing":
        path.symlink_to(root / "gone")
    else:
        with path.open("wb") as file:
            file.truncate(100_001)
    plain = with_settings(job(root, out, max_loss=0.5), max_image_bytes=100_000)
    reasons = {"pipe": "unreadable-image", "link to nothing": "missing-image", "giant": "too-large"}
    assert ingest(plain, source).rejects == {reasons[kind]: 1}


def test_ingestion_does_not_change_the_records_it_is_given(root, out):
    source = records(root, 2)
    first = planned(job(root, out), source).digest
    ingest(job(root, out), source)
    assert planned(job(root, out), source).digest == first


def test_sizes_the_annotation_does_not_state_come_from_the_header(root, out):
    source = [replace(item, width=0, height=0) for item in records(root, 2)]
    ingest(job(root, out), source)
    record = open_store(out / "tiny" / "train").read_record(1)
    assert (record.width, record.height) == (64, 48)


def test_too_much_loss_stops_names_the_reason_and_leaves_no_split(root, out):
    source = records(root, 6)
    ingest(job(root, out), source)
    (root / "images" / "2.jpg").unlink()
    with pytest.raises(IngestError, match=r"stage image lost 16\.7% of the images.*missing-image: 1"):
        ingest(job(root, out, max_loss=0.1), source)
    with pytest.raises(IntegrityError, match="ingest it first"):
        open_store(out / "tiny" / "train")
    assert quarantine(out)[0]["reason"] == "missing-image"


def test_filters_may_lose_more_than_max_loss(root, out):
    manifest = ingest(job(root, out, stages=["drop_crowds"]), records(root, 6))
    assert manifest.rejects == {"crowd": 3}
    assert manifest.num_instances == 6


def test_duplicate_ids_wrong_point_counts_and_escaping_paths_are_rejected(root, out):
    source = records(root, 5)
    source.append(replace(source[0], image="images/1.jpg"))
    source[1].instances.append(instance("0-a"))
    source[2].instances.append(instance("odd", keypoints=np.zeros((4, 3), np.float32)))
    source[3] = replace(source[3], image="../secret.jpg")
    manifest = ingest(job(root, out, max_loss=0.6), source)
    assert manifest.rejects == {
        "duplicate-image-id": 1,
        "duplicate-instance-id": 1,
        "keypoint-count": 1,
        "path-escape": 1,
    }
    store = open_store(out / "tiny" / "train")
    assert store.images["key"].to_pylist() == ["0", "1", "2", "4"]
    ids = store.instances["instance_id"].to_pylist()
    assert len(ids) == len(set(ids))


def test_reader_rejects_are_kept(root, out):
    reject = Reject(reason="odd", detail="why.", dataset="tiny", split="train", source="a.json [3]", instance_id="9")
    manifest = ingest(job(root, out, max_loss=0.5), [*records(root, 2), reject])
    assert manifest.rejects == {"odd": 1}
    assert quarantine(out)[0]["source"] == "a.json [3]"


@pytest.mark.parametrize("rejects", [0, 2])
def test_an_empty_split_is_an_error(root, out, rejects):
    reject = Reject(reason="odd", detail="why.", dataset="tiny", split="train", source="a.json")
    with pytest.raises(IngestError, match=r"tiny train: the split is empty.*" + ("odd: 2" if rejects else "")):
        ingest(job(root, out), [reject] * rejects)
    with pytest.raises(IngestError, match=r"tiny has no split 'test'\. There are train, val"):
        job(root, out, split="test")


def test_a_split_of_which_nothing_is_left_is_an_error(root, out):
    source = records(root, 2)
    shutil.rmtree(root / "images")
    with pytest.raises(IngestError, match=r"no image is left.*missing-image: 2"):
        ingest(job(root, out, max_loss=1.0), source)


def state_of(folder):
    return {path.name: (path.stat().st_mtime_ns, path.stat().st_ino) for path in folder.glob("shard-*")}


def test_running_again_keeps_what_is_whole(root, out):
    first = ingest(job(root, out), records(root, 10))
    folder = out / "tiny" / "train"
    before, content = state_of(folder), tree(folder)
    assert ingest(job(root, out), records(root, 10)).digest == first.digest
    assert state_of(folder) == before
    assert tree(folder) == content


@pytest.mark.parametrize("damage", ["flip", "cut", "remove", "remove-commit", "spoil-commit", "empty"])
def test_running_again_repairs_what_is_damaged_and_nothing_else(root, out, damage):
    ingest(job(root, out), records(root, 10))
    folder = out / "tiny" / "train"
    before, content = state_of(folder), tree(folder)
    shard, commit = folder / "shard-000001.tar", folder / "shard-000001.json"
    if damage == "flip":
        data = bytearray(shard.read_bytes())
        data[len(data) // 2] ^= 1
        shard.write_bytes(data)
    elif damage == "cut":
        os.truncate(shard, 1000)
    elif damage == "empty":
        os.truncate(shard, 0)
    elif damage == "remove":
        shard.unlink()
    elif damage == "remove-commit":
        commit.unlink()
    else:
        commit.write_text("{")
    ingest(job(root, out), records(root, 10))
    assert tree(folder) == content
    after = state_of(folder)
    assert {name for name in before if before[name] == after[name]} == {name for name in before if "000001" not in name}


def test_a_completed_download_is_noticed(root, out):
    source = records(root, 6)
    data = (root / "images" / "2.jpg").read_bytes()
    (root / "images" / "2.jpg").unlink()
    assert ingest(job(root, out, max_loss=0.5), source).num_images == 5
    (root / "images" / "2.jpg").write_bytes(data)
    assert ingest(job(root, out, max_loss=0.5), source).num_images == 6


def test_another_plan_leaves_nothing_of_the_former_one(root, out, tmp_path):
    former = ingest(job(root, out, images_per_shard=2), records(root, 10))
    folder = out / "tiny" / "train"
    (folder / ".shard-000000.tar.killed.part").write_bytes(b"half")
    ingest(job(root, out, images_per_shard=5), records(root, 10))
    ingest(job(root, tmp_path / "fresh", images_per_shard=5), records(root, 10))
    shutil.rmtree(edition_folder(folder, former.digest))
    assert tree(folder) == tree(tmp_path / "fresh" / "tiny" / "train")


def test_former_editions_stay_as_they_were(root, out):
    folder = out / "tiny" / "train"
    former = ingest(job(root, out), records(root, 10))
    tables = {name: (folder / name).read_bytes() for name in ("manifest.json", *former.files)}
    present = ingest(job(root, out), records(root, 9))
    kept = find_edition(folder, former.digest)
    assert {path.name: path.read_bytes() for path in kept.iterdir()} == tables
    assert find_edition(folder, present.digest) == folder
    ingest(job(root, out), records(root, 10))
    assert find_edition(folder, former.digest) == folder
    assert find_edition(folder, present.digest) == edition_folder(folder, present.digest)
    with pytest.raises(IntegrityError, match=r"no edition of this split with digest 0000.* is kept.*bring back"):
        find_edition(folder, "0" * 64)


def test_an_interrupted_run_shows_no_split_and_continues(root, out):
    class Interrupted(InProcess):
        def write(self, plan):
            yield write_shard(plan.job, plan.scratch, plan.shards[0])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ingest(job(root, out), records(root, 10), Interrupted())
    folder = out / "tiny" / "train"
    with pytest.raises(IntegrityError, match="no finished split"):
        open_store(folder)
    before = state_of(folder)
    ingest(job(root, out), records(root, 10))
    after = state_of(folder)
    assert {name: after[name] for name in before} == before
    assert open_store(folder).num_images == 10


def test_a_manifest_of_another_plan_is_gone_before_the_first_shard_changes(root, out):
    """Until the new one is there: half of the new shards under the old list would be read as a split."""
    ingest(job(root, out), records(root, 10))

    class Interrupted(InProcess):
        def write(self, plan):
            assert not (plan.job.folder / "manifest.json").exists()
            yield write_shard(plan.job, plan.scratch, plan.shards[0])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ingest(job(root, out), records(root, 9), Interrupted())
    with pytest.raises(IntegrityError, match="no finished split"):
        open_store(out / "tiny" / "train")


def test_a_split_that_lost_too_much_since_has_no_manifest(root, out):
    """The plan is the same, the pictures are not: nobody may take the former manifest for this run's."""
    source = records(root, 10)
    ingest(job(root, out), source)
    spoil(root, "truncated-image")
    with pytest.raises(IngestError, match="truncated-image"):
        ingest(job(root, out), source)
    with pytest.raises(IntegrityError, match="no finished split"):
        open_store(out / "tiny" / "train")


@pytest.fixture
def syncs(monkeypatch):
    """What reached the disk: thread, inode and size of every fsync; shards are flushed all the time."""
    done, sync = [], os.fsync

    def watched(descriptor):
        sync(descriptor)
        state = os.fstat(descriptor)
        done.append((threading.current_thread().name, state.st_ino, state.st_size))

    monkeypatch.setattr("os.fsync", watched)
    monkeypatch.setattr("posecore.ingest.write._FLUSH_SECONDS", 0.0)
    return done


def test_a_shard_is_on_disk_before_it_has_its_name(root, out, syncs):
    ingest(job(root, out), records(root, 6))
    whole = {(inode, size) for name, inode, size in syncs if not name.startswith("ingest-flush")}
    shards = sorted((out / "tiny" / "train").glob("shard-*.tar"))
    assert len(shards) == 2
    for path in shards:
        assert (path.stat().st_ino, path.stat().st_size) in whole


def test_a_failed_flush_of_a_growing_shard_is_an_error_though_the_last_one_succeeds(root, out, monkeypatch):
    """The system tells of a lost page once, to the flush that met it."""
    plan, sync, failed = planned(job(root, out), records(root, 8)), os.fsync, threading.Event()

    def fails_once(descriptor):
        if threading.current_thread().name.startswith("ingest-flush"):
            failed.set()
            raise OSError(errno.EIO, "Input/output error")
        failed.wait(10)
        sync(descriptor)

    monkeypatch.setattr("os.fsync", fails_once)
    monkeypatch.setattr("posecore.ingest.write._FLUSH_SECONDS", 0.0)
    with pytest.raises(OSError, match="Input/output error"):
        write_shard(plan.job, plan.scratch, plan.shards[0])
    assert failed.is_set()
    assert not list((out / "tiny" / "train").glob("*shard-*"))


def test_every_shaping_input_changes_the_plan(root, out):
    base = planned(job(root, out), records(root, 4))
    changed = records(root, 4)
    changed[0].instances[0].keypoints[0, 0] += 1
    other_stage = planned(job(root, out, stages=["drop_crowds"]), records(root, 4))
    digests = {base.digest, planned(job(root, out), changed).digest, other_stage.digest}
    assert len(digests) == 3
    assert planned(job(root, out / "elsewhere"), records(root, 4)).digest == base.digest


def test_keys_are_safe_and_differ():
    ids = ["1", "01", "a.b", "a/b", "a b", "", "ä", "x" * 64, "x" * 65, "x" * 65 + "y"]
    keys = [sample_key(item) for item in ids]
    assert len(set(keys)) == len(ids)
    assert all(0 < len(key) <= 81 and not set(key) & set("./ ") for key in keys)
    assert keys[:2] == ["1", "01"]


def test_remote_source_and_target_give_the_same_shards(root, out):
    remote = UPath(f"memory://{uuid.uuid4().hex}")
    source = records(remote / "raw", 6)
    manifest = ingest(job(remote / "raw", remote / "out"), source)
    local = ingest(job(root, out), records(root, 6))
    assert manifest.digest == local.digest
    folder = remote / "out" / "tiny" / "train"
    below = {
        path.path.removeprefix(f"{folder.path}/"): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }
    assert below == tree(out / "tiny" / "train")
    assert ingest(job(remote / "raw", remote / "out"), records(remote / "raw", 6)).digest == local.digest
    assert open_store(folder).read_sample(5).image_bytes == picture(5)


def test_a_file_size_limit_ends_in_one_sentence_and_leaves_no_shard(root, out):
    plan = planned(job(root, out), records(root, 8))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(IngestError, match=r"shard-000000\.tar: no room.*run again"):
            write_shard(plan.job, plan.scratch, plan.shards[0])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list((out / "tiny" / "train").glob("*shard-*"))


def test_a_full_disk_ends_in_one_sentence_and_more_room_continues(root, tmp_path):
    disk = tmp_path / "small"
    with small_disk(disk, "64k") as mounted:
        if not mounted:
            pytest.skip("mounting a small tmpfs needs root")
        source = records(root, 30)
        with pytest.raises(IngestError, match="no room to write it"):
            ingest(job(root, disk), source)
        folder = disk / "tiny" / "train"
        assert not [path for path in folder.iterdir() if path.name.startswith(".")]
        assert not (folder / "manifest.json").exists()
        subprocess.run(["mount", "-o", "remount,size=4m", str(disk)], check=True)
        assert ingest(job(root, disk), source).num_images == 30
        open_store(folder).verify()


def test_definitions_of_datasets_travel_in_the_manifest(root, out):
    ingest(job(root, out), records(root, 2))
    assert open_store(out / "tiny" / "train").manifest.definition.digest() == definition(max_loss=0.0).digest()


def test_how_a_dataset_is_judged_is_no_part_of_its_digest_and_is_written_beside_shards_that_stay(root, out):
    source = records(root, 2)
    first = ingest(job(root, out), source)
    folder = out / "tiny" / "train"
    tars = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.tar")}
    evaluation = {"protocol": "pixel", "options": {"pcutoff": 0.3}}
    second = ingest(job(root, out, evaluation=evaluation), source)
    assert second.digest == first.digest
    assert open_store(folder).manifest.definition.evaluation.options == {"pcutoff": 0.3}
    assert {path.name: path.stat().st_mtime_ns for path in folder.glob("*.tar")} == tars
    assert ingest(job(root, out, max_loss=0.5), source).digest != first.digest


def test_a_manifest_of_the_time_when_that_counted_keeps_its_digest(root, out):
    manifest = ingest(job(root, out, evaluation={"protocol": "pixel"}), records(root, 2))
    value = manifest.model_dump(mode="json")
    path = out / "tiny" / "train" / "manifest.json"
    path.write_text(json.dumps({"digest": digest_json(value), **value}))
    assert open_store(path.parent).manifest.digest == digest_json(value) != manifest.digest
    value["definition"]["evaluation"]["protocol"] = "pck"
    path.write_text(json.dumps({"digest": digest_json(manifest.model_dump(mode="json")), **value}))
    with pytest.raises(IntegrityError, match="does not have the digest it states"):
        open_store(path.parent)
