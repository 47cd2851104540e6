"""AP-10K: COCO JSON with 54 species."""

from typing import ClassVar

from posecore.formats.coco import CocoReader


class Ap10kReader(CocoReader):
    """Reads 17 animal points; keeps the species as category and the kind of ``background``."""

    image_extras: ClassVar[tuple[str, ...]] = ("background",)
