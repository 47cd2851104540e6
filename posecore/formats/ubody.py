"""UBody: COCO-WholeBody-like JSON, one file per scene, frames cut from videos."""

import io
from collections.abc import Callable, Iterator
from pathlib import PurePosixPath
from typing import ClassVar
from zipfile import BadZipFile

import numpy as np

from posecore.errors import DatasetError
from posecore.formats.coco import CocoReader, JsonObject
from posecore.formats.coco_points import any_positive_flag, coco_flags, flat_keypoints
from posecore.formats.coco_wholebody import BODY, part_keypoints
from posecore.formats.files import read_bytes, source_file
from posecore.formats.json_lists import StoredList, chosen, open_json
from posecore.formats.reader import ReaderOfParts, Source
from posecore.formats.values import integer, text
from posecore.schema import FloatArray, Json, Record, Reject

_PARTS = {
    "leftfoot_valid": slice(17, 20),
    "rightfoot_valid": slice(20, 23),
    "face_valid": slice(23, 91),
    "lefthand_valid": slice(91, 112),
    "righthand_valid": slice(112, 133),
}
"""Points that lose their label where a part is declared invalid."""


class UBodyReader(ReaderOfParts, CocoReader):
    """Reads every scene's ``keypoint_annotation.json`` below the annotation folder, or one given file.

    Options: ``video_list``, a ``.npy`` of video names, with ``videos`` ``listed`` or ``unlisted`` to keep those or the
    others; ``image_id_stride`` keeps images whose id in their scene's file is a multiple of n, as DWPose does;
    ``frame_stride`` keeps frames whose number in their video is. Ids run on from video to video, so the two choose
    different images. Ids collide between scenes and get the scene as a prefix.

    Parts whose ``*_valid`` is false are not labelled. A person with ``valid_label`` 0 keeps its box and loses its
    points. mmpose's 3-D file holds SMPL-X points, in another order, in ``keypoints``: the body is unlabelled there.
    ``num_keypoints`` counts nothing that is known and is not taken over.
    """

    options: ClassVar[frozenset[str]] = CocoReader.options | frozenset(
        {"video_list", "videos", "frame_stride", "image_id_stride"}
    )

    instance_extras: ClassVar[tuple[str, ...]] = (
        "valid_label",
        "person_id",
        "face_box",
        "lefthand_box",
        "righthand_box",
    )

    def parts(self, source: Source) -> list[str]:
        """The scenes in the order of their names; one without a name where one file is given."""
        place = source_file(source, source.annotations)
        if not place.is_dir():
            return [""]
        scenes = sorted(path.parent.name for path in place.glob("*/keypoint_annotation.json"))
        if not scenes:
            raise DatasetError(f"{source.dataset}: {place} holds no <Scene>/keypoint_annotation.json.")
        return scenes

    def read_part(self, source: Source, part: str) -> Iterator[Record | Reject]:
        """Records of one scene in its file's order."""
        keep = _frame_filter(source)
        where = f"{source.annotations}/{part}/keypoint_annotation.json" if part else source.annotations
        with open_json(source, where, ("images", "annotations")) as document:
            yield from self.read_document(_select(document, part, keep), source, where)

    def keypoint_names(self, category: JsonObject) -> tuple[str, ...]:
        """Nothing: a category names 17 points or none."""
        return ()

    def keypoints(self, annotation: JsonObject, record: Record, source: Source) -> FloatArray:
        """(133, 3) float32, flags 0 or 2."""
        body = np.zeros((BODY, 3))
        if not _is_3d(annotation):
            body = any_positive_flag(flat_keypoints(annotation, "keypoints", BODY))
        points = np.concatenate([body, part_keypoints(annotation)])
        for field, part in _PARTS.items():
            if not annotation.get(field, True):
                points[part] = 0
        if annotation.get("valid_label") == 0:
            points[:] = 0
        return coco_flags(points)

    def num_keypoints(self, annotation: JsonObject, source: Source) -> int | None:
        """Nothing."""
        return None

    def locate(self, record: Record, image: JsonObject) -> None:
        """The folder is the video, the number of the file the frame."""
        record.video_id, record.frame_index = _frame(record.image)


def _is_3d(annotation: JsonObject) -> bool:
    value = annotation.get("keypoints")
    return isinstance(value, list) and bool(value) and isinstance(value[0], list)


def _frame(path: str) -> tuple[str, int | None]:
    """Folder and frame number of an image path."""
    file = PurePosixPath(path)
    return str(file.parent), int(file.stem) if file.stem.isdecimal() else None


def _frame_filter(source: Source) -> Callable[[str, Json], bool]:
    """Whether an image belongs to the split, by its path and its id; an id that is no number is left to the reader."""
    frame_stride, id_stride = _stride(source, "frame_stride"), _stride(source, "image_id_stride")
    listed: frozenset[str] | None = None
    if "video_list" in source.options:
        name = text(source.options["video_list"], "option video_list")
        try:
            array = np.load(io.BytesIO(read_bytes(source, name)), allow_pickle=False)
            if not isinstance(array, np.ndarray):
                raise ValueError("it is an archive")
        except (ValueError, EOFError, MemoryError, BadZipFile) as error:
            raise DatasetError(f"{source.dataset}: {name} is not a plain .npy list of video names ({error}).") from None
        listed = frozenset(str(video) for video in array.ravel())
    wanted = _wants_listed(source)

    def keep(path: str, image_id: Json) -> bool:
        folder, frame = _frame(path)
        video = PurePosixPath(folder).name.partition("_Trim")[0]
        if listed is not None and (video in listed) != wanted:
            return False
        return (frame or 0) % frame_stride == 0 and (not isinstance(image_id, int) or image_id % id_stride == 0)

    return keep


def _stride(source: Source, option: str) -> int:
    stride = integer(source.options.get(option, 1), f"option {option}")
    if stride < 1:
        raise DatasetError(f"{source.dataset} {source.split}: option {option} must be 1 or more, not {stride}.")
    return stride


def _wants_listed(source: Source) -> bool:
    videos = source.options.get("videos", "listed")
    if videos not in ("listed", "unlisted"):
        raise DatasetError(
            f"{source.dataset} {source.split}: option videos must be listed or unlisted, not {videos!r:.60}."
        )
    return videos == "listed"


def _select(document: Json, scene: str, keep: Callable[[str, Json], bool]) -> Json:
    """The document without frames of other splits, ids and paths made unique by the scene; malformed parts stay."""
    if not isinstance(document, dict):
        return document
    images, annotations = document.get("images"), document.get("annotations")
    if not isinstance(images, (list, StoredList)) or not isinstance(annotations, (list, StoredList)):
        return document

    def named(image: Json) -> Json:
        if not isinstance(image, dict) or not isinstance(image.get("file_name"), str):
            return image
        name = image["file_name"].lstrip("/")
        inside = name if not scene or name.startswith(f"{scene}/") else f"{scene}/{name}"
        return {**image, "file_name": inside, "id": _prefixed(scene, image.get("id"))}

    def of_scene(annotation: Json) -> Json:
        if not isinstance(annotation, dict):
            return annotation
        return {**annotation, **{key: _prefixed(scene, annotation.get(key)) for key in ("id", "image_id")}}

    elsewhere: set[str] = set()
    kept = []
    for row, image in enumerate(images):
        stated = image if isinstance(image, dict) else {}
        name = stated.get("file_name")
        if isinstance(name, str) and not keep(name.lstrip("/"), stated.get("id")):
            elsewhere.add(str(stated.get("id")))
        else:
            kept.append(row)
    of_kept = [
        row
        for row, annotation in enumerate(annotations)
        if not isinstance(annotation, dict) or str(annotation.get("image_id")) not in elsewhere
    ]
    return {**document, "images": chosen(images, kept, named), "annotations": chosen(annotations, of_kept, of_scene)}


def _prefixed(scene: str, value: Json) -> Json:
    return f"{scene}/{value}" if scene and isinstance(value, int) else value
