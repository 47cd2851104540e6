"""Answers as RF-DETR 1.11's keypoint models return them, in files that the commands take.

What is in such an object was seen of the package itself with random weights: a body of a class without points has all
of them at (0, 0) with confidence 0 and covariances that are no numbers.
"""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import polars as pl
import pytest
import supervision

import posecore as pc
from posecore.cli import main
from posecore.errors import PredictionError
from posecore.prediction.box_files import read_box_file

SIZE = (60, 80)
POINTS = np.arange(34, dtype=np.float32).reshape(17, 2) + 10


def answer(classes: tuple[int, ...] = (0, 1), size: tuple[int, int] = SIZE) -> supervision.KeyPoints:
    """What ``predict`` makes of a picture: people are class 0, and others have no points."""
    count = len(classes)
    is_person = np.array(classes) == 0
    confidence = np.where(is_person[:, None], np.linspace(0.5, 0.9, 17, dtype=np.float32), 0).astype(np.float32)
    covariance = np.where(is_person[:, None, None, None], [[4.0, 1.0], [1.0, 9.0]], np.nan).astype(np.float32)
    return supervision.KeyPoints(
        xy=np.where(is_person[:, None, None], POINTS, 0).astype(np.float32),
        keypoint_confidence=confidence,
        detection_confidence=np.full(count, 0.75, np.float32),
        class_id=np.array(classes, int),
        visible=confidence > 0,
        data={
            "keypoint_precision_cholesky": np.zeros((count, 17, 3), np.float32),
            "source_shape": np.tile(np.array(size, np.int64), (count, 1)),
            "class_name": np.array(["person", "__background__"], dtype=object)[np.array(classes, int)],
            "xyxy": np.tile(np.array([5, 6, 45, 56], np.float32), (count, 1)),
            "covariance": np.broadcast_to(covariance, (count, 17, 2, 2)),
        },
    )


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    """Three of them, in an order of one's own."""
    folder = tmp_path / "photos"
    (folder / "b").mkdir(parents=True)
    files = [folder / name for name in ("000000000007.jpg", "b/1.png", "000000000003.jpg")]
    for file in files:
        cv2.imwrite(str(file), np.full((*SIZE, 3), 90, np.uint8))
    return files


def test_answers_become_boxes_labels_and_results(pictures: list[Path], tmp_path: Path) -> None:
    out, truth = tmp_path / "found", tmp_path / "truth.json"
    ids = {"images": [{"id": int(file.stem), "file_name": file.name} for file in pictures], "annotations": []}
    truth.write_text(json.dumps(ids))
    answers = iter([answer(), answer(()), answer((1, 0, 0))])
    assert pc.save_answers(out, pictures, answers, "coco17", model="rf-detr", annotations=truth) == 3

    boxes = read_box_file(out / "predictions.parquet")
    found = boxes.of("000000000007.jpg", None)
    assert found.bbox_xywh.tolist() == [[5, 6, 40, 50]]
    assert found.scores is not None
    assert found.scores.tolist() == [0.75]
    assert len(boxes.of("b/1.png", None)) == 0
    assert len(boxes.of("000000000003.jpg", None)) == 2, "the body without a point is none"

    entries = json.loads((out / "coco_coco17.json").read_text())
    assert [entry["image_id"] for entry in entries] == [7, 3, 3]
    np.testing.assert_array_equal(np.reshape(entries[0]["keypoints"], (17, 3))[:, :2], POINTS)
    row = pl.read_parquet(out / "predictions.parquet").row(0, named=True)
    assert (row["keypoint_sigma_x"][0], row["keypoint_sigma_y"][0]) == (2, 3)
    assert row["keypoint_rho"][0] == pytest.approx(1 / 6)
    assert row["keypoint_radius"][0] == pytest.approx(np.sqrt((4 + 9) / 2 * 2 * np.log(10)))  # 90 % of a Gaussian

    labels = tmp_path / "labels"
    command = ["datasets", "export", str(out), "--pictures", str(tmp_path / "photos"), "--format=coco"]
    assert main([*command, "--min-score=0.6", f"--out={labels}"]) == 0
    (file,) = labels.rglob("person_keypoints_*.json")
    taught = json.loads(file.read_text())
    assert len(taught["images"]) == 3
    assert [body["num_keypoints"] for body in taught["annotations"]] == [13, 13, 13]


def test_whoever_says_less_is_taken_at_his_word(pictures: list[Path], tmp_path: Path) -> None:
    points = np.stack([POINTS, POINTS + 20])
    said = supervision.KeyPoints(xy=points)
    assert pc.save_answers(tmp_path / "found", pictures[:1], [said], "coco17") == 2
    rows = pl.read_parquet(tmp_path / "found" / "predictions.parquet")
    assert rows["keypoint_score"].to_list() == [[1.0] * 17] * 2
    assert rows.select("x", "y", "w", "h", "score").row(1) == (30, 31, 32, 32, 1)
    assert rows["keypoint_radius"].to_list() == [None, None]


def test_what_does_not_fit_is_refused(pictures: list[Path], tmp_path: Path) -> None:
    def refused(match: str, *arguments: Any, skeleton: str = "coco17") -> None:
        with pytest.raises(PredictionError, match=match):
            pc.save_answers(tmp_path / "found", *arguments, skeleton)
        assert not list((tmp_path / "found").glob("*.json")), "nothing is left of it"

    first = pictures[:1]
    refused(r"points are \(2, 17, 2\), and mpii16 has 16", first, [answer()], skeleton="mpii16")
    refused(r"has \(height, width\) \(60, 80\), and the answer is of one of \(80, 60\)", first, [answer(size=(80, 60))])
    refused("fewer answers than pictures", pictures, [answer()])
    refused("more answers than pictures", first, [answer(), answer()])
    refused("each once", [*first, *first], [answer(), answer()])
    nowhere = answer()
    nowhere.xy[0, 3] = np.nan
    refused("not finite, or far beyond", first, [nowhere])
