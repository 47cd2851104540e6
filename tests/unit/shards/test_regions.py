"""Regions against pycocotools' own pixels, and what must not reach it."""

from dataclasses import replace

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from posecore.formats.segmentations import check_regions
from posecore.formats.values import Refusal
from posecore.shards.masks import UnifiedMasks
from posecore.shards.regions import ignore_rle, instance_rles, pixels
from tests.support.small_split import HEIGHT, WIDTH, instance
from tests.unit.shards.test_masks import record

POLYGON = [[4.0, 5.0, 24.0, 5.0, 24.0, 35.0]]
NO_POINTS = np.zeros((3, 3), np.float32)


def test_regions_are_what_pycocotools_draws_and_crowds_and_unlabelled_bodies_are_ignored():
    crowd_rle = {"size": [HEIGHT, WIDTH], "counts": [0, 10, HEIGHT * WIDTH - 10]}
    of = record(
        instance("a", segmentation=POLYGON),
        instance("b", is_crowd=True, segmentation=crowd_rle, keypoints=NO_POINTS),
        instance("c", bbox_xywh=(60.0, 40.0, 20.0, 20.0), keypoints=NO_POINTS),
    )
    rles = instance_rles(of)
    assert np.array_equal(pixels(rles[0]), coco_mask.decode(coco_mask.frPyObjects(POLYGON, HEIGHT, WIDTH)[0]) == 1)
    assert rles[2] is None
    ignored = pixels(ignore_rle(of))
    assert ignored[:10, 0].all()
    assert ignored[40:, 60:].all()
    assert ignored.sum() == 10 + 8 * 4, "the box is clipped to the image, the labelled body is not ignored"
    masks = UnifiedMasks(np.zeros((3, 4), np.uint8), of)
    assert (masks.instance_rles, masks.ignore_rle) == (rles, ignore_rle(of))
    assert ignore_rle(record(instance("a"))) is None


def test_a_box_as_large_as_the_image_is_all_of_it():
    for box in ((0.0, 0.0, float(WIDTH), float(HEIGHT)), (-5.0, -5.0, WIDTH + 9.0, HEIGHT + 9.0)):
        assert pixels(ignore_rle(record(instance("a", bbox_xywh=box, keypoints=NO_POINTS)))).all()


def test_two_polygons_are_one_region_and_two_points_are_none():
    of = record(instance("a", segmentation=[*POLYGON, [30.0, 5.0, 50.0, 5.0, 50.0, 35.0], [1.0, 2.0, 3.0, 4.0]]))
    check_regions([body.segmentation for body in of.instances], HEIGHT, WIDTH)
    apart = [pixels(rle) for rle in instance_rles(record(*(instance("a", segmentation=[p]) for p in POLYGON)))]
    drawn = pixels(instance_rles(of)[0])
    assert drawn[apart[0]].all()
    assert drawn.sum() > apart[0].sum()
    assert instance_rles(record(instance("a", segmentation=[[1.0, 2.0, 3.0, 4.0]]))) == [None]


@pytest.mark.parametrize(
    "segmentation",
    [
        {"size": [WIDTH, HEIGHT], "counts": [WIDTH * HEIGHT]},
        {"size": [HEIGHT, WIDTH], "counts": [5]},
        {"size": [HEIGHT, WIDTH], "counts": "not runs"},
        {"size": [HEIGHT, WIDTH]},
        [[0.0, 0.0, 9e5, 0.0, 9.0, 9.0]],
        [[0.0, 0.0, None, 0.0, 9.0, 9.0]],
        [[0.0, 0.0, "1", 0.0, 9.0, 9.0]],
        [[0.0, 0.0, [1], 0.0, 9.0, 9.0]],
        ["polygon"],
    ],
)
def test_what_pycocotools_should_not_be_given_is_refused(segmentation):
    with pytest.raises(Refusal):
        check_regions([segmentation], HEIGHT, WIDTH)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("place", [0, 3, 5])
def test_a_corner_that_is_no_number_is_refused(place, value):
    polygon = [1.0, 2.0, 30.0, 4.0, 5.0, 46.0]
    check_regions([[polygon]], HEIGHT, WIDTH)
    polygon[place] = value
    with pytest.raises(Refusal, match="polygon"):
        check_regions([[polygon]], HEIGHT, WIDTH)


def test_a_region_of_another_size_is_refused_when_it_is_drawn():
    wrong = record(instance("a", segmentation={"size": [HEIGHT, WIDTH], "counts": "abc"}))
    with pytest.raises(ValueError, match="size"):
        instance_rles(replace(wrong, width=WIDTH + 1))
