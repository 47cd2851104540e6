"""Masks as polygons and run lengths, checked by decoding them with pycocotools."""

import numpy as np
from pycocotools import mask as coco_mask

from posecore.synth.masks import mask_box, mask_polygons, mask_runs
from posecore.synth.scene import render


def decode(polygons: list[list[float]], height: int, width: int) -> np.ndarray:
    return coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(polygons, height, width))).astype(bool)


def test_polygons_cover_their_mask_without_shift() -> None:
    mask = np.zeros((60, 80), np.bool_)
    mask[10:40, 20:60] = True
    decoded = decode(mask_polygons(mask), 60, 80)
    assert (decoded == mask).all()
    for index in range(5):
        for body in render("adult", 0, index, (120, 120)).bodies:
            if body.role == "labelled" and body.mask.sum() > 400:
                decoded = decode(mask_polygons(body.mask), 120, 120)
                overlap = (decoded & body.mask).sum() / (decoded | body.mask).sum()
                assert overlap > 0.9


def test_run_lengths_are_exact_wherever_the_mask_begins() -> None:
    rng = np.random.default_rng(0)
    for corner in (False, True):
        mask = rng.random((13, 17)) < 0.4
        mask[0, 0] = corner
        runs = mask_runs(mask)
        decoded = coco_mask.decode(coco_mask.frPyObjects(runs, 13, 17)).astype(bool)
        assert (decoded == mask).all()


def test_box_is_the_extent_of_the_pixels() -> None:
    mask = np.zeros((30, 40), np.bool_)
    mask[5, 7] = mask[20, 33] = True
    assert mask_box(mask) == (7, 5, 27, 16)
