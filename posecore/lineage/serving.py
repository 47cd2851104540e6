"""The Python object inside every registered model: rows of photos in, keypoints out.

Everything but the table's form is :class:`~posecore.prediction.predictor.Predictor`'s, so a served model answers as the
command line does, and as evaluation judged it. A request is a stranger's: pictures are bytes and never names of files,
and one that cannot be used is answered with its reason, beside the others' keypoints.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import mlflow.pyfunc
import numpy as np
import pandas as pd
from mlflow.exceptions import MlflowException
from numpy.typing import NDArray

from posecore.config import parse_config
from posecore.errors import PoseCoreError, PredictionError
from posecore.lineage.pyfunc_signature import BOX_COLUMNS, IMAGE_COLUMN
from posecore.lineage.request_guard import guard_scoring_server
from posecore.lineage.serving_limits import ServingLimits
from posecore.models.saving import load_model
from posecore.prediction.instances import Boxes
from posecore.prediction.photos import read_picture
from posecore.prediction.predictor import Predictor, PredictorSettings, best_device


class PoseService(mlflow.pyfunc.PythonModel):
    """A model folder behind MLflow's interface; see :mod:`posecore.lineage.pyfunc_signature` for what it takes."""

    def load_context(self, context: Any) -> None:
        """Reads the model folder that was registered, onto a GPU if there is one.

        Raises:
            ConfigError: a limit in MLflow's ``model_config`` is wrong.
        """
        self._limits = parse_config(context.model_config or {}, ServingLimits, origin="model_config")
        self._total_pixels = self._limits.max_total_pixels if guard_scoring_server(self._limits) else None
        self._model = load_model(context.artifacts["model"]).to(best_device())

    def predict(self, context: Any, model_input: pd.DataFrame, params: Mapping[str, Any] | None = None) -> pd.DataFrame:
        """One row per input row: ``keypoints``, a list of {name, x, y, score}, the body's ``score``, and ``error``.

        A picture or a box that cannot be used has no keypoints, no score, and says why in ``error``, which is None
        otherwise.

        Raises:
            MlflowException: a parameter is wrong, it asks for prototypes, of which the model has none, or the model has
                no such head.
        """
        chosen = dict(params or {})
        dataset = chosen.pop("dataset", None)
        try:
            predictor = Predictor(self._model, parse_config(chosen, PredictorSettings, origin="params"))
            head = predictor.head(dataset)
        except PoseCoreError as error:
            raise MlflowException.invalid_parameter_value(str(error)) from error
        names = self._model.skeletons[head].names
        errors: list[str | None] = [None] * len(model_input)
        keypoints: list[list[dict[str, Any]]] = [[] for _ in errors]
        scores: list[float | None] = [None] * len(errors)
        for number, found in predictor.stream(self._photos(model_input, errors), [head]):
            body = found[head]
            keypoints[number] = [
                {"name": name, "x": x, "y": y, "score": score}
                for name, (x, y), score in zip(
                    names, body.keypoints[0].tolist(), body.keypoint_scores[0].tolist(), strict=True
                )
            ]
            scores[number] = float(body.scores[0])
        # As objects, because a column of floats would turn None into NaN, which JSON does not have.
        return pd.DataFrame({"keypoints": keypoints, "score": scores, "error": errors}, dtype=object)

    def _photos(
        self, table: pd.DataFrame, errors: list[str | None]
    ) -> Iterator[tuple[int, NDArray[np.uint8], Boxes | None]]:
        """Number, pixels and box of every row that can be used; of the others the reason goes to ``errors``."""
        left = self._total_pixels
        for number, row in enumerate(table.to_dict("records")):
            where = f"row {number}"
            try:
                image = self._picture(row[IMAGE_COLUMN], where, left)
                boxes = _boxes(row, where)
                if boxes is not None:
                    boxes.check(image.shape[:2], where)
            except PredictionError as error:
                errors[number] = str(error)
                continue
            if left is not None:
                left -= image.size // 3
            yield number, image, boxes

    def _picture(self, data: Any, where: str, left: int | None) -> NDArray[np.uint8]:
        if not isinstance(data, bytes):
            raise PredictionError(
                f"{where}: {IMAGE_COLUMN} is {type(data).__name__}; it must be the bytes of a JPEG or PNG file."
            )
        if not data:
            raise PredictionError(f"{where}: {IMAGE_COLUMN} is empty, or was no base64.")
        if left is not None and left <= 0:
            raise PredictionError(
                f"{where}: the pictures before it have max_total_pixels = {self._limits.max_total_pixels} together; "
                "send fewer at a time."
            )
        return read_picture(data, where, self._limits.max_pixels)


def _boxes(row: Mapping[str, Any], where: str) -> Boxes | None:
    values = [row.get(column) for column in BOX_COLUMNS]
    given = [value for value in values if value is not None and not math.isnan(value)]
    if not given:
        return None
    if len(given) < len(values):
        raise PredictionError(
            f"{where}: a box needs all of {', '.join(BOX_COLUMNS)}; leave all four out for the whole image."
        )
    return Boxes(np.array([given], np.float64))
