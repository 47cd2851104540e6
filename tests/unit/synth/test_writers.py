"""Datasets on disk: same bytes for same settings, whole or refused, no split sharing a subject."""

import json
from pathlib import Path
from typing import get_args

import pytest

from posecore.errors import DatasetError
from posecore.synth.writers import DatasetName, write_dataset

SIZE = (64, 64)
NAMES = get_args(DatasetName)


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("name", NAMES)
def test_equal_settings_give_equal_bytes(name: DatasetName, tmp_path: Path) -> None:
    progress: list[tuple[int, int]] = []
    write_dataset(name, tmp_path / "a", 3, 2, SIZE, 4, lambda done, total: progress.append((done, total)))
    write_dataset(name, tmp_path / "b", 3, 2, SIZE, 4)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert progress == [(done, 5) for done in range(1, 6)]
    write_dataset(name, tmp_path / "c", 3, 2, SIZE, 5)
    assert contents(tmp_path / "a") != contents(tmp_path / "c")


def test_no_two_datasets_and_no_two_splits_share_a_picture(tmp_path: Path) -> None:
    pictures: list[bytes] = []
    for name in NAMES:
        files = contents(write_dataset(name, tmp_path / name, 4, 3, SIZE))
        pictures += [data for path, data in files.items() if path.endswith(".jpg")]
    assert len(pictures) == 7 * len(NAMES)
    assert len(set(pictures)) == len(pictures)


def test_train_and_val_have_other_subjects(tmp_path: Path) -> None:
    root = write_dataset("syrip", tmp_path, 12, 12, SIZE)
    subjects = [
        {
            annotation["subject_id"]
            for annotation in json.loads((root / "annotations" / f"person_keypoints_{split}.json").read_text())[
                "annotations"
            ]
        }
        for split in ("train_infant", "validate_infant")
    ]
    assert min(map(len, subjects)) > 2
    assert not subjects[0] & subjects[1]


def test_a_whole_set_is_left_alone_and_anything_else_is_refused(tmp_path: Path) -> None:
    root = write_dataset("ap10k", tmp_path / "set", 2, 1, SIZE)
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    calls: list[int] = []
    write_dataset("ap10k", root, 2, 1, SIZE, progress=lambda done, total: calls.append(done))
    assert calls == []
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before
    with pytest.raises(DatasetError, match="made with other settings"):
        write_dataset("ap10k", root, 3, 1, SIZE)
    (root / "synthetic.json").unlink()
    with pytest.raises(DatasetError, match="not a whole synthetic set"):
        write_dataset("ap10k", root, 2, 1, SIZE)


def test_an_interrupted_set_has_no_receipt(tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_dataset("coco", tmp_path, 3, 2, SIZE, progress=stop)
    assert not (tmp_path / "synthetic.json").exists()
    assert not (tmp_path / "annotations").exists()
    whole = write_dataset("coco", tmp_path, 3, 2, SIZE)
    assert contents(whole) == contents(write_dataset("coco", tmp_path.with_name("fresh"), 3, 2, SIZE))


def test_impossible_settings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no synthetic form of dataset 'lsp'"):
        write_dataset("lsp", tmp_path, 1, 1)  # type: ignore[arg-type]
    for arguments in ((-1, 1, SIZE, 0), (1, 10**7, SIZE, 0), (1, 1, (8, 64), 0), (1, 1, SIZE, -3)):
        with pytest.raises(DatasetError, match="the numbers must be"):
            write_dataset("coco", tmp_path, *arguments)
    assert list(tmp_path.iterdir()) == []


def test_detections_lie_near_the_true_boxes_with_some_missed_and_some_invented(tmp_path: Path) -> None:
    root = write_dataset("coco", tmp_path, 0, 60, SIZE)
    truth = json.loads((root / "annotations/person_keypoints_val2017.json").read_text())
    found = json.loads((root / "person_detection_results/COCO_val2017_detections_AP_H_56_person.json").read_text())
    boxes: dict[int, list[list[float]]] = {}
    for annotation in truth["annotations"]:
        if not annotation["iscrowd"]:
            boxes.setdefault(annotation["image_id"], []).append(annotation["bbox"])
    near = [
        any(
            max(abs(a - b) for a, b in zip(detection["bbox"], box, strict=True)) < 0.15 * max(box[2:])
            for box in boxes.get(detection["image_id"], [])
        )
        for detection in found
    ]
    true_boxes = sum(map(len, boxes.values()))
    assert 0.9 * true_boxes < sum(near) <= true_boxes + 2
    invented = [detection["score"] for detection, hit in zip(found, near, strict=True) if not hit]
    assert invented
    assert min(invented) < 0.5
    for image in truth["images"]:
        scores = [detection["score"] for detection in found if detection["image_id"] == image["id"]]
        assert scores == sorted(scores, reverse=True)
