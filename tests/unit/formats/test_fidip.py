import json
from collections.abc import Callable
from pathlib import Path

import pytest

from posecore.errors import DatasetError
from posecore.formats.fidip import FidipReader
from posecore.formats.reader import Source
from posecore.schema import Record, Reject
from posecore.skeletons.library import load_skeleton

Make = Callable[..., Source]
Read = Callable[..., tuple[list[Record], list[Reject]]]


@pytest.mark.samples
def test_real_infants(samples: Path, make_source: Make, read: Read) -> None:
    names = load_skeleton("fidip19").names
    source = make_source("keypoints", root=samples / "infant", keypoints=names)
    records, rejects = read(FidipReader(), source)
    assert not rejects
    assert [r.image for r in records] == ["images/247.jpg", "images/46.jpg"]
    assert all((samples / "infant" / r.image).is_file() for r in records)
    points = dict(zip(names, records[1].instances[0].keypoints, strict=True))
    assert points["neck"][:2] == pytest.approx((points["left_shoulder"] + points["right_shoulder"])[:2] / 2, abs=1e-3)
    assert points["mid_hip"][:2] == pytest.approx((points["left_hip"] + points["right_hip"])[:2] / 2, abs=1e-3)
    x, y, w, h = records[1].instances[0].bbox_xywh
    extent = records[1].instances[0].keypoints[:, :2]
    assert x < extent[:, 0].min() < extent[:, 0].max() < x + w
    assert y < extent[:, 1].min() < extent[:, 1].max() < y + h


def test_bad_files_cost_their_image_only(tmp_path: Path, make_source: Make, read: Read) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "keypoints").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(b"")
    contents = {
        "a": json.dumps({"annotations": [1, 2, 2, 5, 6, 2]}),
        "b": json.dumps({"annotations": [1, 2, 2]}),
        "c": json.dumps({"annotations": [1, 2, 4, 5, 6, 2]}),
        "d": json.dumps({"annotations": [0] * 6}),
        "e": "{",
        "f": "[]",
    }
    for name, content in contents.items():
        (tmp_path / "keypoints" / f"{name}_keypoints.json").write_text(content)
    records, rejects = read(FidipReader(), make_source("keypoints"))
    assert [r.image for r in records] == ["images/a.png"]
    assert [(r.source_id, r.reason) for r in rejects] == [
        ("b", "wrong-length"),
        ("c", "flag-out-of-range"),
        ("d", "no-keypoints"),
        ("e", "unreadable-file"),
        ("f", "not-an-object"),
    ]


def test_empty_folder_is_refused(tmp_path: Path, make_source: Make, read: Read) -> None:
    (tmp_path / "keypoints").mkdir()
    with pytest.raises(DatasetError, match="holds no"):
        read(FidipReader(), make_source("keypoints"))
