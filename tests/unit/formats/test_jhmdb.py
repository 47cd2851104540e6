"""The files are written, and read a second time, by scipy."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from scipy.io import loadmat, savemat

from posecore.errors import ConfigError, DatasetError
from posecore.formats.jhmdb import JhmdbReader
from posecore.formats.reader import Source
from posecore.schema import Record, Reject

Make = Callable[..., Source]
Read = Callable[..., tuple[list[Record], list[Reject]]]
FILMS = {"golf": ("swing_golf_1", "swing_golf_2"), "wave": ("hello_wave_(1)",)}


def write(root: Path, frames: int = 3, seed: int = 0) -> None:
    """``joint_positions``, ``puppet_mask`` and both folders of lists, as published."""
    rng = np.random.default_rng(seed)
    for number, (action, film) in enumerate((a, film) for a, films in FILMS.items() for film in films):
        place = root / "joint_positions" / action / film
        place.mkdir(parents=True)
        points = rng.uniform(20, 200, (2, 15, frames))
        points[:, 3, 0] = -4.5, 100  # beyond the picture
        contents = {"pos_img": points, "pos_world": points / 100, "viewpoint": "SW", "scale": np.ones((1, frames))}
        savemat(place / "joint_positions.mat", contents, do_compression=number == 0)
        masks = np.zeros((240, 320, frames), np.uint8)
        masks[30:71, 40:101, :] = 3
        masks[50, 120] = 1
        place = root / "puppet_mask" / action / film
        place.mkdir(parents=True)
        savemat(place / "puppet_mask.mat", {"part_mask": masks}, do_compression=True)
    for folder, name in (("splits", "{}_test_split{}.txt"), ("sub_splits", "{}_test_split_{}.txt")):
        (root / folder).mkdir()
        for action, films in FILMS.items():
            for division in (1, 2, 3):
                marks = [1 + (place + division) % 2 for place in range(len(films))]
                lines = [f"{film}.avi {mark}\n" for film, mark in zip(films, marks, strict=True)]
                (root / folder / name.format(action, division)).write_text("".join(lines))


def source_of(make_source: Make, **options: Any) -> Source:
    return make_source("joint_positions", "Rename_Images", 15, area_rule="segment", **options)


def test_places_are_those_that_scipy_reads_less_one(tmp_path: Path, make_source: Make, read: Read) -> None:
    write(tmp_path)
    records, rejects = read(JhmdbReader(), source_of(make_source))
    assert not rejects
    assert len(records) == 9
    for record in records:
        assert record.video_id is not None
        assert record.frame_index is not None
        theirs = loadmat(tmp_path / "joint_positions" / record.video_id / "joint_positions.mat")["pos_img"]
        (body,) = record.instances
        assert np.abs(body.keypoints[:, :2].T - (theirs[:, :, record.frame_index] - 1)).max() < 1e-4
    assert records[0].image == "Rename_Images/golf/swing_golf_1/00001.png"
    assert records[0].extras == {"action": "golf", "viewpoint": "SW"}
    assert records[0].instances[0].keypoints[3, 2] == 1  # outside
    assert set(records[1].instances[0].keypoints[:, 2]) == {2}


def test_box_and_area_are_the_mask_s(tmp_path: Path, make_source: Make, read: Read) -> None:
    write(tmp_path)
    records, _ = read(JhmdbReader(), source_of(make_source))
    body = records[0].instances[0]
    theirs = loadmat(tmp_path / "puppet_mask" / "golf" / "swing_golf_1" / "puppet_mask.mat")["part_mask"][:, :, 0] > 0
    assert body.bbox_xywh == (40, 30, 81, 41)
    assert body.area == theirs.sum()
    assert (coco_mask.decode(body.segmentation) == theirs).all()
    assert (records[0].width, records[0].height) == (320, 240)


@pytest.mark.parametrize("lists", ["splits", "sub_splits"])
def test_a_part_is_what_its_list_says(lists: str, tmp_path: Path, make_source: Make) -> None:
    write(tmp_path)

    def parts(**options: Any) -> list[str]:
        return JhmdbReader().parts(source_of(make_source, lists=lists, **options))

    assert parts(division=1, part="train") == ["golf/swing_golf_2"]
    assert parts(division=1, part="test") == ["golf/swing_golf_1", "wave/hello_wave_(1)"]
    assert parts(division=2, part="train") == parts(division=1, part="test")
    assert len(parts()) == 3


def test_frames_may_be_those_of_films(tmp_path: Path, make_source: Make, read: Read) -> None:
    write(tmp_path, frames=1)
    (tmp_path / "films" / "golf").mkdir(parents=True)
    (tmp_path / "films" / "golf" / "swing_golf_1.avi").touch()
    source = make_source("joint_positions", "films", 15, division=2, part="train")
    records, _ = read(JhmdbReader(), source)
    assert [record.image for record in records] == [
        "films/golf/swing_golf_1.avi#frame=0",
        "films/wave/hello_wave_(1)/00001.png",
    ]


def test_without_masks_boxes_are_the_extent_of_the_joints(tmp_path: Path, make_source: Make, read: Read) -> None:
    write(tmp_path)
    records, _ = read(JhmdbReader(), make_source("joint_positions", "Rename_Images", 15, masks=""))
    body = records[1].instances[0]
    low, high = body.keypoints[:, :2].min(axis=0), body.keypoints[:, :2].max(axis=0)
    x, y, width, height = body.bbox_xywh
    margin = 0.1 * (high - low).max()
    assert [x, y, x + width, y + height] == pytest.approx([*(low - margin), *(high + margin)], abs=1e-3)
    assert body.area == width * height
    assert body.segmentation is None


def test_a_frame_without_a_person_is_counted(tmp_path: Path, make_source: Make, read: Read) -> None:
    write(tmp_path)
    path = tmp_path / "puppet_mask" / "golf" / "swing_golf_1" / "puppet_mask.mat"
    masks = loadmat(path)["part_mask"]
    masks[:, :, 1] = 0
    savemat(path, {"part_mask": masks[:, :, :2]})
    records, rejects = read(JhmdbReader(), source_of(make_source))
    assert [(reject.reason, reject.source_id) for reject in rejects] == [
        ("missing-segment", "golf/swing_golf_1/2"),
        ("missing-segment", "golf/swing_golf_1/3"),
    ]
    assert [len(record.instances) for record in records[:3]] == [1, 0, 0]


def test_bad_input(tmp_path: Path, make_source: Make, read: Read) -> None:
    write(tmp_path)
    with pytest.raises(ConfigError, match="division"):
        read(JhmdbReader(), source_of(make_source, division=4))
    with pytest.raises(DatasetError, match=r"is missing below"):
        read(JhmdbReader(), source_of(make_source, part="train", lists="elsewhere"))
    (tmp_path / "splits" / "golf_test_split1.txt").write_text("swing_golf_1.avi 1\nswing_golf_2 2\n")
    with pytest.raises(DatasetError, match=r"golf_test_split1\.txt line 2 is 'swing_golf_2 2'"):
        read(JhmdbReader(), source_of(make_source, part="train"))
    savemat(
        tmp_path / "joint_positions" / "golf" / "swing_golf_1" / "joint_positions.mat", {"pos_img": np.ones((2, 14, 3))}
    )
    with pytest.raises(DatasetError, match="pos_img of shape 2 x 15 x frames"):
        read(JhmdbReader(), source_of(make_source))
