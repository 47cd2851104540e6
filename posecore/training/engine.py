"""What the loop asks of whatever holds the weights: take a step, give out the state.

Two engines exist. ``torch`` is plain PyTorch, on one process or with averaged gradients on several: nothing to install,
nothing to compile, for laptops, notebooks and tests. ``deepspeed`` shards optimiser state (ZeRO-1), gradients (2) and
weights (3). In both, ``bf16`` means autocast over float32 weights: matrix products run in bfloat16, statistics, losses,
buffers and checkpoints stay float32. ``fp16`` is the same in float16, whose small range is made up for by scaling the
loss: the scale halves, and the update is left out, where a gradient overflows, and doubles after 2000 updates without;
``torch`` alone has it. ``bf16-weights``, which ZeRO-3 alone has, makes the weights that layers compute with bfloat16,
too, and gradients but those that are added up; the optimiser keeps float32, and so do statistics, losses, buffers and
checkpoints. A state taken from one engine may be given to any other.
"""

import math
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, Protocol, Self, TypeAlias

import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor, nn

from posecore.config import Config
from posecore.methods.batch import DeviceBatch
from posecore.training.checkpoint import Checkpoint, Counts
from posecore.training.checkpoint_pieces import Piece
from posecore.training.optimizer import Optimizer

Precision: TypeAlias = Literal["fp32", "bf16", "bf16-weights", "fp16"]

AUTOCAST: Mapping[Precision, torch.dtype] = {
    "bf16": torch.bfloat16,
    "bf16-weights": torch.bfloat16,
    "fp16": torch.float16,
}
"""What matrix products run in; float32 where nothing is said."""
FIRST_LOSS_SCALE = 2.0**14
"""Of a fresh run in ``fp16``; uyoung-jeong/PoseBH @ 8f03438, ``vitb_posebh.py``. The rest is torch's: half where a
gradient overflows, twice after 2000 updates without."""


BeforeUpdate: TypeAlias = Callable[[], None]
"""Called when the gradients of a step are ready; weights and moments change once it has returned."""


@dataclass(frozen=True, kw_only=True)
class EngineSettings:
    """What every engine must know.

    Attributes:
        optimizer: its settings.
        micro_batch: crops per rank and forward pass.
        accumulation: forward passes per step.
        device: of this rank.
    """

    optimizer: Optimizer
    micro_batch: int
    accumulation: int
    device: torch.device


def at_once() -> None:
    """Nothing is waited for before an update."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Update:
    """What became of an optimiser step.

    Attributes:
        losses: this rank's mean loss terms, detached.
        made: whether the gradient of all ranks together was finite. Where it was not, weights and moments are as they
            were, on every rank alike.
        rescaled: whether it was not, and the loss scale of ``fp16`` has been halved for it.
        gradient_norm: L2 norm of that gradient, before it was clipped; the same on every rank.
    """

    losses: dict[str, Tensor]
    made: bool
    rescaled: bool = False
    gradient_norm: float = math.nan


class Engine(Protocol):
    """Holds a method, its optimiser and its sharding."""

    @property
    def method(self) -> nn.Module:
        """The method being trained; under ZeRO-3 its parameters are only whole inside its own forward."""
        ...

    def step(
        self,
        batches: Sequence[DeviceBatch],
        lr_factor: float,
        frozen: Set[str] = frozenset(),
        before_update: BeforeUpdate = at_once,
    ) -> Update:
        """Makes one optimiser update, unless a loss term or the gradient is not finite on any rank.

        Args:
            batches: the micro-batches to accumulate; every rank gives the same number.
            lr_factor: what the schedule multiplies every group's peak rate by.
            frozen: parts of a staged method that this step does not change.
            before_update: is waited for between the gradients and the update.
        """
        ...

    def pieces(self) -> list[Piece]:
        """What this rank keeps of the state, or writes of what all have: weights, moments, anchors and buffers.

        The values are those that training works on. Together the ranks' pieces are the whole state, each value once.
        """
        ...

    def counts(self) -> Counts:
        """What belongs to the pieces and is no tensor; without the average's."""
        ...

    def restore(self, checkpoint: Checkpoint) -> None:
        """Takes over what this rank keeps of a state, whoever wrote it. Not collective.

        If it fails, the engine is to be given another checkpoint.

        Raises:
            CheckpointError: numbers are not finite.
            IntegrityError: a file is missing, truncated or changed.
        """
        ...

    def close(self) -> None:
        """Lets moments, gradients and what it keeps of weights go; it and its method are of no use any more."""
        ...


def checked_total(losses: Mapping[str, Tensor]) -> Tensor:
    """The sum of the loss terms, whose gradient is NaN where the sum is not finite, and else what it always is.

    A term may be NaN although the gradient of all terms is finite. This way the gradient's norm, which all ranks know
    and an engine reads once per step, tells of the losses of all ranks and micro-batches, and none is read by itself.
    """
    total = sum(losses.values(), start=torch.zeros(()))
    return total * (1 + 0 * total.detach())


class TorchEngineConfig(Config):
    """Plain PyTorch.

    Attributes:
        kind: names this engine.
        precision: ``bf16`` is autocast over float32 weights, ``fp16`` likewise with a scaled loss; ``bf16-weights`` is
            refused.
    """

    zero_stage: ClassVar[int] = 0
    offload_optimizer: ClassVar[bool] = False
    offload_parameters: ClassVar[bool] = False

    kind: Literal["torch"] = "torch"
    precision: Precision = "fp32"

    def build(self, method: nn.Module, settings: EngineSettings) -> Engine:
        """The engine, with a method under it."""
        from posecore.training.torch_engine import TorchEngine

        return TorchEngine(self, method, settings)

    @field_validator("precision")
    @classmethod
    def _refuse_bf16_weights(cls, precision: Precision) -> Precision:
        if precision == "bf16-weights":
            raise ValueError(
                "bf16-weights: only DeepSpeed's ZeRO-3 has it; set engine.kind to deepspeed, or precision to bf16."
            )
        return precision


class DeepSpeedEngineConfig(Config):
    """DeepSpeed ZeRO.

    Attributes:
        kind: names this engine.
        precision: ``bf16`` is autocast over float32 weights; ``bf16-weights`` has float32 weights in the optimiser
            only, and needs stage 3; ``fp16`` is refused.
        zero_stage: 0 shards nothing, 1 the optimiser state, 2 also gradients, 3 also weights.
        offload_optimizer: keep the optimiser state in CPU memory; needs a stage of at least 1.
        offload_parameters: keep the weights in CPU memory between uses; needs stage 3.
    """

    kind: Literal["deepspeed"] = "deepspeed"
    precision: Precision = "bf16"
    zero_stage: Literal[0, 1, 2, 3] = 2
    offload_optimizer: bool = False
    offload_parameters: bool = False

    def build(self, method: nn.Module, settings: EngineSettings) -> Engine:
        """The engine, with a method under it; DeepSpeed is imported here and nowhere before."""
        from posecore.training.deepspeed_engine import DeepSpeedEngine

        return DeepSpeedEngine(self, method, settings)

    @field_validator("precision")
    @classmethod
    def _refuse_fp16(cls, precision: Precision) -> Precision:
        if precision == "fp16":
            raise ValueError(
                "fp16: DeepSpeed's autocast clips gradients before it has taken the loss scale out of them, so that "
                "any of them is far beyond clip_norm; set precision to bf16, or engine.kind to torch."
            )
        return precision

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.precision == "bf16-weights" and self.zero_stage != 3:
            raise ValueError(
                "bf16-weights saves memory where weights are sharded; use zero_stage 3, or precision bf16."
            )
        return self


EngineConfig: TypeAlias = Annotated[TorchEngineConfig | DeepSpeedEngineConfig, Field(discriminator="kind")]
"""Every engine there is."""


def build_engine(
    config: EngineConfig,
    method: nn.Module,
    settings: EngineSettings,
) -> Engine:
    """Puts a method under an engine.

    Args:
        config: which engine.
        method: is moved to the device; rank 0's weights go to every rank.
        settings: what every engine must know.
    """
    return config.build(method, settings)
