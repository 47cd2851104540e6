"""Halpe-FullBody: COCO JSON with one list of 136 points, whose flags are scores in the training file."""

from typing import ClassVar

import numpy as np

from posecore.formats.coco import CocoReader, JsonObject
from posecore.formats.coco_points import coco_flags, flat_keypoints
from posecore.formats.reader import Source
from posecore.formats.values import Refusal, number
from posecore.schema import FloatArray, Record


class HalpeReader(CocoReader):
    """Reads 136 points in Halpe's own order, whose foot block differs from COCO-WholeBody's.

    Option ``min_flag`` (default 0.35, AlphaPose's training): a flag below it is "not labelled"; a flag of exactly 1 is
    "occluded", every other one "visible". ``num_keypoints`` is constant 3 in the training file and is not taken over.
    """

    options: ClassVar[frozenset[str]] = CocoReader.options | frozenset({"min_flag"})

    def keypoints(self, annotation: JsonObject, record: Record, source: Source) -> FloatArray:
        """(136, 3) float32, COCO flags."""
        if not isinstance(annotation.get("keypoints"), list):
            raise Refusal("no-keypoints", "the annotation has no list of keypoints, as happens in the training file.")
        points = flat_keypoints(annotation, "keypoints", source.skeleton.num_keypoints)
        flags = points[:, 2]
        if not (flags >= 0).all():
            raise Refusal("flag-out-of-range", "a flag is negative or not a number; flags and scores are 0 or more.")
        labelled = flags >= number(source.options.get("min_flag", 0.35), "option min_flag")
        points[:, 2] = np.where(labelled, np.where(flags == 1, 1, 2), 0)
        return coco_flags(points)

    def num_keypoints(self, annotation: JsonObject, source: Source) -> int | None:
        """Nothing: the file's count is not one of labelled points."""
        return None
