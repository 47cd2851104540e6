"""One word chooses how a model shares what it knows across skeletons: ``heads``, ``experts``, ``prototypes``.

Each configuration says what it needs of the architecture and builds the method that trains it. For users:
``docs/many_skeletons.md``.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeAlias, TypeVar

from pydantic import BeforeValidator, Field

from posecore.config import Config, parse_config
from posecore.errors import ConfigError
from posecore.methods.prototypes import PrototypesConfig
from posecore.methods.supervised import SupervisedConfig, SupervisedHeads
from posecore.models.architecture import ModelConfig
from posecore.models.pose_model import PoseModel
from posecore.models.vit import VitConfig


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
        backbone = model.backbone
        if not isinstance(backbone, VitConfig):
            raise ConfigError(f"method: experts needs a plain vision transformer; {backbone.kind} has no such form.")
        if backbone.expert_share > 0:
            return model
        values = backbone.model_dump() | {"expert_share": self.expert_share}
        return model.model_copy(update={"backbone": parse_config(values, VitConfig, origin="method: experts")})

    def build(self, model: PoseModel) -> SupervisedHeads:
        """The method that trains the model."""
        return SupervisedHeads(model, self)


_Supervised = TypeVar("_Supervised", bound=SupervisedConfig)


def _resolve_name(value: Any) -> Any:
    if isinstance(value, Config):
        return value
    values = {"kind": value} if isinstance(value, str) else value
    kind = values.get("kind") if isinstance(values, Mapping) else value
    if kind not in _KINDS:
        raise ValueError(
            f"{'nothing' if kind is None else repr(kind)} is none of {', '.join(_KINDS)}; give one of these words, or "
            "{kind: word, field: other value}."
        )
    return values


_KINDS = ("heads", "experts", "prototypes")

MethodConfig: TypeAlias = Annotated[
    HeadsConfig | ExpertsConfig | PrototypesConfig, Field(discriminator="kind"), BeforeValidator(_resolve_name)
]
"""Every method of supervised training there is: its name, or ``{kind: name, field: other value}``."""


def pinned(method: _Supervised) -> _Supervised:
    """The method with the digests of the files it reads, so that a changed file is a changed run.

    Raises:
        ConfigError: the prior's file is missing.
    """
    if method.prior is None:
        return method
    return method.model_copy(update={"prior": method.prior.pinned()})
