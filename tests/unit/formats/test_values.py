import math

import pytest

from posecore.errors import DatasetError
from posecore.formats import values
from posecore.formats.values import Refusal


@pytest.mark.parametrize("bad", [True, "1", None, math.nan, math.inf, [1]])
def test_only_finite_numbers_pass(bad: object) -> None:
    with pytest.raises(Refusal, match="x must be a finite number"):
        values.number(bad, "x")
    assert values.number(3, "x") == 3.0


def test_whole_numbers_may_be_floats() -> None:
    assert values.integer(3.0, "x") == 3
    with pytest.raises(Refusal, match="whole number"):
        values.integer(3.5, "x")


@pytest.mark.parametrize("bad", ["123", [1, 2], {"a": 1}, None, 3])
def test_lists_have_their_length(bad: object) -> None:
    with pytest.raises(Refusal) as caught:
        values.numbers(bad, 3, "x")
    assert caught.value.reason == "wrong-length"


def test_boxes_have_positive_sides() -> None:
    assert values.box_from_corners([1, 2, 4, 6], "box") == (1, 2, 3, 4)
    for corners in ([4, 2, 1, 6], [1, 2, 1, 6]):
        with pytest.raises(Refusal) as caught:
            values.box_from_corners(corners, "box")
        assert caught.value.reason == "bad-box"


def test_unlabelled_points_are_zero_and_bad_flags_refused() -> None:
    array = values.keypoints_from_rows([(1.5, 2.5, 2), (7.0, 7.0, 0)])
    assert array.tolist() == [[1.5, 2.5, 2.0], [0.0, 0.0, 0.0]]
    for row, reason in (((1.0, 1.0, 3), "flag-out-of-range"), ((math.nan, 1.0, 1), "nan-keypoints")):
        with pytest.raises(Refusal) as caught:
            values.keypoints_from_rows([row])
        assert caught.value.reason == reason


def test_area_rules() -> None:
    assert values.area_of_box("box", 10, 20) == 200
    assert values.area_of_box("box_053", 10, 20) == pytest.approx(106)
    assert values.area_of_box("box_plus_one", 10, 20) == 201
    for rule in ("segment", "annotated"):
        with pytest.raises(DatasetError, match="neither masks nor areas"):
            values.area_of_box(rule, 10, 20)
