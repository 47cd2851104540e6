"""The official JSON files: COCO results lists, written and read, and lists of detected boxes.

An image id of digits is a JSON number, as COCO wants it; any other stays text.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import orjson
from jaxtyping import Float, Int
from numpy.typing import NDArray

from posecore.counting import counted
from posecore.errors import EvaluationError
from posecore.evaluation.arrays import Predictions
from posecore.evaluation.wholebody import PARTS
from posecore.geometry import beyond_reach, boxes_beyond_reach
from posecore.schema import Json
from posecore.skeletons.skeleton import Skeleton
from posecore.storage import AnyPath

_OTHER_FORMS = (KeyError, TypeError, ValueError, OverflowError)
PART_FIELDS: Mapping[str, str] = {
    "body": "keypoints",
    "foot": "foot_kpts",
    "face": "face_kpts",
    "lefthand": "lefthand_kpts",
    "righthand": "righthand_kpts",
}
"""Official part name → the field of COCO-WholeBody's results that holds its points, in the skeleton's order."""


@dataclass(frozen=True, kw_only=True, eq=False)
class DetectedBoxes:
    """Boxes a detector found, in the order of its file.

    Attributes:
        image_ids: B source ids of the images, one per box.
        bbox_xywh: (B, 4) in image pixels.
        scores: (B,) confidence.
        category_id: (B,) class numbers.
    """

    image_ids: tuple[str, ...]
    bbox_xywh: Float[np.ndarray, "B 4"]
    scores: Float[np.ndarray, " B"]
    category_id: Int[np.ndarray, " B"]

    def check(self, image_size: Int[np.ndarray, "B 2"], where: str) -> None:
        """Returns if every box can be one on its image.

        Args:
            image_size: (height, width) of each box's image in pixels, 0 where not known.
            where: what the message names first.

        Raises:
            EvaluationError: a box has a negative side, a number is not finite, or a box is too far from its image.
        """
        for bad, problem in (
            (boxes_beyond_reach(self.bbox_xywh, image_size), "is not finite, or far beyond its image"),
            ((self.bbox_xywh[:, 2:] < 0).any(axis=1), "has a negative side"),
            (~np.isfinite(self.scores), "has a score that is not finite"),
        ):
            if bad.any():
                row = int(bad.argmax())
                shown = ", ".join(f"{value:g}" for value in self.bbox_xywh[row])
                raise EvaluationError(
                    f"{where}: box {row} ({shown}), on image {self.image_ids[row]!r:.80}, {problem}; boxes are x, y, "
                    "width, height in pixels of their image."
                )


def coco_results(predictions: Predictions, parts_of: Skeleton | None = None) -> list[dict[str, Json]]:
    """A COCO results list: image_id, category_id, keypoints as x, y, confidence, score.

    Args:
        predictions: what to write.
        parts_of: a whole-body skeleton, to write COCO-WholeBody's part arrays (``foot_kpts`` …) and part scores instead
            of one long list.
    """
    triplets = np.concatenate([predictions.keypoints, predictions.keypoint_scores[..., None]], axis=2)
    if parts_of is None:
        columns: dict[str, NDArray[np.float64]] = {"keypoints": triplets}
    else:
        columns = {key: triplets[:, list(parts_of.indices_of_group(PARTS[part]))] for part, key in PART_FIELDS.items()}
    return [
        {
            "image_id": _official_id(predictions.image_ids[predictions.image_row[row]]),
            "category_id": int(predictions.category_id[row]),
            **{key: values[row].ravel().tolist() for key, values in columns.items()},
            "score": float(predictions.scores[row]),
            **{f"{part}_score": float(values[row]) for part, values in predictions.part_scores.items()},
        }
        for row in range(len(predictions))
    ]


def read_results(
    path: AnyPath,
    image_ids: Sequence[str],
    num_keypoints: int,
    image_size: Int[np.ndarray, "I 2"] | None = None,
) -> Predictions:
    """Predictions from a COCO results list, COCO-WholeBody's part arrays included.

    Args:
        path: the JSON file.
        image_ids: ids of the evaluation set; results on other images are refused.
        num_keypoints: K of the skeleton.
        image_size: (height, width) of every image in pixels, 0 where unknown; None if none is known.

    Raises:
        EvaluationError: the file is not such a list, an entry lacks a field, an image is not in the set, or a number is
            not finite or too far from the image to be pixels of it.
    """
    items = _read_list(path)
    row_of = {image_id: row for row, image_id in enumerate(image_ids)}
    image_row = np.empty(len(items), np.int64)
    triplets = np.empty((len(items), num_keypoints, 3))
    scores = np.empty(len(items))
    category_id = np.empty(len(items), np.int64)
    for index, item in enumerate(items):
        try:
            image_row[index] = row_of[str(item["image_id"])]
            flat = [value for key in PART_FIELDS.values() for value in item.get(key, ())]
            triplets[index] = np.asarray(flat, np.float64).reshape(num_keypoints, 3)
            scores[index] = item["score"]
            category_id[index] = item.get("category_id", 1)
        except _OTHER_FORMS as error:
            raise EvaluationError(
                f"{path}: entry {index} does not fit ({type(error).__name__}: {error}); expected an image_id of the "
                f"evaluated split, {counted(num_keypoints, 'keypoint')} as x, y, confidence, and a score."
            ) from None
    parts = [part for part in PARTS if items and all(f"{part}_score" in item for item in items)]
    try:
        part_scores = {part: np.array([item[f"{part}_score"] for item in items], np.float64) for part in parts}
    except _OTHER_FORMS as error:
        raise EvaluationError(f"{path}: the score of a part is no number ({error}).") from None
    sizes = np.zeros((len(items), 2), np.int64) if image_size is None else image_size[image_row]
    for bad, problem in (
        (~np.isfinite(np.stack([scores, *part_scores.values()], axis=1)), "has a score that is not finite"),
        (~np.isfinite(triplets[:, :, 2]), "has a keypoint whose confidence is not finite"),
        (
            beyond_reach(triplets[:, :, :2], sizes[:, None]),
            "has a keypoint that is not finite, or far beyond its image; keypoints are in pixels of their image",
        ),
    ):
        if bad.any():
            row = int(bad.any(axis=1).argmax())
            raise EvaluationError(f"{path}: entry {row}, on image {image_ids[image_row[row]]!r:.80}, {problem}.")
    return Predictions(
        image_ids=tuple(image_ids),
        image_row=image_row,
        instance_row=np.full(len(items), -1, np.int64),
        keypoints=triplets[:, :, :2],
        keypoint_scores=triplets[:, :, 2],
        scores=scores,
        category_id=category_id,
        crop_area=np.full(len(items), np.nan),
        part_scores=part_scores,
    )


def read_boxes(path: AnyPath, category_id: int | None = None) -> DetectedBoxes:
    """Boxes from a COCO-style detection list (image_id, category_id, bbox xywh, score).

    Args:
        path: the JSON file.
        category_id: keep this class only.

    Raises:
        EvaluationError: the file is not such a list, an entry lacks a field, or :meth:`DetectedBoxes.check` finds that
            a box is impossible on any image; it is asked again where the images are known.
    """
    items = _read_list(path)
    try:
        kept = [item for item in items if category_id is None or item["category_id"] == category_id]
        boxes = DetectedBoxes(
            image_ids=tuple(str(item["image_id"]) for item in kept),
            bbox_xywh=np.array([item["bbox"] for item in kept], np.float64).reshape(len(kept), 4),
            scores=np.array([item["score"] for item in kept], np.float64),
            category_id=np.array([item["category_id"] for item in kept], np.int64),
        )
    except _OTHER_FORMS as error:
        raise EvaluationError(
            f"{path}: an entry does not fit ({type(error).__name__}: {error}); expected image_id, category_id, bbox as "
            "x, y, w, h, and score."
        ) from None
    boxes.check(np.zeros((len(boxes.scores), 2), np.int64), str(path))
    return boxes


def _read_list(path: AnyPath) -> list[Mapping[str, Json]]:
    try:
        items = orjson.loads(path.read_bytes())
    except FileNotFoundError:
        raise EvaluationError(f"{path}: no such file.") from None
    except orjson.JSONDecodeError as error:
        raise EvaluationError(f"{path} is not readable as JSON ({error}).") from None
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise EvaluationError(f"{path}: expected a list of objects, the COCO results format.")
    return items


def _official_id(image_id: str) -> int | str:
    """A number where that loses nothing: ``000123`` stays text."""
    return int(image_id) if image_id.isdecimal() and str(int(image_id)) == image_id else image_id
