"""Formats whose tools write files by hand or in a browser: CVAT, Label Studio, VIA, Lightning Pose."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from posecore.errors import ConfigError, DatasetError
from posecore.formats.cvat import CvatReader, cvat_skeletons
from posecore.formats.label_studio import LabelStudioReader, label_studio_names
from posecore.formats.lightning_pose import LightningPoseReader
from posecore.formats.reader import Source
from posecore.formats.via import ViaReader
from posecore.schema import Record, Reject

Make = Callable[..., Source]
Read = Callable[..., tuple[list[Record], list[Reject]]]
NAMES = ("nose", "left_ear", "tail")

CVAT_LABELS = """<labels>
<label><name>mouse</name><type>skeleton</type><svg>&lt;line x1="1" data-type="edge" data-node-from="1" data-node-to="3"
 &gt;&lt;/line&gt;&lt;circle data-element-id="1" data-node-id="1" data-label-name="nose"&gt;&lt;/circle&gt;
 &lt;circle data-node-id="2" data-label-name="left_ear"&gt;&lt;/circle&gt;
 &lt;circle data-node-id="3" data-label-name="tail"&gt;&lt;/circle&gt;</svg></label>
<label><name>nose</name><type>points</type><parent>mouse</parent></label>
<label><name>left_ear</name><type>points</type><parent>mouse</parent></label>
<label><name>tail</name><type>points</type><parent>mouse</parent></label>
<label><name>box</name><type>rectangle</type></label></labels>"""

CVAT_IMAGES = f"""<?xml version="1.0" encoding="utf-8"?><annotations><version>1.1</version>
<meta><task><id>1</id><name>mice</name>{CVAT_LABELS}</task></meta>
<image id="0" name="arena/0.png" width="80" height="60">
  <skeleton label="mouse" source="manual" z_order="0" group_id="4">
    <points label="tail" source="manual" outside="0" occluded="1" points="17.25,38.00"></points>
    <points label="nose" source="manual" outside="0" occluded="0" points="11.50,12.25"></points>
    <points label="left_ear" source="manual" outside="1" occluded="0" points="1.00,1.00"></points>
    <attribute name="subject_id">m7</attribute>
  </skeleton>
  <box label="box" source="manual" occluded="0" xtl="10" ytl="11" xbr="30" ybr="41" z_order="0" group_id="4"></box>
  <skeleton label="mouse" source="auto" z_order="0">
    <points label="nose" source="auto" outside="0" occluded="0" points="41.0,12.0"></points>
  </skeleton>
  <skeleton label="mouse" source="semi-auto" z_order="0">
    <points label="nose" source="auto" outside="0" occluded="0" points="41.0,12.0"></points>
    <points label="tail" source="manual" outside="0" occluded="0" points="47.0,38.5"></points>
  </skeleton>
  <polygon label="box" points="1,2;3,4;5,6"></polygon>
</image>
<image id="1" name="arena/1.png" width="80" height="60"></image>
</annotations>"""

CVAT_VIDEO = f"""<annotations><version>1.1</version>
<meta><task><start_frame>10</start_frame><frame_filter>step=5</frame_filter>{CVAT_LABELS}
<original_size><width>80</width><height>60</height></original_size></task><source>arena.mp4</source></meta>
<track id="3" label="mouse" source="manual">
  <skeleton frame="0" keyframe="1" outside="0"><points label="nose" keyframe="1" outside="0" occluded="0" points="1,2"/>
    <points label="tail" keyframe="1" outside="0" occluded="0" points="5,6"/></skeleton>
  <skeleton frame="1" keyframe="0" outside="0"><points label="nose" keyframe="0" outside="0" occluded="0" points="2,3"/>
  </skeleton>
  <skeleton frame="2" keyframe="1" outside="0"><points label="nose" keyframe="1" outside="0" occluded="0" points="3,4"/>
    <points label="tail" keyframe="0" outside="0" occluded="0" points="5,6"/></skeleton>
  <skeleton frame="3" keyframe="1" outside="1"><points label="nose" outside="1" occluded="0" points="3,4"/></skeleton>
</track></annotations>"""


def by_name(record: Record, body: int = 0) -> dict[str, list[float]]:
    rows = zip(NAMES, record.instances[body].keypoints.tolist(), strict=True)
    return {name: row for name, row in rows if row[2]}


@pytest.fixture
def cvat(tmp_path: Path, make_source: Make, read: Read) -> Callable[..., tuple[list[Record], list[Reject]]]:
    def run(xml: str, **options: Any) -> tuple[list[Record], list[Reject]]:
        (tmp_path / "annotations.xml").write_text(xml)
        return read(CvatReader(), make_source("annotations.xml", keypoints=NAMES, **options))

    return run


def test_cvat_images(cvat: Read) -> None:
    (first, second), rejects = cvat(CVAT_IMAGES)
    assert (first.source_id, first.image, first.width, first.height) == ("0", "images/0.png", 80, 60)
    whole, corrected = first.instances
    assert by_name(first) == {"nose": [11.5, 12.25, 2], "tail": [17.25, 38, 1]}
    assert (whole.bbox_xywh, whole.subject_id, whole.category, whole.extras) == ((10, 11, 20, 30), "m7", "mouse", {})
    assert corrected.extras == {"touched": ["tail"]}
    assert second.instances == []
    assert sorted((reject.reason, reject.outcome) for reject in rejects) == [
        ("other-annotation", "skipped"),
        ("predicted-body", "skipped"),
    ]


def test_cvat_finds_pictures_below_the_folder_they_are_in(tmp_path: Path, cvat: Read) -> None:
    (tmp_path / "images" / "arena").mkdir(parents=True)
    (tmp_path / "images" / "arena" / "0.png").touch()
    assert cvat(CVAT_IMAGES)[0][0].image == "images/arena/0.png"


def test_cvat_video_counts_as_the_film_does(tmp_path: Path, cvat: Read) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "arena.mp4").touch()
    records, rejects = cvat(CVAT_VIDEO)
    assert [record.frame_index for record in records] == [10, 20, 25]
    assert records[0].image == "images/arena.mp4#frame=10"
    assert (records[0].instances[0].track_id, records[0].width) == ("3", 80)
    assert records[1].instances[0].extras == {"touched": ["nose"]}
    assert records[2].instances == []
    assert [(reject.reason, reject.outcome) for reject in rejects] == [("predicted-body", "skipped")]
    assert [record.frame_index for record in cvat(CVAT_VIDEO, predictions=True)[0]] == [10, 15, 20, 25]


def test_cvat_tells_its_skeleton(tmp_path: Path, make_source: Make) -> None:
    (tmp_path / "a.xml").write_text(CVAT_IMAGES)
    (skeleton,) = cvat_skeletons(make_source("a.xml"), "a.xml")
    assert skeleton == ("mouse", NAMES, (("nose", "tail"),))


@pytest.mark.parametrize(
    ("xml", "message"),
    [
        ('<!DOCTYPE a [<!ENTITY b "c">]><annotations>&b;</annotations>', "document type"),
        ("<annotations><image></annotations>", "mismatched tag"),
        ("<other/>", "its root is other"),
        ('<?xml version="1.0" encoding="ut--8"?><annotations/>', "unknown encoding"),
        ("<annotations>" + "<a>" * 70 + "</a>" * 70 + "</annotations>", "nested deeper than 64"),
    ],
)
def test_hostile_xml_is_refused(cvat: Read, xml: str, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        cvat(xml)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (("11.50,12.25", "11.50"), "bad-joint"),
        (("11.50,12.25", "x,y"), "not-a-number"),
        (('name="arena/0.png"', 'name=""'), "not-a-text"),
        (('width="80"', 'width="99999999"'), "bad-size"),
        (('<points label="nose" source="manual"', '<points label="tail" source="manual"'), "duplicate-id"),
        (('<points label="nose" source="manual"', '<points label="paw" source="manual"'), "unknown-keypoint"),
    ],
)
def test_cvat_rejects_what_cannot_be(cvat: Read, change: tuple[str, str], reason: str) -> None:
    _, rejects = cvat(CVAT_IMAGES.replace(*change, 1))
    assert reason in [reject.reason for reject in rejects if reject.outcome == "lost"]


def point(name: str, x: float, y: float, number: str, **more: Any) -> dict[str, Any]:
    return {
        "id": number, "type": "keypointlabels", "from_name": "kp", "to_name": "image", "image_rotation": 0,
        "original_width": 200, "original_height": 100, "value": {"x": x, "y": y, "keypointlabels": [name]}, **more,
    }  # fmt: skip


def box(x: float, y: float, w: float, h: float, number: str) -> dict[str, Any]:
    value = {"x": x, "y": y, "width": w, "height": h, "rotation": 0, "rectanglelabels": ["mouse"]}
    return {**point("", 0, 0, number), "type": "rectanglelabels", "value": value}


def task(*results: dict[str, Any], **more: Any) -> dict[str, Any]:
    made = [{"id": 1, "completed_by": 5, "result": list(results)}]
    return {"id": 9, "data": {"image": "/data/upload/1/0123abcd-a.png"}, "annotations": made, **more}


@pytest.fixture
def studio(tmp_path: Path, make_source: Make, read: Read) -> Callable[..., tuple[list[Record], list[Reject]]]:
    def run(tasks: Any, **options: Any) -> tuple[list[Record], list[Reject]]:
        (tmp_path / "export.json").write_text(json.dumps(tasks))
        (tmp_path / "images").mkdir(exist_ok=True)
        (tmp_path / "images" / "a.png").touch()
        return read(LabelStudioReader(), make_source("export.json", keypoints=NAMES, **options))

    return run


def test_label_studio_places_are_hundredths(studio: Read) -> None:
    hidden = {**point("tail", 30, 40, "c"), "type": "choices", "value": {"choices": ["Occluded"]}}
    (record,), rejects = studio([task(point("tail", 30, 40, "c"), point("nose", 5, 10, "b"), hidden)])
    assert not rejects
    assert (record.source_id, record.image, record.width, record.height) == ("9", "images/a.png", 200, 100)
    assert by_name(record) == {"nose": [10, 10, 2], "tail": [60, 40, 1]}


@pytest.mark.parametrize(
    "tie",
    [
        ([], {"parentID": "B"}),
        ([{"type": "relation", "from_id": "p", "to_id": "B"}], {}),
        ([{"type": "relation", "from_id": "B", "to_id": "p"}], {}),
    ],
)
def test_label_studio_ties_points_to_boxes(studio: Read, tie: tuple[list[Any], dict[str, Any]]) -> None:
    inside_a = point("nose", 5, 5, "p", **tie[1])
    (record,), _ = studio([task(box(0, 0, 20, 20, "A"), box(50, 50, 20, 20, "B"), inside_a, *tie[0])])
    assert [body.keypoints[:, 2].any() for body in record.instances] == [False, True]
    assert record.instances[1].bbox_xywh == (100, 50, 40, 20)
    (record,), _ = studio([task(box(0, 0, 20, 20, "A"), box(50, 50, 20, 20, "B"), point("nose", 5, 5, "p"))])
    assert [body.keypoints[:, 2].any() for body in record.instances] == [True, False]


def test_label_studio_passes_over_ids_that_are_none(studio: Read) -> None:
    odd = {**point("nose", 5, 5, "q"), "type": "choices", "id": {}, "value": {"choices": ["occluded"]}}
    (record,), rejects = studio([task(point("nose", 5, 5, "p", parentID={}), odd)])
    assert (by_name(record), rejects) == ({"nose": [10, 5, 2]}, [])


def test_label_studio_never_guesses_whose_a_point_is(studio: Read) -> None:
    _, (reject,) = studio([task(box(0, 0, 20, 20, "A"), box(0, 0, 30, 30, "B"), point("nose", 5, 5, "p"))])
    assert reject.reason == "no-body"


def test_label_studio_keeps_what_a_person_changed(studio: Read) -> None:
    kept, moved = point("nose", 5, 5, "a", origin="prediction"), point("tail", 6, 6, "b", origin="prediction-changed")
    (record,), _ = studio([task(kept, moved)])
    assert record.instances[0].extras == {"touched": ["tail"]}


def test_label_studio_takes_one_annotator(studio: Read) -> None:
    both = task(point("nose", 5, 5, "a"))
    both["annotations"].append({"id": 2, "completed_by": {"id": 6}, "result": [point("nose", 50, 50, "a")]})
    (record,), (reject,) = studio([both])
    assert by_name(record) == {"nose": [10, 5, 2]}
    assert (reject.reason, reject.outcome) == ("other-annotation", "skipped")
    assert by_name(studio([both], annotator=6)[0][0]) == {"nose": [100, 50, 2]}
    both["annotations"][1]["ground_truth"] = True
    assert by_name(studio([both])[0][0]) == {"nose": [100, 50, 2]}
    both["annotations"][1]["was_cancelled"] = True
    assert by_name(studio([both])[0][0]) == {"nose": [10, 5, 2]}


def test_label_studio_predictions_are_no_labels(studio: Read) -> None:
    drawn = task(annotations=[], predictions=[{"result": [point("nose", 5, 5, "a")]}])
    (record,), (reject,) = studio([drawn])
    assert (record.instances, reject.reason) == ([], "predicted-body")
    (record,), _ = studio([drawn], predictions=True)
    assert record.instances[0].extras == {"predicted": True}


@pytest.mark.parametrize(
    ("tasks", "reason"),
    [
        ([task(point("nose", 5, 5, "a", image_rotation=90))], "turned-labels"),
        ([task(point("nose", "5", 5, "a"))], "not-a-number"),  # type: ignore[arg-type]
        ([task(point("paw", 5, 5, "a"))], "unknown-keypoint"),
        ([task(point("nose", 5, 5, "a"), point("nose", 6, 6, "b"))], "duplicate-id"),
        ([task(), task()], "duplicate-id"),
        ([3], "not-an-object"),
        ([{**task(), "annotations": 5}], "not-a-list"),
        ([{**task(), "data": {}}], "not-a-text"),
        ([{**task(), "data": {"image": ".."}}], "path-escape"),
    ],
)
def test_label_studio_rejects_what_cannot_be(studio: Read, tasks: list[Any], reason: str) -> None:
    assert [reject.reason for reject in studio(tasks)[1]] == [reason]


def test_label_studio_names_come_in_a_stable_order(tmp_path: Path, make_source: Make) -> None:
    path = tmp_path / "e.json"
    path.write_text(json.dumps([task(point("tail", 1, 1, "a"), point("nose", 1, 1, "b"))]))
    assert label_studio_names(make_source("e.json"), "e.json") == ["tail", "nose"]
    path.write_text(json.dumps([{"image": "a.png", "kp": [{"x": 1}]}]))
    with pytest.raises(DatasetError, match="not JSON-MIN"):
        label_studio_names(make_source("e.json"), "e.json")


def region(x: float, y: float, **attributes: str) -> dict[str, Any]:
    return {"shape_attributes": {"name": "point", "cx": x, "cy": y}, "region_attributes": attributes}


def test_via(tmp_path: Path, make_source: Make, read: Read) -> None:
    outline = {"shape_attributes": {"name": "rect", "x": 1, "y": 2, "width": 30, "height": 40}}
    regions = [
        region(10, 12, keypoint="nose", animal="a"),
        region(20, 22, keypoint="tail", animal="a", visibility="occluded"),
        {**outline, "region_attributes": {"animal": "a"}},
        region(40, 42, keypoint="nose", animal="b"),
        {"shape_attributes": {"name": "polygon"}, "region_attributes": {}},
    ]
    picture = {"filename": "a.png", "size": 1, "regions": regions}
    document = {"_via_settings": {}, "_via_img_metadata": {"a.png1": picture}}
    (tmp_path / "via.json").write_text(json.dumps(document))
    source = make_source("via.json", keypoints=NAMES)
    (record,), rejects = read(ViaReader(), source)
    assert [(reject.reason, reject.outcome) for reject in rejects] == [("other-annotation", "skipped")]
    assert by_name(record) == {"nose": [10, 12, 2], "tail": [20, 22, 1]}
    assert by_name(record, 1) == {"nose": [40, 42, 2]}
    assert [body.track_id for body in record.instances] == ["a", "b"]
    assert record.instances[0].bbox_xywh == (1, 2, 30, 40)
    picture["regions"] = [region(1, 2, what="nose")]
    (tmp_path / "via.json").write_text(json.dumps({"k": picture}))
    assert by_name(read(ViaReader(), source)[0][0]) == {"nose": [1, 2, 2]}
    picture["regions"] = [region(1, 2, one="a", two="b")]
    (tmp_path / "via.json").write_text(json.dumps({"k": picture}))
    with pytest.raises(DatasetError, match="it has one, two"):
        read(ViaReader(), source)
    (tmp_path / "via.json").write_text('{"images": []}')
    with pytest.raises(DatasetError, match="VIA 2"):
        read(ViaReader(), source)


LIGHTNING = """scorer,me,me,me,me,me,me
bodyparts,tail,tail,nose,nose,left_ear,left_ear
coords,x,y,x,y,x,y
labeled-data/film/img00000012.png,17.5,38,,,1.25,2
labeled-data/film/img00000030.png,,,,,,
"""


def test_lightning_pose(tmp_path: Path, make_source: Make, read: Read) -> None:
    (tmp_path / "CollectedData.csv").write_text(LIGHTNING)
    (tmp_path / "labeled-data" / "film").mkdir(parents=True)
    (tmp_path / "labeled-data" / "film" / "img00000012.png").touch()
    source = make_source("CollectedData.csv", images="", keypoints=NAMES)
    (first, second), rejects = read(LightningPoseReader(), source)
    assert not rejects
    assert by_name(first) == {"left_ear": [1.25, 2, 2], "tail": [17.5, 38, 2]}
    assert (first.image, first.video_id, first.frame_index) == ("labeled-data/film/img00000012.png", "film", 12)
    assert second.instances == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("coords,x,y", "coords,x,likelihood"), "predictions, not labels"),
        (("coords,x,y,x,y", "coords,x,x,x,y"), "two columns x of tail"),
        (("scorer,", "score,"), "must begin with"),
        (("nose,nose", "paw,paw"), "paw"),
    ],
)
def test_lightning_pose_refuses_other_tables(
    tmp_path: Path, make_source: Make, read: Read, change: tuple[str, str], message: str
) -> None:
    (tmp_path / "c.csv").write_text(LIGHTNING.replace(*change))
    with pytest.raises(DatasetError, match=message):
        read(LightningPoseReader(), make_source("c.csv", images="", keypoints=NAMES))


def test_several_files_are_one_split(tmp_path: Path, make_source: Make, read: Read) -> None:
    (tmp_path / "labels").mkdir()
    for name in ("b", "a"):
        (tmp_path / "labels" / f"{name}.csv").write_text(LIGHTNING.replace("film", name))
    source = make_source("labels", images="", keypoints=NAMES)
    records, _ = read(LightningPoseReader(), source)
    assert [record.source_id.partition(":")[0] for record in records] == ["a.csv", "a.csv", "b.csv", "b.csv"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match=r"holds no file that ends in .csv"):
        read(LightningPoseReader(), make_source("empty", keypoints=NAMES))


def test_a_reader_option_of_another_kind_is_refused(tmp_path: Path, make_source: Make, read: Read) -> None:
    (tmp_path / "c.csv").write_text(LIGHTNING)
    with pytest.raises(ConfigError, match="box_margin"):
        read(LightningPoseReader(), make_source("c.csv", keypoints=NAMES, box_margin="wide"))
