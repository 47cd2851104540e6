"""Annotations of the COCO family and of AI Challenger as published, in float64 and with nothing left out that counts.

Readers of datasets refuse what cannot be trained on; an official evaluation counts it all the same. So what is read
here is what the official code reads: an annotation without an image is passed over, any other is part of the score.
"""

from array import array
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from posecore.counting import counted
from posecore.errors import EvaluationError
from posecore.evaluation.arrays import GroundTruth
from posecore.evaluation.traits import Traits
from posecore.formats.coco_wholebody import PARTS
from posecore.formats.json_lists import WHOLE, open_json
from posecore.formats.reader import Source
from posecore.formats.values import Refusal
from posecore.schema import Json
from posecore.scoring.truth import Truth
from posecore.skeletons.skeleton import Keypoint, Skeleton
from posecore.storage import AnyPath

JsonObject: TypeAlias = Mapping[str, Json]

_VIDEO_FIELDS = ("video_id", "vid_id")
_STREAMED_FROM_BYTES = 8 << 20
_OTHER_FORMS = (KeyError, TypeError, ValueError, OverflowError)


def skeleton_of_file(path: AnyPath) -> Skeleton:
    """The points that the first category with points lists; none of them has an OKS constant.

    Args:
        path: the file, or a folder of one per sequence.

    Raises:
        EvaluationError: no category lists points, or a name comes twice.
    """
    with _document(_files(path)[0], ("images", "annotations")) as document:
        categories = document.get("categories") if isinstance(document, dict) else None
    for category in categories if isinstance(categories, list) else ():
        names = category.get("keypoints") if isinstance(category, dict) else None
        if isinstance(names, list) and names:
            points = tuple(Keypoint(name=str(name), union=str(name)) for name in names)
            try:
                return Skeleton(name=path.stem, keypoints=points)
            except ValueError as error:
                raise EvaluationError(f"{path}: the points of its category cannot be a skeleton ({error}).") from None
    raise EvaluationError(f"{path}: no category lists keypoints, so their names are not known; name a --skeleton.")


def read_coco_truth(path: AnyPath, skeleton: Skeleton, *, wholebody: bool = False, heads: bool = False) -> Truth:
    """``images`` and ``annotations`` of a COCO keypoint file.

    Args:
        path: the JSON file; with ``heads`` also a folder of one per sequence.
        skeleton: names its points.
        wholebody: the points are those of ``keypoints`` and of COCO-WholeBody's part fields.
        heads: annotations have PoseTrack18's ``bbox_head``, pictures its regions to ignore, and a point is labelled
            where it has a place.

    Raises:
        EvaluationError: the file is not such a file, or an entry lacks a field that its evaluation reads.
    """
    table = _Table(skeleton)
    for file in _files(path) if heads else [path]:
        with _document(file, ("images", "annotations")) as document:
            if not isinstance(document, dict) or "images" not in document or "annotations" not in document:
                raise EvaluationError(f"{file}: no images and annotations; this is not a COCO keypoint file.")
            _refuse_other_points(document.get("categories"), skeleton, str(file), body_only=wholebody)
            for index, image in enumerate(document["images"]):
                with _place(file, "images", index):
                    table.add_image(
                        str(image["id"]),
                        (int(image.get("height") or 0), int(image.get("width") or 0)),
                        str(image.get("file_name", "")),
                        float(image.get("crowdIndex", np.nan)),
                        next((str(image[name]) for name in _VIDEO_FIELDS if image.get(name) is not None), None),
                        _regions(image) if heads else (),
                    )
            for index, annotation in enumerate(document["annotations"]):
                with _place(file, "annotations", index):
                    points = _wholebody(annotation) if wholebody else annotation.get("keypoints") or ()
                    head = None
                    if heads:
                        points = _placed(points)
                        head = annotation["bbox_head"] if any(points[2::3]) else annotation.get("bbox_head")
                    table.add(str(annotation["image_id"]), annotation, points, head)
    return table.truth(str(path))


def _files(path: AnyPath) -> list[AnyPath]:
    """The file, or those of a folder of one per sequence."""
    if not path.is_dir():
        return [path]
    files = sorted(path.glob("*.json"), key=str)
    if not files:
        raise EvaluationError(f"{path} holds no <sequence>.json.")
    return files


def _regions(image: JsonObject) -> list[NDArray[np.float64]]:
    """(P, 2) corners of each region to ignore."""
    columns = [image.get(f"ignore_regions_{axis}") or [] for axis in "xy"]
    return [np.column_stack([np.array(x, np.float64), np.array(y, np.float64)]) for x, y in zip(*columns, strict=True)]


def _placed(points: Sequence[float]) -> list[float]:
    """Flat x, y, flag where flag 0 at a place other than (0, 0) is that of a hidden point, as poseval reads it."""
    rows = np.array(points, np.float64).reshape(-1, 3)
    hidden = (rows[:, 2] == 0) & (rows[:, :2] != 0).any(axis=1)
    rows[hidden, 2] = 1
    flat: list[float] = rows.ravel().tolist()
    return flat


def read_aic_truth(path: AnyPath, skeleton: Skeleton) -> Truth:
    """AI Challenger's list of images with ``human_annotations`` and ``keypoint_annotations``.

    Raises:
        EvaluationError: the file is not such a list.
    """
    table = _Table(skeleton)
    with _document(path, (WHOLE,)) as entries:
        if isinstance(entries, dict):
            raise EvaluationError(f"{path}: expected AI Challenger's list with an entry per image.")
        for index, entry in enumerate(entries):
            with _place(path, "", index):
                image_id = str(entry["image_id"])
                table.add_image(image_id, (0, 0), f"{image_id}.jpg", np.nan, None)
                for name, points in entry["keypoint_annotations"].items():
                    x1, y1, x2, y2 = entry["human_annotations"][name]
                    flags = {1: 2, 2: 1, 3: 0}
                    flat = [flags[int(value)] if place % 3 == 2 else value for place, value in enumerate(points)]
                    body = {"id": f"{image_id}_{name}", "bbox": [x1, y1, x2 - x1, y2 - y1]}
                    table.add(image_id, body, flat)
    return table.truth(str(path))


class _Table:
    """Columns that grow by an annotation at a time."""

    def __init__(self, skeleton: Skeleton) -> None:
        self._skeleton = skeleton
        self._image_of: dict[str, int] = {}
        self._sizes: list[tuple[int, int]] = []
        self._files: list[str] = []
        self._crowd_index: list[float] = []
        self._videos: list[str | None] = []
        self._ids: list[str] = []
        self._subjects: list[str | None] = []
        self._numbers = {name: array("d") for name in ("image", "area", "category", "crowd", "count")}
        self._points, self._boxes, self._heads = array("d"), array("d"), array("d")
        self._left_out: dict[str, int] = {}
        self._ignored: dict[int, Sequence[NDArray[np.float64]]] = {}

    def add_image(
        self,
        image_id: str,
        size: tuple[int, int],
        file: str,
        crowd_index: float,
        video: str | None,
        regions: Sequence[NDArray[np.float64]] = (),
    ) -> None:
        if image_id in self._image_of:
            raise ValueError(f"image {image_id!r} came before")
        if regions:
            self._ignored[len(self._sizes)] = regions
        self._image_of[image_id] = len(self._sizes)
        self._sizes.append(size)
        self._files.append(file)
        self._crowd_index.append(crowd_index)
        self._videos.append(video)

    def add(
        self, image_id: str, annotation: JsonObject, points: Sequence[float], head: Sequence[float] | None = None
    ) -> None:
        row = self._image_of.get(image_id)
        if row is None:
            self._left_out["annotations without an image"] = self._left_out.get("annotations without an image", 0) + 1
            return
        wanted = 3 * self._skeleton.num_keypoints
        if len(points) not in (0, wanted):
            raise ValueError(f"{counted(len(points), 'number')} for {counted(self._skeleton.num_keypoints, 'point')}")
        box = annotation.get("bbox") or (0.0, 0.0, 0.0, 0.0)
        if len(box) != 4:
            raise ValueError(f"a box of {counted(len(box), 'number')}")
        self._points.extend(points or [0.0] * wanted)
        self._boxes.extend(box)
        x, y, width, height = head or (np.nan,) * 4
        self._heads.extend((x, y, x + width, y + height))
        self._ids.append(str(annotation.get("id", len(self._ids))))
        subject = annotation.get("subject_id")
        self._subjects.append(None if subject is None else str(subject))
        stated = annotation.get("num_keypoints")
        for name, value in (
            ("image", row),
            ("area", annotation.get("area", np.nan)),
            ("category", annotation.get("category_id", 1)),
            ("crowd", bool(annotation.get("iscrowd", False))),
            ("count", sum(flag > 0 for flag in points[2::3]) if stated is None else stated),
        ):
            self._numbers[name].append(value)

    def truth(self, origin: str) -> Truth:
        num_keypoints = self._skeleton.num_keypoints
        points = np.frombuffer(self._points).reshape(-1, num_keypoints, 3)
        flags = points[:, :, 2]
        # A flag may be a score that a detector left: whatever is above 0 is labelled.
        visibility = np.where(flags > 0, np.where(flags == 1, 1, 2), 0).astype(np.uint8)
        if not np.isfinite(points[visibility > 0]).all():
            raise EvaluationError(f"{origin}: a labelled point is not a finite number.")
        image_row = np.array(self._numbers["image"]).astype(np.int64)
        ids = tuple(self._image_of)
        arrays = GroundTruth(
            image_ids=ids,
            image_size=np.array(self._sizes, np.int64).reshape(-1, 2),
            crowd_index=np.array(self._crowd_index, np.float64),
            instance_ids=tuple(self._ids),
            image_row=image_row,
            keypoints=points[:, :, :2],
            visibility=visibility,
            bbox_xywh=np.array(self._boxes, np.float64).reshape(-1, 4),
            area=np.array(self._numbers["area"]),
            category_id=np.array(self._numbers["category"]).astype(np.int64),
            is_crowd=np.array(self._numbers["crowd"]) > 0,
            num_keypoints=np.array(self._numbers["count"]).astype(np.int64),
            head_bbox_xyxy=np.array(self._heads, np.float64).reshape(-1, 4),
        )
        nothing = (None,) * len(image_row)
        traits = Traits(
            subject=tuple(self._subjects),
            video=tuple(self._videos[row] for row in image_row.tolist()),
            view=nothing,
            posture=nothing,
            image=tuple(ids[row] for row in image_row.tolist()),
        )
        return Truth(
            origin=origin,
            arrays=arrays,
            traits=traits,
            files=tuple(self._files),
            skeleton=self._skeleton,
            left_out=self._left_out,
            ignored=self._ignored,
        )


@contextmanager
def _document(path: AnyPath, lists: tuple[str, ...]) -> Iterator[Json]:
    source = Source(
        dataset="truth",
        split="annotations",
        root=path.parent,
        annotations=path.name,
        images="",
        skeleton=Skeleton(name="none", keypoints=()),
        area_rule="annotated",
    )
    if not path.exists():
        raise EvaluationError(f"{path}: no such file.")
    try:
        with open_json(source, path.name, lists, _STREAMED_FROM_BYTES) as document:
            yield document
    except Refusal as refusal:
        raise EvaluationError(f"{path}: {refusal.detail}") from None


@contextmanager
def _place(path: AnyPath, name: str, index: int) -> Iterator[None]:
    try:
        yield
    except _OTHER_FORMS as error:
        raise EvaluationError(
            f"{path} {name}[{index}] does not fit ({type(error).__name__}: {error}); these are not the annotations "
            "of this protocol, or of another skeleton."
        ) from None


def _wholebody(annotation: JsonObject) -> list[float]:
    """Feet, face and hands after the body; none of them where the annotation has none, as crowds have."""
    parts = [annotation.get(name) or [0.0] * (3 * count) for name, count in PARTS.items()]
    return list(chain(annotation["keypoints"], *parts))


def _refuse_other_points(categories: Json, skeleton: Skeleton, origin: str, *, body_only: bool) -> None:
    for category in categories if isinstance(categories, list) else ():
        listed = category.get("keypoints") if isinstance(category, dict) else None
        if not isinstance(listed, list) or body_only or len(listed) == skeleton.num_keypoints:
            continue
        raise EvaluationError(
            f"{origin}: category {category.get('name')!r} has {counted(len(listed), 'point')}, skeleton "
            f"{skeleton.name} has {skeleton.num_keypoints}; name the skeleton of the file: --skeleton NAME, or "
            "--dataset NAME."
        )
