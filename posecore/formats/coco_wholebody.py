"""COCO-WholeBody v1.0: COCO's person annotations plus feet, face and hands in fields of their own."""

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from posecore.formats.coco import CocoReader, JsonObject
from posecore.formats.coco_points import any_positive_flag, coco_flags, flat_keypoints
from posecore.formats.reader import Source
from posecore.schema import FloatArray, Record

BODY = 17
PARTS = {"foot_kpts": 6, "face_kpts": 68, "lefthand_kpts": 21, "righthand_kpts": 21}
"""Fields that follow the body's 17 points, with their number of points, in the order everyone concatenates them."""


class CocoWholeBodyReader(CocoReader):
    """Concatenates body, feet, face, left hand and right hand to 133 points.

    Flags of the parts may be scores a detector left behind (0.041): every value above 0 is usable, as the authors say.
    ``num_keypoints`` counts the body only. The ``*_valid`` fields are kept but not applied, as the official evaluation
    does not read them.
    """

    instance_extras: ClassVar[tuple[str, ...]] = (
        "face_box",
        "lefthand_box",
        "righthand_box",
        "face_valid",
        "lefthand_valid",
        "righthand_valid",
        "foot_valid",
    )

    def keypoint_names(self, category: JsonObject) -> tuple[str, ...]:
        """Nothing: the category lists the body's 17 names only."""
        return ()

    def keypoints(self, annotation: JsonObject, record: Record, source: Source) -> FloatArray:
        """(133, 3) float32, COCO flags."""
        return coco_flags(np.concatenate([flat_keypoints(annotation, "keypoints", BODY), part_keypoints(annotation)]))


def part_keypoints(annotation: JsonObject) -> NDArray[np.float64]:
    """(116, 3) float64 of feet, face, left and right hand, flags 0 or 2."""
    return np.concatenate(
        [any_positive_flag(flat_keypoints(annotation, field, count)) for field, count in PARTS.items()]
    )
