"""A head per dataset on one backbone, with or without an expert per dataset in its feed-forward layers."""

from typing import Literal

from pydantic import Field

from posecore.methods.supervised import SupervisedConfig, SupervisedHeads
from posecore.models.architecture import ModelConfig
from posecore.models.pose_model import PoseModel


class HeadsConfig(SupervisedConfig):
    """One backbone for all, one head per dataset.

    Attributes:
        kind: names this method in the closed union.
    """

    kind: Literal["heads"] = "heads"

    def architecture(self, model: ModelConfig) -> ModelConfig:
        """The model as configured."""
        return model

    def build(self, model: PoseModel) -> SupervisedHeads:
        """The method that trains the model."""
        return SupervisedHeads(model, self)


class ExpertsConfig(SupervisedConfig):
    """ViTPose++ (arXiv 2212.04246): besides its head, every dataset has an expert in every feed-forward layer.

    Attributes:
        kind: names this method in the closed union.
        expert_share: share of a layer's output channels that the expert computes; published: a quarter. A backbone
            that has experts already keeps its own share.
    """

    kind: Literal["experts"] = "experts"
    expert_share: float = Field(default=0.25, gt=0, lt=1)

    def architecture(self, model: ModelConfig) -> ModelConfig:
        """The model with experts in its backbone.

        Raises:
            ConfigError: the backbone has no form with experts, or the share cuts through a channel of it.
        """
        return model.model_copy(update={"backbone": model.backbone.with_experts(self.expert_share)})

    def build(self, model: PoseModel) -> SupervisedHeads:
        """The method that trains the model."""
        return SupervisedHeads(model, self)
