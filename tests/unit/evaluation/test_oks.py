from dataclasses import replace

import numpy as np
import pytest

from posecore.evaluation.arrays import GroundTruth, Predictions
from posecore.evaluation.oks import evaluate_oks, similarity
from tests.support.random_poses import COCO_SIGMAS, paired_case, random_case


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


def _persons(areas: list[float], **changes: object) -> tuple[GroundTruth, Predictions]:
    """One person per image, found exactly, with an area that annotation and detection share."""
    count = len(areas)
    truth, predictions = paired_case(0, num_instances=3 * count, num_keypoints=17)
    truth = truth.take(np.arange(len(truth)) < count)
    points = np.random.default_rng(0).uniform(0, 90, (count, 17, 2))
    truth = replace(
        truth,
        image_row=np.arange(count),
        keypoints=points,
        visibility=np.full((count, 17), 2, np.uint8),
        num_keypoints=np.full(count, 17),
        is_crowd=np.zeros(count, bool),
        area=np.array(areas),
        **changes,
    )
    found = predictions.take(np.arange(count))
    scores = np.linspace(0.9, 0.8, count)
    return truth, replace(found, image_row=np.arange(count), keypoints=points, scores=scores)


def test_both_ends_of_an_area_range_belong_to_it() -> None:
    """A person of exactly 32² px² is of medium size, one of exactly 96² medium and large, as in pycocotools."""
    truth, found = _persons([32.0**2, 96.0**2])
    for row, ranges in ((0, {"APM": 1.0, "APL": -1.0}), (1, {"APM": 1.0, "APL": 1.0})):
        of_row = truth.take(np.arange(2) == row)
        own = found.take(np.arange(2) == row)
        ignored = np.zeros(1, bool)
        summary = evaluate_oks(of_row, own, COCO_SIGMAS, area=of_row.area, ignored=ignored).summary()
        assert {name: summary[name] for name in ranges} == pytest.approx(ranges)


def test_an_unmatched_detection_at_either_end_of_a_range_is_a_mistake_there() -> None:
    truth, found = _persons([50.0**2, 50.0**2])
    truth = truth.take(np.arange(2) == 1)  # the better detection is of nobody
    names = [f"AP{size}" for size in "ML"]
    for detected, medium in ((32.0**2, 0.5), (96.0**2, 0.5), (32.0**2 - 1, 1.0), (96.0**2 + 1, 1.0)):
        areas = np.array([detected, 50.0**2])
        summary = evaluate_oks(
            truth, found, COCO_SIGMAS, area=truth.area, ignored=np.zeros(1, bool), detection_area=areas
        ).summary()
        assert [summary[name] for name in names] == pytest.approx([medium, -1])


def test_a_crowd_is_neither_missed_nor_found_though_it_has_points() -> None:
    truth, found = _persons([2000.0, 2000.0, 2000.0])
    truth = replace(truth, is_crowd=np.array([False, True, True]))
    found = found.take(np.array([0, 1]))  # one crowd is hit, one is not
    summary = evaluate_oks(truth, found, COCO_SIGMAS, area=truth.area, ignored=np.zeros(3, bool)).summary()
    assert (summary["AP"], summary["AR"]) == pytest.approx((1.0, 1.0))


def test_an_empty_ground_truth_cannot_be_judged():
    truth, predictions = random_case(2)
    empty = truth.take(np.zeros(len(truth), bool))
    summary = evaluate_oks(empty, predictions, COCO_SIGMAS, area=empty.area, ignored=empty.is_crowd).summary()
    assert set(summary.values()) == {-1.0}
