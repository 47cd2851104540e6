import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from posecore.errors import PredictionError
from posecore.prediction.box_files import read_box_file
from posecore.prediction.outputs import TABLE
from posecore.prediction.predict_sources import ImageNumbers
from posecore.prediction.sources import Frame

ROWS = {"image": ["a/x.jpg", "a/x.jpg", "y.jpg"], "x": [1.0, 5.0, 0.5], "y": [2, 6, 0], "w": [3, 7, 9], "h": [4, 8, 9]}


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
@pytest.mark.parametrize("scored", [False, True])
def test_a_table_is_read(suffix: str, scored: bool, tmp_path: Path) -> None:
    table = pl.DataFrame(ROWS | ({"score": [0.9, 0.5, 0.25]} if scored else {}) | {"more": ["is", "left", "out"]})
    path = tmp_path / f"boxes{suffix}"
    table.write_csv(path) if suffix == ".csv" else table.write_parquet(path)
    file = read_box_file(path)
    found = file.of("a/x.jpg", None)
    np.testing.assert_array_equal(found.bbox_xywh, [[1, 2, 3, 4], [5, 6, 7, 8]])
    assert found.scores is None if not scored else found.scores.tolist() == [0.9, 0.5]
    assert len(file.of("z.jpg", None)) == 0
    assert len(file.of("y.jpg", 3)) == 0, "a row without a frame is about a photo"


def test_frames_of_a_video_have_boxes_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "boxes.csv"
    path.write_text("image,frame,x,y,w,h\nclip.mp4,0,1,1,5,5\nclip.mp4,2,3,3,5,5\n")
    file = read_box_file(path)
    assert [len(file.of("clip.mp4", frame)) for frame in range(4)] == [1, 0, 1, 0]


def test_what_another_model_found_is_read_from_its_predictions(tmp_path: Path) -> None:
    path = tmp_path / "predictions.parquet"
    own = ROWS | {"frame_index": [None, None, 4], "score": [0.9, 0.5, 0.25], "box_score": [1.0, 1.0, 1.0]}
    own["file_name"] = own.pop("image")
    pl.DataFrame({name: own.get(name) for name in TABLE.names if name in own}).write_parquet(path)
    file = read_box_file(path)
    assert file.of("a/x.jpg", None).scores.tolist() == [0.9, 0.5]  # type: ignore[union-attr]
    assert file.of("y.jpg", 4).bbox_xywh.tolist() == [[0.5, 0, 9, 9]]


def test_names_that_look_like_numbers_stay_names(tmp_path: Path) -> None:
    path = tmp_path / "boxes.csv"
    path.write_text("image,x,y,w,h\n000139,1,1,5,5\n")
    assert read_box_file(path).images == {"000139"}


def test_coco_annotations_and_results_are_read(tmp_path: Path) -> None:
    annotations, results = tmp_path / "annotations.json", tmp_path / "results.json"
    annotations.write_text(
        json.dumps(
            {
                "images": [{"id": 139, "file_name": "val/000000000139.jpg"}, {"id": 7, "file_name": "val/empty.jpg"}],
                "annotations": [
                    {"image_id": 139, "bbox": [1, 2, 3, 4]},
                    {"image_id": 139, "bbox": [0, 0, 9, 9], "iscrowd": 1},
                ],
            }
        )
    )
    results.write_text(json.dumps([{"image_id": 139, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5}]))
    for path, scores in ((annotations, None), (results, [0.5])):
        file = read_box_file(path)
        key = file.key_of("some/folder/val/000000000139.jpg")
        found = file.of(key, None)
        np.testing.assert_array_equal(found.bbox_xywh, [[1, 2, 3, 4]])
        assert found.scores is None if scores is None else found.scores.tolist() == scores
        assert file.image_ids[key or ""] == 139
    numbered = {"image_id": 1, "file_name": "000139.jpg", "bbox": [1, 2, 3, 4], "score": 0.5}
    later = {"image_id": 2, "file_name": "clip.mp4", "frame_index": 6, "bbox": [5, 6, 7, 8], "score": 0.5}
    results.write_text(json.dumps([numbered, later]))
    file = read_box_file(results)
    assert file.image_ids == {"000139.jpg": 1}
    assert file.key_of("1.jpg") is None, "a number that posecore gave is nobody's name"
    np.testing.assert_array_equal(file.of(file.key_of("clip.mp4"), 6).bbox_xywh, [[5, 6, 7, 8]])
    file = read_box_file(annotations)
    assert file.key_of("empty.jpg") is None, "the end of a path is not the end of the file's own name"
    assert file.image_ids[file.key_of("val/empty.jpg") or ""] == 7


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("boxes.txt", "", "boxes come as .json, .csv or .parquet"),
        ("boxes.json", "{", "JSONDecodeError"),
        ("boxes.json", "[1]", "AttributeError"),
        ("boxes.json", '[{"image_id": 1, "bbox": [1, 2, 3], "score": 1}]', "not enough values"),
        ("boxes.json", '[{"image_id": 1, "bbox": [1, 2, 3, "four"], "score": 1}]', "could not convert"),
        ("boxes.json", '{"images": []}', "KeyError"),
        ("boxes.json", '{"images": [], "annotations": [{"image_id": 3, "bbox": [1, 2, 3, 4]}]}', "KeyError"),
        ("boxes.csv", "image,x,y,w\na,1,2,3\n", "unable to find column"),
        ("boxes.csv", "image,x,y,w,h\na,1,2,3,four\n", "could not convert"),
        ("boxes.csv", "image,x,y,w,h\na,1,2,3,\n", "TypeError"),
        ("boxes.csv", "", "NoDataError"),
        ("boxes.csv", "image,frame,x,y,w,h\na,inf,1,2,3,4\n", "OverflowError"),
        ("boxes.json", "[" * 100_000 + "]" * 100_000, "RecursionError"),
        ("boxes.parquet", "no parquet", "ComputeError"),
    ],
)
def test_another_form_is_explained_with_the_file(name: str, content: str, problem: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(PredictionError, match=problem) as error:
        read_box_file(path)
    assert str(error.value).startswith(f"{path}: ")
    assert "image, x, y, w, h" in str(error.value)


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ("nan,2,3,4", r"box 1 \(nan, 2, 3, 4\), on image 'b', is not in pixels, which are finite"),
        ("1,2,inf,4", "box 1"),
        ("1,2,4e11,4", "below 1e\\+06"),
        ("-4e11,2,4e11,4", "box 1"),
        ("1,2,3,4,nan", r"box 1 \(1, 2, 3, 4\), on image 'b', has a score that is not finite"),
    ],
)
def test_numbers_that_are_no_boxes_are_refused_with_their_row(values: str, problem: str, tmp_path: Path) -> None:
    table, annotations, results = (tmp_path / name for name in ("boxes.csv", "annotations.json", "results.json"))
    *box, score = ([*values.split(","), "0.5"])[:5]
    table.write_text(f"image,x,y,w,h,score\na,1,2,3,4,0.5\nb,{','.join(box)},{score}\n")
    numbers = [float(value) for value in box]
    rows = [
        {"image_id": "a", "bbox": [1, 2, 3, 4], "score": 0.5},
        {"image_id": "b", "bbox": numbers, "score": float(score)},
    ]
    results.write_text(json.dumps(rows))
    images = [{"id": name, "file_name": name} for name in ("a", "b")]
    annotations.write_text(json.dumps({"images": images, "annotations": rows}))
    for path in (table, annotations, results):
        with pytest.raises(PredictionError, match=problem) as error:
            read_box_file(path)
        assert str(error.value).startswith(f"{path}: ")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(PredictionError, match=r"absent.csv cannot be read \(No such file"):
        read_box_file(tmp_path / "absent.csv")


def test_photos_that_are_called_by_numbers_have_these() -> None:
    pixels = np.zeros((2, 2, 3), np.uint8)

    def ids(*names: str) -> list[int | str]:
        number = ImageNumbers(photos=names)
        return [number(Frame(name, pixels)) for name in names] + [number(Frame("clip.mp4", pixels, 0))]

    assert ids("000000000139.jpg", "val/000000000285.png") == [139, 285, 286]
    assert ids("139.jpg", "nobody.jpg") == [1, 2, 3]
    assert ids("one/1.jpg", "two/01.jpg") == [1, 2, 3], "a number is an image's own, or nobody's"
    assert ids(f"{10**30}.jpg") == [1, 2], "a time, or a digest"
    assert ids() == [1]
