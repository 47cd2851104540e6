"""Overlays: what is drawn where, in which colour, and what is refused."""

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from posecore.schema import Instance
from posecore.skeletons.skeleton import Keypoint, Skeleton
from posecore.viz.overlay import (
    HEAD_COLOURS,
    LEFT_COLOUR,
    MIDDLE_COLOUR,
    RIGHT_COLOUR,
    draw_instances,
    segmentation_mask,
    side_colour,
)

SKELETON = Skeleton(
    name="stick",
    keypoints=(
        Keypoint(name="nose", union="nose"),
        Keypoint(name="left_hand", union="left_hand", flip="right_hand"),
        Keypoint(name="right_hand", union="right_hand", flip="left_hand"),
    ),
    links=(("nose", "left_hand"), ("nose", "right_hand"), ("left_hand", "right_hand")),
)


def stick(points: list[list[float]], **fields: object) -> Instance:
    values: dict[str, object] = {"id": "1", "bbox_xywh": (20, 20, 160, 160), "area": 1.0, "area_rule": "box"}
    return Instance(keypoints=np.array(points, np.float32).reshape(-1, 3), **(values | fields))  # type: ignore[arg-type]


def test_points_and_links_take_the_colour_of_the_subjects_side_and_the_input_is_untouched() -> None:
    image = np.full((200, 200, 3), 128, np.uint8)
    drawn = draw_instances(image, [stick([[100, 40, 2], [160, 150, 2], [40, 150, 2]])], SKELETON)
    assert (image == 128).all()
    assert tuple(drawn[40, 100]) == MIDDLE_COLOUR
    assert tuple(drawn[150, 160]) == LEFT_COLOUR
    assert tuple(drawn[150, 40]) == RIGHT_COLOUR
    np.testing.assert_allclose(drawn[95, 130], LEFT_COLOUR, atol=40)  # on the link nose - left hand, anti-aliased
    np.testing.assert_allclose(drawn[95, 70], RIGHT_COLOUR, atol=40)
    np.testing.assert_allclose(drawn[150, 100], MIDDLE_COLOUR, atol=40)  # a link across the body


def test_an_occluded_point_is_a_ring_and_an_unlabelled_one_is_not_drawn() -> None:
    image = np.full((400, 400, 3), 128, np.uint8)
    lone = Skeleton(name="lone", keypoints=SKELETON.keypoints)
    drawn = draw_instances(
        image,
        [stick([[100, 100, 1], [0, 0, 0], [300, 300, 2]], bbox_xywh=(0, 0, 399, 399))],
        lone,
        boxes=False,
    )
    assert drawn[100, 100].min() > 200  # the middle of a ring is white
    assert tuple(drawn[300, 300]) == RIGHT_COLOUR
    assert (drawn[:20, :20] == 128).all()


def test_a_weak_limb_is_pale_and_links_may_have_the_colour_of_their_head() -> None:
    image = np.full((200, 200, 3), 128, np.uint8)
    body = stick([[100, 40, 2], [160, 150, 2], [40, 150, 2]])
    weak = [np.array([False, False, True])]
    drawn = draw_instances(image, [body], SKELETON, boxes=False, faint=weak).astype(int)
    sure = draw_instances(image, [body], SKELETON, boxes=False).astype(int)
    assert tuple(drawn[150, 160]) == LEFT_COLOUR
    contrast = np.abs(drawn[150, 40] - 128).max() / np.abs(sure[150, 40] - 128).max()
    assert 0.2 < contrast < 0.5
    np.testing.assert_array_equal(drawn[95, 130], sure[95, 130])  # nose - left hand: both are sure
    assert 0 < np.abs(drawn[95, 70] - 128).max() < 0.5 * np.abs(sure[95, 70] - 128).max()
    named = draw_instances(image, [body], SKELETON, boxes=False, link_colour=HEAD_COLOURS[1])
    np.testing.assert_allclose(named[95, 130], HEAD_COLOURS[1], atol=40)
    assert tuple(named[150, 160]) == LEFT_COLOUR


def test_masks_tint_only_their_pixels() -> None:
    image = np.full((60, 80, 3), 100, np.uint8)
    mask = np.zeros((60, 80), np.bool_)
    mask[10:20, 30:50] = True
    drawn = draw_instances(image, [stick([])], SKELETON, masks=[mask], boxes=False)
    changed = (drawn != image).any(axis=2)
    assert (changed == mask).all()


def test_polygons_and_both_rle_forms_give_the_same_mask() -> None:
    polygon = [[10.0, 10.0, 40.0, 10.0, 40.0, 30.0, 10.0, 30.0]]
    compressed = coco_mask.merge(coco_mask.frPyObjects(polygon, 50, 60))
    expected = coco_mask.decode(compressed).astype(bool)
    runs = np.diff(np.flatnonzero(np.diff(np.r_[2, expected.ravel(order="F"), 2])))
    assert not expected[0, 0]
    uncompressed = {"size": [50, 60], "counts": runs.tolist()}
    for form in (polygon, compressed, uncompressed):
        mask = segmentation_mask(form, 50, 60)
        assert mask is not None
        assert (mask == expected).all()
    assert segmentation_mask(None, 50, 60) is None
    assert segmentation_mask([[1.0, 2.0, 3.0, 4.0]], 50, 60) is None  # two points enclose nothing


def test_points_far_outside_and_degenerate_boxes_do_not_stop_the_drawing() -> None:
    image = np.zeros((20, 30, 3), np.uint8)
    body = stick([[1e9, -1e9, 2], [np.nan, 3, 2], [5, 5, 2]], bbox_xywh=(float("nan"), 0, 0, -3))
    drawn = draw_instances(image, [body], SKELETON)
    assert drawn.shape == image.shape
    assert drawn[5, 5].any()


def test_wrong_skeleton_or_masks_are_refused() -> None:
    image = np.zeros((20, 30, 3), np.uint8)
    with pytest.raises(ValueError, match="instance 1 has 2 keypoints"):
        draw_instances(image, [stick([[1, 1, 2], [2, 2, 2]])], SKELETON)
    with pytest.raises(ValueError, match="0 masks for 1 instance;"):
        draw_instances(image, [stick([])], SKELETON, masks=[])
    with pytest.raises(ValueError, match="a mask has shape"):
        draw_instances(image, [stick([])], SKELETON, masks=[np.zeros((3, 3), np.bool_)])
    with pytest.raises(ValueError, match="made for size"):
        segmentation_mask({"size": [5, 5], "counts": [25]}, 6, 5)


@pytest.mark.parametrize(
    ("name", "colour"),
    [
        ("left_eye", LEFT_COLOUR),
        ("R_F_Paw", RIGHT_COLOUR),
        ("leftThigh", LEFT_COLOUR),
        ("upper_left", LEFT_COLOUR),
        ("rib", MIDDLE_COLOUR),
        ("leftover", MIDDLE_COLOUR),
        ("face-30", MIDDLE_COLOUR),
        ("collar", MIDDLE_COLOUR),
    ],
)
def test_sides_are_read_from_names(name: str, colour: tuple[int, int, int]) -> None:
    assert side_colour(Keypoint(name=name, union=name)) == colour
