from dataclasses import fields, replace

import numpy as np
import pytest

from posecore.errors import EvaluationError
from posecore.evaluation.arrays import GroundTruth, check_fit
from posecore.schema import Instance, Record
from posecore.shards.corrections import CorrectedInstance, Corrections
from posecore.shards.store import open_store
from tests.support import tiny_store
from tests.support.random_poses import random_case

BOX = (5.0, 8.0, 60.0, 80.0)


def instance(identity="1", **changes):
    keypoints = np.array([[10, 20, 2], [30, 40, 1], [0, 0, 0]], np.float32)
    values = {"bbox_xywh": (1.0, 2.0, 30.0, 40.0), "keypoints": keypoints, "area": 600.0, "area_rule": "segment"}
    return Instance(id=identity, **(values | changes))


def record(source_id, instances, **changes):
    return Record(
        dataset="d", split="val", source_id=source_id, image=f"{source_id}.jpg", width=64, height=48,
        instances=instances, **changes,
    )  # fmt: skip


def test_records_become_one_row_per_instance_with_crowds_and_empty_images():
    truth = GroundTruth.from_records(
        [
            record("9", [instance("a"), instance("b", is_crowd=True, num_keypoints=0)]),
            record("10", []),
            record("2", [instance("c", head_bbox_xyxy=(1, 2, 3, 4), absent=(1,))], extras={"crowdIndex": 0.5}),
        ],
        num_keypoints=3,
    )
    assert truth.image_ids == ("9", "10", "2")
    assert truth.instance_ids == ("a", "b", "c")
    assert truth.image_row.tolist() == [0, 0, 2]
    assert truth.image_size.tolist() == [[48, 64]] * 3
    assert truth.visibility.tolist() == [[2, 1, 0], [2, 1, 0], [2, 0, 0]]
    assert truth.num_keypoints.tolist() == [2, 0, 1]
    assert truth.is_crowd.tolist() == [False, True, False]
    assert np.isnan(truth.crowd_index[:2]).all()
    assert truth.crowd_index[2] == 0.5
    assert truth.head_bbox_xyxy[2].tolist() == [1, 2, 3, 4]
    assert np.isnan(truth.head_bbox_xyxy[0]).all()
    assert truth.keypoints[0, 1].tolist() == [30, 40]


def test_images_rank_by_the_value_of_numeric_ids_and_then_by_text():
    truth = GroundTruth.from_records([record(i, []) for i in ("b", "10", "9", "a")], num_keypoints=3)
    assert truth.image_rank.tolist() == [3, 1, 0, 2]


@pytest.mark.parametrize(
    ("rule", "expected"),
    [(None, 600), ("segment", 600), ("annotated", 600), ("box", 1200), ("box_053", 636), ("box_plus_one", 1201)],
)
def test_scale_rules(rule, expected):
    truth = GroundTruth.from_records([record("1", [instance()])], num_keypoints=3)
    assert truth.scale_area(rule) == pytest.approx([expected])


def test_an_empty_split_is_a_set_without_rows():
    truth = GroundTruth.from_records([], num_keypoints=17)
    assert len(truth) == 0
    assert truth.keypoints.shape == (0, 17, 2)


def test_wrong_number_of_points_and_doubled_images_are_refused():
    with pytest.raises(EvaluationError, match="'1' has 3 keypoints where the skeleton has 17"):
        GroundTruth.from_records([record("1", [instance()])], num_keypoints=17)
    with pytest.raises(EvaluationError, match="image '1' comes twice"):
        GroundTruth.from_records([record("1", []), record("1", [])], num_keypoints=3)


def test_predictions_of_another_set_or_head_or_a_broken_model_are_refused():
    truth, predictions = random_case(0)
    other, _ = random_case(1, num_images=5)
    with pytest.raises(EvaluationError, match="another list of images"):
        check_fit(other, predictions)
    fewer, _ = random_case(0, num_keypoints=14)
    with pytest.raises(EvaluationError, match="17 keypoints, the ground truth has 14"):
        check_fit(fewer, predictions)
    predictions.keypoints[3, 4, 1] = np.nan
    with pytest.raises(EvaluationError, match=r"prediction 3 on image '\d+' is NaN"):
        check_fit(truth, predictions)


def test_what_the_index_says_is_what_the_records_say_field_by_field(tmp_path):
    bodies = [
        [replace(tiny_store.instance("a", 17, BOX, absent=(2, 4)), num_keypoints=3), tiny_store.instance("b", 17, BOX)],
        [],
        [tiny_store.instance("c", 17, BOX, head_bbox_xyxy=(1.0, 2.0, 3.5, 4.0), category_id=4, is_crowd=True)],
    ]
    records = [tiny_store.record("d", row, of_image) for row, of_image in enumerate(bodies)]
    records[0].extras, records[2].extras = {"crowdIndex": 0.25}, {"crowdIndex": "unknown"}
    whole = tiny_store.write_store(tmp_path, "d", (), records=records)
    corrections = Corrections(
        dataset="d",
        split="train",
        dataset_digest=whole.manifest.digest,
        made_by={},
        instances=(CorrectedInstance(image="0", instance="b", unlabelled=("nose", "left_eye")),),
    )
    for store in (whole, open_store(whole.location, corrections=corrections)):
        read = GroundTruth.from_records((store.read_record(row) for row in range(3)), 17)
        index = GroundTruth.from_store(store)
        for field in fields(GroundTruth):
            said, asked = getattr(index, field.name), getattr(read, field.name)
            assert np.array_equal(said, asked, equal_nan=isinstance(asked, np.ndarray)), field.name
            assert isinstance(said, tuple) or said.dtype == asked.dtype, field.name
    assert index.num_keypoints.tolist() == [3, 15, 17]
    assert np.array_equal(index.crowd_index, [0.25, np.nan, np.nan], equal_nan=True)
