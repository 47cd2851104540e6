"""Answers of other packages, as ``supervision.KeyPoints`` holds them, in the files that ``posecore predict`` writes.

RF-DETR's keypoint models return such objects, and ``supervision`` makes them of what Ultralytics, MediaPipe and others
return. With these files another model's answers are boxes, labels to correct or to learn from, and results to score.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import NDArray

from posecore.errors import PredictionError
from posecore.geometry import beyond_reach, boxes_around, boxes_beyond_reach
from posecore.models.uncertainty import PointUncertainty
from posecore.prediction.instances import ImagePrediction
from posecore.prediction.outputs import CocoResults, ImageList, PredictionTable
from posecore.prediction.predict_sources import ImageNumbers, keys_of_sources
from posecore.prediction.sources import absolute, find_sources, read_photo
from posecore.skeletons.skeleton import Skeleton

if TYPE_CHECKING:
    from posecore.prediction.box_files import BoxFile

_MISSING: Any = object()


class KeyPoints(Protocol):
    """What is read of ``supervision.KeyPoints``, since 0.29.

    Attributes:
        xy: (n, K, 2) in pixels of the picture, (0, 0) or not finite where there is no point, whatever its confidence.
        keypoint_confidence: (n, K), 0 where there is no point; None if nobody says.
        detection_confidence: (n,) of the bodies; None if nobody says.
        visible: (n, K), False where a point is not to be used; None if all are.
        data: ``xyxy`` (n, 4) boxes, ``covariance`` (n, K, 2, 2) px² and ``source_shape`` (n, 2) height and width of the
            picture, each where it is known.
    """

    xy: NDArray[Any]
    keypoint_confidence: NDArray[Any] | None
    detection_confidence: NDArray[Any] | None
    visible: NDArray[Any] | None
    data: Mapping[str, Any]


def bodies_of(answer: KeyPoints, skeleton: Skeleton, image_size: tuple[int, int], where: str) -> ImagePrediction:
    """The bodies of one picture; those without a single point, of classes that have none, are left out.

    Points that are not there are (0, 0) with score 0.

    Args:
        answer: of another package.
        skeleton: of its points, in its order.
        image_size: (height, width) of the picture.
        where: what errors call the picture.

    Raises:
        PredictionError: the points are not as many as the skeleton's, not of such a picture, or a score or a box is no
            number.
    """
    points = np.asarray(answer.xy, np.float64)
    count = len(points)
    if count and points.shape[1:] != (skeleton.num_keypoints, 2):
        raise PredictionError(
            f"{where}: the answer's points are {points.shape}, and {skeleton.name} has {skeleton.num_keypoints}; name "
            "the skeleton of the model that answered."
        )
    points = points.reshape(count, skeleton.num_keypoints, 2)
    there = _there(answer, points)
    scores = np.where(there, _known(answer.keypoint_confidence, np.ones(there.shape)), 0.0)
    of_bodies = _known(answer.detection_confidence, scores.mean(axis=1) if count else np.zeros(0))
    shown = np.unique(np.reshape(answer.data.get("source_shape", []), (-1, 2)), axis=0)
    if len(shown) and shown.tolist() != [list(image_size)]:
        raise PredictionError(
            f"{where} has (height, width) {image_size}, and the answer is of one of {tuple(shown[0].tolist())}; give "
            "pictures and answers in the same order."
        )
    far = beyond_reach(points, image_size)
    if (far & (scores > 0)).any() or not np.isfinite(scores).all():
        raise PredictionError(f"{where}: a point is far beyond the picture, or its confidence is not finite.")
    points = np.where((there & ~far)[..., None], points, 0.0)
    boxes, is_body = _boxes(answer, points, scores), np.asarray((scores > 0).any(axis=1))
    unusable = boxes_beyond_reach(boxes, image_size) | (boxes[:, 2:] < 0).any(axis=1) | ~np.isfinite(of_bodies)
    if (unusable & is_body).any():
        raise PredictionError(
            f"{where}: the box of body {int((unusable & is_body).argmax())} is not left, top, right, bottom in pixels "
            "of the picture, or its confidence is not finite."
        )
    covariances = answer.data.get("covariance")
    found = ImagePrediction(
        head=skeleton.name,
        keypoints=points,
        keypoint_scores=scores,
        scores=of_bodies,
        bbox_xywh=boxes,
        box_scores=of_bodies,
        box_rows=np.arange(count),
        points=skeleton.names,
        uncertainty=None if covariances is None else _said(covariances, scores),
    )
    return found.take(is_body)


def _there(answer: KeyPoints, points: Float[np.ndarray, "n k 2"]) -> Bool[np.ndarray, "n k"]:
    """Which points there are, by the rule of supervision's own boxes."""
    there = np.isfinite(points).all(axis=-1) & (points != 0).any(axis=-1)
    return there if answer.visible is None else there & np.asarray(answer.visible, bool).reshape(there.shape)


def _boxes(
    answer: KeyPoints, points: Float[np.ndarray, "n k 2"], scores: Float[np.ndarray, "n k"]
) -> Float[np.ndarray, "n 4"]:
    """x, y, width, height, where none was said of the points of each body."""
    corners = answer.data.get("xyxy")
    if corners is None:
        return boxes_around(points, scores > 0)
    low, high = np.split(np.asarray(corners, np.float64).reshape(len(points), 4), 2, axis=1)
    return np.concatenate([low, high - low], axis=1)


def _known(values: NDArray[Any] | None, instead: NDArray[np.float64]) -> NDArray[np.float64]:
    return instead if values is None else np.asarray(values, np.float64).reshape(instead.shape)


def _said(covariances: NDArray[Any], scores: Float[np.ndarray, "n k"]) -> PointUncertainty:
    each = np.asarray(covariances, np.float64).reshape(*scores.shape, 2, 2)
    return PointUncertainty.unproven(np.where((scores > 0)[..., None, None], each, np.nan))


def write_answers(
    out: Path,
    pictures: Sequence[Path],
    answers: Iterable[KeyPoints],
    skeleton: Skeleton,
    model: str,
    numbers: "BoxFile | None" = None,
) -> int:
    """Writes ``predictions.parquet``, ``coco_<skeleton>.json`` and ``images.json``.

    Args:
        out: folder, made if missing.
        pictures: files, each once.
        answers: one per picture, in the same order; taken one after the other.
        skeleton: of their points, in their order.
        model: who has answered.
        numbers: has an id for every picture; None takes numbers by which all are called, else counts from 1.

    Returns:
        How many bodies there are.

    Raises:
        PredictionError: a picture cannot be used or has no id, or an answer does not fit it.
    """
    sources = {source.path: source for source in find_sources([str(path) for path in pictures])}
    unknown = next((path for path in pictures if absolute(path) not in sources), None)
    if unknown is not None or len(sources) != len(pictures):
        raise PredictionError(f"{unknown or 'pictures'}: name every picture by its file, and each once.")
    names = [source.name for source in sources.values()]
    if numbers is not None:
        keys = keys_of_sources(numbers, list(sources.values()))
        without = next((name for name, key in keys.items() if key is None), None)
        if without is not None:
            raise PredictionError(f"{numbers.path} has no id for {without}; leave that picture out, or add it there.")
    images, number_of, bodies = ImageList(), ImageNumbers(numbers, names), 0
    with CocoResults.open(out, [skeleton.name]) as coco, PredictionTable.open(out) as table:
        for path, answer in zip_longest(pictures, answers, fillvalue=_MISSING):
            if path is _MISSING or answer is _MISSING:
                raise PredictionError(f"there are {'more' if path is _MISSING else 'fewer'} answers than pictures.")
            frame = read_photo(sources[absolute(path)])
            height, width = frame.image.shape[:2]
            found = bodies_of(answer, skeleton, (height, width), frame.name)
            number = number_of(frame)
            for sink in (images, coco, table):
                sink.write(frame, number, {skeleton.name: found})
            bodies += len(found)
    images.save(out, model, {skeleton.name: skeleton}, ())
    return bodies
