"""COCO files as other tools write them: what one field is wrong in costs that field, and options say what is meant."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from posecore.errors import ConfigError, DatasetError
from posecore.formats.coco import CocoReader
from posecore.formats.reader import Source
from posecore.schema import AreaRule, Instance, Json, Record, Reject
from posecore.skeletons.skeleton import Keypoint, Skeleton

MOUSE = Skeleton(
    name="mouse", keypoints=tuple(Keypoint(name=name, union=name) for name in ("nose", "left", "right", "tail"))
)
NAMES = list(MOUSE.names)
POINTS = [24, 48, 2, 38, 40, 2, 58, 40, 1, 72, 48, 0]


def _document() -> dict[str, Any]:
    body = {"category_id": 1, "bbox": [22, 34, 52, 28], "keypoints": POINTS, "area": 1152.0, "iscrowd": 0}
    return {
        "images": [{"id": n, "file_name": f"{n}.png", "width": 96, "height": 96} for n in (1, 2)],
        "annotations": [{**copy.deepcopy(body), "id": n, "image_id": n} for n in (1, 2)],
        "categories": [{"id": 1, "name": "mouse", "keypoints": NAMES}],
    }


def _read(
    document: dict[str, Any], tmp_path: Path, area_rule: AreaRule = "box", **options: Json
) -> tuple[list[Instance], list[Reject], list[Record]]:
    (tmp_path / "train.json").write_bytes(orjson.dumps(document))
    source = Source(
        dataset="mice", split="train", root=tmp_path, annotations="train.json", images="", skeleton=MOUSE,
        area_rule=area_rule, options=options,
    )  # fmt: skip
    items = list(CocoReader().read(source))
    records = [item for item in items if isinstance(item, Record)]
    rejects = [item for item in items if isinstance(item, Reject)]
    return [body for record in records for body in record.instances], rejects, records


@pytest.mark.parametrize(
    "changes",
    [{"iscrowd": False}, {"category_id": "1"}, {"category_id": 1.0}, {"num_keypoints": 3.0}],
    ids=lambda changes: next(iter(changes)),
)
def test_other_spellings_of_a_value_are_read(changes: dict[str, Any], tmp_path: Path) -> None:
    document = _document()
    for annotation in document["annotations"]:
        annotation |= changes
    bodies, rejects, _ = _read(document, tmp_path)
    assert ([body.category_id for body in bodies], rejects) == ([1, 1], [])
    assert not bodies[0].is_crowd


def test_crowds_may_be_marked_true(tmp_path: Path) -> None:
    document = _document()
    document["annotations"][1]["iscrowd"] = True
    assert [body.is_crowd for body in _read(document, tmp_path)[0]] == [False, True]


def test_ids_of_tables_are_whole_floats(tmp_path: Path) -> None:
    document = _document()
    for entry in document["images"] + document["annotations"]:
        entry |= {name: float(entry[name]) for name in ("id", "image_id") if name in entry}
    document["annotations"][1]["id"] = 1.5
    bodies, rejects, records = _read(document, tmp_path)
    assert [record.source_id for record in records] == ["1", "2"]
    assert [body.id for body in bodies] == ["1"]
    assert [(reject.reason, reject.outcome) for reject in rejects] == [("bad-id", "lost")]


@pytest.mark.parametrize("mask", [[1, 2, 3, 4], [{"size": [96, 96], "counts": [0, 9216]}], "polygon"])
def test_a_mask_that_is_none_costs_the_mask_alone(mask: Json, tmp_path: Path) -> None:
    document = _document()
    document["annotations"][1]["segmentation"] = mask
    bodies, rejects, _ = _read(document, tmp_path)
    assert [body.segmentation for body in bodies] == [None, None]
    (reject,) = rejects
    assert (reject.reason, reject.outcome, reject.instance_id) == ("bad-segmentation", "kept", "2")


def test_a_mask_that_the_area_is_of_costs_the_body(tmp_path: Path) -> None:
    document = _document()
    document["annotations"][0]["segmentation"] = [[22, 34, 74, 34, 74, 62]]
    document["annotations"][1]["segmentation"] = [1, 2, 3, 4]
    bodies, rejects, _ = _read(document, tmp_path, area_rule="segment")
    assert [body.id for body in bodies] == ["1"]
    assert [reject.outcome for reject in rejects] == ["lost"]


def test_a_size_of_minus_one_is_none_stated(tmp_path: Path) -> None:
    document = _document()
    document["images"][0] |= {"width": -1, "height": -1}
    document["images"][1] |= {"width": -2}
    bodies, rejects, records = _read(document, tmp_path)
    assert [(record.width, record.height) for record in records] == [(0, 0)]
    assert len(bodies) == 1
    assert [(reject.reason, reject.outcome) for reject in rejects[:2]] == [
        ("size-not-stated", "kept"),
        ("bad-size", "lost"),
    ]


def test_boxes_are_drawn_around_points_where_asked(tmp_path: Path) -> None:
    document = _document()
    for annotation in document["annotations"]:
        del annotation["bbox"]
    bodies, rejects, _ = _read(document, tmp_path)
    assert bodies == []
    assert all("reader_options: {box_margin: 0.1}" in reject.detail for reject in rejects)
    bodies, rejects, _ = _read(document, tmp_path, box_margin=0.5)
    # Labelled points span (24, 40) to (58, 48): 34 wide, and half of that is added on every side.
    assert (bodies[0].bbox_xywh, rejects) == ((7.0, 23.0, 68.0, 42.0), [])


def test_other_categories_are_skipped_and_counted_apart(tmp_path: Path) -> None:
    document = _document()
    document["categories"] += [{"id": 2, "name": "cage", "keypoints": ["c1", "c2"]}, {"id": 3, "name": "food"}]
    document["annotations"] += [
        {"id": 8, "image_id": 1, "category_id": 2, "bbox": [1, 1, 9, 9], "keypoints": [1, 1, 2, 5, 5, 2]},
        {"id": 9, "image_id": 1, "category_id": 3, "bbox": [1, 1, 9, 9]},
    ]
    with pytest.raises(
        DatasetError, match=r"'cage' lists 2 keypoints .*number 0, 'c1' where the skeleton has 'nose'.*categories"
    ):
        _read(document, tmp_path)
    bodies, rejects, _ = _read(document, tmp_path, categories=["mouse"])
    assert [body.id for body in bodies] == ["1", "2"]
    assert [(reject.reason, reject.outcome) for reject in rejects] == 2 * [("other-category", "skipped")]
    assert rejects[0].detail == "1 annotation of category 'cage', which is not of this dataset."
    with pytest.raises(DatasetError, match=r"names 'mause', but the file's categories are cage, food, mouse"):
        _read(document, tmp_path, categories=["mause"])


def test_missing_points_may_be_written_as_zero(tmp_path: Path) -> None:
    document = _document()
    document["annotations"][0]["keypoints"] = [0, 0, 2, *POINTS[3:]]
    assert _read(document, tmp_path)[0][0].keypoints[0].tolist() == [0, 0, 2]
    assert _read(document, tmp_path, zero_is_missing=True)[0][0].keypoints[0].tolist() == [0, 0, 0]


def test_files_may_count_from_one_and_know_one_flag(tmp_path: Path) -> None:
    bodies, _, _ = _read(_document(), tmp_path, first_pixel=1, flags="labelled")
    assert bodies[0].bbox_xywh == (21, 33, 52, 28)
    expected = [[23, 47, 2], [37, 39, 2], [57, 39, 2], [0, 0, 0]]
    assert np.array_equal(bodies[0].keypoints, np.array(expected, np.float32))


def test_videos_frames_and_subjects_may_be_called_otherwise(tmp_path: Path) -> None:
    document = _document()
    document["images"][0] |= {"vid_id": 7, "frame": 3}
    document["annotations"][0] |= {"mouse": "m1"}
    bodies, _, records = _read(document, tmp_path, video_field="vid_id", frame_field="frame", subject_field="mouse")
    assert (records[0].video_id, records[0].frame_index, bodies[0].subject_id) == ("7", 3, "m1")


@pytest.mark.parametrize("options", [{"box_margin": -1}, {"first_pixel": 2}, {"categories": []}, {"flags": "yes"}])
def test_options_that_mean_nothing_are_refused(options: dict[str, Json], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="mice: reader_options"):
        _read(_document(), tmp_path, **options)
