"""Distillation, second stage: a trained model teaches a fresh head on its own frozen backbone.

Source: DWPose, arXiv 2307.15880, section 3.3; IDEA-Research/DWPose @ 3dca5db, the ``two_dis`` branch of
``mmpose/mmpose/models/pose_estimators/distiller.py``. The loss is that of the outputs alone, with weight 1; no label is
looked at. Published: 60 epochs after 270, with a constant learning rate and the first stage's augmentation.
"""

from typing import Literal, Self

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from posecore.config import Config
from posecore.errors import ConfigError
from posecore.methods.batch import DeviceBatch
from posecore.methods.losses import output_loss
from posecore.models.architecture import ModelConfig
from posecore.models.pose_model import HeadStatistics, PoseModel
from posecore.models.sources import ModelFolder


class HeadDistillationConfig(Config):
    """Who teaches a fresh head.

    Attributes:
        teacher: a trained model of the student's architecture and datasets, such as the first stage's result.
        backbone_statistics: ``frozen`` keeps the backbone as it is, bit for bit. ``drift`` leaves its BatchNorm in
            training mode, as released: features come from batch statistics, and the running ones that the result is
            saved with are those of this stage.
        head_statistics: as in :class:`~posecore.methods.supervised.SupervisedConfig`.
    """

    teacher: ModelFolder
    backbone_statistics: Literal["frozen", "drift"] = "frozen"
    head_statistics: HeadStatistics = "own"

    def architecture(self, model: ModelConfig) -> ModelConfig:
        """The student as configured."""
        return model

    def build(self, model: PoseModel) -> "HeadDistillation":
        """The method that trains the model's heads.

        Raises:
            CheckpointError: the teacher cannot be read.
            ConfigError: the teacher is of another architecture or has other heads, or the model takes depth.
            IntegrityError: the teacher is not the stated one.
        """
        return HeadDistillation(model, self.teacher.beside(model), self)


class HeadDistillation(nn.Module):
    """Loss of the outputs of fresh heads against those of trained ones on the same features.

    Args:
        model: everything but its heads is taken from the teacher and frozen.
        teacher: the trained model; only its heads are asked, and no checkpoint holds them.
        config: how.

    Raises:
        ConfigError: the teacher is of another architecture or has other heads.
    """

    def __init__(self, model: PoseModel, teacher: PoseModel, config: HeadDistillationConfig) -> None:
        super().__init__()
        _check_same(model, teacher)
        model.refuse_depth("distillation")
        self.model = model
        self.config = config
        self.codecs = {dataset: model.codec(dataset) for dataset in model.skeletons}
        for name, part in model.named_children():
            if name != "heads":
                part.load_state_dict(teacher.get_submodule(name).state_dict())
                part.requires_grad_(False)
        # In a tuple, so that it is no part of this module: nothing optimises, shards or saves it.
        self._teacher = (teacher.eval().requires_grad_(False),)

    def asked(self) -> tuple[tuple[PoseModel, ModelFolder], ...]:
        """See :class:`~posecore.methods.staged.AskingMethod`: the teacher."""
        return ((self._teacher[0], self.config.teacher),)

    def train(self, mode: bool = True) -> Self:
        """As in every module, but what is frozen stays in evaluation mode, but for statistics that are to drift."""
        super().train(mode)
        for name, part in self.model.named_children():
            if name != "heads":
                part.eval()
        if self.config.backbone_statistics == "drift":
            for module in self.model.backbone.modules():
                if isinstance(module, _BatchNorm):
                    module.train(mode)
        return self

    def forward(self, batch: DeviceBatch) -> dict[str, Tensor]:
        """The loss terms; a method's forward is :meth:`losses`, so that sharding hooks see every call."""
        return self.losses(batch)

    def losses(self, batch: DeviceBatch) -> dict[str, Tensor]:
        """One scalar per dataset, named ``outputs/<dataset>``; one without samples contributes an exact zero.

        Args:
            batch: the micro-batch.
        """
        teacher = self._teacher[0].to(batch.images.device)
        with torch.no_grad():
            features = self.model.features(batch.images, batch.rows)
            taught = {dataset: teacher.run_head(dataset, features[start:stop]) for dataset, start, stop in batch.rows}
        outputs = self.model.run_heads(features, batch.rows, self.config.head_statistics)
        return {
            f"outputs/{name}": output_loss(self.codecs[name], outputs[name], taught[name].float(), len(batch))
            for name in outputs
        }


def _check_same(model: PoseModel, teacher: PoseModel) -> None:
    ours, theirs = model.card, teacher.card
    if ours.architecture != theirs.architecture:
        raise ConfigError(
            "teacher: a fresh head is taught by a model of the student's own architecture, and this one differs in "
            f"{', '.join(_differences(ours.architecture, theirs.architecture))}; distil into the student first."
        )
    for dataset, skeleton in ours.skeletons.items():
        if dataset not in theirs.skeletons or theirs.skeletons[dataset].union_names != skeleton.union_names:
            raise ConfigError(
                f"teacher: it has no head with the points of {dataset}; it has {', '.join(theirs.skeletons)}."
            )
    if missing := sorted(theirs.skeletons.keys() - ours.skeletons.keys()):
        raise ConfigError(f"teacher: it also knows {missing[0]}, which a fresh head would forget; add its data.")


def _differences(ours: ModelConfig, theirs: ModelConfig) -> list[str]:
    return [name for name in type(ours).model_fields if getattr(ours, name) != getattr(theirs, name)]
