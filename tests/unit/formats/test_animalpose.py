import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from posecore.errors import DatasetError
from posecore.formats.animalpose import OFFICIAL_ORDER, AnimalPoseReader
from posecore.formats.reader import Source
from posecore.schema import Record, Reject
from posecore.skeletons.library import load_skeleton

pytestmark = pytest.mark.usefixtures("both_ways")

Make = Callable[..., Source]
Read = Callable[..., tuple[list[Record], list[Reject]]]
NAMES = load_skeleton("animalpose20").names

VOC = """<annotation>
  <image>2007_000063</image><voc_id>2</voc_id><category>dog</category>
  <visible_bounds height="264.0" width="307.0" xmin="123.0" ymin="115.0"/>
  <keypoints>
    <keypoint name="Withers" visible="1" x="7.5" y="8.5" z="0.0"/>
    <keypoint name="L_EarBase" visible="1" x="1.0" y="2.0" z="0.0"/>
    <keypoint name="TailBase" visible="0" x="3.0" y="4.0" z="0.0"/>
  </keypoints>
</annotation>"""
EXTRA = """<annotation>
  <image>ca110.jpeg</image><category>cat</category>
  <visible_bounds height="192" width="284" xmin="13" xmax="36"/>
  <keypoints>
    <keypoint name="L_ear" visible="1" x="1.0" y="2.0"/>
    <keypoint name="Tail" visible="1" x="3.0" y="4.0"/>
    <keypoint name="withers" visible="1" x="7.5" y="8.5"/>
    <keypoint name="L_F_elbow" visible="1" x="9" y="9"/>
  </keypoints>
</annotation>"""


def labelled(record: Record) -> dict[str, list[float]]:
    return {NAMES[i]: row.tolist() for i, row in enumerate(record.instances[0].keypoints) if row[2]}


def write_xml(root: Path, name: str, content: str) -> None:
    path = root / "xml" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


def test_voc_dialect(tmp_path: Path, make_source: Make, read: Read) -> None:
    write_xml(tmp_path, "dog/2007_000063_1.xml", VOC)
    write_xml(tmp_path, "dog/2007_000063_2.xml", VOC)
    (record,), rejects = read(AnimalPoseReader(), make_source("xml", keypoints=NAMES, form="xml"))
    assert not rejects
    assert record.image == "images/2007_000063.jpg"
    assert [i.id for i in record.instances] == ["dog/2007_000063_1", "dog/2007_000063_2"]
    assert labelled(record) == {"L_EarBase": [1, 2, 2], "Withers": [7.5, 8.5, 2]}
    assert record.instances[0].bbox_xywh == (123, 115, 307, 264)
    assert (record.instances[0].category, record.instances[0].category_id) == ("dog", 3)


def test_second_dialect_misnames_the_top_of_the_box(tmp_path: Path, make_source: Make, read: Read) -> None:
    write_xml(tmp_path, "cat/ca110.xml", EXTRA)
    (record,), rejects = read(AnimalPoseReader(), make_source("xml", keypoints=NAMES, form="xml"))
    assert not rejects
    assert record.image == "images/cat/ca110.jpeg"
    assert record.instances[0].bbox_xywh == (13, 36, 284, 192)
    assert set(labelled(record)) == {"L_EarBase", "TailBase", "Withers", "L_F_Elbow"}


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("<annotation>", '<!DOCTYPE x [<!ENTITY a "aaaa">]><annotation>', "bad-xml"),
        ("</annotation>", "", "bad-xml"),
        ('visible="1"', 'visible="7"', "flag-out-of-range"),
        ('x="7.5"', 'x="nan"', "not-a-number"),
        ('x="7.5"', "", "not-a-number"),
        ('name="Withers"', 'name="Wings"', "unknown-keypoint"),
        ('width="307.0"', 'width="-3"', "bad-box"),
        ("<image>2007_000063</image>", "", "not-a-text"),
        ("<image>2007_000063</image>", "<image>../../x</image>", "path-escape"),
        ("visible_bounds", "bounds", "missing-field"),
    ],
)
def test_bad_xml_is_rejected_by_file(
    tmp_path: Path, make_source: Make, read: Read, old: str, new: str, reason: str
) -> None:
    write_xml(tmp_path, "cat/good.xml", EXTRA)
    write_xml(tmp_path, "dog/bad.xml", VOC.replace(old, new))
    records, rejects = read(AnimalPoseReader(), make_source("xml", keypoints=NAMES, form="xml"))
    assert len(records) == 1
    assert [(r.reason, r.source) for r in rejects] == [(reason, "xml/dog/bad.xml")]


def test_entities_are_never_expanded(tmp_path: Path, make_source: Make, read: Read) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    entity = f'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY x SYSTEM "file://{secret}">]>'
    write_xml(tmp_path, "dog/bad.xml", entity + VOC.replace("dog<", "&x;<"))
    records, (reject,) = read(AnimalPoseReader(), make_source("xml", keypoints=NAMES, form="xml"))
    assert not records
    assert reject.reason == "bad-xml"


def official(**changes: Any) -> dict[str, Any]:
    points = [[10 + i, 20 + i, 1] for i in range(20)]
    points[2] = [0, 0, 0]
    animal = {"image_id": 1, "category_id": 2, "bbox": [1, 2, 31, 42], "keypoints": points, **changes}
    return {"images": {"1": "2007_000063.jpg"}, "annotations": [animal], "categories": [{"id": 2, "name": "cat"}]}


def test_official_json(tmp_path: Path, make_source: Make, read: Read) -> None:
    (tmp_path / "k.json").write_text(json.dumps(official()))
    (record,), rejects = read(AnimalPoseReader(), make_source("k.json", keypoints=NAMES, form="official"))
    assert not rejects
    assert (record.source_id, record.image) == ("1", "images/2007_000063.jpg")
    assert record.instances[0].bbox_xywh == (1, 2, 30, 40)
    assert record.instances[0].category == "cat"
    found = labelled(record)
    assert "Nose" not in found
    assert found["L_EarBase"] == [13, 23, 2]
    assert found["TailBase"] == [29, 39, 2]
    assert sorted(OFFICIAL_ORDER) == sorted(NAMES)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"image_id": 9}, "missing-image-entry"),
        ({"image_id": []}, "bad-id"),
        ({"bbox": [5, 5, 1, 1]}, "bad-box"),
        ({"keypoints": []}, "wrong-length"),
        ({"keypoints": [[1, 2, 5]] * 20}, "flag-out-of-range"),
        ({"keypoints": [[1, 2]] * 20}, "wrong-length"),
    ],
)
def test_bad_official_animals(
    tmp_path: Path, make_source: Make, read: Read, changes: dict[str, Any], reason: str
) -> None:
    (tmp_path / "k.json").write_text(json.dumps(official(**changes)))
    records, (reject,) = read(AnimalPoseReader(), make_source("k.json", keypoints=NAMES, form="official"))
    assert not records
    assert reject.reason == reason


@pytest.mark.samples
def test_real_mmpose_form(samples: Path, make_source: Make, read: Read) -> None:
    root = samples / "animalpose"
    source = make_source("annotations/animalpose_test.json", root=root, keypoints=NAMES)
    records, rejects = read(AnimalPoseReader(), source)
    assert not rejects
    assert [record.image for record in records] == ["images/ca110.jpeg", "images/ho105.jpeg"]
    assert labelled(records[0])["L_Eye"] == [117, 95, 2]


def test_wrong_settings_and_layouts(tmp_path: Path, make_source: Make, read: Read) -> None:
    (tmp_path / "k.json").write_text(json.dumps({"images": [], "annotations": []}))
    (tmp_path / "xml").mkdir()
    for source, message in (
        (make_source("k.json", keypoints=NAMES, form="official"), "form: coco"),
        (make_source("k.json", keypoints=NAMES, form="voc"), "form is 'voc'"),
        (make_source("xml", keypoints=NAMES, form="xml"), r"no <species>/\*\.xml"),
        (make_source("missing", keypoints=NAMES, form="xml"), "is missing below"),
    ):
        with pytest.raises(DatasetError, match=message):
            read(AnimalPoseReader(), source)
    (tmp_path / "k.json").write_text(json.dumps(official()))
    with pytest.raises(DatasetError, match="does not have Animal-Pose's 20 points"):
        read(AnimalPoseReader(), make_source("k.json", keypoints=20, form="official"))
