"""CrowdPose: COCO-like JSON without areas, whose flags say "labelled" and no more."""

from typing import ClassVar

from posecore.formats.coco import CocoReader, JsonObject
from posecore.formats.coco_points import any_positive_flag, coco_flags, flat_keypoints
from posecore.formats.reader import Source
from posecore.formats.values import number
from posecore.schema import FloatArray, Record


class CrowdPoseReader(CocoReader):
    """Reads 14 points; keeps ``crowdIndex`` and the official ``num_keypoints``.

    The count leaves out head and neck, and the official evaluation ignores persons where it is 0, so it must not be
    recomputed. 1 and 2 do not mean occluded and visible (every head is 1): both become 2. The file's list of links
    points beyond the 14 points and is not read.
    """

    image_extras: ClassVar[tuple[str, ...]] = ("crowdIndex",)

    def locate(self, record: Record, image: JsonObject) -> None:
        """Refuses an image whose ``crowdIndex``, by which the protocol divides the images, is no number."""
        super().locate(record, image)
        if "crowdIndex" in image:
            number(image["crowdIndex"], "crowdIndex")

    def keypoint_names(self, category: JsonObject) -> tuple[str, ...]:
        """The file's names, its ``head`` under the usual name ``top_head``."""
        return tuple("top_head" if name == "head" else name for name in super().keypoint_names(category))

    def keypoints(self, annotation: JsonObject, record: Record, source: Source) -> FloatArray:
        """(14, 3) float32, flags 0 or 2."""
        points = flat_keypoints(annotation, "keypoints", source.skeleton.num_keypoints)
        coco_flags(points)
        return coco_flags(any_positive_flag(points))
