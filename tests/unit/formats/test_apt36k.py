import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from posecore.errors import DatasetError
from posecore.formats.apt36k import Apt36kReader, part_of_clip
from posecore.formats.reader import Source
from posecore.schema import Record, Reject

pytestmark = pytest.mark.usefixtures("both_ways")

Make = Callable[..., Source]
Read = Callable[..., tuple[list[Record], list[Reject]]]


def write(path: Path, num_clips: int = 40, **changes: Any) -> None:
    images = [
        {
            "id": 10 * clip + frame,
            "file_name": f"D:\\Animal\\data\\dog\\clip{clip}\\{frame}.jpg",
            "width": 100,
            "height": 80,
            "video_id": clip,
            "license": 3,
        }
        for clip in range(num_clips)
        for frame in range(2)
    ]
    annotations = [
        {
            "id": 1000 + image["id"],
            "image_id": image["id"],
            "category_id": 5,
            "bbox": [1, 2, 30, 40],
            "keypoints": [5, 6, 2, 0, 0, 0],
            "is_crowd": image["id"] % 2,
            "track_id": 0,
        }
        for image in images
    ]
    document = {
        "license": [{"id": 3, "name": "a licence"}],
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 5, "name": "dog"}],
    }
    path.write_text(json.dumps({**document, **changes}))


def test_windows_paths_crowds_licences_and_videos(tmp_path: Path, make_source: Make, read: Read) -> None:
    write(tmp_path / "a.json", num_clips=1)
    records, rejects = read(Apt36kReader(), make_source("a.json"))
    assert not rejects
    assert [r.image for r in records] == ["images/dog/clip0/0.jpg", "images/dog/clip0/1.jpg"]
    assert [r.instances[0].is_crowd for r in records] == [False, True]
    assert {(r.license, r.video_id) for r in records} == {("a licence", "dog/clip0")}
    assert records[0].instances[0].category == "dog"
    assert records[0].instances[0].track_id == "0"


def test_parts_keep_clips_together_and_cover_everything_once(tmp_path: Path, make_source: Make, read: Read) -> None:
    write(tmp_path / "a.json")
    everything = [r.source_id for r in read(Apt36kReader(), make_source("a.json"))[0]]
    parts = {p: read(Apt36kReader(), make_source("a.json", part=p)) for p in ("train", "val", "test")}
    assert not any(rejects for _, rejects in parts.values())
    assert sorted(r.source_id for records, _ in parts.values() for r in records) == sorted(everything)
    videos = [{r.video_id for r in records} for records, _ in parts.values()]
    assert sum(map(len, videos)) == len(set.union(*videos)) == 40


def test_shares_of_the_parts_are_seven_one_two() -> None:
    shares = Counter(part_of_clip("dog", f"clip{i}") for i in range(5000))
    assert shares["train"] / 5000 == pytest.approx(0.7, abs=0.02)
    assert shares["val"] / 5000 == pytest.approx(0.1, abs=0.02)
    assert part_of_clip("dog", "clip1") == "train"  # never changes: trained models depend on it


def test_misspelt_clip_folders_can_be_renamed(tmp_path: Path, make_source: Make, read: Read) -> None:
    write(tmp_path / "a.json", num_clips=1)
    records, _ = read(Apt36kReader(), make_source("a.json", renamed_clips={"clip0": "clip zero"}))
    assert records[0].image == "images/dog/clip zero/0.jpg"
    assert records[0].video_id == "dog/clip0"


def test_bad_input(tmp_path: Path, make_source: Make, read: Read) -> None:
    write(tmp_path / "a.json", images=[{"id": 1, "file_name": "x.jpg"}, 7, {"id": 2, "file_name": "\\..\\a\\b"}])
    _, rejects = read(Apt36kReader(), make_source("a.json", part="train"))
    assert [r.reason for r in rejects][:3] == ["path-escape", "not-an-object", "path-escape"]
    assert {r.reason for r in rejects[3:]} == {"missing-image-entry"}
    (tmp_path / "a.json").write_text("[]")
    with pytest.raises(DatasetError, match="top level must be an object"):
        read(Apt36kReader(), make_source("a.json"))
    with pytest.raises(DatasetError, match="part is 'dev'"):
        read(Apt36kReader(), make_source("a.json", part="dev"))
