"""Predicting on single photos: the Python object inside every registered model.

An image comes encoded (JPEG, PNG), a body as an optional box; keypoints leave in pixels of that image. The crop is cut
by the conventions of the dataset whose head is asked and read as in evaluation
(:func:`~posecore.evaluation.crops.predict_crops`).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import mlflow.pyfunc
import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, UInt8

from posecore.errors import DatasetError
from posecore.evaluation.crops import predict_crops
from posecore.geometry import bbox_to_center_scale, crop_matrix
from posecore.image_header import image_size
from posecore.lineage.pyfunc_signature import BOX_COLUMNS
from posecore.models.pose_model import PoseModel
from posecore.models.saving import load_model
from posecore.schema import BoxXywh

_MAX_PIXELS = 100_000_000  # a small file can declare an image that fills the memory
_BATCH = 32


@dataclass(frozen=True, slots=True)
class _Crop:
    pixels: UInt8[np.ndarray, "H W 3"]
    center: Float[np.ndarray, " 2"]
    scale: Float[np.ndarray, " 2"]


def predict_photos(
    model: PoseModel,
    images: Sequence[bytes],
    boxes_xywh: Sequence[BoxXywh | None],
    dataset: str,
    flip_test: bool = False,
) -> tuple[Float[np.ndarray, "n k 2"], Float[np.ndarray, "n k"]]:
    """Keypoints of one body per photo.

    Args:
        model: in evaluation mode.
        images: encoded photos; EXIF orientation is ignored, as everywhere.
        boxes_xywh: the body's box in 0-based pixels of its photo, or None for the whole photo.
        dataset: whose head predicts.
        flip_test: average with the prediction for the mirrored crop.

    Returns:
        x, y in image pixels, and the heatmaps' maxima as scores.

    Raises:
        DatasetError: an image cannot be decoded, a box is empty, or the model has no such head.
    """
    if dataset not in model.skeletons:
        raise DatasetError(f"the model has no head {dataset!r}; it has {', '.join(model.skeletons)}.")
    num_keypoints = model.skeletons[dataset].num_keypoints
    points = np.zeros((len(images), num_keypoints, 2))
    scores = np.zeros((len(images), num_keypoints))
    for start in range(0, len(images), _BATCH):
        rows = range(start, min(start + _BATCH, len(images)))
        crops = [_crop(images[row], boxes_xywh[row], model, dataset, row) for row in rows]
        points[rows], scores[rows] = predict_crops(
            model,
            dataset,
            np.stack([crop.pixels for crop in crops]),
            np.stack([crop.center for crop in crops]),
            np.stack([crop.scale for crop in crops]),
            flip_test=flip_test,
        )
    return points, scores


class PoseService(mlflow.pyfunc.PythonModel):
    """A model folder behind MLflow's interface; see :mod:`posecore.lineage.pyfunc_signature` for what it takes."""

    def load_context(self, context: Any) -> None:
        """Reads the model folder that was registered, onto a GPU if there is one."""
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self._model = load_model(context.artifacts["model"]).to(device)

    def predict(self, context: Any, model_input: pd.DataFrame, params: Mapping[str, Any] | None = None) -> pd.DataFrame:
        """One row per input row: ``keypoints``, a list of {name, x, y, score}, and ``score``, their mean score."""
        settings = {"dataset": next(iter(self._model.skeletons)), "flip_test": False, **(params or {})}
        boxes = [_box(row) for row in model_input.to_dict("records")]
        points, scores = predict_photos(
            self._model, list(model_input["image"]), boxes, settings["dataset"], settings["flip_test"]
        )
        names = self._model.skeletons[settings["dataset"]].names
        keypoints = [
            [
                {"name": name, "x": float(x), "y": float(y), "score": float(score)}
                for name, (x, y), score in zip(names, places, confidences, strict=True)
            ]
            for places, confidences in zip(points, scores, strict=True)
        ]
        return pd.DataFrame({"keypoints": keypoints, "score": scores.mean(axis=1)})


def _crop(image: bytes, bbox_xywh: BoxXywh | None, model: PoseModel, dataset: str, row: int) -> _Crop:
    pixels = _decode(image, row)
    height, width = pixels.shape[:2]
    box = np.array(bbox_xywh if bbox_xywh is not None else (0.0, 0.0, width, height))
    if not np.isfinite(box).all() or (box[2:] <= 0).any():
        raise DatasetError(f"row {row}: box {box.tolist()} is empty; give x, y, w, h in pixels of the image.")
    conventions = model.conventions[dataset]
    crop_height, crop_width = model.input_size
    center, scale = bbox_to_center_scale(box, crop_width / crop_height, conventions.padding)
    matrix = crop_matrix(center, scale, np.zeros(()), model.input_size, conventions.codec)
    return _Crop(cv2.warpAffine(pixels, matrix, (crop_width, crop_height), flags=cv2.INTER_LINEAR), center, scale)


def _decode(image: bytes, row: int) -> UInt8[np.ndarray, "H W 3"]:
    data = np.frombuffer(image, np.uint8)
    try:
        size = image_size(image)
    except ValueError as error:
        raise DatasetError(f"row {row}: {error}") from None
    if size.width * size.height > _MAX_PIXELS:
        raise DatasetError(f"row {row}: an image of {size.width}×{size.height} pixels is refused; scale it down.")
    pixels = cv2.imdecode(data, cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)
    if pixels is None:
        raise DatasetError(f"row {row}: the image cannot be decoded; is the file whole?")
    return pixels


def _box(row: Mapping[str, Any]) -> BoxXywh | None:
    values = [row.get(column) for column in BOX_COLUMNS]
    given = [value is not None and not math.isnan(value) for value in values]
    if not any(given):
        return None
    if not all(given):
        raise DatasetError(f"a box needs all of {', '.join(BOX_COLUMNS)}; leave all four out for the whole image.")
    x, y, w, h = (float(value) for value in values if value is not None)
    return x, y, w, h
