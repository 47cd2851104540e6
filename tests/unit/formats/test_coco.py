import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from posecore.datasets.discovery import load_dataset, read_split
from posecore.errors import ConfigError, DatasetError
from posecore.formats.coco import CocoReader
from posecore.schema import Record, Reject

NAMES = ["a", "b"]


def document() -> dict[str, Any]:
    """Two images, the second with a person; a skeleton of two points."""
    return {
        "licenses": [{"id": 4, "name": "Attribution License"}],
        "images": [
            {"id": 1, "file_name": "1.jpg", "width": 100, "height": 50, "license": 4},
            {"id": 2000000001648, "file_name": "sub/2.jpg", "width": 100, "height": 50},
        ],
        "annotations": [
            {
                "id": 9,
                "image_id": 2000000001648,
                "category_id": 3,
                "bbox": [1.5, 2, 30, 40],
                "area": 600.5,
                "iscrowd": 0,
                "num_keypoints": 1,
                "keypoints": [5, 6, 2, 7, 8, 0],
                "segmentation": [[0, 0, 10, 0, 10, 10, 0, 10]],
            }
        ],
        "categories": [{"id": 3, "name": "person", "keypoints": NAMES}],
    }


@pytest.fixture
def read_document(tmp_path: Path, make_source, read):
    """Reads a document, or raw bytes, as ``a.json`` with a skeleton of the points a and b."""

    def run(content: Any, **changes: Any) -> tuple[list[Record], list[Reject]]:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        (tmp_path / "a.json").write_bytes(data)
        return read(CocoReader(), make_source("a.json", keypoints=tuple(NAMES), **changes))

    return run


def test_further_fields_are_kept_on_demand(read_document):
    content = document()
    content["images"][1] |= {"posture": "Prone", "room": "3"}
    content["annotations"][0] |= {"posture": "Supine"}
    (_, plain), _ = read_document(content)
    assert plain.extras == plain.instances[0].extras == {}
    (empty, record), _ = read_document(content, image_extras=["posture"], instance_extras=["posture", "nothing"])
    assert empty.extras == {}
    assert record.extras == {"posture": "Prone"}
    assert record.instances[0].extras == {"posture": "Supine"}
    content["images"][1]["posture"] = deep = []
    for _ in range(260):
        deep.append(deep := [])
    (only,), rejects = read_document(content, image_extras=["posture"])
    assert only.source_id == empty.source_id
    assert rejects[0].reason == "bad-extras"
    with pytest.raises(ConfigError, match="reader_options: image_extras"):
        read_document(content, image_extras="posture")
    with pytest.raises(ConfigError, match="reader_options: instance_extras"):
        read_document(content, instance_extras=[["posture"]])


def test_every_field_arrives(read_document):
    (empty, record), rejects = read_document(document(), area_rule="annotated")
    assert rejects == []
    assert (empty.source_id, empty.image, empty.license, empty.instances) == (
        "1",
        "images/1.jpg",
        "Attribution License",
        [],
    )
    assert (record.source_id, record.image, record.width, record.height) == (
        "2000000001648",
        "images/sub/2.jpg",
        100,
        50,
    )
    assert record.license == "test-licence"
    (instance,) = record.instances
    assert (instance.id, instance.bbox_xywh, instance.area) == ("9", (1.5, 2, 30, 40), 600.5)
    assert (instance.category, instance.category_id, instance.num_keypoints) == ("person", 3, 1)
    assert instance.keypoints.tolist() == [[5, 6, 2], [0, 0, 0]]
    assert instance.keypoints.dtype == np.float32
    assert instance.segmentation == [[0, 0, 10, 0, 10, 10, 0, 10]]


@pytest.mark.parametrize(
    ("rule", "area"), [("box", 1200), ("box_053", 636), ("box_plus_one", 1201), ("annotated", 600.5), ("segment", 100)]
)
def test_area_follows_the_rule(read_document, rule, area):
    records, _ = read_document(document(), area_rule=rule)
    assert records[1].instances[0].area == pytest.approx(area)
    assert records[1].instances[0].area_rule == rule


def test_subjects_videos_and_absent_points_of_own_files(read_document):
    value = document()
    value["images"][1] |= {"video_id": 7, "frame_id": 12}
    value["annotations"][0] |= {"subject_id": "infant-3", "track_id": 1, "absent": ["b"]}
    records, _ = read_document(value)
    record, instance = records[1], records[1].instances[0]
    assert (record.video_id, record.frame_index) == ("7", 12)
    assert (instance.subject_id, instance.track_id, instance.absent) == ("infant-3", "1", (1,))


def test_a_file_of_boxes_alone_is_read_on_demand(read_document):
    value = document()
    del value["annotations"][0]["keypoints"]
    records, rejects = read_document(value, boxes_alone=True)
    assert not rejects
    assert records[1].instances[0].bbox_xywh == (1.5, 2, 30, 40)
    np.testing.assert_array_equal(records[1].instances[0].keypoints, np.zeros((2, 3)))


def change(path: str, value: Any) -> dict[str, Any]:
    """The document with one field changed; ``...`` deletes it."""
    result = document()
    node: Any = result
    *parts, last = [int(part) if part.isdigit() else part for part in path.split(".")]
    for part in parts:
        node = node[part]
    if value is ...:
        del node[last]
    else:
        node[last] = value
    return result


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        ("keypoints", [5, 6, 3, 7, 8, 0], "flag-out-of-range"),
        ("keypoints", [5, 6, -1, 7, 8, 0], "flag-out-of-range"),
        ("keypoints", [5, 6, 0.5, 7, 8, 0], "flag-out-of-range"),
        ("keypoints", [float("nan"), 6, 2, 7, 8, 0], "nan-keypoints"),
        ("keypoints", [5, 6, 2], "wrong-length"),
        ("keypoints", [[5, 6, 2], [7, 8, 0]], "wrong-length"),
        ("keypoints", ["5", "6", "2", "7", "8", "0"], "not-a-number"),
        ("keypoints", [5, [6], 2, 7, 8, 0], "not-a-number"),
        ("keypoints", None, "not-a-number"),
        ("keypoints", {"x": 5}, "not-a-number"),
        ("keypoints", ..., "missing-field"),
        ("bbox", [1, 2, -3, 4], "bad-box"),
        ("bbox", [1, 2, 0, 4], "bad-box"),
        ("bbox", [1, 2, float("nan"), 4], "not-a-number"),
        ("bbox", [1, 2, float("inf"), 4], "not-a-number"),
        ("bbox", [1, 2, 3], "wrong-length"),
        ("bbox", "1234", "wrong-length"),
        ("bbox", ..., "no-box"),
        ("area", float("nan"), "not-a-number"),
        ("area", 0, "bad-area"),
        ("area", ..., "not-a-number"),
        ("id", ..., "bad-id"),
        ("id", 1.5, "bad-id"),
        ("id", 2.0**53 + 2, "bad-id"),  # 2^53 + 1 is read as the same number
        ("id", 10**30, "bad-id"),
        ("category_id", 4, "unknown-category"),
        ("category_id", "person", "not-a-number"),
        ("category_id", "4", "unknown-category"),
        ("iscrowd", "no", "not-a-number"),
        ("keypoints", [1e300, 6, 2, 7, 8, 0], "nan-keypoints"),
        ("absent", ["c"], "unknown-keypoint"),
        ("absent", 5, "not-a-list"),
        ("num_keypoints", "17", "not-a-number"),
    ],
)
def test_a_bad_annotation_is_rejected_and_the_image_stays(read_document, path, value, reason):
    records, (reject,) = read_document(change(f"annotations.0.{path}", value), area_rule="annotated")
    assert reject.reason == reason
    assert reject.source == "a.json annotations[0]"
    assert reject.source_id == "2000000001648"
    assert [record.instances for record in records] == [[], []]


@pytest.mark.parametrize(
    "value",
    [
        [[1, 2, 3, 4]],
        [["a"] * 6],
        5,
        {"size": [9, 9], "counts": [81]},
        {"size": [50, 100], "counts": [4990, 11]},
        {"size": [50, 100], "counts": [-10, 5010]},
        {"size": [50, 100], "counts": "zzzz"},
        {"size": [50, 100], "counts": "é"},
        {"size": [50, 100], "counts": None},
        [[0, 0, 1e9, 0, 1e9, 1e9]],
    ],
)
def test_a_bad_mask_is_left_out_and_the_body_stays(read_document, value):
    content = change("annotations.0.segmentation", value)
    records, (reject,) = read_document(content, area_rule="annotated")
    assert (reject.reason, reject.outcome, reject.source) == ("bad-segmentation", "kept", "a.json annotations[0]")
    assert [body.segmentation for record in records for body in record.instances] == [None]
    records, (reject,) = read_document(content, area_rule="segment")
    assert (reject.outcome, [record.instances for record in records]) == ("lost", [[], []])


@pytest.mark.parametrize(
    "name", ["../2.jpg", "a/../../2.jpg", "/etc/passwd", "C:\\x.jpg", "a\\..\\2.jpg", "s3://b/2.jpg"]
)
def test_a_file_name_that_leaves_the_folder_is_rejected_with_its_annotations(read_document, name):
    records, rejects = read_document(change("images.1.file_name", name))
    assert [record.source_id for record in records] == ["1"]
    assert [reject.reason for reject in rejects] == ["path-escape", "missing-image-entry"]
    assert rejects[1].instance_id == "9"


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        ("images.1", "2.jpg", "not-an-object"),
        ("images.1.file_name", 5, "not-a-text"),
        ("images.1.file_name", ..., "not-a-text"),
        ("images.1.width", -2, "bad-size"),
        ("images.1.height", 1.5, "not-an-integer"),
        ("images.1.id", True, "bad-id"),
        ("images.1.id", 1, "duplicate-id"),
    ],
)
def test_a_bad_image_entry_is_rejected_and_its_annotations_are_counted(read_document, path, value, reason):
    records, rejects = read_document(change(path, value))
    assert [record.source_id for record in records] == ["1"]
    assert [reject.reason for reject in rejects] == [reason, "missing-image-entry"]


def test_an_annotation_of_no_image_is_rejected(read_document):
    _, (reject,) = read_document(change("annotations.0.image_id", 77))
    assert (reject.reason, reject.source_id, reject.instance_id) == ("missing-image-entry", "77", "9")
    _, (reject,) = read_document(change("annotations.0", [1, 2]))
    assert reject.reason == "not-an-object"


def test_the_second_annotation_of_one_id_is_rejected(read_document):
    value = document()
    value["annotations"].append(copy.deepcopy(value["annotations"][0]))
    records, (reject,) = read_document(value)
    assert len(records[1].instances) == 1
    assert (reject.reason, reject.source) == ("duplicate-id", "a.json annotations[1]")


def test_a_crowd_needs_no_points(read_document):
    value = change("annotations.0.keypoints", ...)
    value["annotations"][0] |= {"iscrowd": 1, "segmentation": {"size": [50, 100], "counts": [4990, 10]}}
    (_, record), rejects = read_document(value)
    assert rejects == []
    assert record.instances[0].is_crowd
    assert not record.instances[0].keypoints.any()
    assert record.instances[0].segmentation == {"size": [50, 100], "counts": [4990, 10]}


def test_compressed_masks_are_taken_whole(read_document):
    drawn = np.zeros((50, 100), np.uint8, order="F")
    drawn[5:20:3, 7:90] = 1
    counts = coco_mask.encode(drawn)["counts"].decode()
    rle = {"size": [50, 100], "counts": counts}
    (_, record), rejects = read_document(change("annotations.0.segmentation", rle), area_rule="segment")
    assert rejects == []
    assert record.instances[0].area == drawn.sum()
    cut = {"size": [50, 100], "counts": counts[:-1]}
    assert read_document(change("annotations.0.segmentation", cut))[1][0].reason == "bad-segmentation"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{broken", "a.json is not valid JSON"),
        (b"", "a.json is not valid JSON"),
        (b"[" * 200_000, "a.json is not valid JSON"),
        (b"[]", "a.json: the top level must be an object"),
        ({"images": []}, "a.json: 'annotations' must be a list"),
        ({"images": {}, "annotations": []}, "a.json: 'images' must be a list"),
        (change("categories", 5), "a.json: 'categories' must be a list"),
        (change("categories.0.name", ...), r"a.json categories\[0\]: name must be a text"),
        (
            change("categories.0.keypoints", ["b", "a"]),
            "category 'person' lists 2 keypoints .b, a, ….*skeleton that fits",
        ),
        (change("categories.0.keypoints", ["a", "b", "c"]), "lists 3 keypoints"),
    ],
)
def test_a_file_that_is_not_this_format_is_one_sentence(read_document, content, message):
    with pytest.raises(DatasetError, match=message):
        read_document(content)


def test_a_missing_file_is_named(make_source, read):
    with pytest.raises(DatasetError, match=r"tiny train: nowhere\.json is missing below"):
        read(CocoReader(), make_source("nowhere.json"))


def test_a_file_without_categories_holds_persons(read_document):
    records, rejects = read_document(change("categories", []))
    assert rejects == []
    assert records[1].instances[0].category == "person"


@pytest.mark.samples
def test_real_coco(samples: Path):
    for split, images, annotations, labelled, crowds in (("train", 80, 172, 86, 5), ("val", 79, 118, 68, 1)):
        records = list(read_split(load_dataset("coco"), split, samples / "coco"))
        instances = [instance for record in records for instance in record.instances]
        assert (len(records), len(instances)) == (images, annotations)
        assert sum(bool(instance.keypoints.any()) for instance in instances) == labelled
        assert sum(instance.is_crowd for instance in instances) == crowds
        assert all(isinstance(i.segmentation, dict) == i.is_crowd for i in instances)
        for record in records:
            assert (samples / "coco" / record.image).is_file()
        counted = [i for i in instances if not i.is_crowd]
        assert all(i.num_keypoints == (i.keypoints[:, 2] > 0).sum() for i in counted)
