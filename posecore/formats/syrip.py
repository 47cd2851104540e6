"""SyRIP: infants in COCO JSON, with a record of how each image came about."""

import re
from collections.abc import Iterator
from typing import ClassVar

from posecore.formats.coco import CocoReader, JsonObject
from posecore.formats.files import read_json
from posecore.formats.reader import Source
from posecore.formats.values import mapping, sequence
from posecore.schema import Json, Record, Reject

_PREFIX = re.compile(r"^(?:https?://)?(?:www\.)?")
"""Written before some addresses and not before others."""


class SyripReader(CocoReader):
    """Reads COCO's 17 points; keeps posture, origin and head box.

    The file's ``area`` is one constant for all of train200 and of validate500: the definition's ``area_rule`` must not
    be ``annotated``. Several pictures of one infant are stills of one film: the address in ``image_source`` is the
    ``video_id``, so that the audit finds films that two splits share.

    Options:
        other_films_than: an annotation file; only images whose origin is stated and is none of that file's are read.
    """

    options: ClassVar[frozenset[str]] = CocoReader.options | frozenset({"other_films_than"})

    image_extras: ClassVar[tuple[str, ...]] = ("is_synthetic", "posture", "image_source", "original_file_name")
    instance_extras: ClassVar[tuple[str, ...]] = ("bbox_head",)

    def read_document(self, document: Json, source: Source, where: str) -> Iterator[Record | Reject]:
        """See :class:`~posecore.formats.coco.CocoReader`."""
        found = super().read_document(document, source, where)
        if "other_films_than" not in source.options:
            yield from found
            return
        other = str(source.options["other_films_than"])
        images = sequence(mapping(read_json(source, other), other).get("images"), f"images of {other}")
        seen = {_origin(mapping(image, f"an image of {other}")) for image in images}
        for record in found:
            if isinstance(record, Reject) or (record.video_id is not None and record.video_id not in seen):
                yield record

    def locate(self, record: Record, image: JsonObject) -> None:
        """See :class:`~posecore.formats.coco.CocoReader`."""
        super().locate(record, image)
        record.video_id = record.video_id or _origin(image)


def _origin(image: JsonObject) -> str | None:
    """The page or film that an image was taken from, or None; rendered images are from none."""
    origin = image.get("image_source")
    if not isinstance(origin, str) or image.get("is_synthetic"):
        return None
    return _PREFIX.sub("", origin) or None
