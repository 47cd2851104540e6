import numpy as np
import pytest

from posecore.evaluation.keypoint_errors import (
    answered_distances,
    keypoint_errors,
    relative_distances,
    subject_errors,
    whole_error,
)
from posecore.evaluation.pairing import nearest_distances, paired_distances
from posecore.evaluation.traits import Traits
from posecore.skeletons.library import load_skeleton
from posecore.skeletons.skeleton import Keypoint, Skeleton
from tests.support.random_poses import paired_case


def test_errors_per_keypoint_equal_a_loop():
    truth, predictions = paired_case(3, num_keypoints=17)
    rows = keypoint_errors(truth, predictions, load_skeleton("coco17"))
    for joint in (0, 9, 16):
        pixels, shares = [], []
        for answer, person in enumerate(predictions.instance_row):
            if truth.visibility[person, joint] and not truth.is_crowd[person]:
                pixels.append(np.hypot(*(truth.keypoints[person, joint] - predictions.keypoints[answer, joint])))
                shares.append(pixels[-1] / np.sqrt(truth.bbox_xywh[person, 2] * truth.bbox_xywh[person, 3]))
        assert rows[joint].labelled == len(pixels)
        assert rows[joint].mean_px == pytest.approx(np.mean(pixels))
        assert rows[joint].median_px == pytest.approx(np.median(pixels))
        assert rows[joint].relative == pytest.approx(np.mean(shares))
        assert rows[joint].missed == pytest.approx(np.mean(np.array(shares) > 0.1))


def test_without_annotated_boxes_each_instance_takes_its_nearest_prediction():
    truth, predictions = paired_case(3, num_keypoints=17)
    exact = truth.keypoints[predictions.instance_row]
    close = exact + (predictions.keypoints - exact) * 0.02
    detected = type(predictions)(
        **{name: getattr(predictions, name) for name in predictions.__dataclass_fields__}
        | {"keypoints": close, "instance_row": np.full(len(predictions), -1)}
    )
    nearest = nearest_distances(truth, detected)
    np.testing.assert_array_equal(nearest.truth_row, paired_distances(truth, predictions).truth_row)
    doubled = set()  # exact duplicates in the ground truth have two equally good answers
    for row, answer in zip(nearest.truth_row, nearest.prediction_row, strict=True):
        if predictions.instance_row[answer] != row:
            doubled.add(row)
            np.testing.assert_array_equal(truth.keypoints[row], truth.keypoints[predictions.instance_row[answer]])
    assert len(doubled) < len(truth) / 4
    assert np.nanmax(relative_distances(truth, nearest)) < 0.1
    none = detected.take(np.zeros(len(detected), bool))
    assert len(nearest_distances(truth, none).truth_row) == 0
    assert all(
        row.labelled == 0 and np.isnan(row.mean_px) for row in keypoint_errors(truth, none, load_skeleton("coco17"))
    )


def test_intervals_come_from_subjects_drawn_anew_and_of_a_subject_from_its_own_pictures():
    truth, predictions = paired_case(3, num_instances=60, num_keypoints=5)
    nothing, number = (None,) * len(truth), range(len(truth))
    traits = Traits(
        subject=tuple(f"s{row % 6}" if row % 6 else None for row in number),
        video=nothing,
        view=nothing,
        posture=nothing,
        image=tuple(truth.image_ids[row] for row in truth.image_row),
    )
    skeleton = Skeleton(name="five", keypoints=tuple(Keypoint(name=f"p{i}", union=f"test_{i}") for i in range(5)))
    errors = keypoint_errors(truth, predictions, skeleton, traits)
    assert all(each.low < each.relative < each.high for each in errors)
    assert np.isnan(keypoint_errors(truth, predictions, skeleton)[0].low)
    whole, units = whole_error(truth, predictions, traits)
    assert whole.low < whole.value < whole.high
    assert units["subject"] == 5
    subjects = subject_errors(truth, predictions, traits)
    assert sorted(each.name for each in subjects) == ["s1", "s2", "s3", "s4", "s5"]
    assert [each.error.value for each in subjects] == sorted((each.error.value for each in subjects), reverse=True)
    labelled = (truth.visibility > 0).any(axis=1) & ~truth.is_crowd
    own = relative_distances(truth, answered_distances(truth, predictions))
    for each in subjects:
        rows = np.flatnonzero(labelled)
        mine = own[[f"s{row % 6}" == each.name for row in rows]]
        assert each.bodies == len(mine)
        np.testing.assert_allclose(each.error.value, np.nanmean(mine))
