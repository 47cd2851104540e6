"""A stamp changes exactly when a file that a split is read from does."""

import os
from pathlib import Path

import fsspec
import pytest

from posecore.datasets.discovery import load_dataset
from posecore.errors import DatasetError
from posecore.ingest.source_stamp import stamp_source


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("annotations/person_keypoints_val2017.json", "val2017/1.jpg", "val2017/2.jpg", "train2017/9.jpg"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(name)
    return tmp_path


def test_the_stamp_is_stable(root: Path) -> None:
    definition = load_dataset("coco")
    assert stamp_source(definition, "val", root) == stamp_source(definition, "val", str(root))


@pytest.mark.parametrize("change", ["annotations/person_keypoints_val2017.json", "val2017/2.jpg", "val2017/3.jpg"])
def test_a_changed_or_added_file_of_the_split_changes_it(root: Path, change: str) -> None:
    definition = load_dataset("coco")
    before = stamp_source(definition, "val", root)
    (root / change).write_text("other")
    assert stamp_source(definition, "val", root) != before


def test_a_file_that_is_an_option_of_the_reader_changes_it(tmp_path: Path) -> None:
    """SyRIP's pictures of other films depend on the films of the training pictures."""
    definition = load_dataset("syrip")
    other = tmp_path / str(definition.splits["val_other_films"].options["other_films_than"])
    other.parent.mkdir()
    other.write_text("{}")
    before = {split: stamp_source(definition, split, tmp_path) for split in ("val", "val_other_films")}
    other.write_text('{"images": []}')
    after = {split: stamp_source(definition, split, tmp_path) for split in before}
    assert [split for split in before if after[split] != before[split]] == ["val_other_films"]


def test_same_size_other_time_changes_it(root: Path) -> None:
    definition = load_dataset("coco")
    before = stamp_source(definition, "val", root)
    os.utime(root / "val2017/1.jpg", ns=(1, 1))
    assert stamp_source(definition, "val", root) != before


def test_files_of_another_split_do_not(root: Path) -> None:
    definition = load_dataset("coco")
    before = stamp_source(definition, "val", root)
    (root / "train2017/10.jpg").write_text("new")
    assert stamp_source(definition, "val", root) == before


def test_a_missing_download_has_a_stamp_too(tmp_path: Path) -> None:
    assert len(stamp_source(load_dataset("coco"), "val", tmp_path / "nowhere")) == 64


def test_remote_files_are_listed(root: Path) -> None:
    definition = load_dataset("coco")
    files = fsspec.filesystem("memory")
    files.pipe({"/stamp/annotations/person_keypoints_val2017.json": b"{}", "/stamp/val2017/1.jpg": b"1"})
    before = stamp_source(definition, "val", "memory://stamp")
    files.pipe("/stamp/val2017/1.jpg", b"12")
    assert stamp_source(definition, "val", "memory://stamp") != before


def test_links_to_nothing_and_back_to_the_top_end(root: Path) -> None:
    definition = load_dataset("coco")
    before = stamp_source(definition, "val", root)
    (root / "val2017" / "gone.jpg").symlink_to("nowhere")
    (root / "val2017" / "self.jpg").symlink_to("self.jpg")
    with_links = stamp_source(definition, "val", root)
    assert with_links != before
    (root / "val2017" / "up").symlink_to("..")
    assert stamp_source(definition, "val", root) not in (before, with_links)
    (root / "nowhere").write_text("here after all")
    os.mkfifo(root / "val2017" / "pipe.jpg")
    assert stamp_source(definition, "val", root)


@pytest.mark.parametrize("place", ["../..", "a/../../b", "C:/x"])
def test_nothing_outside_the_download_is_listed(root: Path, place: str) -> None:
    definition = load_dataset("coco")
    part = definition.splits["val"].model_copy(update={"images": place})
    with pytest.raises(DatasetError, match="not a plain relative path below the dataset's root"):
        stamp_source(definition.model_copy(update={"splits": {"val": part}}), "val", root)
