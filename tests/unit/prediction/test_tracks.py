import numpy as np
import pytest

from posecore.prediction.tracks import Tracker, iou


def boxes(*rows: tuple[float, float, float, float]) -> np.ndarray:
    return np.array(rows, np.float64).reshape(-1, 4)


def test_overlap_is_known_in_closed_form() -> None:
    first = boxes((0, 0, 10, 10), (0, 0, 0, 0))
    second = boxes((5, 0, 10, 10), (0, 0, 10, 10), (20, 20, 5, 5), (0, 0, 0, 0))
    np.testing.assert_allclose(iou(first, second), [[1 / 3, 1, 0, 0], [0, 0, 0, 0]])


def test_bodies_keep_their_numbers_whatever_the_order_of_the_boxes() -> None:
    tracker = Tracker()
    rng = np.random.default_rng(0)
    start = boxes((0, 0, 40, 80), (100, 0, 40, 80), (200, 0, 40, 80))
    for frame in range(20):
        order = rng.permutation(3)
        moved = start + np.array([4.0 * frame, 2.0 * frame, 0, 0])
        numbers = tracker.update(moved[order], frame / 25)
        if frame == 0:
            first = dict(zip(order.tolist(), numbers.tolist(), strict=True))
        assert dict(zip(order.tolist(), numbers.tolist(), strict=True)) == first


def test_the_sum_decides_not_the_best_single_pair() -> None:
    tracker = Tracker(min_iou=0.1)
    assert tracker.update(boxes((0, 0, 10, 10), (6, 0, 10, 10)), 0).tolist() == [0, 1]
    # The first box overlaps both tracks (0.54 and 0.54), the second only track 0: giving track 0 away greedily to
    # the first box would leave the second without.
    assert tracker.update(boxes((3, 0, 10, 10), (-5, 0, 10, 10)), 1 / 25).tolist() == [1, 0]


def test_a_short_gap_is_bridged_and_a_long_one_is_not() -> None:
    tracker = Tracker(max_gap_s=0.5)
    body = boxes((0, 0, 10, 10))
    assert tracker.update(body, 0.0).tolist() == [0]
    assert tracker.update(boxes(), 0.25).tolist() == []
    assert tracker.update(body, 0.5).tolist() == [0]
    assert tracker.update(body, 1.01).tolist() == [1], "numbers are never used again"


def test_too_little_overlap_is_another_body_and_does_not_cost_a_good_pair() -> None:
    tracker = Tracker(min_iou=0.3)
    tracker.update(boxes((0, 0, 10, 10)), 0)
    assert tracker.update(boxes((9, 0, 10, 10), (1, 0, 10, 10)), 0.1).tolist() == [1, 0]


@pytest.mark.parametrize("count", [0, 1, 5])
def test_any_number_of_boxes_can_follow_any_other(count: int) -> None:
    tracker = Tracker()
    tracker.update(boxes((0, 0, 10, 10)), 0)
    assert len(set(tracker.update(boxes(*[(30.0 * i, 0, 10, 10) for i in range(count)]), 0.1).tolist())) == count
