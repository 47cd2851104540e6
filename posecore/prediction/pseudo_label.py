"""A stage that writes down what a model finds, beside the labels and never as labels."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import ClassVar, Self

import numpy as np
from jaxtyping import UInt8
from pydantic import Field, InstanceOf, PrivateAttr, model_validator

from posecore.datasets.definition import StageResources
from posecore.errors import PredictionError
from posecore.image_header import bits_per_sample
from posecore.models.catalog import CATALOG
from posecore.prediction.instances import Boxes, ImagePrediction
from posecore.prediction.photos import read_picture
from posecore.prediction.predictor import Predictor, PredictorSettings
from posecore.schema import Instance, Json, Record, Reject
from posecore.stages.declared_file import DeclaredFile
from posecore.stages.extras import PSEUDO_LABEL
from posecore.stages.protocol import ModelStage, Picture
from posecore.stages.rejects import reject_image

_STEPS_PER_PX, _STEPS_OF_A_SCORE = 16, 256


class PseudoLabel(ModelStage):
    """Lets a model find the points of every annotated body, in its box, and writes them into the body's extras.

    ``extras.pseudo_label`` says which model and skeleton, and of each point x, y in pixels and its score. Keypoints and
    their flags stay as they are, so no loss, metric or count takes what a model found for a label. Crowd regions, and
    boxes that cannot be cropped, are left out. Runs on a GPU where there is one (``resources: {num_gpus: 1}``).

    Attributes:
        model: the name of a published model; or, under ``files``, a model folder or a checkpoint.
        head: dataset or skeleton whose points to find; None means the model's first.
        flip_test: average the answers for crop and mirrored crop.
        whole_images: an image without bodies is one body, and its extras hold what was found.
        crops_at_once: crops per forward pass.
        uncertainty: say of every point, too, within how many pixels it is, by a calibrated model.
    """

    resources: ClassVar[StageResources] = StageResources(batch_size=32)

    model: str | InstanceOf[DeclaredFile]
    head: str | None = None
    flip_test: bool = False
    whole_images: bool = False
    crops_at_once: int = Field(default=32, ge=1)
    uncertainty: bool = False

    _predictor: Predictor | None = PrivateAttr(None)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if isinstance(self.model, str) and self.model not in CATALOG:
            raise ValueError(
                f"model: {self.model} is no published model (`posecore models list`); give a folder or file of your "
                "own under `files`, so that what is in it counts."
            )
        return self

    @cached_property
    def _source(self) -> str:
        return self.model if isinstance(self.model, str) else str(self.model.path)

    def set_up(self) -> None:
        """Reads the model."""
        if self._predictor is None:
            settings = PredictorSettings(
                batch_size=self.crops_at_once, flip_test=self.flip_test, uncertainty=self.uncertainty
            )
            predictor = Predictor.load(self._source, settings)
            predictor.head(self.head)
            self._predictor = predictor

    def __call__(self, pictures: Sequence[Picture]) -> list[Picture | Reject]:
        """Returns the pictures with what the model found."""
        assert self._predictor is not None
        answers: list[Picture | Reject] = list(pictures)
        asked: list[tuple[int, list[int]]] = []
        images, boxes = [], []
        for place, picture in enumerate(pictures):
            bodies = picture.record.instances
            try:
                pixels = read_picture(picture.data, picture.record.image)
            except PredictionError as error:
                reason = "undecodable-image" if bits_per_sample(picture.data) <= 8 else "not-8-bit"
                answers[place] = reject_image(picture.record, reason, str(error))
                continue
            rows = [row for row, body in enumerate(bodies) if _is_usable(body, pixels)]
            if rows or (self.whole_images and not bodies):
                asked.append((place, rows))
                images.append(pixels)
                boxes.append(Boxes(np.array([bodies[row].bbox_xywh for row in rows], np.float64)) if rows else None)
        found = self._predictor.predict(images, boxes, self.head)
        for (place, rows), answer in zip(asked, found, strict=True):
            given = pictures[place]
            answers[place] = replace(given, record=self._with(given.record, rows, answer))
        return answers

    def _with(self, record: Record, rows: list[int], found: ImagePrediction) -> Record:
        """A record with what was found of its bodies ``rows``; of none, with what was found of the whole image."""
        said = {box: self._said(found, row) for row, box in enumerate(found.box_rows.tolist())}
        if not rows:
            return replace(record, extras={**record.extras, PSEUDO_LABEL: said[0]})
        bodies = list(record.instances)
        for box, row in enumerate(rows):
            bodies[row] = replace(bodies[row], extras={**bodies[row].extras, PSEUDO_LABEL: said[box]})
        return replace(record, instances=bodies)

    def _said(self, found: ImagePrediction, row: int) -> Json:
        """What a model found of one body, in steps too coarse to show in which batch it was asked."""
        assert self._predictor is not None
        skeleton = self._predictor.model.skeletons[found.head]
        xy = np.round(found.keypoints[row] * _STEPS_PER_PX) / _STEPS_PER_PX
        scores = np.round(found.keypoint_scores[row] * _STEPS_OF_A_SCORE) / _STEPS_OF_A_SCORE
        points = np.column_stack([xy, scores]).tolist()
        name = self.model if isinstance(self.model, str) else self.model.path.name
        said = {"model": name, "skeleton": skeleton.name, "points": dict(zip(skeleton.names, points, strict=True))}
        if found.uncertainty is not None:
            radius = np.round(found.uncertainty.radius[row] * _STEPS_PER_PX) / _STEPS_PER_PX
            known = [None if np.isinf(pixels) else pixels for pixels in radius.tolist()]
            said["radii"] = dict(zip(skeleton.names, known, strict=True))
        return said


def _is_usable(body: Instance, pixels: UInt8[np.ndarray, "H W 3"]) -> bool:
    if body.is_crowd:
        return False
    try:
        Boxes(np.array([body.bbox_xywh], np.float64)).check((pixels.shape[0], pixels.shape[1]), body.id)
    except PredictionError:
        return False
    return True
