"""A stage that writes down where a detector of the user's sees something, such as faces for ``blur_faces``."""

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

import numpy as np
from pydantic import Field, InstanceOf, PrivateAttr

from posecore.datasets.definition import StageResources
from posecore.errors import PredictionError
from posecore.prediction.detectors import TransformersDetector
from posecore.prediction.photos import read_picture
from posecore.prediction.predictor import best_device
from posecore.schema import Reject
from posecore.stages.declared_file import DeclaredFile
from posecore.stages.extras import DETECTED
from posecore.stages.pixels import undecodable
from posecore.stages.protocol import ModelStage, Picture

_STEPS_PER_PX, _STEPS_OF_A_SCORE = 16, 256


class Detect(ModelStage):
    """Lets a detector look at every picture, and writes the boxes of one class into the image's extras.

    ``extras.detected`` says, by class, x, y, w, h in pixels and a score of each box. No body is added or changed. The
    detector is an object-detection model of ``transformers`` (``pip install 'posecore[detector]'``). It is asked of one
    picture at a time: in a batch, answers would depend on the others in it.

    Attributes:
        detector: under ``files``, its folder: ``config.json``, ``preprocessor_config.json``, ``model.safetensors``.
        label: class to find, as the detector calls it.
        least_score: boxes with a lower score are left out.
    """

    resources: ClassVar[StageResources] = StageResources(batch_size=32)

    detector: InstanceOf[DeclaredFile]
    label: str
    least_score: float = Field(default=0.3, ge=0, le=1)

    _detector: TransformersDetector | None = PrivateAttr(None)

    def set_up(self) -> None:
        """Reads the detector."""
        if self._detector is None:
            source = str(self.detector.path)
            self._detector = TransformersDetector(source, self.label, self.least_score, best_device())

    def __call__(self, pictures: Sequence[Picture]) -> list[Picture | Reject]:
        """Returns the pictures with what was found."""
        return [self._answer(picture) for picture in pictures]

    def _answer(self, picture: Picture) -> Picture | Reject:
        assert self._detector is not None
        record = picture.record
        try:
            (found,) = self._detector([read_picture(picture.data, record.image)])
        except PredictionError as error:
            return replace(undecodable(record), detail=str(error))
        assert found.scores is not None, self.detector
        sides = np.round(found.bbox_xywh * _STEPS_PER_PX) / _STEPS_PER_PX
        scores = np.round(found.scores * _STEPS_OF_A_SCORE) / _STEPS_OF_A_SCORE
        before = record.extras.get(DETECTED) or {}
        detected = {**before, self.label: np.column_stack([sides, scores]).tolist()}
        return replace(picture, record=replace(record, extras={**record.extras, DETECTED: detected}))
