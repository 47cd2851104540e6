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
    refused("there is no photo or video; name at least one", [], [])

    def spoilt(field: str, place: tuple[int, ...], value: float) -> supervision.KeyPoints:
        said = answer()
        values: Any = said.data["xyxy"] if field == "xyxy" else getattr(said, field)
        values[place] = value
        return said

    refused("a point is far beyond the picture", first, [spoilt("xy", (0, 3, 0), 1e4)])
    refused("its confidence is not finite", first, [spoilt("keypoint_confidence", (0, 3), np.nan)])
    unusable = "the box of body 0 is not left, top, right, bottom in pixels of the picture, or its confidence is not"
    refused(unusable, first, [spoilt("detection_confidence", (0,), np.nan)])
    refused(unusable, first, [spoilt("xyxy", (0, 2), np.nan)])
    refused(unusable, first, [spoilt("xyxy", (0, 2), 4)])
    assert pc.save_answers(tmp_path / "other", first, [spoilt("xyxy", (1, 2), np.nan)], "coco17") == 1, "no body's box"


@pytest.mark.parametrize("confident", [True, False])
def test_points_count_as_supervision_counts_them(confident: bool, pictures: list[Path], tmp_path: Path) -> None:
    """Ultralytics' points below a confidence of 0.5 are at (0, 0) and keep it; others are no numbers, or hidden."""
    points = np.stack([POINTS + 0.5] * 3)
    points[:, 9] = 0
    points[:, 10] = np.nan
    points[2, 1:] = 0
    scores = np.full((3, 17), 0.75)
    scores[:, 9] = 0.3
    said = supervision.KeyPoints(xy=points, keypoint_confidence=scores if confident else None)
    said.visible = np.ones((3, 17), bool)
    said.visible[0, 16] = False
    covariance = np.broadcast_to([[4.0, 0.0], [0.0, 9.0]], (3, 17, 2, 2))
    said.data["covariance"] = covariance
    assert pc.save_answers(tmp_path, pictures[:1], [said], "coco17") == 3

    table = pl.read_parquet(tmp_path / "predictions.parquet")
    sure = 0.75 if confident else 1.0
    wanted = np.full((3, 17), sure)
    wanted[:, 9:11] = wanted[0, 16] = 0
    wanted[2, 1:] = 0
    assert table["keypoint_score"].to_list() == wanted.tolist()
    np.testing.assert_allclose(table["score"], wanted.mean(axis=1))
    assert [radius is None for radius in table["keypoint_radius"][0]] == (wanted[0] == 0).tolist()
    boxes = table.select("x", "y", "w", "h").to_numpy()
    corners = said.as_detections().xyxy
    np.testing.assert_array_equal(boxes[:2], np.concatenate([corners[:2, :2], corners[:2, 2:] - corners[:2, :2]], 1))
    assert boxes.tolist() == [[10.5, 11.5, 30, 30], [10.5, 11.5, 32, 32], [10.5, 11.5, 1, 1]]
    entries = json.loads((tmp_path / "coco_coco17.json").read_text())
    kept = np.reshape(entries[0]["keypoints"], (17, 3))[:, :2]
    np.testing.assert_array_equal(kept, np.where(wanted[0, :, None] > 0, POINTS + 0.5, 0))


def test_a_point_that_nobody_claims_may_lie_anywhere(pictures: list[Path], tmp_path: Path) -> None:
    said = answer((0,))
    said.keypoint_confidence[0, :2] = 0  # type: ignore[index]
    said.xy[0, 0] = 1e7
    assert pc.save_answers(tmp_path, pictures[:1], [said], "coco17") == 1
    (entry,) = json.loads((tmp_path / "coco_coco17.json").read_text())
    assert entry["keypoints"][:6] == [0, 0, 0, *POINTS[1], 0], "a place within the picture may yet be scored"


def test_ids_are_those_of_the_truth_or_there_is_an_error(pictures: list[Path], tmp_path: Path) -> None:
    truth = tmp_path / "truth.json"
    two, answers = [pictures[0], pictures[1]], [answer((0,)), answer((0,))]

    def save(*images: tuple[str, Any], **more: Any) -> list[int]:
        truth.write_text(json.dumps({"images": [{"file_name": name, "id": id_} for name, id_ in images]} | more))
        pc.save_answers(tmp_path / "found", two, answers, "coco17", annotations=truth)
        return [entry["image_id"] for entry in json.loads((tmp_path / "found" / "coco_coco17.json").read_text())]

    first, second = ("000000000007.jpg", 4), ("1.png", 9)
    assert save(first, second) == [4, 9], "as in files of pictures without labels"
    assert save(first, second, annotations=[{"image_id": 4, "id": 1}]) == [4, 9], "bodies need no box"
    with pytest.raises(PredictionError, match=r"truth.json has no id for b/1.png; leave that picture out"):
        save(first)
    with pytest.raises(PredictionError, match="names 0 images, but none of those given"):
        save()
    with pytest.raises(PredictionError, match=r"2 images have the file_name '1\.png'"):
        save(first, second, ("1.png", 5))
    with pytest.raises(PredictionError, match="2 images have the id 9"):
        save(first, second, ("2.png", 9))
    with pytest.raises(
        PredictionError, match=r"TypeError \(id None\); expected COCO annotations, whose images have id"
    ):
        save(("1.png", None))
    cv2.imwrite(str(tmp_path / "photos" / "1.png"), np.full((*SIZE, 3), 90, np.uint8))
    two[0] = tmp_path / "photos" / "1.png"
    with pytest.raises(
        PredictionError, match=r"'1.png' could be any of 1.png, b/1.png; name images with their folders"
    ):
        save(second)
