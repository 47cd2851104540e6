from pathlib import Path

import cv2
import numpy as np
import pytest

from posecore.cli import main
from posecore.datasets.definition import DatasetDefinition, LicenseDefinition, SplitDefinition
from posecore.errors import DatasetError
from posecore.skeletons.library import load_skeleton
from posecore.viz.dataset_gallery import write_dataset_gallery

ANNOTATION = """{"images": [
  {"id": 1, "file_name": "1.png", "width": 64, "height": 48},
  {"id": 2, "file_name": "2.png", "width": 99, "height": 48},
  {"id": 3, "file_name": "3.png", "width": 64, "height": 48},
  {"id": 4, "file_name": "4.png", "width": 64, "height": 48}
], "annotations": [%s]}"""


@pytest.fixture
def download(tmp_path: Path) -> Path:
    """Image 1 is whole, 2 has another size than annotated, 3 is missing, 4 has no person."""
    points = ", ".join("20, 20, 2" for _ in range(17))
    mask = "[[10, 10, 40, 10, 40, 40]]"
    persons = [
        f'{{"id": {i}, "image_id": {i}, "bbox": [10, 10, 30, 30], "segmentation": {mask}, "keypoints": [{points}]}}'
        for i in (1, 2, 3)
    ]
    (tmp_path / "a.json").write_text(ANNOTATION % ", ".join(persons))
    for name in ("1.png", "2.png", "4.png"):
        cv2.imwrite(str(tmp_path / name), np.full((48, 64, 3), 90, np.uint8))
    return tmp_path


def definition(annotations: str = "a.json") -> DatasetDefinition:
    return DatasetDefinition(
        name="own",
        title="Own data",
        reader="posecore.formats.coco:CocoReader",
        skeleton=load_skeleton("coco17"),
        license=LicenseDefinition(id="CC0-1.0"),
        splits={"train": SplitDefinition(annotations=annotations)},
    )


def test_gallery_shows_annotated_images_and_says_what_is_wrong(download: Path, tmp_path: Path):
    page = write_dataset_gallery(definition(), "train", download, tmp_path / "out").read_text()
    assert "Own data: train" in page
    assert "1.png · 1 annotated, 1 with points" in page
    assert "is 64×48, annotated as 99×48" in page
    assert "3.png · 1 annotated, 1 with points · the image is missing or does not decode" in page
    assert "4.png" not in page
    sheet = cv2.imread(str(tmp_path / "out" / "contact_sheet.png"))
    assert sheet is not None
    assert len(np.unique(sheet.reshape(-1, 3), axis=0)) > 10


def test_sample_is_bounded_and_the_same_every_time(download: Path, tmp_path: Path):
    pages = [write_dataset_gallery(definition(), "train", download, tmp_path / name, 1) for name in "ab"]
    assert pages[0].read_text() == pages[1].read_text()
    assert pages[0].read_text().count("<figure") == 1


def test_nothing_to_show_is_one_sentence(download: Path, tmp_path: Path):
    (download / "a.json").write_text(ANNOTATION % "")
    with pytest.raises(DatasetError, match="own train: no image with annotations was read"):
        write_dataset_gallery(definition(), "train", download, tmp_path / "out")


def test_list_prints_a_row_per_dataset(capsys: pytest.CaptureFixture[str]):
    assert main(["datasets", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:3] == ["name", "title", "keypoints"]
    row = next(line for line in lines if line.startswith("coco_wholebody "))
    assert " 133 " in row
    assert "train, val" in row
    assert row.split()[-2:] == ["CC-BY-NC-4.0", "no"]


def test_show_reports_a_missing_download_without_a_traceback(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    arguments = ["datasets", "show", "coco", "--root", str(tmp_path), "--split", "val", "--out", str(tmp_path / "out")]
    assert main(arguments) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("error: coco val: annotations/person_keypoints_val2017.json is missing below")
    assert not (tmp_path / "out").exists()


@pytest.mark.samples
def test_show_draws_real_images(samples: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    arguments = ["datasets", "show", "coco_wholebody", "--root", str(samples / "coco_wholebody"), "--split", "val"]
    assert main([*arguments, "--out", str(tmp_path)]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "index.html")
    assert (tmp_path / "index.html").read_text().count("<figure") == 4
