"""APT-36K: animal videos in one COCO-like JSON, with absolute Windows paths and no official split."""

import hashlib
from collections.abc import Iterator
from typing import ClassVar

from posecore.errors import DatasetError
from posecore.formats.coco import CocoReader, JsonObject, identifier
from posecore.formats.files import relative_path
from posecore.formats.json_lists import StoredList, chosen, open_json
from posecore.formats.reader import Source
from posecore.formats.values import Refusal, mapping, text
from posecore.schema import Json, Record, Reject

_PART_BOUNDS = {"train": (0.0, 0.7), "val": (0.7, 0.8), "test": (0.8, 1.0)}


class Apt36kReader(CocoReader):
    """Reads ``apt36k_annotations.json``.

    The last three parts of a file name (species, clip, frame) are the path below the image folder; crowds are marked
    ``is_crowd``; licences stand under ``license``. Neighbouring frames are near-duplicates, so a split must keep a clip
    together: a clip's place in [0, 1) is the SHA-256 of ``species/clip``, and train, val and test are its first 70 %,
    the next 10 % and the rest. This split is ours (published results use splits that were never released).

    Options:
        part: ``train``, ``val`` or ``test``; everything if not stated.
        renamed_clips: clip folder in the JSON → clip folder on disk, for names that the archive spells differently.
    """

    options: ClassVar[frozenset[str]] = CocoReader.options | frozenset({"part", "renamed_clips"})

    def read(self, source: Source) -> Iterator[Record | Reject]:
        """See :class:`~posecore.formats.reader.Reader`."""
        part = source.options.get("part")
        if part is not None and part not in _PART_BOUNDS:
            raise DatasetError(f"{source.dataset}: reader option part is {part!r}; it may be train, val or test.")
        with open_json(source, source.annotations, ("images", "annotations")) as document:
            coco = _as_coco(document, part) if isinstance(document, dict) else document
            yield from self.read_document(coco, source, source.annotations)

    def image_path(self, image: JsonObject, source: Source) -> str:
        """Species, clip and frame below the image folder."""
        species, clip, frame = _place(image)
        renamed = mapping(source.options.get("renamed_clips", {}), "reader option renamed_clips")
        return relative_path(source.images, species, str(renamed.get(clip, clip)), frame)

    def locate(self, record: Record, image: JsonObject) -> None:
        """The clip is the video."""
        super().locate(record, image)
        species, clip, _ = _place(image)
        record.video_id = f"{species}/{clip}"
        if image.get("video_id") is not None:
            record.extras["video_id"] = identifier(image["video_id"], "video_id")


def part_of_clip(species: str, clip: str) -> str:
    """``train``, ``val`` or ``test``: a function of the clip's name alone."""
    digest = hashlib.sha256(f"{species}/{clip}".encode()).digest()
    place = int.from_bytes(digest[:6]) / 2**48
    return next(part for part, (low, high) in _PART_BOUNDS.items() if low <= place < high)


def _place(image: JsonObject) -> tuple[str, str, str]:
    pieces = [piece for piece in text(image.get("file_name"), "file_name").replace("\\", "/").split("/") if piece]
    if len(pieces) < 3:
        raise Refusal("path-escape", f"file_name {image['file_name']!r:.80} has no species, clip and frame.")
    return pieces[-3], pieces[-2], pieces[-1]


def _as_coco(document: JsonObject, part: Json) -> dict[str, Json]:
    """The document with COCO's keys, and only the images of the part with their annotations."""
    coco = {**document, "licenses": document.get("license", [])}
    images, annotations = document.get("images"), document.get("annotations")
    if not isinstance(images, list | StoredList) or not isinstance(annotations, list | StoredList):
        return coco
    left_out = {_id_text(image) for image in images if part is not None and not _belongs(image, part)}
    wanted = [row for row, image in enumerate(images) if _id_text(image) not in left_out]
    of_wanted = [
        row
        for row, annotation in enumerate(annotations)
        if not (isinstance(annotation, dict) and str(annotation.get("image_id")) in left_out)
    ]
    coco["images"] = chosen(images, wanted, lambda image: image)
    coco["annotations"] = chosen(annotations, of_wanted, _with_crowd_flag)
    return coco


def _with_crowd_flag(annotation: Json) -> Json:
    if not isinstance(annotation, dict):
        return annotation
    return {**annotation, "iscrowd": annotation.get("is_crowd", annotation.get("iscrowd", 0))}


def _belongs(image: Json, part: Json) -> bool:
    """Whether an image is of the part; one without a readable place stays, to be rejected with its reason."""
    try:
        species, clip, _ = _place(mapping(image, "an image entry"))
    except Refusal:
        return True
    return part_of_clip(species, clip) == part


def _id_text(image: Json) -> str:
    return str(image.get("id")) if isinstance(image, dict) else ""
