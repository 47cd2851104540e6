"""What a served model takes and gives: the interface of ``mlflow models serve``, of batch jobs and of the registry."""

from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema
from mlflow.types.schema import Array, Object, Property

from posecore.models.saving import read_card

IMAGE_COLUMN = "image"
"""The bytes of a JPEG or PNG file; never a name of one."""
BOX_COLUMNS = ("x", "y", "w", "h")
"""Optional columns: the body's box in 0-based image pixels; the whole image where they are missing or NaN."""
INPUT_COLUMNS = (IMAGE_COLUMN, *BOX_COLUMNS)
PARAMETERS = ("dataset", "flip_test", "path")


def signature(model_folder: Path) -> ModelSignature:
    """Encoded image bytes and an optional box in, keypoints in image pixels out, or what is wrong with the picture.

    Args:
        model_folder: the model; its first dataset is the default of the ``dataset`` parameter.
    """
    datasets = _heads(model_folder)
    inputs = Schema(
        [
            ColSpec(DataType.binary, IMAGE_COLUMN),
            *(ColSpec(DataType.double, column, required=False) for column in BOX_COLUMNS),
        ]
    )
    point = Object([Property("name", DataType.string), *(Property(k, DataType.double) for k in ("x", "y", "score"))])
    outputs = Schema(
        [
            ColSpec(Array(point), "keypoints"),
            ColSpec(DataType.double, "score", required=False),
            ColSpec(DataType.string, "error", required=False),
        ]
    )
    kinds = (DataType.string, DataType.boolean, DataType.string)
    defaults = (datasets[0], False, "regression")
    params = ParamSchema([ParamSpec(*param) for param in zip(PARAMETERS, kinds, defaults, strict=True)])
    return ModelSignature(inputs=inputs, outputs=outputs, params=params)


def has_heads(model_folder: Path) -> bool:
    """Whether a model predicts points; a pre-trained encoder does not, and cannot be served."""
    return bool(_heads(model_folder))


def input_example() -> pd.DataFrame:
    """A request with one grey photo and a box, stored with the model so that a reader sees the form."""
    photo = cv2.imencode(".jpg", np.full((48, 36, 3), 128, np.uint8))[1].tobytes()
    return pd.DataFrame({IMAGE_COLUMN: [photo], "x": [3.0], "y": [4.0], "w": [30.0], "h": [40.0]})


def _heads(model_folder: Path) -> list[str]:
    return list(read_card(model_folder).skeletons)
