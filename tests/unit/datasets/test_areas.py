import numpy as np
import pytest

from posecore.datasets.areas import FEWEST_BODIES, impossible_areas

BOX = np.linspace(2_000.0, 40_000.0, 20)


@pytest.mark.parametrize("share", [0.05, 0.53, 1.0, 1.09])
def test_masks_and_boxes_are_areas(share: float) -> None:
    assert impossible_areas(share * BOX, BOX) is None


def test_a_constant_is_no_area() -> None:
    said = impossible_areas(np.full(20, 14232.77), BOX)
    assert said is not None
    assert said.startswith(
        "the annotations state one area, 14232.8 px², for all 20 bodies, whose boxes have 2000 to 40000"
    )
    assert said.endswith("set area_rule: box in dataset.yaml")
    assert impossible_areas(np.full(20, 900.0), np.full(20, 2000.0)) is None, "all boxes are alike, too"


def test_areas_larger_than_the_box_are_none_but_a_few_may_be() -> None:
    said = impossible_areas(np.where(np.arange(20) < 11, 15.0, 0.5) * BOX, BOX)
    assert said is not None
    assert said.startswith("the annotations state for 11 of 20 bodies an area larger than their box (median 15 times")
    assert impossible_areas(np.where(np.arange(20) < 10, 15.0, 0.5) * BOX, BOX) is None


def test_a_handful_of_bodies_is_believed() -> None:
    few = FEWEST_BODIES - 1
    assert impossible_areas(np.full(few, 1e6), BOX[:few]) is None
    assert impossible_areas(np.full(few + 1, 1e6), BOX[: few + 1]) is not None
    assert impossible_areas(np.zeros(0), np.zeros(0)) is None
