import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import h5py
import numpy as np
import pytest

from posecore.errors import DatasetError
from posecore.formats.deeplabcut import DeepLabCutReader
from posecore.formats.reader import Source
from posecore.schema import Record, Reject

Make = Callable[..., Source]
Read = Callable[..., tuple[list[Record], list[Reject]]]
REACHING = ("Hand", "Finger1", "Tongue", "Joystick1", "Joystick2")

SINGLE = """scorer,Me,Me,Me,Me
bodyparts,nose,nose,tail,tail
coords,x,y,x,y
labeled-data/vid/img03.png,1.5,2.5,,
labeled-data/vid/img04.png,,,,
"""


def project(root: Path, table: str, config: str = "bodyparts: [nose, tail]\n") -> None:
    folder = root / "labeled-data" / "vid"
    folder.mkdir(parents=True)
    (root / "config.yaml").write_text(config)
    (folder / "CollectedData_Me.csv").write_text(table)


def make_dlc(make_source: Make, **options: Any) -> Source:
    return make_source("config.yaml", images="", keypoints=("nose", "tail"), **options)


def test_empty_cells_are_unlabelled_and_empty_frames_have_no_instance(
    tmp_path: Path, make_source: Make, read: Read
) -> None:
    project(tmp_path, SINGLE)
    (first, second), rejects = read(DeepLabCutReader(), make_dlc(make_source))
    assert not rejects
    assert (first.image, first.video_id, first.frame_index) == ("labeled-data/vid/img03.png", "vid", 3)
    assert first.instances[0].keypoints.tolist() == [[1.5, 2.5, 2], [0, 0, 0]]
    assert first.instances[0].bbox_xywh == (1.5 - 32, 2.5 - 32, 64, 64)
    assert (second.source_id, second.instances) == ("vid/img04.png", [])


def test_boxes_follow_the_options(tmp_path: Path, make_source: Make, read: Read) -> None:
    project(tmp_path, SINGLE.replace("2.5,,", "2.5,101.5,52.5"))
    source = make_dlc(make_source, box_margin=0.1, min_box_side=10, category="mouse")
    record = read(DeepLabCutReader(), source)[0][0]
    assert record.instances[0].bbox_xywh == pytest.approx((1.5 - 10, 2.5 - 10, 120, 70))
    assert record.instances[0].category == "mouse"


def test_the_box_may_be_the_whole_picture(tmp_path: Path, make_source: Make, read: Read) -> None:
    project(tmp_path, SINGLE)
    frames = tmp_path / "labeled-data" / "vid"
    cv2.imwrite(str(frames / "img03.png"), np.zeros((30, 40, 3), np.uint8))
    source = make_dlc(make_source, box="picture")
    record = read(DeepLabCutReader(), source)[0][0]
    assert record.instances[0].bbox_xywh == (0, 0, 40, 30)
    assert record.instances[0].area == 1200
    (frames / "img03.png").write_bytes(b"no picture")
    (reject,) = read(DeepLabCutReader(), source)[1]
    assert (reject.reason, reject.source) == ("unreadable-file", "labeled-data/vid/CollectedData_Me.csv line 4")


def test_a_box_of_another_kind_is_refused(tmp_path: Path, make_source: Make, read: Read) -> None:
    project(tmp_path, SINGLE)
    with pytest.raises(DatasetError, match="box is 'frame', which is neither points nor picture"):
        read(DeepLabCutReader(), make_dlc(make_source, box="frame"))


@pytest.mark.parametrize(
    "frame",
    [
        "labeled-data,vid,img03.png",
        "labeled-data\\vid\\img03.png",
        "C:\\Users\\me\\proj\\labeled-data\\vid\\img03.png",
        "labeled-data/vid/img03.png",
    ],
)
def test_every_way_to_name_a_frame(tmp_path: Path, make_source: Make, read: Read, frame: str) -> None:
    extra = "," * frame.count(",")
    table = f"scorer{extra},Me,Me,Me,Me\nbodyparts{extra},nose,nose,tail,tail\ncoords{extra},x,y,x,y\n{frame},1,2,3,4\n"
    project(tmp_path, table)
    (record,), rejects = read(DeepLabCutReader(), make_dlc(make_source))
    assert not rejects
    assert record.image == "labeled-data/vid/img03.png"
    assert record.instances[0].keypoints.tolist() == [[1, 2, 2], [3, 4, 2]]


def test_several_animals(tmp_path: Path, make_source: Make, read: Read) -> None:
    table = (
        "scorer,Me,Me,Me,Me,Me,Me,Me,Me,Me,Me\n"
        "individuals,m1,m1,m1,m1,m2,m2,m2,m2,single,single\n"
        "bodyparts,nose,nose,tail,tail,nose,nose,tail,tail,corner,corner\n"
        "coords,x,y,x,y,x,y,x,y,x,y\n"
        "labeled-data/vid/img1.png,1,2,3,4,,,7,8,9,9\n"
        "labeled-data/vid/img2.png,,,,,5,6,7,8,9,9\n"
    )
    config = (
        "multianimalproject: true\nbodyparts: MULTI!\n"
        "multianimalbodyparts: [nose, tail]\nuniquebodyparts: [corner]\nindividuals: [m1, m2]\n"
    )
    project(tmp_path, table, config)
    with pytest.raises(DatasetError, match="lacks corner"):
        read(DeepLabCutReader(), make_dlc(make_source))
    records, rejects = read(DeepLabCutReader(), make_dlc(make_source, skip_bodyparts=["corner"]))
    assert not rejects
    assert [[(i.track_id, i.id) for i in r.instances] for r in records] == [
        [("m1", "vid/img1.png/m1"), ("m2", "vid/img1.png/m2")],
        [("m2", "vid/img2.png/m2")],
    ]
    assert records[0].instances[1].keypoints.tolist() == [[0, 0, 0], [7, 8, 2]]
    assert {i.subject_id for r in records for i in r.instances} == {None}  # m1 of one video may be m2 of the next
    records, _ = read(DeepLabCutReader(), make_dlc(make_source, skip_bodyparts=["corner"], tracks_are_subjects=True))
    assert [[i.subject_id for i in r.instances] for r in records] == [["m1", "m2"], ["m2"]]
    with pytest.raises(DatasetError, match="box: picture cannot tell m1 from other animals of the frame"):
        read(DeepLabCutReader(), make_dlc(make_source, skip_bodyparts=["corner"], box="picture"))


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("labeled-data/vid/img9.png,1,2,3", "wrong-length"),
        ("labeled-data/vid/img9.png,1,2,3,", "nan-keypoints"),
        ("labeled-data/vid/img9.png,1,2,x,4", "not-a-number"),
        ("labeled-data/vid/img9.png,1,inf,3,4", "nan-keypoints"),
        ("labeled-data/../img9.png,1,2,3,4", "path-escape"),
        ("img9.png,1,2,3,4", "path-escape"),
        ("labeled-data/vid/img03.png,1,2,3,4", "duplicate-id"),
    ],
)
def test_bad_rows_cost_their_frame_only(tmp_path: Path, make_source: Make, read: Read, row: str, reason: str) -> None:
    project(tmp_path, SINGLE + row + "\n")
    records, rejects = read(DeepLabCutReader(), make_dlc(make_source))
    assert len(records) == 2
    assert [(r.reason, r.source) for r in rejects] == [(reason, "labeled-data/vid/CollectedData_Me.csv line 6")]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("scorer,", "model,", "must begin with the rows"),
        ("coords,x,y,x,y", "coords,x,y,x,likelihood", "tables of predictions are not labels"),
        ("nose,nose,tail,tail", "nose,nose,nose,nose", "exactly one x and one y column"),
        ("nose,nose,tail,tail", "nose,nose,tial,tial", "lacks tial and has tail besides"),
        ("coords,x,y,x,y", "coords,,x,y,x,y", "one or three columns"),
        (SINGLE, "", "must begin with the rows"),
        ("bodyparts,nose", 'bodyparts,"nose"x', "not a CSV table"),
    ],
)
def test_bad_tables_are_one_clear_sentence(
    tmp_path: Path, make_source: Make, read: Read, old: str, new: str, message: str
) -> None:
    project(tmp_path, SINGLE.replace(old, new))
    with pytest.raises(DatasetError, match=message):
        read(DeepLabCutReader(), make_dlc(make_source))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("bodyparts: [nose]\n", "has tail besides"),
        ("bodyparts: [nose, tail, paw]\n", "lacks paw"),
        ("- a\n", "not a DeepLabCut config"),
        ("a: [\n", "not readable as YAML"),
    ],
)
def test_config_and_skeleton_must_agree(
    tmp_path: Path, make_source: Make, read: Read, config: str, message: str
) -> None:
    project(tmp_path, SINGLE, config)
    with pytest.raises(DatasetError, match=message):
        read(DeepLabCutReader(), make_dlc(make_source))


def test_project_without_labels(tmp_path: Path, make_source: Make, read: Read) -> None:
    project(tmp_path, SINGLE)
    (tmp_path / "labeled-data" / "vid" / "CollectedData_Me.csv").unlink()
    with pytest.raises(DatasetError, match="label some frames"):
        read(DeepLabCutReader(), make_dlc(make_source))


@pytest.mark.samples
@pytest.mark.parametrize("table", ["csv", "h5"])
def test_real_project(samples: Path, make_source: Make, read: Read, table: str) -> None:
    root = samples / "dlc_reaching" / "Reaching-Mackenzie-2018-08-30"
    source = make_source("config.yaml", images="", root=root, keypoints=REACHING, table=table)
    records, rejects = read(DeepLabCutReader(), source)
    assert not rejects
    assert len(records) == 55
    assert all((root / record.image).is_file() for record in records)
    flags = np.stack([record.instances[0].keypoints[:, 2] for record in records])
    assert (flags.size, int((flags > 0).sum())) == (275, 233)
    assert records[0].instances[0].keypoints[0].tolist() == pytest.approx([185.25173, 610.36228, 2], abs=1e-4)


@pytest.mark.samples
def test_h5_that_does_not_belong_to_its_csv(samples: Path, tmp_path: Path, make_source: Make, read: Read) -> None:
    shutil.copytree(samples / "dlc_reaching" / "Reaching-Mackenzie-2018-08-30", tmp_path / "p")
    (table,) = (tmp_path / "p" / "labeled-data").glob("*/*.csv")
    table.chmod(0o644)
    source = make_source("config.yaml", images="", root=tmp_path / "p", keypoints=REACHING, table="h5")
    table.write_text("\n".join(table.read_text().splitlines()[:-1]))
    with pytest.raises(DatasetError, match="55 rows, its CSV 54"):
        read(DeepLabCutReader(), source)
    h5 = table.with_suffix(".h5")
    h5.chmod(0o644)
    h5.write_bytes(h5.read_bytes()[:3000])
    with pytest.raises(DatasetError, match="not a DeepLabCut table"):
        read(DeepLabCutReader(), source)


ROW = np.dtype([("index", "i8"), ("values_block_0", "f8", (4,))])


def h5_project(folder: Path) -> h5py.File:
    """A project of two frames, and its empty ``.h5``."""
    project(folder, SINGLE)
    return h5py.File(folder / "labeled-data" / "vid" / "CollectedData_Me.h5", "w")


def test_numbers_of_an_h5_are_read_beside_the_csv(tmp_path: Path, make_source: Make, read: Read) -> None:
    with h5_project(tmp_path) as file:
        rows = np.zeros(2, ROW)
        rows["values_block_0"] = [[1, 2, 3, 4], [np.nan] * 4]
        file.create_dataset("df_with_missing/table", data=rows)
    (record, empty), _ = read(DeepLabCutReader(), make_dlc(make_source, table="h5"))
    assert empty.instances == []
    assert record.instances[0].keypoints[:, :2].tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("giant", "has 10,000,000,000 rows, its CSV 2"),
        ("wide", "it states .* bytes, and 2000 are allowed"),
        ("lost piece", "1 of the 2 pieces of its table are there"),
        ("never written", "0 of the 1 piece of its table are there"),
        ("pieces", "stored in pieces of 4000 bytes, and 2000 are allowed"),
        ("external link", "df_with_missing is not in it, but elsewhere"),
        ("external numbers", "the numbers of its table lie elsewhere"),
        ("virtual", "the numbers of its table lie elsewhere"),
        ("no group", "table is not in it"),
        ("nothing", "df_with_missing is not in it|not a DeepLabCut table"),
    ],
)
def test_an_h5_states_no_size_that_is_believed_and_opens_no_other_file(
    tmp_path: Path, make_source: Make, read: Read, monkeypatch: pytest.MonkeyPatch, kind: str, message: str
) -> None:
    monkeypatch.setattr("posecore.formats.hdf5.MAX_H5_BYTES", 2000)
    name = "df_with_missing/table"
    with h5_project(tmp_path) as file:
        if kind == "giant":  # 400 GB stated, none stored
            file.create_dataset(name, (10**10,), ROW, chunks=(10,))
        elif kind == "wide":
            file.create_dataset(name, (2,), np.dtype([("values_block_0", "f8", (200,))]), chunks=(1,))
        elif kind == "lost piece":  # HDF5 would read zeros, which are a place in the picture
            file.create_dataset(name, (2,), ROW, chunks=(1,))[1] = np.ones((), ROW)
        elif kind == "never written":
            file.create_dataset(name, (2,), ROW)
        elif kind == "pieces":
            file.create_dataset(name, (2,), ROW, maxshape=(None,), chunks=(100,))
        elif kind == "external link":
            file["df_with_missing"] = h5py.ExternalLink("other.h5", "/")
        elif kind == "external numbers":
            file.create_dataset(name, (2,), ROW, external=[(str(tmp_path / "other"), 0, 80)])
        elif kind == "virtual":
            layout = h5py.VirtualLayout((2,), ROW)
            layout[:] = h5py.VirtualSource("other.h5", "x", (2,), ROW)
            file.create_virtual_dataset(name, layout)
        elif kind == "no group":
            file["df_with_missing"] = np.zeros(3)
    with pytest.raises(DatasetError, match=message):
        read(DeepLabCutReader(), make_dlc(make_source, table="h5"))
