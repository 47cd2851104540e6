"""What COCO files of other tools write otherwise, and a definition may say of them."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from posecore.config import Config
from posecore.schema import FloatArray


class CocoOptions(Config):
    """``reader_options`` of a file of the COCO family.

    Attributes:
        image_extras: further fields of an image entry to keep, such as ``[posture]``; none unless stated.
        instance_extras: further fields of an annotation to keep.
        boxes_alone: true for a file of boxes, such as a detector's, whose annotations have no ``keypoints``: every
            point is then not labelled. Otherwise such an annotation is rejected.
        categories: names of the categories that are of this dataset; annotations of others are skipped and counted.
        box_margin: annotations without ``bbox`` get a box around their labelled points, enlarged on every side by this
            share of its longer side. Otherwise they are rejected.
        zero_is_missing: labelled points at exactly (0, 0) are not labelled.
        first_pixel: what the centre of the first pixel is called, in both directions: 1 in files that count from 1.
        flags: ``labelled`` where 1 says that a point is labelled and nothing of whether it can be seen: read as 2.
        video_field: field of an image entry that names its video.
        frame_field: field of an image entry with its number in the video.
        subject_field: field of an annotation that names the subject.
    """

    image_extras: tuple[str, ...] = ()
    instance_extras: tuple[str, ...] = ()
    boxes_alone: bool = False
    categories: tuple[str, ...] | None = Field(default=None, min_length=1)
    box_margin: float | None = Field(default=None, ge=0, le=10)
    zero_is_missing: bool = False
    first_pixel: Literal[0, 1] = 0
    flags: Literal["coco", "labelled"] = "coco"
    video_field: str = "video_id"
    frame_field: str = "frame_id"
    subject_field: str = "subject_id"

    def points(self, given: FloatArray) -> FloatArray:
        """(K, 3) x, y, COCO flag as everything else here means them."""
        points = given.copy()
        labelled: NDArray[np.bool_] = points[:, 2] > 0
        if self.zero_is_missing:
            labelled &= (points[:, :2] != 0).any(axis=1)
        points[labelled, :2] -= self.first_pixel
        if self.flags == "labelled":
            points[labelled, 2] = 2
        points[~labelled] = 0
        return points
