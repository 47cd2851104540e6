"""Human-Art: COCO JSON with 17 and 21 points side by side."""

from typing import ClassVar

from posecore.errors import DatasetError
from posecore.formats.coco import CocoReader, JsonObject
from posecore.formats.coco_points import coco_flags, flat_keypoints
from posecore.formats.reader import Source
from posecore.formats.values import integer
from posecore.schema import FloatArray, Record

_FIELDS = {17: ("keypoints", "num_keypoints"), 21: ("keypoints_21", "num_keypoints_21")}


class HumanArtReader(CocoReader):
    """Reads ``keypoints`` for a skeleton of 17 points and ``keypoints_21`` for one of 21."""

    image_extras: ClassVar[tuple[str, ...]] = ("category", "picture_name", "author", "image_url", "page_url")
    instance_extras: ClassVar[tuple[str, ...]] = ("self_contact", "annotator")

    def keypoint_names(self, category: JsonObject) -> tuple[str, ...]:
        """Nothing: the category lists 21 names whichever field is read."""
        return ()

    def keypoints(self, annotation: JsonObject, record: Record, source: Source) -> FloatArray:
        """(17 or 21, 3) float32, COCO flags."""
        return coco_flags(flat_keypoints(annotation, _fields(source)[0], source.skeleton.num_keypoints))

    def num_keypoints(self, annotation: JsonObject, source: Source) -> int | None:
        """The count that belongs to the field read."""
        field = _fields(source)[1]
        return integer(annotation.get(field), field)


def _fields(source: Source) -> tuple[str, str]:
    count = source.skeleton.num_keypoints
    if count not in _FIELDS:
        raise DatasetError(
            f"{source.dataset}: Human-Art has 17 or 21 points, not the {count} of {source.skeleton.name}."
        )
    return _FIELDS[count]
