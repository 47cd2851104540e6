"""What pynwb writes is read in test_foreign_files; here is what else an NWB file may say of its predictions."""

import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from posecore.errors import DatasetError
from posecore.formats.nwb_file import NwbVideo
from posecore.formats.nwb_pose import NwbPoseReader
from posecore.formats.reader import Source
from posecore.schema import Record, Reject

FOREIGN = Path(__file__).parents[2] / "support" / "foreign"
NAMES = ("nose", "left_ear", "right_ear", "tail")
FILM = "/processing/behavior/PoseTraining/source_videos/arena"
Make = Callable[..., Source]
Read = Callable[..., tuple[list[Record], list[Reject]]]


@pytest.fixture
def changed(tmp_path: Path, make_source: Make, read: Read) -> Callable[..., tuple[list[Record], list[Reject]]]:
    """Reads a copy of a file with predictions after something was done to it."""

    def change(change: Callable[[h5py.File], None], name: str = "nwb_estimation/estimation.nwb") -> object:
        path = tmp_path / "file.nwb"
        shutil.copy(FOREIGN / name, path)
        with h5py.File(path, "r+") as file:
            change(file)
        return read(NwbPoseReader(), make_source("file.nwb", images="", keypoints=NAMES, predictions=True))

    return change  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("video", "times", "numbers"),
    [
        ({"rate_hz": 30.0, "start_s": 2.0}, [2.0, 2.1, 3.0], [0, 3, 30]),
        ({"rate_hz": 30.0}, [0.0334, 0.0999], [1, 3]),
        ({"times_s": np.array([0.0, 0.1, 0.25, 0.3])}, [0.1, 0.26, 0.3], [1, 2, 3]),
        ({"times_s": np.array([5.0])}, [5.0], [0]),
        ({}, [0.5, 7.0], [0, 1]),
        ({}, [12.0, 12.1, 12.4], [0, 1, 4]),
        ({}, [0.0, 1.0, 1.7, 2.1], [0, 1, 2, 3]),
        ({}, [3.0], [0]),
    ],
)
def test_rows_are_of_the_frames_that_the_video_s_clock_says(video, times, numbers):
    made = NwbVideo(name="arena", files=("arena.mp4",), **video)
    assert made.numbers(np.array(times)).tolist() == numbers


def test_a_row_between_two_frames_is_refused():
    made = NwbVideo(name="arena", files=("arena.mp4",), rate_hz=10.0)
    with pytest.raises(ValueError, match=r"a row of 0\.15 s, when no frame of arena was taken"):
        made.numbers(np.array([0.1, 0.15]))
    with pytest.raises(ValueError, match="a row of nan s"):
        made.numbers(np.array([np.nan]))


def test_rows_are_joined_by_time_where_a_point_lacks_some(changed):
    def shorten(file):
        series = file["processing/behavior/bob/tail"]
        data = dict(series["data"].attrs)
        for name in ("data", "timestamps", "confidence"):
            kept = series[name][1:]
            del series[name]
            series[name] = kept
        series["data"].attrs.update(data)

    records, _ = changed(shorten)
    first, second = (record.instances[0].keypoints for record in records)
    assert first[3].tolist() == [0, 0, 0]
    assert second[3].tolist() == [14.5, 24.25, 2]


def test_places_are_scaled_as_the_file_says(changed):
    def scale(file):
        for name in NAMES:
            data = file[f"processing/behavior/bob/{name}/data"]
            data.attrs["conversion"], data.attrs["offset"] = 2.0, -1.0

    records, _ = changed(scale)
    bob, eve = records[0].instances
    assert bob.keypoints[0].tolist() == [20, 39.5, 2]
    assert eve.keypoints[0].tolist() == [40.5, 20.25, 2]


def test_names_and_film_may_be_those_of_the_container(changed):
    """As before ndx-pose 0.2: no skeleton and no video, but nodes and a path."""

    def old(file):
        for name in ("bob", "eve"):
            container = file[f"processing/behavior/{name}"]
            del container["lab_mouse"], container["source_video"]
            container["nodes"] = list(NAMES)
            container["original_videos"] = ["C:\\films\\arena.mp4"]
            container["dimensions"] = np.array([[80, 60]], np.uint16)
        del file["processing/behavior/Skeletons"]

    records, rejects = changed(old)
    assert not rejects
    assert [record.source_id for record in records] == ["arena/0", "arena/1"]  # without a clock, from the first row on
    assert (records[0].width, records[0].height, len(records[0].instances)) == (80, 60, 2)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda bob: bob["nose/data"].attrs.__setitem__("unit", "meters"), "in meters, not in pixels"),
        (lambda bob: bob.pop("nose"), "has no series 'nose'"),
        (lambda bob: bob.pop("source_video"), "names no source_video"),
        (lambda bob: bob["nose/timestamps"].write_direct(np.array([0.3, 0.1, 0.5])), "do not follow each other"),
    ],
)
def test_what_is_none_of_a_picture_is_refused(change, said, changed):
    with pytest.raises(DatasetError, match=said):
        changed(lambda file: change(file["processing/behavior/bob"]))


def test_frames_that_somebody_has_labelled_are_read_once(tmp_path, make_source, read):
    path = tmp_path / "both.nwb"
    shutil.copy(FOREIGN / "nwb" / "training.nwb", path)
    with h5py.File(path, "r+") as file, h5py.File(FOREIGN / "nwb_estimation" / "estimation.nwb") as other:
        other.copy("processing/behavior/bob", file["processing/behavior"])  # its links mean the film of this file
        del file["processing/behavior/bob/source_video"]
        file["processing/behavior/bob/source_video"] = h5py.SoftLink(FILM)
    wanted, rejects = read(NwbPoseReader(), make_source("both.nwb", "", NAMES, predictions=True))
    assert not rejects
    assert [record.source_id for record in wanted] == ["arena/3", "arena/5", "arena/7", "arena/1"]
    labelled, rejects = read(NwbPoseReader(), make_source("both.nwb", "", NAMES))
    assert [record.source_id for record in labelled] == ["arena/3", "arena/5", "arena/7"]
    assert [(reject.reason, reject.outcome) for reject in rejects] == [("predicted-body", "skipped")]
