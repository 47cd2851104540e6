import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from posecore.errors import ConfigError, DatasetError
from posecore.formats.posetrack import PoseTrackReader
from posecore.formats.reader import Source
from posecore.schema import Record, Reject
from posecore.shards.regions import ignore_rle, pixels
from posecore.skeletons.library import load_skeleton

pytestmark = pytest.mark.usefixtures("both_ways")

Make = Callable[..., Source]
Read = Callable[..., tuple[list[Record], list[Reject]]]
NAMES = ("nose", "head_bottom", "left_ear")


def sequence(number: int, name: str, **changes: Any) -> dict[str, Any]:
    """Three frames as PoseTrack18 and 21 write them: one labelled, one with nobody in it, one nobody has labelled."""
    first = 10**10 + number * 10**4
    images = [
        {
            "is_labeled": frame < 2,
            "nframes": 3,
            "frame_id": first + frame,
            "id": first + frame,
            "vid_id": f"{number:06d}",
            "file_name": f"images/val/{name}/{frame:06d}.jpg",
            "ignore_regions_x": [[50, 90, 90, 50]] if frame == 0 else [],
            "ignore_regions_y": [[10, 10, 30, 30]] if frame == 0 else [],
        }
        for frame in range(3)
    ]
    body = {
        "bbox": [10, 20, 30, 40],
        "bbox_head": [12, 22, 6, 8],
        "category_id": 1,
        "image_id": first,
        "id": first * 100,
        "keypoints": [15.5, 25, 1, 16, 30, 0, 0, 0, 0],
        "person_id": 1024,
        "track_id": 0,
        "scores": [],
    }
    categories = [{"id": 1, "name": "person", "keypoints": list(NAMES)}]
    return {"images": images, "annotations": [body], "categories": categories, **changes}


def write(folder: Path, *, names: tuple[str, ...] = ("000342_mpii_test", "000001_bonn_val"), **changes: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names, 1):
        (folder / f"{name}.json").write_text(json.dumps(sequence(number, name, **changes)))


def test_a_folder_is_read_sequence_by_sequence(tmp_path: Path, make_source: Make, read: Read) -> None:
    write(tmp_path / "annotations" / "val")
    source = make_source("annotations/val", images="", keypoints=NAMES)
    assert PoseTrackReader().parts(source) == ["000001_bonn_val.json", "000342_mpii_test.json"]
    records, rejects = read(PoseTrackReader(), source)
    assert [(reject.reason, reject.outcome) for reject in rejects] == [("unlabelled-frame", "skipped")] * 2
    assert [(record.video_id, record.frame_index) for record in records] == [
        ("000001_bonn_val", 0),
        ("000001_bonn_val", 1),
        ("000342_mpii_test", 0),
        ("000342_mpii_test", 1),
    ]
    assert records[0].image == "images/val/000001_bonn_val/000000.jpg"
    assert records[0].extras == {}
    assert records[1].instances == []


def test_a_point_with_a_place_is_labelled(tmp_path: Path, make_source: Make, read: Read) -> None:
    write(tmp_path)
    source = make_source("000342_mpii_test.json", images="", keypoints=NAMES, subject_field="person_id")
    assert PoseTrackReader().parts(source) == [""]
    records, _ = read(PoseTrackReader(), source)
    body = records[0].instances[0]
    assert body.keypoints.tolist() == [[15.5, 25, 2], [16, 30, 1], [0, 0, 0]]
    assert body.head_bbox_xyxy == (12, 22, 18, 30)
    assert (body.track_id, body.subject_id) == ("0", "1024")


def test_regions_to_ignore_are_crowds(tmp_path: Path, make_source: Make, read: Read) -> None:
    write(tmp_path)
    records, _ = read(PoseTrackReader(), make_source("000342_mpii_test.json", images="", keypoints=NAMES))
    region = records[0].instances[1]
    assert (region.id, region.is_crowd, region.bbox_xywh) == ("10000010000:ignore0", True, (50, 10, 40, 20))
    records[0].width, records[0].height = 100, 60
    left_alone = ignore_rle(records[0])
    assert left_alone is not None
    rows, columns = np.nonzero(pixels(left_alone))
    assert (columns.min(), columns.max(), rows.min(), rows.max()) == (50, 89, 10, 29)


def test_frames_nobody_has_labelled_may_be_kept(tmp_path: Path, make_source: Make, read: Read) -> None:
    write(tmp_path)
    records, rejects = read(
        PoseTrackReader(), make_source("000342_mpii_test.json", images="", keypoints=NAMES, unlabelled=True)
    )
    assert len(records) == 3
    assert not rejects


def test_a_box_alone_is_a_body_without_points(tmp_path: Path, make_source: Make, read: Read) -> None:
    alone = {"bbox": [1, 2, 3, 4], "category_id": 1, "image_id": 10000010002, "id": 5, "track_id": 3}
    write(tmp_path, annotations=[alone])
    records, rejects = read(PoseTrackReader(), make_source("000342_mpii_test.json", images="", keypoints=NAMES))
    assert not rejects  # the frame says that it is not labelled, and has an annotation
    assert not records[2].instances[0].keypoints.any()
    assert records[2].instances[0].head_bbox_xyxy is None


@pytest.mark.parametrize(
    ("xs", "ys", "reason"),
    [([[1, 2]], [[1, 2]], "bad-segmentation"), ([[1, 2, 3]], [], "bad-segmentation"), (7, 7, "bad-segmentation")],
)
def test_broken_regions_are_counted(
    tmp_path: Path, make_source: Make, read: Read, xs: Any, ys: Any, reason: str
) -> None:
    document = sequence(1, "a")
    document["images"][0] |= {"ignore_regions_x": xs, "ignore_regions_y": ys}
    (tmp_path / "a.json").write_text(json.dumps(document))
    records, rejects = read(PoseTrackReader(), make_source("a.json", images="", keypoints=NAMES, unlabelled=True))
    assert [reject.reason for reject in rejects] == [reason]
    assert len(records[0].instances) == 1


def test_bad_input(tmp_path: Path, make_source: Make, read: Read) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match=r"holds no <sequence>\.json"):
        read(PoseTrackReader(), make_source("empty", images="", keypoints=NAMES))
    (tmp_path / "a.json").write_text('{"annolist": []}')
    with pytest.raises(DatasetError, match="'images' must be a list"):
        read(PoseTrackReader(), make_source("a.json", images="", keypoints=NAMES))
    with pytest.raises(ConfigError, match="unlabelled"):
        read(PoseTrackReader(), make_source("a.json", images="", keypoints=NAMES, unlabelled="perhaps"))


def test_the_skeleton_is_that_of_the_files() -> None:
    skeleton = load_skeleton("posetrack17")
    assert skeleton.names[:5] == ("nose", "head_bottom", "head_top", "left_ear", "right_ear")
    assert skeleton.names[5:] == load_skeleton("coco17").names[5:]
    assert skeleton.union_names[1] == "neck"
