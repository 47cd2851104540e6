"""Optimisers, and parameter groups with layer-wise learning-rate decay, exactly as ViTPose was trained.

Source: ViTAE-Transformer/ViTPose @ c050ed2, ``mmcv_custom/layer_decay_optimizer_constructor.py``; that code ignores the
``custom_keys`` of its configuration files, and so does this.
"""

from collections.abc import Set
from typing import Annotated, Any, ClassVar, Literal, Self, TypeAlias

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from posecore.config import Extension
from posecore.doors import Door
from posecore.errors import ConfigError
from posecore.methods.staged import InheritingMethod, StagedMethod
from posecore.models.layers import block_index, layer_index
from posecore.models.sharded import shape_of

_NORMS = (_NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)


class Optimizer(Extension):
    """The protocol of optimisers: how :meth:`build` is told what learns, how fast, and what of it decays.

    Attributes:
        lr: peak learning rate of the heads; published: 5e-4 at a global batch of 512, 1e-3 at 1024.
        weight_decay: of what ``undecayed`` leaves.
        undecayed: ``vectors`` spares every vector, every bias and the positional embedding, as ViTPose does.
            ``norms_and_biases`` spares normalisation layers and biases only, as RTMPose does: the scales and offsets of
            its attention, which are parameters of no such layer, are decayed.
        layer_decay: learning rate of a block relative to the block above it; 1 switches it off. Published: 0.8, 0.75,
            0.8, 0.85 for S, B, L, H.
        clip_norm: largest L2 norm of the gradient of all parameters together; None switches clipping off.
        moments: what it keeps of a parameter in tensors of the parameter's shape, by its names for them; checkpoints
            hold these, and ``step``.
        is_adamw: engines that shard its state know how.
    """

    moments: ClassVar[tuple[str, ...]] = ()
    is_adamw: ClassVar[bool] = False

    lr: float = Field(default=5e-4, gt=0)
    weight_decay: float = Field(default=0.1, ge=0)
    undecayed: Literal["vectors", "norms_and_biases"] = "vectors"
    layer_decay: float = Field(default=0.75, gt=0, le=1)
    clip_norm: float | None = Field(default=1.0, gt=0)

    @property
    def anchoring(self) -> float:
        """Share of the way to where they started that inherited weights decay by, as a multiple of the rate."""
        return 0.0

    def anchored(self, decay: float) -> Self:
        """The same, whose inherited weights decay to where they started; itself if they are not to.

        Raises:
            ConfigError: it knows no such decay.
        """
        if decay:
            raise ConfigError(f"l2_sp: an optimizer of kind {self.kind} does not pull weights back; set it to 0.")
        return self

    def build(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """The optimiser.

        Args:
            groups: of :func:`parameter_groups`, whose keys it keeps.
        """
        raise NotImplementedError(f"{type(self).__name__} has to build its optimiser")

    def restored(self, parameter: Tensor, kept: Set[str], steps: int) -> dict[str, Tensor]:
        """What it keeps of a parameter after some updates, with moments that are to be filled in.

        Args:
            parameter: of the method.
            kept: those of :attr:`moments` that a checkpoint has of it.
            steps: updates made of it.
        """
        return {"step": torch.tensor(float(steps))} | {name: torch.zeros_like(parameter) for name in sorted(kept)}


class OptimizerConfig(Optimizer):
    """AdamW.

    Attributes:
        kind: names this optimiser.
        anchor_decay: for an :class:`~posecore.methods.staged.InheritingMethod`: its inherited weights, vectors too,
            decay to the values the run started from and not to zero (L2-SP, arXiv 1802.01483, decoupled from the
            gradient as AdamW's own decay is). Costs one more float32 copy of them. 0 for none.
        betas: decay of the two running moments.
        eps: added to the root of the second moment.
    """

    moments: ClassVar[tuple[str, ...]] = ("exp_avg", "exp_avg_sq", "anchor")
    is_adamw: ClassVar[bool] = True

    kind: Literal["adamw"] = "adamw"
    anchor_decay: float = Field(default=0.0, ge=0)
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = Field(default=1e-8, gt=0)

    @property
    def anchoring(self) -> float:
        """See :class:`Optimizer`."""
        return self.anchor_decay

    def anchored(self, decay: float) -> Self:
        """See :class:`Optimizer`."""
        return self.model_copy(update={"anchor_decay": decay})

    def build(self, groups: list[dict[str, Any]]) -> torch.optim.AdamW:
        """AdamW, or :class:`AnchoredAdamW` where a group is held to where it started."""
        kind = AnchoredAdamW if any(group["anchor_decay"] for group in groups) else torch.optim.AdamW
        return kind(groups, lr=self.lr, betas=self.betas, eps=self.eps)

    def restored(self, parameter: Tensor, kept: Set[str], steps: int) -> dict[str, Tensor]:
        """See :class:`Optimizer`."""
        return fresh_moments(parameter, "anchor" in kept, steps)


OptimizerChoice: TypeAlias = Annotated[
    OptimizerConfig | Optimizer, Door("optimizer", "posecore.optimizers", default="adamw")
]
"""Every optimiser there is, and whoever comes by; AdamW where none is named."""


class AnchoredAdamW(torch.optim.AdamW):
    """AdamW whose groups may decay to where they started, by ``lr · anchor_decay`` of the way in every step.

    The start is kept as ``anchor`` in the state of each parameter, and so sharded, saved and restored like a moment.
    """

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One update: first the decay, then AdamW's, as AdamW does with its own."""
        for group in self.param_groups:
            if not group["anchor_decay"]:
                continue
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:  # AdamW makes its own moments only where there is no state at all
                    state |= fresh_moments(parameter, anchored=True)
                parameter.lerp_(state["anchor"], group["lr"] * group["anchor_decay"])
        return super().step(closure)


def fresh_moments(parameter: Tensor, anchored: bool, steps: int = 0) -> dict[str, Tensor]:
    """What AdamW keeps of a parameter, before its first update or, with moments to be filled in, after some."""
    state = {
        "step": torch.tensor(float(steps)),
        "exp_avg": torch.zeros_like(parameter),
        "exp_avg_sq": torch.zeros_like(parameter),
    }
    return state | {"anchor": parameter.detach().clone()} if anchored else state


def make_optimizer(method: nn.Module, config: Optimizer) -> torch.optim.Optimizer:
    """The optimiser of a method's :func:`parameter_groups`."""
    return config.build(parameter_groups(method, config))


def parameter_groups(method: nn.Module, config: Optimizer) -> list[dict[str, Any]]:
    """Groups of trainable parameters that share a learning rate and a weight decay, the lowest layer first.

    With ``n`` blocks, embeddings get ``rate^(n+1)``, block ``i`` gets ``rate^(n-i)``, everything else (last norm,
    heads, the projection of depth) gets 1. What is not decayed is a matter of ``config.undecayed``.

    Args:
        method: its backbone's parameters are named ``…backbone.*``.
        config: learning rate, decay and layer decay.

    Returns:
        Groups for :class:`torch.optim.AdamW`; ``lr_scale`` is what a schedule multiplies the peak rate by, ``part`` the
        part of a :class:`~posecore.methods.staged.StagedMethod` that the group belongs to, or "", and ``anchor_decay``
        0 for weights that are not held to their first values.
    """
    trainable = [(name, parameter) for name, parameter in method.named_parameters() if parameter.requires_grad]
    depth = 1 + max((block_index(name) for name, _ in method.named_parameters()), default=-1)
    parts = method.parts if isinstance(method, StagedMethod) else ()
    of_norms = {id(p) for m in method.modules() if isinstance(m, _NORMS) for p in m.parameters(recurse=False)}
    groups: dict[tuple[int, str, bool, bool], dict[str, Any]] = {}
    for name, parameter in trainable:
        layer = layer_index(name, depth)
        if config.undecayed == "vectors":
            decayed = len(shape_of(parameter)) > 1 and not name.endswith(".bias") and "pos_embed" not in name
        else:
            decayed = id(parameter) not in of_norms and not name.endswith(".bias")
        part = next((prefix for prefix in parts if name.startswith(prefix)), "")
        anchored = config.anchoring > 0 and isinstance(method, InheritingMethod) and method.inherited(name)
        key = (layer, part, decayed and not anchored, anchored)
        if key not in groups:
            scale = config.layer_decay ** (depth + 1 - layer)
            groups[key] = {
                "params": [],
                "lr": config.lr * scale,
                "lr_scale": scale,
                "part": part,
                "weight_decay": config.weight_decay if decayed and not anchored else 0.0,
                "anchor_decay": config.anchoring if anchored else 0.0,
            }
        groups[key]["params"].append(parameter)
    return [groups[key] for key in sorted(groups)]
