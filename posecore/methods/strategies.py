"""One word says what of a trained model learns when it is adapted to a target dataset, and what is added to it.

A strategy says nothing about what is minimised: that is a method's matter (:mod:`posecore.methods.adaptation`). It
changes the architecture where it must, adds what is no part of an architecture, and marks every parameter as learning
or frozen. Frozen means frozen: :func:`posecore.models.pose_model.rest_frozen` keeps statistics and drop path of what
does not learn out of action, too.

A weight is *shared*, or it belongs to one dataset: its head, its expert. What belongs to a dataset without data in the
run never learns.
"""

import re
from abc import abstractmethod
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

from pydantic import BeforeValidator, Field
from torch import nn

from posecore.config import Config, parse_config
from posecore.counting import counted
from posecore.errors import ConfigError
from posecore.methods.heads import ExpertsConfig
from posecore.methods.prototypes import WEIGHTS, PrototypesConfig, PrototypeSettings, PrototypeWeighting, StagesConfig
from posecore.models.architecture import ModelConfig
from posecore.models.layers import block_index, in_backbone, layer_index, starts_at_zero
from posecore.models.low_rank import add_low_rank, is_low_rank

_FOREVER = 1.0  # a share of the run that no step reaches
_OWNER = re.compile(r"(?:^|\.)(?:heads|experts)\.([^.]+)\.")


@dataclass(frozen=True)
class Roles:
    """Who takes part in an adaptation.

    Attributes:
        target: the dataset adapted to.
        replayed: datasets of the parent that are trained on as well.
        parent_has_embedding: whether the parent has an embedding head, which then need not learn.
        new_depth: whether the model takes depth and the parent does not: what reads it must learn, whatever else does.
    """

    target: str
    replayed: tuple[str, ...] = ()
    parent_has_embedding: bool = False
    new_depth: bool = False

    @property
    def trained_on(self) -> Collection[str]:
        """All datasets with data in the run."""
        return {self.target, *self.replayed}

    def of_heads(self, owner: Callable[[str], str]) -> "Roles":
        """The roles with every dataset named by its head, as models name what belongs to it.

        Args:
            owner: name of a dataset to that of its head.
        """
        replayed = tuple(dict.fromkeys(owner(name) for name in self.replayed))
        return replace(self, target=owner(self.target), replayed=replayed)


class _Strategy(Config):
    """What the strategies have in common."""

    @property
    def touches_shared(self) -> bool:
        """Whether weights that other datasets use learn: only then can anything be forgotten, or kept by replay."""
        return True

    def architecture(self, model: ModelConfig) -> ModelConfig:
        """The adapted model's architecture; the parent's, unless said otherwise."""
        return model

    def add(self, model: nn.Module) -> None:
        """Adds what is no part of an architecture."""

    def backbone_waits(self) -> float | None:
        """Share of the run before which the backbone rests; None where it learns, or does not, from the first step."""
        return None

    def prototypes(self, roles: Roles) -> PrototypeSettings | None:
        """How prototypes learn beside the heads; None where there are none."""
        return None

    @abstractmethod
    def learns(self, name: str, depth: int, roles: Roles) -> bool:
        """Whether a parameter of backbone or heads learns.

        Args:
            name: such as ``backbone.blocks.0.attn.qkv.weight`` or ``heads.infants.final_layer.bias``.
            depth: number of the backbone's blocks.
            roles: who takes part.
        """

    def apply(self, model: nn.Module, roles: Roles) -> None:
        """Adds, and marks every parameter; in place.

        Args:
            model: with ``backbone`` and ``heads``, of the architecture that :meth:`architecture` gave.
            roles: who takes part; a dataset that shares a head goes by the name of the head.

        Raises:
            ConfigError: the strategy does not go with the backbone.
        """
        depth = 1 + max((block_index(name) for name, _ in model.named_parameters()), default=-1)
        self.add(model)
        for name, parameter in model.named_parameters():
            reads_depth = roles.new_depth and starts_at_zero(name)
            parameter.requires_grad_(reads_depth or self.learns(name, depth, roles))
        if not any(parameter.requires_grad for parameter in model.parameters()):
            raise ConfigError(f"strategy: nothing of the model learns; is {roles.target!r} one of its heads?")


class FullConfig(_Strategy):
    """Everything that data reach learns; ``training.optimizer.layer_decay`` slows the lower layers.

    Attributes:
        kind: names this strategy in the closed union.
    """

    kind: Literal["full"] = "full"

    def learns(self, name: str, depth: int, roles: Roles) -> bool:
        """See :meth:`_Strategy.learns`."""
        return _is_reached(name, roles)


class FrozenBackboneConfig(_Strategy):
    """The target's head alone learns.

    Attributes:
        kind: names this strategy in the closed union.
    """

    kind: Literal["frozen-backbone"] = "frozen-backbone"

    @property
    def touches_shared(self) -> bool:
        """See :meth:`_Strategy.touches_shared`."""
        return False

    def learns(self, name: str, depth: int, roles: Roles) -> bool:
        """See :meth:`_Strategy.learns`."""
        return name.startswith(f"heads.{roles.target}.")


class LastNConfig(_Strategy):
    """The backbone's last blocks, what comes after them, and the heads.

    Attributes:
        kind: names this strategy in the closed union.
        blocks: how many.
    """

    kind: Literal["last-n"] = "last-n"
    blocks: int = Field(default=4, gt=0)

    def learns(self, name: str, depth: int, roles: Roles) -> bool:
        """See :meth:`_Strategy.learns`."""
        return _is_reached(name, roles) and layer_index(name, depth) > depth - self.blocks

    def apply(self, model: nn.Module, roles: Roles) -> None:
        """See :meth:`_Strategy.apply`."""
        depth = 1 + max((block_index(name) for name, _ in model.named_parameters()), default=-1)
        if not 0 < self.blocks <= depth:
            has = f"has {counted(depth, 'block')}" if depth else "has no blocks"
            raise ConfigError(
                f"strategy.blocks: {counted(self.blocks, 'block')} cannot learn, for the backbone {has}; take full."
            )
        super().apply(model, roles)


class BitFitConfig(_Strategy):
    """The backbone's biases and the target's own head and expert (arXiv 2106.10199).

    Attributes:
        kind: names this strategy in the closed union.
    """

    kind: Literal["bitfit"] = "bitfit"

    def learns(self, name: str, depth: int, roles: Roles) -> bool:
        """See :meth:`_Strategy.learns`."""
        is_bias = bool(in_backbone(name)) and name.endswith(".bias")
        return _is_own(name, roles) or (is_bias and _owner(name) is None)


class _LowRankConfig(_Strategy):
    """Low-rank updates of the blocks' linear layers, and the target's own head and expert.

    Attributes:
        rank: of every update.
        alpha: updates are scaled by ``alpha / rank``.
        dropout: of an update's inputs, in training.
    """

    dora: ClassVar[bool] = False
    rank: int = Field(default=8, gt=0)
    alpha: float = Field(default=16.0, gt=0)
    dropout: float = Field(default=0.0, ge=0, lt=1)

    def add(self, model: nn.Module) -> None:
        """See :meth:`_Strategy.add`."""
        add_low_rank(model, self.rank, self.alpha, self.dropout, self.dora)

    def learns(self, name: str, depth: int, roles: Roles) -> bool:
        """See :meth:`_Strategy.learns`."""
        return _is_own(name, roles) or is_low_rank(name)


class LoraConfig(_LowRankConfig):
    """LoRA (arXiv 2106.09685); merged into plain weights when it is done.

    Attributes:
        kind: names this strategy in the closed union.
    """

    kind: Literal["lora"] = "lora"


class DoraConfig(_LowRankConfig):
    """DoRA (arXiv 2402.09353): LoRA with learned lengths of the rows.

    Attributes:
        kind: names this strategy in the closed union.
    """

    dora = True
    kind: Literal["dora"] = "dora"


class AdapterConfig(_Strategy):
    """A bottleneck beside feed-forward parts (:class:`~posecore.models.backbones.vit.Adapter`), and the target's own.

    Attributes:
        kind: names this strategy in the closed union.
        width: of the bottleneck; published: 64 for ViT-B.
    """

    kind: Literal["adapter"] = "adapter"
    width: int = Field(default=64, gt=0)

    def architecture(self, model: ModelConfig) -> ModelConfig:
        """The model with adapters; those a parent has already go on learning.

        Raises:
            ConfigError: the backbone has no form with adapters, or has some of another width.
        """
        return model.model_copy(update={"backbone": model.backbone.with_adapters(self.width)})

    def learns(self, name: str, depth: int, roles: Roles) -> bool:
        """See :meth:`_Strategy.learns`."""
        return _is_own(name, roles) or ".adapter." in name


class ExpertConfig(_Strategy):
    """A new expert in every feed-forward part and a new head; all else stays, so nothing can be forgotten.

    Attributes:
        kind: names this strategy in the closed union.
        expert_share: for a parent without experts, the share of a layer's outputs that becomes an expert's: every
            dataset then gets a copy of these rows, and computes what it did to rounding.
    """

    kind: Literal["expert"] = "expert"
    expert_share: float = Field(default=0.25, gt=0, lt=1)

    @property
    def touches_shared(self) -> bool:
        """See :meth:`_Strategy.touches_shared`."""
        return False

    def architecture(self, model: ModelConfig) -> ModelConfig:
        """The model with experts.

        Raises:
            ConfigError: the backbone has no form with experts.
        """
        return ExpertsConfig(expert_share=self.expert_share).architecture(model)

    def learns(self, name: str, depth: int, roles: Roles) -> bool:
        """See :meth:`_Strategy.learns`."""
        return _is_own(name, roles)


class TransferPrototypesConfig(_Strategy):
    """PoseBH's transfer (arXiv 2505.17475): new prototypes for the target's points, and the target's own.

    The space of embeddings is the parent's and stays as it is; a parent without one gets a fresh one, which learns.

    Attributes:
        kind: names this strategy in the closed union.
        rest: whether backbone and replayed heads stay ``frozen``, or are ``trained``; the backbone from the middle of
            the run on, when the prototypes come to rest, as published for hands.
        weights: what the terms of prototypes count. None is ``published-transfer`` where the parent has an embedding
            head, which stays as it is, and ``balanced`` where a fresh one must learn, for which the published weights
            are too small.
    """

    kind: Literal["prototypes"] = "prototypes"
    rest: Literal["frozen", "trained"] = "frozen"
    weights: PrototypeWeighting | None = None

    @property
    def touches_shared(self) -> bool:
        """See :meth:`_Strategy.touches_shared`."""
        return self.rest == "trained"

    def architecture(self, model: ModelConfig) -> ModelConfig:
        """The model with an embedding."""
        return PrototypesConfig().architecture(model)

    def prototypes(self, roles: Roles) -> PrototypeSettings:
        """As published: equal pixels above 0.2, at rest from the middle on, no self-supervision."""
        return PrototypeSettings(
            stages=StagesConfig(
                heads_from=0.0,
                backbone_from=0.5 if self.rest == "trained" else 0.0,
                prototypes_until=0.5,
                self_supervision_from=_FOREVER,
            ),
            weights=self.weights or WEIGHTS["published-transfer" if roles.parent_has_embedding else "balanced"],
            pixel_threshold=0.2,
            pixel_weighting="equal",
        )

    def learns(self, name: str, depth: int, roles: Roles) -> bool:
        """See :meth:`_Strategy.learns`."""
        if name.startswith("embedding_head."):
            return not roles.parent_has_embedding
        return _is_reached(name, roles) if self.rest == "trained" else _is_own(name, roles)


class TwoStageConfig(_Strategy):
    """First the heads alone, on features that do not move; then everything that data reach.

    A fresh head's first gradients are noise, which would be written into the backbone (LP-FT, arXiv 2202.10054).

    Attributes:
        kind: names this strategy in the closed union.
        backbone_from: share of the run before which the backbone is frozen.
    """

    kind: Literal["two-stage"] = "two-stage"
    backbone_from: float = Field(default=0.3, gt=0, lt=1)

    def backbone_waits(self) -> float | None:
        """See :meth:`_Strategy.backbone_waits`."""
        return self.backbone_from

    def learns(self, name: str, depth: int, roles: Roles) -> bool:
        """See :meth:`_Strategy.learns`."""
        return _is_reached(name, roles)


def _resolve_name(value: Any) -> Any:
    return {"kind": value} if isinstance(value, str) else value


StrategyConfig: TypeAlias = Annotated[
    FullConfig
    | FrozenBackboneConfig
    | LastNConfig
    | BitFitConfig
    | LoraConfig
    | DoraConfig
    | AdapterConfig
    | ExpertConfig
    | TransferPrototypesConfig
    | TwoStageConfig,
    Field(discriminator="kind"),
    BeforeValidator(_resolve_name),
]
"""Every strategy there is: its name, or ``{kind: name, field: other value}``."""


class _Named(Config):
    strategy: StrategyConfig


def parse_strategy(word: str) -> StrategyConfig:
    """The strategy of that name, as it comes.

    Raises:
        ConfigError: there is none.
    """
    return parse_config({"strategy": word}, _Named, origin="strategy").strategy


def own_modules(model: nn.Module, roles: Roles) -> list[str]:
    """Names of the modules that a child has and its parent has not: head, expert in every block, what reads depth."""
    own = re.compile(rf"(?:^|\.)(?:heads|experts)\.{re.escape(roles.target)}$")
    return [
        name
        for name, _ in model.named_modules()
        if own.search(name) or (roles.new_depth and starts_at_zero(f"{name}."))
    ]


def _owner(name: str) -> str | None:
    """The dataset a parameter belongs to, None for a shared one."""
    match = _OWNER.search(name)
    return match[1] if match else None


def _is_own(name: str, roles: Roles) -> bool:
    return _owner(name) == roles.target


def _is_reached(name: str, roles: Roles) -> bool:
    """Whether data of the run depend on a parameter, through backbone or heads."""
    owner = _owner(name)
    in_model = bool(in_backbone(name)) or name.startswith("heads.")
    return in_model and (owner is None or owner in roles.trained_on)
