from dataclasses import replace

import numpy as np
import pytest

from posecore.evaluation import oks
from posecore.evaluation.arrays import GroundTruth, Predictions
from posecore.evaluation.oks import evaluate_oks, extent, similarity, similarity_to_region
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


def test_without_a_labelled_point_distances_are_those_to_the_box_and_its_own_size_around_it() -> None:
    """Ten to 40 and 20 to 60 grow to -20 to 70 and -20 to 100; inside it is as good as on the spot."""
    box, area, sigmas = np.array([[10.0, 20.0, 30.0, 40.0]]), np.array([300.0]), np.array([0.1, 0.2])
    inside, far = (70.0, 100.0), np.array([[-23.0, 50.0], [-20.0, -20.0], [75.0, 112.0]])
    for point, squared in zip(far, (9.0, 0.0, 25.0 + 144.0), strict=True):
        points = np.array([[inside, point]])
        expected = (1 + np.exp(-squared / (2 * 300 * 0.4**2))) / 2
        assert similarity_to_region(points, box, area, sigmas) == pytest.approx([expected])


def test_the_extent_of_points_is_their_tight_box_wherever_it_lies() -> None:
    places = np.array([[[3.0, 4.0], [9.0, 10.0], [5.0, 11.0]], [[-5.0, -3.0], [-2.0, -9.0], [-4.0, -4.0]]])
    assert extent(places).tolist() == [6.0 * 7.0, 3.0 * 6.0]


def test_categories_of_one_image_are_judged_apart() -> None:
    """Both are found, each by a better and a worse detection, of which the other's is a mistake in its own category."""
    truth, found = _persons([2000.0, 2000.0])
    one = {"image_row": np.zeros(2, int), "category_id": np.array([7, 9])}
    images = {name: getattr(truth, name)[:1] for name in ("image_ids", "image_size", "crowd_index")}
    truth = replace(truth, **one, **images)
    found = replace(found, **one, image_ids=truth.image_ids)
    arguments = {"area": truth.area, "ignored": np.zeros(2, bool), "per_category": True}
    result = evaluate_oks(truth, found, COCO_SIGMAS, **arguments)
    assert result.ap_per_category() == pytest.approx({7: 1.0, 9: 1.0})
    swapped = replace(found, category_id=np.array([9, 7]))
    assert evaluate_oks(truth, swapped, COCO_SIGMAS, **arguments).ap_per_category() == {7: 0.0, 9: 0.0}
    twice = [0, 0, 1]  # the surest answer is of a category that nobody asks for
    foreign = replace(
        found,
        **{
            name: getattr(found, name)[twice]
            for name in ("image_row", "instance_row", "keypoints", "keypoint_scores", "scores", "crop_area")
        },
        category_id=np.array([8, 7, 9]),
    )
    assert evaluate_oks(truth, foreign, COCO_SIGMAS, **arguments).ap_per_category() == pytest.approx({7: 1.0, 9: 1.0})


def test_pairs_are_compared_in_pieces_of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    truth, predictions = random_case(3, num_images=10, noise=0.03)
    arguments = {"area": truth.area, "ignored": truth.num_keypoints == 0}
    whole = evaluate_oks(truth, predictions, COCO_SIGMAS, **arguments)
    assert whole.summary()["AP"] > 0.1
    for pairs in (1, 7):
        monkeypatch.setattr(oks, "_CHUNK", 17 * pairs)
        pieces = evaluate_oks(truth, predictions, COCO_SIGMAS, **arguments)
        np.testing.assert_array_equal(pieces.precision, whole.precision)
        np.testing.assert_array_equal(pieces.recall, whole.recall)
    monkeypatch.setattr(oks, "_CHUNK", 1)
    np.testing.assert_array_equal(evaluate_oks(truth, predictions, COCO_SIGMAS, **arguments).recall, whole.recall)


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


def test_a_category_that_cannot_be_judged_is_left_out_of_the_mean() -> None:
    """One of two has nobody of large size: its -1 counts for nothing, as in pycocotools."""
    truth, found = _persons([50.0**2, 150.0**2], category_id=np.array([1, 2]))
    found = replace(found, category_id=np.array([1, 2]))
    summary = evaluate_oks(truth, found, COCO_SIGMAS, area=truth.area, ignored=np.zeros(2, bool)).summary()
    assert [summary[name] for name in ("AP", "APM", "APL", "AR", "ARL")] == pytest.approx([1.0] * 5)


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
