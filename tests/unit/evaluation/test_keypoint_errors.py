import numpy as np
import pytest

from posecore.evaluation.keypoint_errors import keypoint_errors, relative_distances
from posecore.evaluation.pairing import nearest_distances, paired_distances
from posecore.skeletons.library import load_skeleton
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
