"""Single bodies, enlarged: as they are annotated, and beside that as models see them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from posecore.errors import IntegrityError
from posecore.evaluation.arrays import GroundTruth, Predictions
from posecore.evaluation.keypoint_errors import answered_distances, relative_distances
from posecore.evaluation.pairing import Distances
from posecore.schema import Instance
from posecore.shards.store import ShardStore
from posecore.skeletons.skeleton import Skeleton
from posecore.viz.overlay import draw_instances

_PANEL_PX = 288
WEAK = 0.3
"""Points of which a model is less sure are drawn pale."""
_MARGIN = 0.2  # of the longer side of box and points, so that what surrounds the body is seen


@dataclass(frozen=True, kw_only=True, eq=False)
class ShownBody:
    """One instance as annotated and as predicted.

    Attributes:
        picture_rgb: (H, W, 3) uint8, annotation on the left, prediction on the right.
        caption: what it is and how wrong, plain text.
    """

    picture_rgb: NDArray[np.uint8]
    caption: str


def worst_cases(
    store: ShardStore, skeleton: Skeleton, truth: GroundTruth, predictions: Predictions, count: int = 12
) -> list[ShownBody]:
    """The instances with the largest mean error relative to their box, annotation and prediction side by side.

    Args:
        store: the evaluated split.
        skeleton: names and links.
        truth: the annotations of the whole store, in its order.
        predictions: what the model said.
        count: at most so many.

    Raises:
        IntegrityError: an image of the store does not decode.
    """
    distances = answered_distances(truth, predictions)
    worst = np.argsort(-_errors(truth, distances), kind="stable")[:count]
    return _cases(store, skeleton, truth, predictions, distances, worst)


def sample_cases(
    store: ShardStore, skeleton: Skeleton, truth: GroundTruth, predictions: Predictions, count: int
) -> list[ShownBody]:
    """Some instances from the whole of a split, the same ones of every model that answers them all.

    Takes and raises what :func:`worst_cases` does.
    """
    distances = answered_distances(truth, predictions)
    answered = len(distances.truth_row)
    some = np.unique(np.linspace(0, answered - 1, min(count, answered)).round().astype(np.int64))
    return _cases(store, skeleton, truth, predictions, distances, some)


def side_by_side(
    store: ShardStore,
    skeleton: Skeleton,
    truth: GroundTruth,
    answers: Sequence[Predictions],
    row: int,
    remark: str,
) -> ShownBody:
    """One body as it is annotated and as several models see it, from left to right.

    Args:
        store: the split.
        skeleton: names and links.
        truth: the annotations of the whole store, in its order.
        answers: of each model, on annotated boxes.
        row: of the body in ``truth``.
        remark: to be said of it.

    Raises:
        IntegrityError: an image of the store does not decode.
    """
    places = [int(np.flatnonzero(each.instance_row == row)[0]) for each in answers]
    found = [(each.keypoints[place], each.keypoint_scores[place]) for each, place in zip(answers, places, strict=True)]
    image_row = int(truth.image_row[row])
    return ShownBody(
        picture_rgb=draw_body(store, skeleton, truth, row, found),
        caption=f"image {truth.image_ids[image_row]}, instance {truth.instance_ids[row]}: {remark}",
    )


def draw_body(
    store: ShardStore,
    skeleton: Skeleton,
    truth: GroundTruth,
    row: int,
    answers: Sequence[tuple[NDArray[np.float64], NDArray[np.float64]] | None],
    size_px: int = _PANEL_PX,
) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 RGB: one body as annotated and, to the right of that, as each model sees the same points.

    Args:
        store: the split.
        skeleton: names and links.
        truth: the annotations of the whole store, in its order.
        row: of the body in ``truth``.
        answers: (K, 2) points in image pixels and (K,) confidence of each model, or None where it has none; points of
            which it is not sure are pale.
        size_px: longer side of each part.

    Raises:
        IntegrityError: the image does not decode.
    """
    labelled = truth.visibility[row] > 0
    shown = [truth.keypoints[row][labelled], *(answer[0][labelled] for answer in answers if answer is not None)]
    image = _decode(store, int(truth.image_row[row]))
    close_up = _close_up(image, truth.bbox_xywh[row], np.concatenate(shown), size_px)
    drawn: list[tuple[NDArray[np.float64], NDArray[Any], NDArray[np.bool_]]] = [
        (truth.keypoints[row], truth.visibility[row], ~labelled)
    ]
    for answer in answers:
        points, scores = answer or (truth.keypoints[row], np.zeros(len(labelled)))
        drawn.append((points, np.where(labelled & (answer is not None), 2, 0), scores < WEAK))
    panels: list[NDArray[np.uint8]] = []
    for points, flags, pale in drawn:
        body = close_up.body(truth, row, points, flags)
        panel = draw_instances(close_up.picture_rgb, [body], skeleton, faint=[pale])
        panels += [np.full_like(panel[:, :3], 255), panel] if panels else [panel]
    return np.concatenate(panels, axis=1)


def _errors(truth: GroundTruth, distances: Distances) -> NDArray[np.float64]:
    """(n,) mean error of every answered instance, relative to its box."""
    return np.nanmean(relative_distances(truth, distances), axis=1) if len(distances.truth_row) else np.zeros(0)


def _cases(
    store: ShardStore,
    skeleton: Skeleton,
    truth: GroundTruth,
    predictions: Predictions,
    distances: Distances,
    wanted: NDArray[np.int64],
) -> list[ShownBody]:
    error = _errors(truth, distances)
    cases: list[ShownBody] = []
    for index in wanted:
        row, answer = int(distances.truth_row[index]), int(distances.prediction_row[index])
        image_row = int(truth.image_row[row])
        worst_point = skeleton.names[int(np.nanargmax(distances.pixels[index]))]
        cases.append(
            ShownBody(
                picture_rgb=draw_body(
                    store, skeleton, truth, row, [(predictions.keypoints[answer], predictions.keypoint_scores[answer])]
                ),
                caption=f"image {truth.image_ids[image_row]}, instance {truth.instance_ids[row]}: mean error "
                f"{100 * error[index]:.0f} % of the box; furthest: {worst_point}, "
                f"{np.nanmax(distances.pixels[index]):.0f} px; confidence {predictions.scores[answer]:.2f}",
            )
        )
    return cases


def _decode(store: ShardStore, image_row: int) -> NDArray[np.uint8]:
    data = np.frombuffer(store.read_image_bytes(image_row), np.uint8)
    image = cv2.imdecode(data, cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)
    if image is None:
        raise IntegrityError(f"{store.location}: image row {image_row} does not decode; ingest the split again.")
    return np.asarray(image, np.uint8)


@dataclass(frozen=True, kw_only=True, eq=False)
class _CloseUp:
    """A part of an image, enlarged before anything is drawn on it, so that lines stay sharp."""

    picture_rgb: NDArray[np.uint8]
    origin: NDArray[np.float64]
    factor: float

    def body(self, truth: GroundTruth, row: int, points: NDArray[np.float64], flags: NDArray[np.generic]) -> Instance:
        """An instance with the given points, in pixels of the close-up."""
        x, y = self._moved(truth.bbox_xywh[row, :2])
        w, h = truth.bbox_xywh[row, 2:] * self.factor
        return Instance(
            id=truth.instance_ids[row],
            bbox_xywh=(float(x), float(y), float(w), float(h)),
            keypoints=np.concatenate([self._moved(points), flags[:, None]], axis=1).astype(np.float32),
            area=float(w * h),
            area_rule="box",
        )

    def _moved(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        return (points - self.origin + 0.5) * self.factor - 0.5


def _close_up(
    image: NDArray[np.uint8], bbox_xywh: NDArray[np.float64], points: NDArray[np.float64], size_px: int
) -> _CloseUp:
    """The box and all points with a margin, scaled so that the longer side is ``size_px``."""
    points = np.concatenate([points, [bbox_xywh[:2], bbox_xywh[:2] + bbox_xywh[2:]]])
    low, high = points.min(axis=0), points.max(axis=0)
    margin = _MARGIN * max(16.0, *(high - low))
    limit = np.array(image.shape[1::-1])
    left, top = np.floor(low - margin).clip(0, limit - 1).astype(int)
    right, bottom = np.ceil(high + margin).clip([left + 1, top + 1], limit).astype(int)
    window = image[top:bottom, left:right]
    factor = size_px / max(window.shape[:2])
    size = (max(1, round(window.shape[1] * factor)), max(1, round(window.shape[0] * factor)))
    way = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
    picture = np.asarray(cv2.resize(window, size, interpolation=way), np.uint8)
    return _CloseUp(picture_rgb=picture, origin=np.array([left, top], np.float64), factor=factor)
