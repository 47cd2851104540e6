"""PoseTrack18 and PoseTrack21: COCO-like JSON, one file per sequence, with head boxes, tracks and regions to ignore."""

from collections.abc import Iterator
from itertools import chain
from pathlib import PurePosixPath
from typing import ClassVar

import numpy as np

from posecore.config import Config, parse_config
from posecore.counting import counted
from posecore.errors import DatasetError
from posecore.formats.coco import CocoReader, JsonObject
from posecore.formats.coco_points import coco_flags, flat_keypoints
from posecore.formats.files import relative_path, source_file
from posecore.formats.json_lists import StoredList, chosen, open_json
from posecore.formats.reader import ReaderOfParts, Source
from posecore.formats.segmentations import check_polygon
from posecore.formats.values import Refusal, box_xywh, numbers, sequence
from posecore.schema import BoxXyxy, FloatArray, Instance, Json, Record, Reject

_REGIONS = ("ignore_regions_x", "ignore_regions_y")


class PoseTrackOptions(Config):
    """``reader_options`` beside those of :class:`~posecore.formats.coco_options.CocoOptions`.

    Attributes:
        unlabelled: keep frames that nobody has labelled, without bodies: they show some all the same. Only some thirty
            frames of a training sequence are labelled; the others are counted and left out otherwise.
    """

    unlabelled: bool = False


class PoseTrackReader(ReaderOfParts, CocoReader):
    """Reads every sequence of a folder, or one file, such as mmpose's of a whole split.

    A point is labelled where it has a place, as poseval reads it: flag 0 at another place than (0, 0) is a hidden one.
    The file's folder is the video, the number of the file the frame (``frame_id`` is another name of the picture).
    A region to ignore becomes a crowd without points: nothing is trained on it, and detections in it are no mistake.
    ``bbox_head`` is the head box.
    """

    options: ClassVar[frozenset[str]] = CocoReader.options | frozenset(PoseTrackOptions.model_fields)

    image_extras: ClassVar[tuple[str, ...]] = _REGIONS

    def parts(self, source: Source) -> list[str]:
        """The sequences in the order of their names; one without a name where one file is given."""
        place = source_file(source, source.annotations)
        if not place.is_dir():
            return [""]
        names = sorted(path.name for path in place.glob("*.json"))
        if not names:
            raise DatasetError(f"{source.dataset} {source.split}: {place} holds no <sequence>.json.")
        return names

    def read_part(self, source: Source, part: str) -> Iterator[Record | Reject]:
        """Records of one sequence in its file's order."""
        own = {name: source.options[name] for name in PoseTrackOptions.model_fields if name in source.options}
        options = parse_config(own, PoseTrackOptions, origin=f"{source.dataset} {source.split}: reader_options")
        where = relative_path(source.annotations, part)
        with open_json(source, where, ("images", "annotations")) as document:
            if not options.unlabelled:
                document, num_left = _labelled(document)
                if num_left:
                    left = Refusal(
                        "unlabelled-frame", f"{counted(num_left, 'frame')} without labels (unlabelled: true)."
                    )
                    yield left.reject(source, f"{where} images", outcome="skipped")
            for item in self.read_document(document, source, where):
                if isinstance(item, Record):
                    yield from _take_regions(item, source, where)
                yield item

    def keypoints(self, annotation: JsonObject, record: Record, source: Source) -> FloatArray:
        """(K, 3) float32, COCO flags."""
        if "keypoints" not in annotation:  # PoseTrack21 has boxes of small persons
            return np.zeros((source.skeleton.num_keypoints, 3), np.float32)
        points = flat_keypoints(annotation, "keypoints", source.skeleton.num_keypoints)
        coco_flags(points)
        has_place = (points[:, :2] != 0).any(axis=1)
        flags = np.where(points[:, 2] > 0, 2.0, np.where(has_place, 1.0, 0.0))
        return coco_flags(np.column_stack([points[:, :2], flags]))

    def head_box(self, annotation: JsonObject) -> BoxXyxy | None:
        """``bbox_head``, x, y, w, h in the file."""
        if annotation.get("bbox_head") is None:
            return None
        x, y, width, height = numbers(annotation["bbox_head"], 4, "bbox_head")
        return (x, y, x + width, y + height) if width > 0 and height > 0 else None

    def locate(self, record: Record, image: JsonObject) -> None:
        """The folder is the video, the number of the file the frame."""
        path = PurePosixPath(record.image)
        record.video_id = path.parent.name or None
        record.frame_index = int(path.stem) if path.stem.isdecimal() and len(path.stem) < 10 else None


def _labelled(document: Json) -> tuple[Json, int]:
    """The document without frames that say that they are not labelled and have no annotation, and how many those are.

    Whatever is malformed stays, to be refused with its reason.
    """
    if not isinstance(document, dict):
        return document, 0
    images, annotations = document.get("images"), document.get("annotations")
    if not isinstance(images, list | StoredList) or not isinstance(annotations, list | StoredList):
        return document, 0
    shown = {str(annotation.get("image_id")) for annotation in annotations if isinstance(annotation, dict)}
    kept = [
        row
        for row, image in enumerate(images)
        if not isinstance(image, dict) or image.get("is_labeled") is not False or str(image.get("id")) in shown
    ]
    return {**document, "images": chosen(images, kept, lambda image: image)}, len(images) - len(kept)


def _take_regions(record: Record, source: Source, where: str) -> Iterator[Reject]:
    """Makes crowds of the regions to ignore that a record has among its extras."""
    columns = [record.extras.pop(name, ()) for name in _REGIONS]
    place = f"{where} image {record.source_id}"
    try:
        pairs = list(
            zip(*(sequence(column, name) for name, column in zip(_REGIONS, columns, strict=True)), strict=True)
        )
    except (Refusal, ValueError):
        broken = Refusal("bad-segmentation", f"{' and '.join(_REGIONS)} are not lists of the same length.")
        yield broken.reject(source, place, record.source_id, outcome="kept")
        return
    for number, (xs, ys) in enumerate(pairs):
        name = f"{record.source_id}:ignore{number}"
        try:
            record.instances.append(_region(xs, ys, name, source))
        except Refusal as refusal:
            yield refusal.reject(source, f"{place} region {number}", record.source_id, name)


def _region(xs: Json, ys: Json, name: str, source: Source) -> Instance:
    count = len(sequence(xs, _REGIONS[0]))
    x, y = numbers(xs, count, _REGIONS[0]), numbers(ys, count, _REGIONS[1])
    polygon = list(chain.from_iterable(zip(x, y, strict=True)))
    check_polygon(polygon)
    bbox = box_xywh(min(x), min(y), max(x) - min(x), max(y) - min(y))
    return Instance(
        id=name,
        bbox_xywh=bbox,
        keypoints=np.zeros((source.skeleton.num_keypoints, 3), np.float32),
        area=bbox[2] * bbox[3],
        area_rule="box",
        is_crowd=True,
        num_keypoints=0,
        segmentation=[polygon],
    )
