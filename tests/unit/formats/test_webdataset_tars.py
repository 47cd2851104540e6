"""WebDataset tars as a source: the shards of a split, and tars that webdataset's own writer made."""

import io
import json
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import webdataset

from posecore.datasets.check import check_split
from posecore.datasets.discovery import read_split
from posecore.errors import DatasetError
from posecore.ingest.run import ingest
from posecore.schema import Record, Reject
from posecore.shards.store import open_store
from tests.support.depth_store import depth_store
from tests.support.small_split import definition, job, picture, records

READER = "posecore.formats.webdataset_tars:WebDatasetReader"


def of_tars(folder: str, **changes):
    return definition(
        name="again", reader=READER, splits={"train": {"annotations": folder, **changes}}, license={"id": "theirs"}
    )


def written(folder: Path, *samples: dict) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    with webdataset.TarWriter(str(folder / "a.tar")) as writer:
        for sample in samples:
            writer.write(sample)
    return folder


def test_the_shards_of_a_split_are_a_source_like_the_download(tmp_path):
    given = records(tmp_path / "raw", 10)
    ingest(job(tmp_path / "raw", tmp_path / "out"), given)
    first = open_store(tmp_path / "out" / "tiny" / "train")
    read = list(read_split(of_tars("train"), "train", tmp_path / "out" / "tiny"))
    assert [record.source_id for record in read] == [record.source_id for record in given]

    changes = {"name": "again", "reader": READER, "splits": {"train": {"annotations": "train"}}}
    ingest(job(tmp_path / "out" / "tiny", tmp_path / "second", **changes), read)
    second = open_store(tmp_path / "second" / "again" / "train")
    assert len(second) == len(first)
    for row in range(10):
        before, after = first.read_sample(row), second.read_sample(row)
        assert after.image_bytes == before.image_bytes == picture(row)
        assert np.array_equal(after.masks.state, before.masks.state)
        expected = replace(before.record, dataset="again", image=after.record.image, license="theirs")
        assert repr(after.record) == repr(expected)


def test_depth_pictures_come_along(tmp_path):
    store = depth_store(tmp_path / "made", 3, "people")
    changed = {"annotations": str(Path(store.location).relative_to(tmp_path))}
    read = list(
        read_split(
            definition(reader=READER, skeleton=store.manifest.definition.skeleton, splits={"train": changed}),
            "train",
            tmp_path,
        )
    )
    assert [record.depth is not None for record in read] == [
        store.read_record(row).depth is not None for row in range(3)
    ]


def test_pictures_alone_are_asked_for_by_name(tmp_path):
    written(
        tmp_path / "tars", {"__key__": "b/7", "jpg": picture(1)}, {"__key__": "b/8", "jpeg": picture(2), "txt": "a"}
    )
    split = of_tars("tars")
    assert [item.reason for item in read_split(split, "train", tmp_path)] == ["missing-field"] * 2
    pictures = of_tars("tars", options={"labels": "none"})
    read = list(read_split(pictures, "train", tmp_path))
    assert [(item.source_id, item.license, item.instances) for item in read] == [
        ("b/7", "theirs", []),
        ("b/8", "theirs", []),
    ]
    with pytest.raises(DatasetError, match="labels is 'coco'; record reads"):
        list(read_split(of_tars("tars", options={"labels": "coco"}), "train", tmp_path))


GOOD = {
    "id": "x", "bbox_xywh": [1, 2, 30, 20], "area": 600, "area_rule": "box",
    "keypoints": [[5, 6, 2], [7, 8, 1], [0, 0, 0]],
}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"keypoints": [[5, 6, 2]]}, "keypoint-count"),
        ({"keypoints": [[5, 6, 7]] * 3}, "flag-out-of-range"),
        ({"keypoints": "many"}, "not-a-list"),
        ({"bbox_xywh": [1, 2, -3, 4]}, "bad-box"),
        ({"area": 0}, "bad-area"),
        ({"area_rule": "guess"}, "bad-area"),
        ({"absent": [3]}, "absent-out-of-range"),
        ({"segmentation": [[1, 2, 3]]}, None),
        ({"id": None}, "not-a-text"),
    ],
)
def test_a_wrong_body_costs_itself(tmp_path, changes, reason):
    record = {"width": 64, "height": 48, "instances": [GOOD, GOOD | changes]}
    written(tmp_path / "tars", {"__key__": "a", "jpg": picture(0), "json": json.dumps(record).encode()})
    items = list(read_split(of_tars("tars"), "train", tmp_path))
    (reject,) = [item for item in items if isinstance(item, Reject)]
    (kept,) = [item for item in items if isinstance(item, Record)]
    assert reason is None or reject.reason == reason
    assert [body.id for body in kept.instances] == ["x"]
    assert kept.instances[0].keypoints.tolist() == [[5, 6, 2], [7, 8, 1], [0, 0, 0]]


@pytest.mark.parametrize(
    ("sample", "reason"),
    [
        ({"json": b"{}"}, "no-picture"),
        ({"jpg": b"a", "png": b"b", "json": b"{}"}, "no-picture"),
        ({"jpg": b"a", "json": b"{}"}, "unreadable-file"),
        ({"jpg": b"a", "json": b"{"}, "unreadable-file"),
        ({"jpg": b"a", "json": b"[]"}, "not-an-object"),
    ],
)
def test_a_wrong_sample_costs_itself(tmp_path, sample, reason):
    good = json.dumps({"instances": []}).encode()
    written(tmp_path / "tars", {"__key__": "bad", **sample}, {"__key__": "good", "jpg": picture(0), "json": good})
    reject, kept = read_split(of_tars("tars"), "train", tmp_path)
    assert (reject.reason, reject.source_id, kept.source_id) == (reason, "bad", "good")


def test_links_hold_nothing_and_a_cut_tar_is_named(tmp_path):
    (tmp_path / "tars").mkdir()
    with tarfile.open(tmp_path / "tars" / "a.tar", "w") as tar:
        link = tarfile.TarInfo("a.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/hostname"
        tar.addfile(link)
        told = tarfile.TarInfo("a.json")
        told.size = 2
        tar.addfile(told, io.BytesIO(b"{}"))
    (reject,) = read_split(of_tars("tars"), "train", tmp_path)
    assert reject.reason == "no-picture"
    whole = (written(tmp_path / "cut", {"__key__": "a", "jpg": picture(0)}) / "a.tar").read_bytes()
    (tmp_path / "cut" / "a.tar").write_bytes(whole[: 512 + len(picture(0)) // 2])
    with pytest.raises(DatasetError, match=r"cut/a\.tar is no whole tar of samples"):
        list(read_split(of_tars("cut"), "train", tmp_path))
    (tmp_path / "none").mkdir()
    with pytest.raises(DatasetError, match=r"no file below .*none ends in \.tar"):
        list(read_split(of_tars("none"), "train", tmp_path))


def test_check_looks_at_pictures_in_tars(tmp_path):
    good = json.dumps({"width": 64, "height": 48, "instances": [GOOD]}).encode()
    written(
        tmp_path / "tars",
        {"__key__": "a", "jpg": picture(0), "json": good},
        {"__key__": "b", "jpg": b"no", "json": good},
    )
    findings = check_split(of_tars("tars"), "train", tmp_path).findings
    assert ("unreadable-image", 1) in [(finding.code, finding.count) for finding in findings]
