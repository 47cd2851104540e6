"""What real tools have written (``tests/support/foreign_files.py``) is read as they read it themselves."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from posecore.datasets.recognise import recognise
from posecore.errors import DatasetError
from posecore.formats.datumaro import DatumaroReader
from posecore.formats.deeplabcut import DeepLabCutReader
from posecore.formats.label_studio import LabelStudioReader
from posecore.formats.lightning_pose import LightningPoseReader
from posecore.formats.nwb_pose import NwbPoseReader
from posecore.formats.reader import Reader, Source
from posecore.formats.sleap import SleapReader
from posecore.formats.yolo_pose import YoloPoseReader
from posecore.schema import Instance, Record, Reject
from posecore.stages.packed_frames import PackedFrames
from posecore.stages.protocol import Picture

FOREIGN = Path(__file__).parents[2] / "support" / "foreign"
READ: dict[str, Any] = json.loads((FOREIGN / "read.json").read_text())
NAMES = ("tail", "right_ear", "left_ear", "nose")
"""Another order than the files': points are joined by name."""

Make = Callable[..., Source]
Read = Callable[..., tuple[list[Record], list[Reject]]]


def read_foreign(
    kind: str, annotations: str, reader: Reader, make_source: Make, read: Read, **options: Any
) -> tuple[list[Record], list[Reject]]:
    source = make_source(annotations, images="", keypoints=NAMES, root=FOREIGN / kind, **options)
    return read(reader, source)


def points_of(body: Instance, names: tuple[str, ...] = NAMES) -> dict[str, list[Any]]:
    rows = zip(names, body.keypoints.tolist(), strict=True)
    return {name: [x, y, flag == 2] for name, (x, y, flag) in rows if flag}


def assert_same(body: Instance, theirs: dict[str, Any]) -> None:
    ours = points_of(body)
    assert ours.keys() == theirs["points"].keys()
    for name, (x, y, visible) in theirs["points"].items():
        assert ours[name][:2] == pytest.approx([x, y], abs=1e-4), name
        assert ours[name][2] == visible, name


@pytest.mark.parametrize("name", ["labels.slp", "packed.pkg.slp"])
def test_sleap(name: str, make_source: Make, read: Read) -> None:
    records, rejects = read_foreign("sleap", name, SleapReader(), make_source, read, predictions=True)
    assert not rejects
    theirs = READ["sleap"][name]
    assert [record.source_id for record in records] == list(theirs)
    for record in records:
        shown = theirs[record.source_id]["bodies"]
        if record.source_id == "0/9":  # the prediction that a person has corrected is there twice
            shown = shown[1:]
        assert len(record.instances) == len(shown)
        for body, one in zip(record.instances, shown, strict=True):
            assert_same(body, one)
            assert (body.track_id, bool(body.extras.get("predicted"))) == (one["track"], one["predicted"])


def test_sleap_keeps_apart_what_a_model_drew_and_what_a_person_touched(make_source: Make, read: Read) -> None:
    records, rejects = read_foreign("sleap", "labels.slp", SleapReader(), make_source, read)
    assert [(reject.reason, reject.outcome) for reject in rejects] == [("predicted-body", "skipped")]
    (moved,) = records[2].instances
    assert moved.extras == {"touched": ["left_ear", "right_ear"]}  # one moved, one confirmed
    assert records[1].instances == []


def test_sleap_finds_its_film_and_its_pictures(make_source: Make, read: Read) -> None:
    records, _ = read_foreign("sleap", "labels.slp", SleapReader(), make_source, read)
    assert [record.image for record in records] == [
        "arena.mp4#frame=5",
        "arena.mp4#frame=7",
        "arena.mp4#frame=9",
        "stills/1.png",
    ]
    assert (records[0].video_id, records[0].frame_index, records[0].width, records[0].height) == (
        "arena.mp4",
        5,
        80,
        60,
    )


def test_tracks_may_name_subjects(make_source: Make, read: Read) -> None:
    records, _ = read_foreign("sleap", "labels.slp", SleapReader(), make_source, read, tracks_are_subjects=True)
    assert [body.subject_id for body in records[0].instances] == ["bob", "eve"]


def test_stored_pictures_of_sleap_have_its_colours(make_source: Make, read: Read) -> None:
    name = "packed.pkg.slp"
    records, _ = read_foreign("sleap", name, SleapReader(), make_source, read)
    stage = PackedFrames()
    assert {stage.source_file(record.image) for record in records} == {name}
    for record, picture in zip(records, stage(FOREIGN / "sleap", records, 10**6), strict=True):
        assert isinstance(picture, Picture)
        pixels = cv2.imdecode(np.frombuffer(picture.data, np.uint8), cv2.IMREAD_COLOR_RGB)
        assert pixels[30, 30].tolist() == READ["sleap"][name][record.source_id]["colour"]
        assert (picture.record.width, picture.record.height) == (80, 60)


def test_a_stored_picture_that_is_not_there_is_rejected(make_source: Make, read: Read) -> None:
    records, _ = read_foreign("sleap", "packed.pkg.slp", SleapReader(), make_source, read)
    records[1].image = "packed.pkg.slp#video0[99]"
    first, *rest = PackedFrames()(FOREIGN / "sleap", records[:3], 10**6)
    assert isinstance(first, Picture)
    assert [reject.reason for reject in rest if isinstance(reject, Reject)] == ["unreadable-image"] * 2
    (large,) = PackedFrames()(FOREIGN / "sleap", records[:1], 100)
    assert isinstance(large, Reject)
    assert large.reason == "too-many-pixels"


def test_nwb_with_ndx_pose(make_source: Make, read: Read) -> None:
    records, rejects = read_foreign("nwb", "training.nwb", NwbPoseReader(), make_source, read)
    assert not rejects
    theirs = READ["nwb"]["training.nwb"]
    assert [record.source_id for record in records] == ["arena/3", "arena/5", "arena/7"]
    for record in records:
        shown = theirs[record.source_id]["bodies"]
        assert len(record.instances) == len(shown)
        for body, one in zip(record.instances, shown, strict=True):
            assert_same(body, one)
            assert body.subject_id == "mouse 7"
    assert (records[1].image, records[1].width, records[1].height) == ("arena.mp4#frame=5", 80, 60)
    assert points_of(records[1].instances[0])["left_ear"][2] is False  # hidden, and its place is kept


@pytest.mark.parametrize("name", ["estimation.nwb", "from_sleap.nwb"])
def test_nwb_with_predictions(name: str, make_source: Make, read: Read) -> None:
    records, rejects = read_foreign("nwb_estimation", name, NwbPoseReader(), make_source, read, predictions=True)
    assert not rejects
    theirs = READ["nwb_estimation"][name]
    assert [record.source_id for record in records] == list(theirs)  # the last row has no place
    for record in records:
        shown = theirs[record.source_id]["bodies"]
        for body, one in zip(record.instances, shown, strict=True):
            assert_same(body, one)
            assert (body.track_id, body.extras["predicted"]) == (one["track"], True)
            assert body.extras["scores"] == dict.fromkeys(one["points"], one["score"])
    number = int(records[1].source_id.partition("/")[2])
    assert (records[1].image, records[1].frame_index) == (f"arena.mp4#frame={number}", number)


def test_nwb_predictions_are_labels_on_demand_alone(make_source: Make, read: Read) -> None:
    with pytest.raises(DatasetError, match=r"no PoseTraining.*predictions: true"):
        read_foreign("nwb_estimation", "estimation.nwb", NwbPoseReader(), make_source, read)


def test_datumaro(make_source: Make, read: Read) -> None:
    source = make_source("annotations/default.json", "images/default", NAMES, FOREIGN / "datumaro")
    records, rejects = read(DatumaroReader(), source)
    assert [(reject.reason, reject.outcome) for reject in rejects] == [("other-annotation", "skipped")]
    theirs = READ["datumaro"]["annotations/default.json"]
    assert {record.source_id for record in records} == set(theirs)
    for record in records:
        for body, one in zip(record.instances, theirs[record.source_id]["bodies"], strict=True):
            assert_same(body, one)
    first, second = records
    assert (first.image, first.width, first.height) == ("images/default/0.jpg", 80, 60)
    assert (first.instances[0].bbox_xywh, first.instances[0].track_id) == ((10, 11, 20, 30), "3")
    assert second.image == "images/default/b_1.jpg"


def test_label_studio_by_sleap_io(make_source: Make, read: Read) -> None:
    (record,), rejects = read_foreign(
        "label_studio", "from_sleap.json", LabelStudioReader(), make_source, read, min_box_side=8
    )
    assert not rejects
    (theirs,) = READ["label_studio"]["from_sleap.json"].values()
    for body, one in zip(record.instances, theirs["bodies"], strict=True):
        assert_same(body, one)
    # what it writes for a box reaches beyond the picture, so the box is that of the points
    x, y, width, height = record.instances[1].bbox_xywh
    assert 0 < x < 41 < 53 < x + width < 80
    assert 0 < y < 12 < 38.5 < y + height < 60


@pytest.mark.parametrize(
    ("kind", "annotations", "reader"),
    [("deeplabcut", "config.yaml", DeepLabCutReader()), ("lightning_pose", "CollectedData.csv", LightningPoseReader())],
)
def test_tables_as_sleap_io_reads_them(
    kind: str, annotations: str, reader: Reader, make_source: Make, read: Read
) -> None:
    """It numbers rows, where the names of pictures say which frame they are."""
    records, rejects = read_foreign(kind, annotations, reader, make_source, read)
    assert not rejects
    theirs = READ[kind]
    assert [record.frame_index for record in records] == [5, 7]
    assert len(records) == len(theirs)
    for record, shown in zip(records, theirs.values(), strict=True):
        for body, one in zip(record.instances, shown["bodies"], strict=True):
            assert_same(body, one)
            assert body.track_id == one["track"]
        assert (FOREIGN / kind / record.image).is_file()


def test_a_drawing_of_datumaro_for_cvat_has_no_names() -> None:
    with pytest.raises(DatasetError, match=r"skeleton"):
        recognise(FOREIGN / "cvat" / "default.xml")


def test_yolo_as_ultralytics_reads_it(make_source: Make, read: Read) -> None:
    names = ("nose", "left_ear", "right_ear", "tail")
    source = make_source("data.yaml", "", names, FOREIGN / "yolo" / "own")
    records, rejects = read(YoloPoseReader(), source)
    assert [(reject.reason, reject.outcome) for reject in rejects] == [
        ("repeated-body", "skipped"),
        ("not-a-share", "lost"),
    ]
    theirs = READ["yolo"]["own"]
    assert [Path(record.image).name for record in records] == [name for name, found in theirs.items() if found]
    for record in records:
        found = theirs[Path(record.image).name]
        # Ultralytics sorts files with a row that is there twice
        ours = sorted(record.instances, key=lambda body: body.category_id)
        assert [body.category_id for body in ours] == found["classes"]
        for body, points, box in zip(ours, found["points"], found["boxes"], strict=True):
            assert body.keypoints == pytest.approx(np.array(points, np.float32).reshape(-1, 3), abs=1e-4)
            x, y, width, height = body.bbox_xywh
            assert [x + width / 2, y + height / 2, width, height] == pytest.approx(box, abs=1e-4)
    assert [body.category for body in records[1].instances] == ["rat", "mouse"]


def test_yolo_by_sleap_io(make_source: Make, read: Read) -> None:
    names = ("nose", "left_ear", "right_ear", "tail")
    source = make_source("data.yaml", "", names, FOREIGN / "yolo" / "from_sleap")
    (record,), rejects = read(YoloPoseReader(), source)
    assert not rejects
    ours = points_of(record.instances[0], names)
    theirs = READ["sleap"]["labels.slp"]["1/1"]["bodies"][0]["points"]
    assert ours.keys() == theirs.keys()
    for name, place in theirs.items():
        assert ours[name][:2] == pytest.approx(place[:2], abs=1e-3)


@pytest.mark.parametrize(
    ("reader", "kind", "annotations"),
    [
        (SleapReader(), "sleap", "labels.slp"),
        (NwbPoseReader(), "nwb", "training.nwb"),
        (DatumaroReader(), "datumaro", "annotations/default.json"),
        (YoloPoseReader(), "yolo/own", "data.yaml"),
    ],
)
def test_points_that_the_skeleton_lacks_are_named(
    reader: Reader, kind: str, annotations: str, make_source: Make, read: Read
) -> None:
    source = make_source(annotations, "", ("nose", "left_ear", "right_ear", "paw"), FOREIGN / kind)
    with pytest.raises(Exception, match=r"(?s)tail.*paw|paw.*tail"):
        read(reader, source)


@pytest.mark.parametrize("field", ["label_id", "group"])
def test_a_number_of_datumaro_that_is_none_is_no_traceback(
    field: str, tmp_path: Path, make_source: Make, read: Read
) -> None:
    document = json.loads((FOREIGN / "datumaro" / "annotations" / "default.json").read_text())
    document["items"][0]["annotations"][0][field] = {}
    (tmp_path / "odd.json").write_text(json.dumps(document))
    records, _ = read(DatumaroReader(), make_source("odd.json", "images", NAMES))
    assert [len(record.instances) for record in records] == [int(field == "group"), 1]
