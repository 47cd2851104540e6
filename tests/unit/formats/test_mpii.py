import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io

from posecore.errors import DatasetError
from posecore.formats.mpii import MpiiReader, MpiiTrbReader
from posecore.formats.reader import Source
from posecore.schema import Record, Reject

pytestmark = pytest.mark.usefixtures("both_ways")

Make = Callable[..., Source]
Read = Callable[..., tuple[list[Record], list[Reject]]]


def hrnet_row(**changes: Any) -> dict[str, Any]:
    joints = [[10.0 + i, 20.0 + i] for i in range(16)]
    row = {"image": "a.jpg", "center": [101.0, 201.0], "scale": 2.0, "joints": joints, "joints_vis": [1] * 16}
    return {**row, **changes}


@pytest.mark.samples
def test_real_hrnet_rows_are_moved_to_zero_based_pixels(samples: Path, make_source: Make, read: Read) -> None:
    source = make_source("annotations/mpii_val.json", root=samples / "mpii", keypoints=16)
    records, rejects = read(MpiiReader(), source)
    assert not rejects
    assert [record.image for record in records][:2] == ["images/005808361.jpg", "images/052475643.jpg"]
    first = records[0].instances[0]
    assert first.keypoints[0].tolist() == [803, 710, 2]
    assert first.center == pytest.approx((965, 339 + 15 * 4.718488))
    assert first.scale == pytest.approx((943.6976, 943.6976))
    assert records[2].instances[0].keypoints[0].tolist() == [0, 0, 0]


@pytest.mark.samples
def test_real_trb_persons_agree_with_mpii(samples: Path, make_source: Make, read: Read) -> None:
    make = lambda name, k: make_source(f"annotations/{name}", root=samples / "mpii", keypoints=k)  # noqa: E731
    trb = {r.image: r.instances[0] for r in read(MpiiTrbReader(), make("mpii_trb_val.json", 40))[0]}
    for record in read(MpiiReader(), make("mpii_val.json", 16))[0]:
        person, other = record.instances[0], trb[record.image]
        assert other.scale == pytest.approx(person.scale, rel=1e-4)
        assert other.center == pytest.approx(person.center, rel=1e-4)
        assert np.array_equal(other.keypoints[0], person.keypoints[13])  # left_shoulder
        assert np.array_equal(other.keypoints[12], person.keypoints[9])  # head


def test_persons_of_one_image_are_merged_in_stable_order(tmp_path: Path, make_source: Make, read: Read) -> None:
    rows = [hrnet_row(), hrnet_row(image="b.jpg"), hrnet_row(center=[5.0, 5.0])]
    (tmp_path / "a.json").write_text(json.dumps(rows))
    records, _ = read(MpiiReader(), make_source("a.json", keypoints=16))
    assert [(r.image, [i.id for i in r.instances]) for r in records] == [
        ("images/a.jpg", ["0", "2"]),
        ("images/b.jpg", ["1"]),
    ]


def test_derived_head_box_has_the_diagonal_the_official_one_had(tmp_path: Path, make_source: Make, read: Read) -> None:
    row = hrnet_row()
    row["joints"][8], row["joints"][9] = [50.0, 90.0], [58.0, 50.0]
    (tmp_path / "a.json").write_text(json.dumps([row]))
    (instance,) = read(MpiiReader(), make_source("a.json", keypoints=16))[0][0].instances
    x1, y1, x2, y2 = instance.head_bbox_xyxy or ()
    assert math.hypot(x2 - x1, y2 - y1) == pytest.approx(math.hypot(8, 40) / 0.8)
    assert ((x1 + x2) / 2, (y1 + y2) / 2) == pytest.approx((53, 69))
    assert instance.extras["head_box"] == "derived"


def test_head_boxes_of_the_official_evaluation_file(tmp_path: Path, make_source: Make, read: Read) -> None:
    (tmp_path / "a.json").write_text(json.dumps([hrnet_row(), hrnet_row()]))
    boxes = np.zeros((2, 2, 2))
    boxes[0, :, 1], boxes[1, :, 1] = (11, 21), (31, 51)
    scipy.io.savemat(tmp_path / "gt.mat", {"headboxes_src": boxes})
    source = make_source("a.json", keypoints=16, head_boxes="gt.mat")
    assert read(MpiiReader(), source)[0][0].instances[1].head_bbox_xyxy == (10, 20, 30, 50)
    (tmp_path / "a.json").write_text(json.dumps([hrnet_row()]))
    with pytest.raises(DatasetError, match="2 x 2 x 1"):
        read(MpiiReader(), source)


def test_head_boxes_keep_every_digit_that_pckh_divides_by(tmp_path: Path, make_source: Make, read: Read) -> None:
    (tmp_path / "a.json").write_text(json.dumps([hrnet_row()]))
    boxes = np.array([[100.3, 200.7], [130.1, 251.9]])[..., None]
    scipy.io.savemat(tmp_path / "gt.mat", {"headboxes_src": boxes})
    (instance,) = read(MpiiReader(), make_source("a.json", keypoints=16, head_boxes="gt.mat"))[0][0].instances
    assert instance.head_bbox_xyxy == (100.3 - 1, 200.7 - 1, 130.1 - 1, 251.9 - 1)  # float32 would be 3e-6 off


def test_a_named_file_of_head_boxes_that_is_not_there_is_counted(tmp_path: Path, make_source: Make, read: Read) -> None:
    (tmp_path / "a.json").write_text(json.dumps([hrnet_row()]))
    records, rejects = read(MpiiReader(), make_source("a.json", keypoints=16, head_boxes="gt.mat"))
    assert [(r.reason, r.outcome) for r in rejects] == [("derived-head-boxes", "kept")]
    assert records[0].instances[0].extras["head_box"] == "derived"


def test_head_boxes_of_the_cpm_form_are_those_of_the_rows_that_are_kept(
    tmp_path: Path, make_source: Make, read: Read
) -> None:
    rows = [cpm_row(isValidation=float(place != 0), people_index=float(place)) for place in range(3)]
    (tmp_path / "a.json").write_text(json.dumps(rows))
    boxes = np.zeros((2, 2, 2))
    boxes[0, :, 1], boxes[1, :, 1] = (11, 21), (31, 51)
    scipy.io.savemat(tmp_path / "gt.mat", {"headboxes_src": boxes})
    source = make_source("a.json", keypoints=16, form="cpm", validation=True, head_boxes="gt.mat")
    (record,), rejects = read(MpiiReader(), source)
    assert not rejects
    assert [(i.id, i.head_bbox_xyxy) for i in record.instances] == [
        ("5_1", (-1, -1, -1, -1)),
        ("5_2", (10, 20, 30, 50)),
    ]


def test_test_rows_have_no_joints(tmp_path: Path, make_source: Make, read: Read) -> None:
    (tmp_path / "a.json").write_text(json.dumps([{"image": "a.jpg", "center": [5, 6], "scale": 1.0}]))
    (instance,) = read(MpiiReader(), make_source("a.json", keypoints=16))[0][0].instances
    assert not instance.keypoints.any()
    assert instance.head_bbox_xyxy is None


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"center": [-1, -1]}, "no-center"),
        ({"scale": -1.0}, "no-center"),
        ({"scale": math.nan}, "not-a-number"),
        ({"center": None}, "wrong-length"),
        ({"joints": [[1, 2]] * 15}, "wrong-length"),
        ({"joints_vis": [3] * 16}, "flag-out-of-range"),
        ({"joints": [[1, math.nan]] * 16}, "not-a-number"),
        ({"joints": 7}, "not-a-list"),
        ({"image": None}, "not-a-text"),
        ({"image": "../a.jpg"}, "path-escape"),
    ],
)
def test_bad_rows_are_rejected_with_their_reason(
    tmp_path: Path, make_source: Make, read: Read, changes: dict[str, Any], reason: str
) -> None:
    (tmp_path / "a.json").write_text(json.dumps([hrnet_row(**changes), hrnet_row(image="b.jpg")]))
    records, rejects = read(MpiiReader(), make_source("a.json", keypoints=16))
    assert [r.image for r in records] == ["images/b.jpg"]
    assert [(r.reason, r.source) for r in rejects] == [(reason, "a.json [0]")]


def cpm_row(**changes: Any) -> dict[str, Any]:
    joints = [[10.0 + i, 20.0 + i, 1.0] for i in range(16)]
    joints[0], joints[1] = [0.0, 0.0, 0.0], [30.0, 40.0, 0.0]
    row = {
        "dataset": "MPI", "isValidation": 0.0, "img_paths": "a.jpg", "img_width": 640.0, "img_height": 480.0,
        "objpos": [101.0, 201.0], "joint_self": joints, "scale_provided": 2.0, "joint_others": [],
        "annolist_index": 5.0, "people_index": 1.0, "numOtherPeople": 0.0,
    }  # fmt: skip
    return {**row, **changes}


def test_cpm_flag_zero_is_hidden_or_missing_by_its_place(tmp_path: Path, make_source: Make, read: Read) -> None:
    (tmp_path / "a.json").write_text(json.dumps({"root": [cpm_row(), cpm_row(people_index=2.0)]}))
    (record,), rejects = read(MpiiReader(), make_source("a.json", keypoints=16, form="cpm"))
    assert not rejects
    assert (record.height, record.width) == (480, 640)
    assert [i.id for i in record.instances] == ["5_1", "5_2"]
    assert record.instances[0].keypoints[:3].tolist() == [[0, 0, 0], [29, 39, 1], [11, 21, 2]]


def test_cpm_validation_rows_can_be_chosen(tmp_path: Path, make_source: Make, read: Read) -> None:
    rows = [cpm_row(), cpm_row(isValidation=1.0, img_paths="v.jpg", annolist_index=6)]
    (tmp_path / "a.json").write_text(json.dumps(rows))
    for validation, image in ((True, "images/v.jpg"), (False, "images/a.jpg")):
        records, _ = read(MpiiReader(), make_source("a.json", keypoints=16, form="cpm", validation=validation))
        assert [r.image for r in records] == [image]


def test_the_same_person_twice_is_rejected(tmp_path: Path, make_source: Make, read: Read) -> None:
    (tmp_path / "a.json").write_text(json.dumps([cpm_row(), cpm_row()]))
    (record,), (reject,) = read(MpiiReader(), make_source("a.json", keypoints=16, form="cpm"))
    assert len(record.instances) == 1
    assert reject.reason == "duplicate-id"


EMPTY = np.zeros((0, 0))


def structs(*entries: dict[str, Any]) -> np.ndarray:
    """A MATLAB struct array; a field an entry lacks is empty, as MATLAB fills it."""
    names = list(dict.fromkeys(name for entry in entries for name in entry))
    array = np.empty((1, len(entries)), dtype=[(name, object) for name in names])
    for index, entry in enumerate(entries):
        for name in names:
            array[name][0, index] = entry.get(name, EMPTY)
    return array


def write_release(path: Path) -> None:
    """Four images in the official layout: two persons; one person with gaps; no annorect; a test image."""
    position = structs({"x": 594, "y": 257})
    with_numbers = structs(
        {"x": 610.0, "y": 187.0, "id": 6, "is_visible": 0},
        {"x": 647.5, "y": 176.25, "id": 7, "is_visible": 1},
        {"x": 600.0, "y": 100.0, "id": 0, "is_visible": EMPTY},
    )
    with_texts = structs({"x": 50, "y": 60, "id": 0, "is_visible": "0"}, {"x": 70, "y": 80, "id": 9, "is_visible": "1"})
    without_flags = structs({"x": 11, "y": 12, "id": 15})
    head = {"x1": 627, "y1": 100, "x2": 706, "y2": 198}
    two = structs(
        {**head, "annopoints": structs({"point": with_numbers}), "scale": 3.0, "objpos": position},
        {"annopoints": structs({"point": with_texts}), "scale": 1.5, "objpos": position},
    )
    gaps = structs(
        {"annopoints": structs({"point": without_flags}), "scale": 2.0, "objpos": position},
        {"annopoints": structs({"point": without_flags}), "scale": EMPTY, "objpos": position},
        {"annopoints": EMPTY, "scale": 2.0, "objpos": position},
        {"annopoints": structs({"point": without_flags}), "scale": 2.0, "objpos": EMPTY},
    )
    test_person = structs({"scale": 2.5, "objpos": position})
    annolist = structs(
        {"image": structs({"name": "two.jpg"}), "annorect": two, "frame_sec": EMPTY, "vididx": EMPTY},
        {"image": structs({"name": "gaps.jpg"}), "annorect": gaps},
        {"image": structs({"name": "none.jpg"}), "annorect": EMPTY},
        {"image": structs({"name": "test.jpg"}), "annorect": test_person},
    )
    separated = np.empty((4, 1), object)
    separated[:, 0] = [np.array([[1]]), EMPTY, EMPTY, EMPTY]
    release = structs(
        {
            "annolist": annolist,
            "img_train": np.array([[1, 1, 1, 0]], np.uint8),
            "version": "12",
            "single_person": separated,
            "act": structs({"act_name": "x", "cat_name": EMPTY, "act_id": -1}),
        }
    )
    scipy.io.savemat(path, {"RELEASE": release}, do_compression=True)


def test_official_mat(tmp_path: Path, make_source: Make, read: Read) -> None:
    write_release(tmp_path / "mpii.mat")
    records, rejects = read(MpiiReader(), make_source("mpii.mat", keypoints=16, form="mat"))
    assert [(r.source_id, [i.id for i in r.instances]) for r in records] == [
        ("two", ["1_1", "1_2"]),
        ("gaps", ["2_1", "2_3"]),
        ("none", []),
    ]
    first, second = records[0].instances
    labelled = {i: row.tolist() for i, row in enumerate(first.keypoints) if row[2]}
    assert labelled == {6: [609, 186, 1], 7: [646.5, 175.25, 2], 0: [599, 99, 2]}
    assert first.head_bbox_xyxy == (626, 99, 705, 197)
    assert first.center == (593, 256 + 45)
    assert first.extras["sufficiently_separated"] is True
    assert {i: row.tolist() for i, row in enumerate(second.keypoints) if row[2]} == {0: [49, 59, 1], 9: [69, 79, 2]}
    assert second.head_bbox_xyxy is None
    assert second.extras["sufficiently_separated"] is False
    assert records[1].instances[0].keypoints[15].tolist() == [10, 11, 2]
    assert not records[1].instances[1].keypoints.any()
    assert [(r.reason, r.instance_id) for r in rejects] == [("no-center", "2_2"), ("no-center", "2_4")]


def test_official_mat_parts(tmp_path: Path, make_source: Make, read: Read) -> None:
    write_release(tmp_path / "mpii.mat")
    (tmp_path / "val.txt").write_text("gaps.jpg\n\n")
    for options, names in (
        ({"train": False}, ["test"]),
        ({"only_images": "val.txt"}, ["gaps"]),
        ({"without_images": "val.txt"}, ["two", "none"]),
    ):
        records, _ = read(MpiiReader(), make_source("mpii.mat", keypoints=16, form="mat", **options))
        assert [r.source_id for r in records] == names


@pytest.mark.parametrize("content", [{}, {"RELEASE": 3}, {"RELEASE": structs({"annolist": 3, "img_train": 1})}])
def test_other_mat_files_are_refused(tmp_path: Path, make_source: Make, read: Read, content: dict[str, Any]) -> None:
    scipy.io.savemat(tmp_path / "x.mat", {**content, "other": 1})
    with pytest.raises(DatasetError, match="not the official MPII file"):
        read(MpiiReader(), make_source("x.mat", keypoints=16, form="mat"))


def test_a_bad_point_costs_its_person_only(tmp_path: Path, make_source: Make, read: Read) -> None:
    def person(**changes: Any) -> dict[str, Any]:
        point = structs({"x": 1, "y": 2, "id": 3, "is_visible": 1, **changes})
        return {"annopoints": structs({"point": point}), "scale": 1.0, "objpos": structs({"x": 5, "y": 5})}

    rects = structs(person(), person(id=16), person(is_visible=7), person(x=math.nan))
    annolist = structs({"image": structs({"name": "a.jpg"}), "annorect": rects})
    scipy.io.savemat(tmp_path / "x.mat", {"RELEASE": structs({"annolist": annolist, "img_train": 1})})
    (record,), rejects = read(MpiiReader(), make_source("x.mat", keypoints=16, form="mat"))
    assert len(record.instances) == 1
    assert [r.reason for r in rejects] == ["flag-out-of-range", "flag-out-of-range", "not-a-number"]


def test_wrong_settings_are_named(tmp_path: Path, make_source: Make, read: Read) -> None:
    (tmp_path / "a.json").write_text("{}")
    for source, message in (
        (make_source("a.json", keypoints=16, form="h5"), "form is 'h5'"),
        (make_source("a.json", keypoints=16, form=[]), "form is"),
        (make_source("a.json", keypoints=17), "MPII has 16 joints"),
        (make_source("a.json", keypoints=16), "must hold a list"),
        (make_source("b.json", keypoints=16), "missing"),
    ):
        with pytest.raises(DatasetError, match=message):
            read(MpiiReader(), source)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"image_id": 9}, "unknown-image"),
        ({"image_id": []}, "not-a-number"),
        ({"keypoints": [1, 2, 3]}, "wrong-length"),
        ({"keypoints": [1, 2, 3] * 40}, "flag-out-of-range"),
        ({"scale": 0}, "no-center"),
    ],
)
def test_bad_trb_persons(tmp_path: Path, make_source: Make, read: Read, changes: dict[str, Any], reason: str) -> None:
    image = {"id": 1, "file_name": "a.jpg", "height": 10, "width": 20}
    person = {"id": 4, "image_id": 1, "center": [5, 5], "scale": 0.5, "keypoints": [1, 2, 2] * 40, **changes}
    (tmp_path / "a.json").write_text(json.dumps({"images": [image], "annotations": [person]}))
    records, (reject,) = read(MpiiTrbReader(), make_source("a.json", keypoints=40))
    assert not records
    assert (reject.reason, reject.instance_id) == (reason, "4")
