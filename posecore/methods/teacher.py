"""A trained model that teaches another one: asked, never trained."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from posecore.errors import ConfigError
from posecore.methods.batch import DeviceBatch
from posecore.models.pose_model import PoseModel

TeacherStatistics: TypeAlias = Literal["frozen", "batch"]
"""What a teacher's BatchNorm normalises with: what it learned, or, as released by DWPose, the batch at hand."""


@dataclass(frozen=True)
class Lesson:
    """What one of the teacher's heads can teach about one dataset of the student.

    Attributes:
        head: of the teacher.
        points: indices of the common points in the student's skeleton.
        teacher_points: their indices in the teacher's.
    """

    head: str
    points: tuple[int, ...]
    teacher_points: tuple[int, ...]


@dataclass(frozen=True)
class Answer:
    """What a teacher says of a micro-batch.

    Attributes:
        features: (B, D, h, w); None if they were not stored.
        outputs: per dataset of the student, (n, K, …) outputs of the teaching head, all its points.
    """

    features: Tensor | None
    outputs: Mapping[str, Tensor]


class Teacher:
    """Answers without gradients and in evaluation mode.

    Deliberately no ``nn.Module``: what a method registers is optimised and written to checkpoints, and a teacher is
    read again from where it came from.

    Args:
        model: is frozen and moved to where the batches are.
        lessons: per dataset of the student.
        statistics: ``batch`` drops the learned statistics: in the released code they drift, but nothing reads them.

    Attributes:
        asks: its model is run.
    """

    asks: ClassVar[bool] = True

    def __init__(
        self, model: PoseModel, lessons: Mapping[str, Lesson], statistics: TeacherStatistics = "frozen"
    ) -> None:
        self.model = model.eval().requires_grad_(False)
        self.lessons = lessons
        if statistics == "batch":
            for module in model.modules():
                if isinstance(module, _BatchNorm):
                    module.running_mean = module.running_var = None

    @torch.no_grad()
    def answer(self, batch: DeviceBatch) -> Answer:
        """Features and outputs for a micro-batch, which is resized if the teacher's input is of another size."""
        images = batch.images
        if self.model.input_size != tuple(images.shape[-2:]):
            images = F.interpolate(images, self.model.input_size, mode="bilinear", align_corners=True)
        if self.model.device != images.device:
            self.model.to(images.device)
        rows = [(self.lessons[group.dataset].head, group.start, group.stop) for group in batch.groups]
        features = self.model.features(images, rows)
        outputs = {
            group.dataset: self.model.run_head(head, features[start:stop])
            for group, (head, start, stop) in zip(batch.groups, rows, strict=True)
        }
        return Answer(features, outputs)


def lessons_for(student: PoseModel, teacher: PoseModel, heads: Mapping[str, str]) -> dict[str, Lesson]:
    """Finds out who teaches what; points are matched by their names in the union vocabulary.

    Args:
        student: who learns.
        teacher: who knows.
        heads: the teacher's head by dataset of the student; by default the one of the same name, else the one that
            shares most points.

    Raises:
        ConfigError: the teacher has no such head or none at all, a dataset shares no point with it, the two look at
            crops of another shape, or one looks at whole pictures.
    """
    if not teacher.skeletons:
        raise ConfigError("teacher: it is a backbone without any head and knows no points; train a head on it first.")
    if student.config.whole_scenes != teacher.config.whole_scenes:
        scenes, crops = ("student", "teacher") if student.config.whole_scenes else ("teacher", "student")
        raise ConfigError(
            f"teacher: the {scenes} finds bodies in whole pictures and the {crops} reads crops of single bodies, so "
            "they never see the same; take a teacher of the student's kind (posecore models show says which it is)."
        )
    (height, width), (teacher_height, teacher_width) = student.input_size, teacher.input_size
    if height * teacher_width != width * teacher_height:
        raise ConfigError(
            f"teacher: it looks at crops of {teacher_height}x{teacher_width} (height x width), another shape than the "
            f"student's {height}x{width}; choose an input_size of the teacher's shape."
        )
    if stray := sorted(heads.keys() - student.skeletons.keys()):
        raise ConfigError(f"teacher_heads: {stray[0]!r} is no dataset of the student: {', '.join(student.skeletons)}.")
    return {dataset: _lesson(dataset, student, teacher, heads.get(dataset)) for dataset in student.skeletons}


def _lesson(dataset: str, student: PoseModel, teacher: PoseModel, wanted: str | None) -> Lesson:
    names = student.skeletons[dataset].union_names
    head = wanted or _nearest(dataset, names, teacher)
    if head not in teacher.skeletons:
        raise ConfigError(f"teacher_heads.{dataset}: the teacher has no head {head!r}; it has {_listed(teacher)}.")
    theirs = teacher.skeletons[head].union_names
    common = [name for name in names if name in theirs]
    if not common:
        raise ConfigError(
            f"teacher: none of its heads ({_listed(teacher)}) that could teach {dataset} knows one of its points, such "
            f"as {names[0]}; leave {dataset} out or take another teacher."
        )
    return Lesson(head, tuple(map(names.index, common)), tuple(map(theirs.index, common)))


def _nearest(dataset: str, names: tuple[str, ...], teacher: PoseModel) -> str:
    if dataset in teacher.skeletons:
        return dataset
    return max(teacher.skeletons, key=lambda head: len(set(names).intersection(teacher.skeletons[head].union_names)))


def _listed(teacher: PoseModel) -> str:
    return ", ".join(teacher.skeletons)
