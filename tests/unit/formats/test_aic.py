import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from posecore.errors import DatasetError
from posecore.formats.aic import AicReader
from posecore.formats.reader import Source
from posecore.schema import Record, Reject

pytestmark = pytest.mark.usefixtures("both_ways")

Make = Callable[..., Source]
Read = Callable[..., tuple[list[Record], list[Reject]]]
NATIVE = "ai_challenger_keypoint_validation_20170911"


@pytest.mark.samples
def test_native_persons_equal_the_published_coco_conversion(samples: Path, make_source: Make, read: Read) -> None:
    root = samples / "aic"
    source = make_source(
        f"{NATIVE}/keypoint_validation_annotations_20170911.json",
        images=f"{NATIVE}/keypoint_validation_images_20170911",
        root=root,
        keypoints=14,
        area_rule="box_plus_one",
    )
    records, rejects = read(AicReader(), source)
    assert not rejects
    assert all((root / record.image).is_file() for record in records)
    converted = json.loads((root / "annotations" / "aic_val.json").read_text())
    names = {image["id"]: image["file_name"] for image in converted["images"]}
    expected = {
        (names[a["image_id"]], *a["bbox"]): np.reshape(a["keypoints"], (14, 3)) for a in converted["annotations"]
    }
    found = {(Path(r.image).name, *i.bbox_xywh): i.keypoints for r in records for i in r.instances}
    assert len(found) == 9
    assert found.keys() == expected.keys()
    for key, points in expected.items():
        assert np.array_equal(found[key], points)
    first = records[0].instances[0]
    assert first.id == "054d9ce9201beffc76e5ff2169d2af2f027002ca_human1"
    assert first.area == 213 * 544 + 1


def entry(**changes: Any) -> dict[str, Any]:
    return {
        "image_id": "abc",
        "human_annotations": {"human10": [1, 1, 5, 5], "human2": [0, 0, 10, 20]},
        "keypoint_annotations": {"human10": [1, 2, 1, 3, 4, 2], "human2": [1, 2, 3, 0, 0, 3]},
        **changes,
    }


def test_persons_are_ordered_by_number_and_flags_turned_over(tmp_path: Path, make_source: Make, read: Read) -> None:
    (tmp_path / "a.json").write_text(json.dumps([entry()]))
    (record,), rejects = read(AicReader(), make_source("a.json"))
    assert not rejects
    assert record.image == "images/abc.jpg"
    assert [i.id for i in record.instances] == ["abc_human2", "abc_human10"]
    assert record.instances[0].keypoints.tolist() == [[0, 0, 0], [0, 0, 0]]
    assert record.instances[1].keypoints.tolist() == [[1, 2, 2], [3, 4, 1]]


@pytest.mark.parametrize(
    ("points", "box", "reason"),
    [
        ([1, 2, 0, 3, 4, 2], [1, 1, 5, 5], "flag-out-of-range"),
        ([1, 2, 1.5, 3, 4, 2], [1, 1, 5, 5], "flag-out-of-range"),
        ([1, 2, 1], [1, 1, 5, 5], "wrong-length"),
        ("no", [1, 1, 5, 5], "wrong-length"),
        ([1, float("nan"), 1, 3, 4, 2], [1, 1, 5, 5], "not-a-number"),
        ([1, 2, 1, 3, 4, 2], [5, 5, 1, 1], "bad-box"),
        ([1, 2, 1, 3, 4, 2], None, "missing-field"),
    ],
)
def test_bad_persons_are_rejected_alone(
    tmp_path: Path, make_source: Make, read: Read, points: Any, box: Any, reason: str
) -> None:
    good = entry()
    good["human_annotations"]["human1"], good["keypoint_annotations"]["human1"] = box, points
    (tmp_path / "a.json").write_text(json.dumps([good]))
    (record,), (reject,) = read(AicReader(), make_source("a.json"))
    assert len(record.instances) == 2
    assert (reject.reason, reject.source, reject.source_id) == (reason, "a.json [0] human1", "abc")


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (7, "not-an-object"),
        (entry(image_id=None), "not-a-text"),
        (entry(image_id="../../etc/passwd"), "path-escape"),
        (entry(image_id="x", human_annotations=[]), "not-an-object"),
        (entry(), "duplicate-id"),
    ],
)
def test_bad_images_are_rejected_whole(tmp_path: Path, make_source: Make, read: Read, bad: Any, reason: str) -> None:
    (tmp_path / "a.json").write_text(json.dumps([entry(), bad]))
    records, rejects = read(AicReader(), make_source("a.json"))
    assert len(records) == 1
    assert [(r.reason, r.source) for r in rejects] == [(reason, "a.json [1]")]


def test_files_of_another_format_are_refused(tmp_path: Path, make_source: Make, read: Read) -> None:
    (tmp_path / "a.json").write_text("{}")
    with pytest.raises(DatasetError, match="must hold a list with an entry per image"):
        read(AicReader(), make_source("a.json"))
    (tmp_path / "a.json").write_text(json.dumps([entry()]))
    with pytest.raises(DatasetError, match="neither masks nor areas"):
        read(AicReader(), make_source("a.json", area_rule="annotated"))
