"""A teacher that need not be there: its answers, stored by :mod:`posecore.shards.answers`, come with the batch."""

from collections.abc import Mapping
from typing import ClassVar

import torch

from posecore.errors import ConfigError
from posecore.methods.batch import DeviceBatch
from posecore.methods.teacher import Answer, Lesson
from posecore.models.pose_model import PoseModel


class CachedTeacher:
    """Answers from what a loader with stored answers delivers; a :class:`~posecore.methods.teacher.Teacher` otherwise.

    Args:
        model: the teacher without weights: only its card is looked at.
        lessons: per dataset of the student, of the whole outputs.
        keeps_features: whether features were stored.
        keeps_outputs: whether outputs were stored.

    Attributes:
        asks: its model is run, which it never is.
    """

    asks: ClassVar[bool] = False

    def __init__(
        self, model: PoseModel, lessons: Mapping[str, Lesson], keeps_features: bool, keeps_outputs: bool
    ) -> None:
        self.model = model
        # Only the common points were stored, in the lesson's order.
        self.lessons = {
            dataset: Lesson(lesson.head, lesson.points, tuple(range(len(lesson.points))))
            for dataset, lesson in lessons.items()
        }
        self._keeps_features = keeps_features
        self._keeps_outputs = keeps_outputs

    def answer(self, batch: DeviceBatch) -> Answer:
        """What was stored for the crops of a micro-batch, outputs of the lessons' points only.

        Raises:
            ConfigError: the batch brings no answers.
        """
        features, outputs = [], {}
        for group in batch.groups:
            if (self._keeps_features and group.taught_features is None) or (
                self._keeps_outputs and group.taught_outputs is None
            ):
                raise ConfigError(
                    f"method.answers: the crops of {group.dataset} come without a teacher's answers; give the loader "
                    "their stores too."
                )
            if group.taught_features is not None:
                features.append(group.taught_features)
            if group.taught_outputs is not None:
                outputs[group.dataset] = group.taught_outputs
        return Answer(torch.cat(features) if features else None, outputs)
