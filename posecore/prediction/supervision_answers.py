"""Answers of other packages, as ``supervision.KeyPoints`` holds them, in the files that ``posecore predict`` writes.

RF-DETR's keypoint models return such objects, and ``supervision`` makes them of what Ultralytics, MediaPipe and others
return. With these files another model's answers are boxes, labels to correct or to learn from, and results to score.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from posecore.errors import PredictionError
from posecore.geometry import beyond_reach
from posecore.models.uncertainty import PointUncertainty
from posecore.prediction.instances import ImagePrediction
from posecore.prediction.outputs import CocoResults, ImageList, PredictionTable
from posecore.prediction.predict_sources import ImageNumbers
from posecore.prediction.sources import absolute, find_sources, read_photo
from posecore.skeletons.skeleton import Skeleton

if TYPE_CHECKING:
    from posecore.prediction.box_files import BoxFile

_MISSING: Any = object()


class KeyPoints(Protocol):
    """What is read of ``supervision.KeyPoints``, since 0.29.

    Attributes:
        xy: (n, K, 2) in pixels of the picture.
        keypoint_confidence: (n, K), 0 where there is no point; None if nobody says.
        detection_confidence: (n,) of the bodies; None if nobody says.
        data: ``xyxy`` (n, 4) boxes, ``covariance`` (n, K, 2, 2) px² and ``source_shape`` (n, 2) height and width of the
            picture, each where it is known.
    """

    xy: NDArray[Any]
    keypoint_confidence: NDArray[Any] | None
    detection_confidence: NDArray[Any] | None
    data: Mapping[str, Any]


def bodies_of(answer: KeyPoints, skeleton: Skeleton, image_size: tuple[int, int], where: str) -> ImagePrediction:
    """The bodies of one picture; those without a single point, of classes that have none, are left out.

    Args:
        answer: of another package.
        skeleton: of its points, in its order.
        image_size: (height, width) of the picture.
        where: what errors call the picture.

    Raises:
        PredictionError: the points are not as many as the skeleton's, not of such a picture, or no numbers.
    """
    points = np.asarray(answer.xy, np.float64)
    count = len(points)
    if count and points.shape[1:] != (skeleton.num_keypoints, 2):
        raise PredictionError(
            f"{where}: the answer's points are {points.shape}, and {skeleton.name} has {skeleton.num_keypoints}; name "
            "the skeleton of the model that answered."
        )
    points = points.reshape(count, skeleton.num_keypoints, 2)
    scores = _known(answer.keypoint_confidence, np.ones(points.shape[:2]))
    of_bodies = _known(answer.detection_confidence, scores.mean(axis=1) if count else np.zeros(0))
    shown = np.unique(np.reshape(answer.data.get("source_shape", []), (-1, 2)), axis=0)
    if len(shown) and shown.tolist() != [list(image_size)]:
        raise PredictionError(
            f"{where} has (height, width) {image_size}, and the answer is of one of {tuple(shown[0].tolist())}; give "
            "pictures and answers in the same order."
        )
    if (beyond_reach(points, image_size) & (scores > 0)).any() or not np.isfinite(scores).all():
        raise PredictionError(f"{where}: a point or its confidence is not finite, or far beyond the picture.")
    known = (scores > 0)[..., None]
    corners = answer.data.get("xyxy")
    if corners is None:
        low, high = (
            edge(np.where(known, points, none), axis=1) for edge, none in ((np.min, np.inf), (np.max, -np.inf))
        )
    else:
        low, high = np.split(np.asarray(corners, np.float64).reshape(count, 4), 2, axis=1)
    covariances = answer.data.get("covariance")
    found = ImagePrediction(
        head=skeleton.name,
        keypoints=points,
        keypoint_scores=scores,
        scores=of_bodies,
        bbox_xywh=np.concatenate([low, high - low], axis=1),
        box_scores=of_bodies,
        box_rows=np.arange(count),
        points=skeleton.names,
        uncertainty=None if covariances is None else _said(covariances, points),
    )
    return found.take(np.asarray(known.any(axis=(1, 2))))


def _known(values: NDArray[Any] | None, instead: NDArray[np.float64]) -> NDArray[np.float64]:
    return instead if values is None else np.asarray(values, np.float64).reshape(instead.shape)


def _said(covariances: NDArray[Any], points: Float[np.ndarray, "n k 2"]) -> PointUncertainty:
    return PointUncertainty.unproven(np.asarray(covariances, np.float64).reshape(*points.shape, 2))


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
        numbers: says the pictures' ids; None takes numbers by which all are called, else counts from 1.

    Returns:
        How many bodies there are.

    Raises:
        PredictionError: a picture cannot be used, or an answer does not fit it.
    """
    sources = {source.path: source for source in find_sources([str(path) for path in pictures])}
    unknown = next((path for path in pictures if absolute(path) not in sources), None)
    if unknown is not None or len(sources) != len(pictures):
        raise PredictionError(f"{unknown or 'pictures'}: name every picture by its file, and each once.")
    names = [source.name for source in sources.values()]
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
