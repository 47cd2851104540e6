"""SyRIP: infants in COCO JSON, with a record of how each image came about."""

from typing import ClassVar

from posecore.formats.coco import CocoReader


class SyripReader(CocoReader):
    """Reads COCO's 17 points; keeps posture, origin and head box.

    The file's ``area`` is one constant for all of train200 and of validate500: the definition's ``area_rule`` must not
    be ``annotated``.
    """

    image_extras: ClassVar[tuple[str, ...]] = ("is_synthetic", "posture", "image_source", "original_file_name")
    instance_extras: ClassVar[tuple[str, ...]] = ("bbox_head",)
