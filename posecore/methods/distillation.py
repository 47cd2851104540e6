"""Distillation, first stage: a student learns from labels, from its teacher's features and from its teacher's outputs.

Source: DWPose, arXiv 2307.15880, and IDEA-Research/DWPose @ 3dca5db,
``mmpose/mmpose/models/pose_estimators/distiller.py``; for heatmap students the output distillation of ViTPose, arXiv
2204.12484, section 3.4. ``L = L_labels + r · (L_features + L_outputs)``, where r falls from 1 to almost 0.

What the teacher says of a point counts whether or not the point is labelled: its guess for an invisible joint helps,
and images without any label are taught by the teacher alone.
"""

from typing import Annotated, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from posecore.codecs.simcc import SimccCodec
from posecore.config import Config
from posecore.errors import ConfigError
from posecore.methods.batch import DeviceBatch, DeviceGroup
from posecore.methods.belief import believed
from posecore.methods.cached_teacher import CachedTeacher
from posecore.methods.feature_alignment import PUBLISHED_WEIGHT, FeatureAlignment, Reduction
from posecore.methods.knowledge_token import take_tokens
from posecore.methods.losses import output_loss
from posecore.methods.supervised import SupervisedConfig, SupervisedHeads
from posecore.methods.teacher import Teacher, TeacherStatistics, lessons_for
from posecore.models.architecture import ModelConfig
from posecore.models.pose_model import HeadStatistics, PoseModel
from posecore.models.sources import ModelFolder
from posecore.shards.answers import LessonTerms, read_answer_manifest, refuse_other_terms

_SIMCC_OUTPUT_WEIGHT = 0.1
_HEATMAP_OUTPUT_WEIGHT = 1.0


class DistillationTerms(Config):
    """What counts how much.

    Attributes:
        teacher_heads: which of its heads teaches a dataset, where that is not the one of the same name, or else the one
            that shares most points.
        teacher_statistics: ``batch`` as released; see :data:`~posecore.methods.teacher.TeacherStatistics`.
        labels: whether labels count; without them the teacher alone is followed.
        feature_reduction: ``sum`` is what the results were published with, ``mean`` is what the paper's formula says.
        feature_weight: of the features' squared error, 0 for none. None is the published 7e-5 of the sum, or what is
            the same of the mean; nothing is published for heatmap students, whose weight must be given.
        output_weight: of the outputs, 0 for none. None is the published one: 0.1 for SimCC (DWPose), 1 for heatmaps
            (ViTPose).
        decay: ``linear`` is r = 1 - step / steps; ``none`` keeps r = 1.
        decay_epochs: r = 1 - e / E with the 0-based epoch, as published, for a run of E epochs; None changes r in
            every step.
        balance: the published loss of labels is a sum over a GPU's crops, those of the teacher are means: other crops
            per GPU are another recipe. ``fixed`` weighs labels as ``reference_batch`` crops per GPU did, whatever
            their number is. ``published`` takes the sum. Concerns SimCC students.
        reference_batch: published: 64 at 256×192, 32 at 384×288.
        denominator: as in :class:`~posecore.methods.supervised.SupervisedConfig`.
        head_statistics: likewise.
        group_weights: likewise; of labels alone, as what the teacher says counts for every point alike.
    """

    teacher_heads: dict[str, str] = {}
    teacher_statistics: TeacherStatistics = "frozen"
    labels: bool = True
    feature_reduction: Reduction = "sum"
    feature_weight: float | None = Field(default=None, ge=0)
    output_weight: float | None = Field(default=None, ge=0)
    decay: Literal["linear", "none"] = "linear"
    decay_epochs: int | None = Field(default=None, gt=0)
    balance: Literal["fixed", "published"] = "fixed"
    reference_batch: int = Field(default=64, gt=0)
    denominator: Literal["batch", "group"] = "batch"
    head_statistics: HeadStatistics = "own"
    group_weights: dict[str, Annotated[float, Field(ge=0)]] = {}

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.labels and self.feature_weight == 0 and self.output_weight == 0:
            raise ValueError("without labels, features and outputs there is nothing to learn from; give one a weight.")
        return self

    def strength(self, step: int, total_steps: int) -> float:
        """What the teacher counts in the 0-based ``step`` of ``total_steps``: r, which is never 0."""
        if self.decay == "none":
            return 1.0
        if self.decay_epochs is None:
            return 1 - step / total_steps
        return 1 - (step * self.decay_epochs // total_steps) / self.decay_epochs

    def of_labels(self, simcc: bool) -> SupervisedConfig:
        """How labels count."""
        fixed = self.balance == "fixed"
        return SupervisedConfig(
            denominator=self.denominator,
            head_statistics=self.head_statistics,
            simcc_reduction="mean" if fixed else "sum",
            loss_weight=self.reference_batch if fixed and simcc else 1.0,
            group_weights=self.group_weights,
        )


class DistillationConfig(DistillationTerms):
    """Who teaches, and what counts how much.

    Attributes:
        teacher: a trained model of any family.
        token: what :class:`~posecore.methods.knowledge_token.KnowledgeToken` has made of the teacher; the student gets
            its tokens. The teacher that is asked stays the one without.
        answers: per dataset, the folder with that teacher's answers to its crops (:mod:`posecore.shards.answers`): then
            nobody asks the teacher, and its weights are not read. Empty: every step asks.
    """

    teacher: ModelFolder
    token: ModelFolder | None = None
    answers: dict[str, str] = {}

    def architecture(self, model: ModelConfig) -> ModelConfig:
        """The student as configured."""
        return model

    def build(self, model: PoseModel) -> "Distillation":
        """The method that trains the student.

        Raises:
            CheckpointError: the teacher cannot be read.
            ConfigError: the two have nothing in common, the student has no place for the tokens, or stored answers are
                not those of this teacher.
            IntegrityError: the teacher is not the stated one, or stored answers are not finished.
        """
        if self.token is not None:
            take_tokens(model, self.token.read())
        with torch.random.fork_rng(devices=[]):  # the projection starts the same, whether or not a teacher is built
            teacher = self.teacher.outline() if self.answers else self.teacher.beside(model)
        method = Distillation(model, teacher, self)
        if self.answers:
            for dataset, terms in method.lesson_terms().items():
                if dataset not in self.answers:
                    raise ConfigError(f"method.answers: none for {dataset}; store the teacher's answers to it as well.")
                folder = self.answers[dataset]
                refuse_other_terms(folder, read_answer_manifest(folder).terms.lesson, terms)
        return method


class Distillation(SupervisedHeads):
    """Losses of labels, features and outputs; a :class:`~posecore.methods.staged.StagedMethod` that freezes nothing.

    Checkpoints hold the student and the projection of its features, not the teacher.

    Args:
        model: the student.
        teacher: the trained model.
        config: what counts how much.

    Raises:
        ConfigError: teacher and student do not go together, a weight is missing, or the student takes depth.
    """

    parts: tuple[str, ...] = ()

    def __init__(self, model: PoseModel, teacher: PoseModel, config: DistillationConfig) -> None:
        simcc = any(isinstance(model.codec(dataset), SimccCodec) for dataset in model.skeletons)
        super().__init__(model, config.of_labels(simcc))
        model.refuse_depth("distillation")
        self.distillation = config
        lessons = lessons_for(model, teacher, config.teacher_heads)
        self.output_weight = config.output_weight
        if self.output_weight is None:
            self.output_weight = _SIMCC_OUTPUT_WEIGHT if simcc else _HEATMAP_OUTPUT_WEIGHT
        self.alignment = FeatureAlignment(
            model.backbone.num_features,
            model.config.feature_size,
            teacher.backbone.num_features,
            teacher.config.feature_size,
        )
        if not teacher.config.backbone.learns and config.feature_weight != 0:
            raise ConfigError(
                "method.feature_weight: the teacher is an ONNX file, which gives outputs and no features; set it to 0."
            )
        self.feature_weight = self._feature_weight(simcc)
        if not self.feature_weight:
            self.alignment.requires_grad_(False)
        self._lessons = lessons
        self.teacher: Teacher | CachedTeacher
        if config.answers:
            self.teacher = CachedTeacher(teacher, lessons, bool(self.feature_weight), bool(self.output_weight))
        else:
            self.teacher = Teacher(teacher, lessons, config.teacher_statistics)
        self._strength = 1.0

    def asked(self) -> tuple[tuple[PoseModel, ModelFolder], ...]:
        """See :class:`~posecore.methods.staged.AskingMethod`: the teacher, unless its answers are stored."""
        return ((self.teacher.model, self.distillation.teacher),) if self.teacher.asks else ()

    def lesson_terms(self) -> dict[str, LessonTerms]:
        """Per dataset, who is asked and what of the answer is used: what stored answers must hold.

        Raises:
            ConfigError: nothing is used, or an answer depends on the other crops of its batch.
        """
        if not self.feature_weight and not self.output_weight:
            raise ConfigError(
                "cache: neither features nor outputs of the teacher count, so there is nothing to store; give "
                "method.feature_weight or method.output_weight, or leave the cache out."
            )
        if self.distillation.teacher_statistics == "batch":
            raise ConfigError(
                "method.teacher_statistics: with batch, an answer depends on the other crops of its batch, which are "
                "others in every epoch, so none can be stored; choose frozen, or leave the cache out."
            )
        sha256 = self.distillation.teacher.sha256
        if sha256 is None:
            raise ConfigError("method.teacher.sha256: stored answers belong to certain weights; state their checksum.")
        return {
            dataset: LessonTerms(
                teacher=sha256,
                head=lesson.head,
                points=lesson.teacher_points if self.output_weight else (),
                feature_size=self.alignment.size if self.feature_weight else None,
            )
            for dataset, lesson in self._lessons.items()
        }

    def begin_step(self, step: int, total_steps: int) -> frozenset[str]:
        """Sets r; see :class:`~posecore.methods.staged.StagedMethod`."""
        self._strength = self.distillation.strength(step, total_steps)
        return frozenset()

    def terms(self, batch: DeviceBatch, features: Tensor) -> dict[str, Tensor]:
        """Scalars; a dataset without samples contributes an exact zero.

        Args:
            batch: the micro-batch.
            features: of all its crops.

        Returns:
            ``features``, and per dataset ``outputs/<dataset>`` and, with labels, ``loss/<dataset>``.
        """
        outputs = self.model.run_heads(features, batch.rows, self.config.head_statistics)
        asked = self.feature_weight or self.output_weight  # labels and a knowledge token do without
        answer = self.teacher.answer(batch) if asked else None
        terms: dict[str, Tensor] = {}
        if answer is not None and self.feature_weight:
            assert answer.features is not None, "features that count are stored"
            error = self.alignment(features, answer.features, self.distillation.feature_reduction)
            terms["features"] = self._strength * self.feature_weight * error
        for group in batch.groups:
            name = group.dataset
            if self.distillation.labels:
                terms[f"loss/{name}"] = self.label_loss(outputs[name], group, len(batch))
            if answer is not None and self.output_weight:
                divergence = self._divergence(outputs[name], answer.outputs[name], group, len(batch))
                terms[f"outputs/{name}"] = self._strength * self.output_weight * divergence
        return terms

    def _divergence(self, outputs: Tensor, taught: Tensor, group: DeviceGroup, batch_size: int) -> Tensor:
        lesson, codec = self.teacher.lessons[group.dataset], self.codecs[group.dataset]
        theirs = self.teacher.model.codec(lesson.head)
        belief = believed(theirs.of_points(taught, lesson.teacher_points), theirs, codec)
        return output_loss(codec, codec.of_points(outputs, lesson.points), belief, self._num_samples(group, batch_size))

    def _feature_weight(self, simcc: bool) -> float:
        config = self.distillation
        if config.feature_weight is not None:
            return config.feature_weight
        if not simcc:
            raise ConfigError(
                "method.feature_weight: none is published for a student with heatmaps; give one, 0 for none."
            )
        return PUBLISHED_WEIGHT * (self.alignment.num_values if config.feature_reduction == "mean" else 1)
