"""The Python object inside every registered model: rows of photos in, keypoints out.

Everything but the table's form is :class:`~posecore.prediction.predictor.Predictor`'s, so a served model answers as the
command line does, and as evaluation judged it.
"""

import math
from collections.abc import Mapping
from typing import Any

import mlflow.pyfunc
import numpy as np
import pandas as pd

from posecore.config import parse_config
from posecore.errors import PredictionError
from posecore.lineage.pyfunc_signature import BOX_COLUMNS
from posecore.models.saving import load_model
from posecore.prediction.instances import Boxes
from posecore.prediction.photos import read_picture
from posecore.prediction.predictor import Predictor, PredictorSettings, best_device


class PoseService(mlflow.pyfunc.PythonModel):
    """A model folder behind MLflow's interface; see :mod:`posecore.lineage.pyfunc_signature` for what it takes."""

    def load_context(self, context: Any) -> None:
        """Reads the model folder that was registered, onto a GPU if there is one."""
        self._model = load_model(context.artifacts["model"]).to(best_device())

    def predict(self, context: Any, model_input: pd.DataFrame, params: Mapping[str, Any] | None = None) -> pd.DataFrame:
        """One row per input row: ``keypoints``, a list of {name, x, y, score}, and the body's ``score``.

        Raises:
            ConfigError: a parameter is wrong, or it asks for prototypes, of which the model has none.
            PredictionError: an image cannot be used, a box cannot be cropped, or the model has no such head.
        """
        chosen = dict(params or {})
        dataset = chosen.pop("dataset", None)
        predictor = Predictor(self._model, parse_config(chosen, PredictorSettings, origin="params"))
        head = predictor.head(dataset)
        photos = (
            (f"row {number}", read_picture(row["image"], f"row {number}"), _boxes(row, number))
            for number, row in enumerate(model_input.to_dict("records"))
        )
        bodies = [found[head] for _, found in predictor.stream(photos, [head])]
        names = self._model.skeletons[head].names
        keypoints = [
            [
                {"name": name, "x": x, "y": y, "score": score}
                for name, (x, y), score in zip(
                    names, body.keypoints[0].tolist(), body.keypoint_scores[0].tolist(), strict=True
                )
            ]
            for body in bodies
        ]
        return pd.DataFrame({"keypoints": keypoints, "score": [float(body.scores[0]) for body in bodies]})


def _boxes(row: Mapping[str, Any], number: int) -> Boxes | None:
    values = [row.get(column) for column in BOX_COLUMNS]
    given = [value for value in values if value is not None and not math.isnan(value)]
    if not given:
        return None
    if len(given) < len(values):
        raise PredictionError(
            f"row {number}: a box needs all of {', '.join(BOX_COLUMNS)}; leave all four out for the whole image."
        )
    return Boxes(np.array([given], np.float64))
