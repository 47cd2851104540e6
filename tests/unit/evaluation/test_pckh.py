from dataclasses import replace

import numpy as np
import pytest

from posecore.errors import EvaluationError
from posecore.evaluation.arrays import GroundTruth, Predictions
from posecore.evaluation.pck import evaluate_pck
from posecore.evaluation.pckh import evaluate_pckh
from posecore.skeletons.library import load_skeleton
from tests.support.random_poses import paired_case

COLUMNS = ("image_row", "keypoints", "visibility", "bbox_xywh", "area", "category_id", "is_crowd", "num_keypoints")


def _one_person(errors: list[float]) -> tuple[GroundTruth, Predictions]:
    """One person with a head box of 3 by 4 px, so a head size of 0.6 · 5 = 3 px, and these errors in px."""
    truth, predictions = paired_case(1)
    row = int(np.flatnonzero((truth.visibility[predictions.instance_row] > 0).any(axis=1))[0])
    answer = predictions.take(np.array([row]))
    only = np.arange(len(truth)) == answer.instance_row[0]
    truth = truth.take(only)
    points = np.full((1, 16, 2), 40.0)
    truth = replace(
        truth,
        keypoints=points,
        visibility=np.full((1, 16), 2, np.uint8),
        is_crowd=np.zeros(1, bool),
        head_bbox_xyxy=np.array([[10.0, 10.0, 13.0, 14.0]]),
        bbox_xywh=np.array([[0.0, 0.0, 20.0, 40.0]]),
    )
    moved = points.copy()
    moved[0, :, 0] += errors
    return truth, replace(answer, instance_row=np.zeros(1, np.int64), keypoints=moved)


def test_a_joint_at_half_a_head_is_right() -> None:
    """Official: ``dist <= threshold``."""
    skeleton = load_skeleton("mpii16")
    ankle = skeleton.names.index("right_ankle")
    errors = [9.0] * 16
    errors[ankle] = 1.5
    metrics = evaluate_pckh(*_one_person(errors), skeleton)
    assert metrics["PCKh"] == metrics["PCKh_unweighted"] == pytest.approx(100 / 14)
    assert metrics["PCKh_0.1"] == 0
    assert metrics["PCKh/ankle"] == 50
    errors[ankle] = 1.5 + 1e-9
    assert evaluate_pckh(*_one_person(errors), skeleton)["PCKh"] == 0


def test_a_person_with_a_head_box_without_extent_is_not_judged() -> None:
    truth, predictions = _one_person([0.5] * 16)
    twice = np.array([0, 0])
    boxes = np.array([[10.0, 10.0, 13.0, 14.0], [10.0, 10.0, 10.0, 10.0]])
    both = replace(
        truth,
        instance_ids=("a", "b"),
        head_bbox_xyxy=boxes,
        **{name: getattr(truth, name)[twice] for name in COLUMNS},
    )
    answers = replace(predictions.take(twice), instance_row=np.array([0, 1]))
    metrics = evaluate_pckh(both, answers, load_skeleton("mpii16"))
    assert metrics["persons"] == 1
    assert metrics["PCKh"] == 100
    with pytest.raises(EvaluationError, match="no labelled instance has a head box"):
        evaluate_pckh(replace(truth, head_bbox_xyxy=boxes[1:]), predictions, load_skeleton("mpii16"))


def test_a_point_at_the_threshold_of_pck_is_wrong() -> None:
    """mmpose: strictly nearer; the longer side of the box is 40 px."""
    metrics = evaluate_pck(*_one_person([4.0, 3.9] + [9.0] * 14), thresholds=(0.1,))
    assert metrics == {"PCK_0.1": pytest.approx(1 / 16), "PCK_0.1_pooled": pytest.approx(1 / 16)}
