from collections.abc import Callable
from pathlib import Path

import pytest

from posecore.errors import DatasetError
from posecore.formats.minirgbd import MiniRgbdReader
from posecore.formats.reader import Source
from posecore.schema import DepthImage, Record, Reject

Make = Callable[..., Source]
Read = Callable[..., tuple[list[Record], list[Reject]]]


def write_frame(root: Path, sequence: str, frame: int, lines_2d: list[str] | None = None) -> Path:
    """One frame of 25 joints in the published layout, the lines out of order on purpose."""
    folder = root / sequence
    for name in ("joints_2Ddep", "joints_3D"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    lines = [f"{100 + j}.5 {200 + j} 900.0 {j}" for j in reversed(range(25))] if lines_2d is None else lines_2d
    path = folder / "joints_2Ddep" / f"syn_joints_2Ddep_{frame:05d}.txt"
    path.write_text("\n".join(lines) + "\n")
    three_d = [f"{j / 10} 0.5 1.25 {j}" for j in range(25)]
    (folder / "joints_3D" / f"syn_joints_3D_{frame:05d}.txt").write_text("\n".join(three_d))
    return path


def test_frames_of_the_listed_sequences(tmp_path: Path, make_source: Make, read: Read) -> None:
    for sequence, frame in (("02", 1), ("01", 1), ("01", 0), ("11", 0)):
        write_frame(tmp_path, sequence, frame)
    (tmp_path / "01" / "joints_2Ddep" / "notes.txt").write_text("not a frame")
    source = make_source("", images="", keypoints=25, sequences=["01", "02"])
    records, rejects = read(MiniRgbdReader(), source)
    assert not rejects
    assert [r.image for r in records] == [
        "01/rgb/syn_00000.png",
        "01/rgb/syn_00001.png",
        "02/rgb/syn_00001.png",
    ]
    first = records[1]
    (infant,) = first.instances
    assert (first.height, first.width, first.video_id, first.frame_index) == (480, 640, "01", 1)
    assert (infant.subject_id, infant.id) == ("01", "01/00001")
    assert infant.keypoints[3].tolist() == [103.5, 203, 2]
    assert infant.keypoints_3d is not None
    assert infant.keypoints_3d[4].tolist() == pytest.approx([0.4, 0.5, 1.25])
    assert infant.bbox_xywh == pytest.approx((100.5 - 2.4, 200 - 2.4, 24 + 4.8, 24 + 4.8))
    everything, _ = read(MiniRgbdReader(), make_source("", images="", keypoints=25))
    assert len(everything) == 4


def test_joints_outside_the_image_are_not_seen(tmp_path: Path, make_source: Make, read: Read) -> None:
    lines = [f"{'-4' if j == 2 else 100} {'480' if j == 5 else 200 + j} 900 {j}" for j in range(25)]
    write_frame(tmp_path, "01", 0, lines)
    (record,), _ = read(MiniRgbdReader(), make_source("", images="", keypoints=25))
    flags = record.instances[0].keypoints[:, 2].tolist()
    assert [i for i, flag in enumerate(flags) if flag == 1] == [2, 5]
    assert flags.count(2) == 23


def test_depth_is_taken_where_it_is_there(tmp_path: Path, make_source: Make, read: Read) -> None:
    write_frame(tmp_path, "01", 0)
    write_frame(tmp_path, "01", 1)
    (tmp_path / "01" / "depth").mkdir()
    (tmp_path / "01" / "depth" / "syn_00001_depth.png").touch()
    records, _ = read(MiniRgbdReader(), make_source("", images="", keypoints=25))
    expected = DepthImage(image="01/depth/syn_00001_depth.png", metres_per_unit=0.001)
    assert [record.depth for record in records] == [None, expected]
    source = make_source("", images="", keypoints=25, depth_metres_per_unit=0.0005)
    assert [record.depth.metres_per_unit for record in read(MiniRgbdReader(), source)[0] if record.depth] == [0.0005]
    for wrong in (0, -1, "1", float("nan")):
        with pytest.raises(DatasetError, match=r"depth_metres_per_unit is .*, not a positive number"):
            read(MiniRgbdReader(), make_source("", images="", keypoints=25, depth_metres_per_unit=wrong))


GOOD = [f"{100 + j} {200 + j} 900 {j}" for j in range(25)]


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        (GOOD[:-1], "wrong-length"),
        ([*GOOD[:-1], GOOD[0]], "bad-joint"),
        ([*GOOD[:-1], "1 2 3 25"], "bad-joint"),
        ([*GOOD[:-1], "1 2 24"], "bad-joint"),
        ([*GOOD[:-1], "nan 2 3 24"], "bad-joint"),
        ([*GOOD[:-1], "x 2 3 24"], "not-a-number"),
    ],
)
def test_bad_joint_files_cost_their_frame_only(
    tmp_path: Path, make_source: Make, read: Read, lines: list[str], reason: str
) -> None:
    write_frame(tmp_path, "01", 0)
    write_frame(tmp_path, "01", 1, lines)
    write_frame(tmp_path, "01", 2).write_bytes(b"\xff\xfe")
    records, rejects = read(MiniRgbdReader(), make_source("", images="", keypoints=25))
    assert len(records) == 1
    assert [r.reason for r in rejects] == [reason, "unreadable-file"]
    assert rejects[0].source == "01/joints_2Ddep/syn_joints_2Ddep_00001.txt"


def test_missing_sequences_and_empty_folders(tmp_path: Path, make_source: Make, read: Read) -> None:
    (tmp_path / "01" / "joints_2Ddep").mkdir(parents=True)
    for options, message in (
        ({"sequences": ["03"]}, "03/joints_2Ddep is missing"),
        ({"sequences": "01"}, "must be a list"),
        ({}, "holds no joint files"),
    ):
        with pytest.raises(DatasetError, match=message):
            read(MiniRgbdReader(), make_source("", images="", keypoints=25, **options))
