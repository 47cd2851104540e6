"""Adapting a trained model to a target dataset, with as much of the old kept as is wanted.

Three things are chosen one by one: *what learns* (:mod:`posecore.methods.strategies`), *what is minimised* (the loss of
heads, or of heads and prototypes) and *what keeps the old*:

* replay: crops of the parent's own datasets in every batch; a matter of the mixture, not of this module;
* learning without forgetting (Li & Hoiem, arXiv 1606.09282): the old heads shall say on the crops at hand what the
  parent says, whether those crops are old or new;
* L2-SP (Li et al., arXiv 1802.01483): weights decay to the parent's values instead of zero, see
  :class:`~posecore.training.optimizer.OptimizerConfig`.

Pictures of the target's population that nobody has labelled may teach as well (:mod:`posecore.methods.mean_teacher`).
"""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from posecore.config import Config
from posecore.methods.batch import DeviceBatch
from posecore.methods.losses import output_loss
from posecore.methods.mean_teacher import MeanTeacher, MeanTeacherConfig, Taught
from posecore.methods.prototypes import PrototypeLearning
from posecore.methods.staged import StagedMethod
from posecore.methods.strategies import Roles, StrategyConfig
from posecore.methods.supervised import SupervisedConfig, SupervisedHeads
from posecore.models.architecture import ModelConfig
from posecore.models.groups import Group
from posecore.models.pose_model import PoseModel, frozen_statistics
from posecore.models.sources import ModelFolder

_METHOD = "method."
_BACKBONE = "method.model.backbone."


class AdaptationTerms(SupervisedConfig):
    """What learns, and what keeps the old.

    Attributes:
        strategy: one word, or ``{kind: word, field: other value}``.
        distillation: weight of learning without forgetting, relative to the loss of labels; 0 for none. Costs a forward
            pass of the parent and of each old head, and with experts one of the backbone per old head.
        unlabelled: what the labels of a mean teacher count on unlabelled pictures of the target's population, and how
            they are made. Costs a forward pass without gradients on these.
    """

    strategy: StrategyConfig
    distillation: float = Field(default=0.0, ge=0)
    unlabelled: MeanTeacherConfig | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.distillation and not self.strategy.touches_shared:
            raise ValueError(
                f"distillation: {self.strategy.kind} leaves all the parent's heads read as it is, so there is nothing "
                "to keep; set it to 0."
            )
        return self


class AdaptationConfig(Config):
    """An adaptation of one model to one dataset.

    Attributes:
        terms: what learns, and what keeps the old.
        roles: who takes part.
        parent: the trained model.
        old_heads: heads of the parent that distillation keeps.
        unlabelled_sets: datasets of unlabelled pictures of the target's population; none without ``terms.unlabelled``.
    """

    terms: AdaptationTerms
    roles: Roles
    parent: ModelFolder
    old_heads: tuple[str, ...] = ()
    unlabelled_sets: tuple[str, ...] = ()

    def architecture(self, model: ModelConfig) -> ModelConfig:
        """The adapted model's architecture.

        Raises:
            ConfigError: the strategy does not go with the backbone.
        """
        return self.terms.strategy.architecture(model)

    def build(self, model: PoseModel) -> "Adaptation":
        """The method that adapts a model; the model is changed in place.

        Raises:
            CheckpointError: distillation is wanted and the parent cannot be read.
            ConfigError: the strategy does not go with the model.
            IntegrityError: the parent is not the stated one.
        """
        return Adaptation(model, self, self.parent.beside(model) if self.terms.distillation else None)


class Adaptation(nn.Module):
    """A method whose model is adapted by a strategy; a :class:`~posecore.methods.staged.StagedMethod`.

    Checkpoints hold the child, and its mean teacher if it has one; the parent is read again from where it came from.

    Args:
        model: holds the parent's weights, and a head for the target.
        config: what learns, and what keeps the old.
        parent: asked by distillation, and None without.

    Raises:
        ConfigError: the strategy does not go with the model.
    """

    def __init__(self, model: PoseModel, config: AdaptationConfig, parent: PoseModel | None) -> None:
        super().__init__()
        self.config = config
        terms = config.terms
        self.roles = config.roles.of_heads(model.owner)
        terms.strategy.apply(model, self.roles)
        prototypes = terms.strategy.prototypes(self.roles)
        self.method = (
            SupervisedHeads(model, terms) if prototypes is None else PrototypeLearning(model, terms, prototypes)
        )
        self.mean_teacher = None
        self.following = ("mean_teacher.",)
        if terms.unlabelled is not None:
            self.mean_teacher = MeanTeacher(model, terms.unlabelled, config.roles.target, config.unlabelled_sets)
        # In a tuple, so that it is no part of this module: nothing optimises, shards or saves it.
        self._parent = () if parent is None else (parent.eval().requires_grad_(False),)
        self._backbone_learns = True
        self.parts: tuple[str, ...] = ()
        if isinstance(self.method, StagedMethod):
            self.parts = tuple(f"{_METHOD}{part}" for part in self.method.parts)
        elif terms.strategy.backbone_waits() is not None:
            self.parts = (_BACKBONE,)

    @property
    def model(self) -> PoseModel:
        """What is adapted."""
        return self.method.model

    def asked(self) -> tuple[tuple[PoseModel, ModelFolder], ...]:
        """See :class:`~posecore.methods.staged.AskingMethod`: the parent, for distillation."""
        return tuple((parent, self.config.parent) for parent in self._parent)

    def inherited(self, name: str) -> bool:
        """Whether a parameter of this method has a value of the parent that L2-SP holds it to.

        What belongs to the target decays to zero as ever, and so does what the strategy added.
        """
        own = f"{self.roles.target}."
        new = (f".heads.{own}", f".experts.{own}", ".lora_", ".adapter.", ".embedding_head.")
        return not any(part in name for part in new)

    def begin_step(self, step: int, total_steps: int) -> frozenset[str]:
        """Enters the stage of a step; see :class:`~posecore.methods.staged.StagedMethod`."""
        if self.mean_teacher is not None:
            self.mean_teacher.begin_step(self.model, step, total_steps)
        if isinstance(self.method, StagedMethod):
            return frozenset(f"{_METHOD}{part}" for part in self.method.begin_step(step, total_steps))
        waits = self.config.terms.strategy.backbone_waits()
        if waits is None:
            return frozenset()
        self._backbone_learns = step >= waits * total_steps
        self.train(self.training)
        return frozenset() if self._backbone_learns else frozenset({_BACKBONE})

    def train(self, mode: bool = True) -> Self:
        """As in every module, but a backbone that does not learn yet stays in evaluation mode."""
        super().train(mode)
        if not self._backbone_learns:
            self.model.backbone.eval()
        return self

    def forward(self, batch: DeviceBatch) -> dict[str, Tensor]:
        """The loss terms; a method's forward is :meth:`losses`, so that sharding hooks see every call."""
        return self.losses(batch)

    def losses(self, batch: DeviceBatch) -> dict[str, Tensor]:
        """Scalars: the method's own, ``kept/<old head>`` where the parent is asked, and ``unlabelled/<dataset>``.

        Args:
            batch: the micro-batch.
        """
        labelled, taught = batch, None
        if self.mean_teacher is not None:
            taught = self.mean_teacher.teach(batch)
            batch, labelled = taught.batch, taught.labelled
        with nullcontext() if self._backbone_learns else torch.no_grad():
            features = self.method.features(batch)
        with torch.set_grad_enabled(features.requires_grad):  # a backbone that is at rest gets no gradients from here
            old = {head: self._old_features(head, batch, features) for head in self._asked}
        terms = self.method.terms(labelled, features) | self._kept(batch, old)
        return terms if taught is None else terms | self._learned(taught, features)

    def observations(self) -> dict[str, Tensor]:
        """See :class:`~posecore.methods.staged.ObservingMethod`."""
        return {} if self.mean_teacher is None else self.mean_teacher.observations()

    def _learned(self, taught: Taught, features: Tensor) -> dict[str, Tensor]:
        """The loss of the teacher's labels: that of labels."""
        assert self.mean_teacher is not None
        terms = {}
        for name, group in taught.groups.items():
            outputs = self.model.run_head(self.config.roles.target, features[group.start : group.stop])
            loss = self.method.label_loss(outputs, group, len(taught.batch))
            terms[f"unlabelled/{name}"] = self.mean_teacher.weigh(loss)
        return terms

    @property
    def _asked(self) -> tuple[str, ...]:
        return self.config.old_heads if self._parent else ()

    def _old_features(self, head: str, batch: DeviceBatch, features: Tensor) -> Tensor:
        """What an old head sees of all crops: features by way of its own expert, if there are experts."""
        if self.model.config.backbone.has_experts:
            return _features(self.model, batch, [(head, 0, len(batch))])
        return features

    def _kept(self, batch: DeviceBatch, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if not self._parent:
            return {}
        parent = self._parent[0].to(batch.images.device)
        terms = {}
        with torch.no_grad():
            said = _answers(parent, batch, self._asked)
        for name in self._asked:
            head = self.model.head(name)
            with frozen_statistics(head):  # crops of other datasets must not move what is known of its own
                outputs = head(features[name])
            error = output_loss(self.method.codecs[name], outputs, said[name].float(), len(batch))
            terms[f"kept/{name}"] = self.config.terms.distillation * error
        return terms


def _answers(parent: PoseModel, batch: DeviceBatch, heads: tuple[str, ...]) -> dict[str, Tensor]:
    """What each of a parent's heads says of all crops."""
    rows: dict[str, list[Group]] = {head: [(head, 0, len(batch))] for head in heads}
    if parent.config.backbone.has_experts:
        return {head: parent.run_head(head, _features(parent, batch, rows[head])) for head in heads}
    features = _features(parent, batch, [])
    return {head: parent.run_head(head, features) for head in heads}


def _features(model: PoseModel, batch: DeviceBatch, rows: Sequence[Group]) -> Tensor:
    return model.features(batch.images, rows, batch.depth if model.takes_depth else None)
