from dataclasses import replace

import numpy as np
import pytest

from posecore.evaluation.nms import rescore, suppress_duplicates
from posecore.evaluation.oks import similarity
from tests.support.random_poses import COCO_SIGMAS, random_case


def test_a_point_at_the_minimum_does_not_count() -> None:
    """Published: ``if t_s > vis_thr``."""
    scores = np.array([[0.2, 0.6, 0.4, 0.1], [0.2, 0.2, 0.1, 0.0]])
    assert rescore(np.array([0.5, 1.0]), scores).tolist() == pytest.approx([0.5 * 0.5, 0.0])
    assert rescore(np.array([0.5, 1.0]), scores, minimum=0.4).tolist() == pytest.approx([0.5 * 0.6, 0.0])


def test_a_prediction_at_the_threshold_is_kept_and_one_above_it_is_not() -> None:
    """Published: ``np.where(oks_ovr <= thr)`` is kept."""
    _, predictions = random_case(0)
    pair = predictions.take(np.array([0, 0]))
    moved = pair.keypoints + np.array([0, 2.0])[:, None, None]
    pair = replace(pair, keypoints=moved, scores=np.array([0.5, 0.9]), crop_area=np.array([3000.0, 5000.0]))
    counted = np.ones((1, 17), bool)
    (oks,) = similarity(moved[:1], moved[1:], counted, np.array([4000.0]), COCO_SIGMAS).tolist()
    assert 0.5 < oks < 1
    kept = suppress_duplicates(pair, COCO_SIGMAS, threshold=oks)
    assert kept.scores.tolist() == [0.5, 0.9]
    assert suppress_duplicates(pair, COCO_SIGMAS, threshold=np.nextafter(oks, 0)).scores.tolist() == [0.9]
