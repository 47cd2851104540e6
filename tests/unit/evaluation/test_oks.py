from dataclasses import replace

import numpy as np
import pytest

from posecore.evaluation.oks import evaluate_oks, similarity
from tests.support.random_poses import COCO_SIGMAS, random_case


def test_similarity_is_the_published_formula_point_by_point():
    rng = np.random.default_rng(0)
    points, references = rng.uniform(0, 50, (2, 5, 17, 2))
    counted = rng.random((5, 17)) < 0.6
    counted[4] = False
    area = rng.uniform(100, 5000, 5)
    got = similarity(points, references, counted, area, COCO_SIGMAS)
    for pair in range(4):
        terms = [
            np.exp(-((points[pair, k] - references[pair, k]) ** 2).sum() / (2 * area[pair] * (2 * COCO_SIGMAS[k]) ** 2))
            for k in range(17)
            if counted[pair, k]
        ]
        assert got[pair] == pytest.approx(np.mean(terms), abs=1e-12)
    assert got[4] == 0


def test_perfect_predictions_score_one_and_none_score_zero():
    truth, predictions = random_case(2, num_images=30, noise=0.0)
    truth = truth.take((truth.num_keypoints > 0) & ~truth.is_crowd)
    assert len(truth) > 20
    perfect = replace(
        predictions,
        image_row=truth.image_row,
        instance_row=np.arange(len(truth)),
        keypoints=truth.keypoints,
        keypoint_scores=np.ones(truth.visibility.shape),
        scores=np.linspace(1, 0.5, len(truth)),
        category_id=truth.category_id,
        crop_area=truth.area,
    )
    arguments = {"area": truth.area, "ignored": truth.num_keypoints == 0}
    assert evaluate_oks(truth, perfect, COCO_SIGMAS, **arguments).summary()["AP"] == pytest.approx(1.0)
    nothing = predictions.take(np.zeros(len(predictions), bool))
    summary = evaluate_oks(truth, nothing, COCO_SIGMAS, **arguments).summary()
    assert summary["AP"] == 0
    assert summary["AR"] == 0


def test_an_empty_ground_truth_cannot_be_judged():
    truth, predictions = random_case(2)
    empty = truth.take(np.zeros(len(truth), bool))
    summary = evaluate_oks(empty, predictions, COCO_SIGMAS, area=empty.area, ignored=empty.is_crowd).summary()
    assert set(summary.values()) == {-1.0}
