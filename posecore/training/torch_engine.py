"""Training with plain PyTorch: the whole state on every rank, gradients averaged by DistributedDataParallel."""

import math
from collections.abc import Sequence, Set
from contextlib import nullcontext
from dataclasses import replace

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from posecore.methods.batch import DeviceBatch
from posecore.training.checkpoint import Checkpoint, Counts, section_of
from posecore.training.checkpoint_pieces import Piece, share
from posecore.training.engine import (
    AUTOCAST,
    FIRST_LOSS_SCALE,
    BeforeUpdate,
    EngineSettings,
    TorchEngineConfig,
    Update,
    at_once,
    checked_total,
)
from posecore.training.optimizer import Optimizer, make_optimizer


class TorchEngine:
    """See :class:`posecore.training.engine.Engine`."""

    def __init__(self, config: TorchEngineConfig, method: nn.Module, settings: EngineSettings) -> None:
        materialise(method, settings.device)
        self.method = method.to(settings.device).train()
        self._averaging = _averaged(self.method, settings.device)
        self._settings = settings
        self._dtype = AUTOCAST.get(config.precision)
        self._optimizer = make_optimizer(method, settings.optimizer)
        self._scaler = torch.amp.GradScaler(
            settings.device.type, init_scale=FIRST_LOSS_SCALE, enabled=config.precision == "fp16"
        )

    def step(
        self,
        batches: Sequence[DeviceBatch],
        lr_factor: float,
        frozen: Set[str] = frozenset(),
        before_update: BeforeUpdate = at_once,
    ) -> Update:
        """See :meth:`posecore.training.engine.Engine.step`."""
        totals: dict[str, Tensor] = {}
        for number, batch in enumerate(batches, start=1):
            with nullcontext() if self._averaging is None or number == len(batches) else self._averaging.no_sync():
                with torch.autocast(self._settings.device.type, dtype=self._dtype, enabled=self._dtype is not None):
                    losses = (self._averaging or self.method)(batch)
                self._scaler.scale(checked_total(losses) / len(batches)).backward()
            for name, loss in losses.items():
                totals[name] = totals.get(name, 0) + loss.detach() / len(batches)
        trainable = [p for group in self._optimizer.param_groups for p in group["params"] if p.grad is not None]
        # Every rank has the same gradients now, and so finds the same of them not to be finite.
        self._scaler.unscale_(self._optimizer)
        norm = clip_gradients(trainable, self._settings.optimizer.clip_norm)
        made, rescaled = math.isfinite(norm), False
        before_update()
        if made:
            set_learning_rates(self._optimizer, self._settings.optimizer.lr, lr_factor, frozen)
            self._scaler.step(self._optimizer)
        elif self._scaler.is_enabled():
            rescaled = self._scaler.get_scale() > 1  # below, it is not the scale that makes it overflow
        self._scaler.update()
        self._optimizer.zero_grad(set_to_none=True)
        return Update(losses=totals, made=made, rescaled=rescaled, gradient_norm=norm)

    def pieces(self) -> list[Piece]:
        """See :meth:`posecore.training.engine.Engine.pieces`."""
        return own_share(whole_pieces(self._optimizer, self.method, self._settings.optimizer))

    def counts(self) -> Counts:
        """See :meth:`posecore.training.engine.Engine.counts`."""
        counts = whole_counts(self._optimizer)
        if not self._scaler.is_enabled():
            return counts
        scaler = self._scaler.state_dict()
        return replace(counts, loss_scale=(scaler["scale"], scaler["_growth_tracker"]))

    def restore(self, checkpoint: Checkpoint) -> None:
        """See :meth:`posecore.training.engine.Engine.restore`."""
        restore_weights(self.method, checkpoint)
        restore_moments(self._optimizer, self.method, checkpoint, self._settings.optimizer)
        if checkpoint.counts.loss_scale is not None:
            scale, updates = checkpoint.counts.loss_scale
            self._scaler.load_state_dict(self._scaler.state_dict() | {"scale": scale, "_growth_tracker": updates})

    def close(self) -> None:
        """See :meth:`posecore.training.engine.Engine.close`."""
        self._averaging = None
        self._optimizer.zero_grad()
        self._optimizer.state.clear()


def clip_gradients(parameters: Sequence[nn.Parameter], clip_norm: float | None) -> float:
    """Scales the gradients of parameters down to an L2 norm, if any is given, and says what theirs was.

    On a GPU this waits for the gradients: the one time in a step.
    """
    norm = nn.utils.get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])
    if clip_norm is not None:
        nn.utils.clip_grads_with_norm_(parameters, clip_norm, norm)
    return norm.item()


def set_learning_rates(
    optimizer: torch.optim.Optimizer, peak: float, factor: float, frozen: Set[str] = frozenset()
) -> None:
    """Gives every group the scheduled rate of its layer, and groups of frozen parts none, so that nothing decays."""
    for group in optimizer.param_groups:
        group["lr"] = 0.0 if group["part"] in frozen else peak * group["lr_scale"] * factor


def materialise(module: nn.Module, device: torch.device, recurse: bool = True) -> None:
    """Gives memory, and no values, to whatever of a module is on the meta device; in place.

    Args:
        module: keeps its names; a parameter that it uses twice is still one afterwards.
        device: where the memory is.
        recurse: whether the modules in it are given memory, too.
    """
    made: dict[int, nn.Parameter] = {}
    for part in module.modules() if recurse else (module,):
        for name, parameter in part.named_parameters(recurse=False, remove_duplicate=False):
            if parameter.is_meta:
                fresh = made.get(id(parameter))
                if fresh is None:
                    empty = torch.empty_like(parameter, device=device)
                    fresh = made[id(parameter)] = nn.Parameter(empty, parameter.requires_grad)
                part.register_parameter(name, fresh)
        for name, buffer in part.named_buffers(recurse=False):
            if buffer.is_meta:
                part.register_buffer(name, torch.empty_like(buffer, device=device))


def whole_pieces(optimizer: torch.optim.Optimizer, method: nn.Module, config: Optimizer) -> list[Piece]:
    """The state of an optimiser that is not sharded."""
    pieces = [Piece.whole(f"weights/{name}", parameter) for name, parameter in method.named_parameters()]
    for key in config.moments:
        for name, parameter in method.named_parameters():
            if key in optimizer.state.get(parameter, {}):
                pieces.append(Piece.whole(f"{section_of(key)}/{name}", optimizer.state[parameter][key]))
    return pieces + buffer_pieces(method)


def buffer_pieces(method: nn.Module) -> list[Piece]:
    """What the method keeps beside its parameters."""
    return [Piece.whole(f"buffers/{name}", buffer) for name, buffer in method.named_buffers()]


def whole_counts(optimizer: torch.optim.Optimizer) -> Counts:
    """The updates of an optimiser that is not sharded, and of the parts that were frozen in some."""
    updates: dict[str, int] = {}
    for group in optimizer.param_groups:
        counted = [optimizer.state[p] for p in group["params"] if "step" in optimizer.state.get(p, {})]
        made = [int(state["step"].item()) for state in counted]
        updates[group["part"]] = max([updates.get(group["part"], 0), *made])
    steps = max(updates.values(), default=0)
    return Counts(optimizer_steps=steps, updates={part: made for part, made in updates.items() if part})


def own_share(pieces: Sequence[Piece]) -> list[Piece]:
    """What this rank writes of pieces that every rank has."""
    if not dist.is_initialized():
        return list(pieces)
    return share(pieces, dist.get_rank(), dist.get_world_size())


@torch.no_grad()
def restore_weights(method: nn.Module, checkpoint: Checkpoint) -> None:
    """Fills whole parameters, and buffers."""
    for name, parameter in method.named_parameters():
        read_whole(checkpoint, "weights", name, parameter)
    restore_buffers(method, checkpoint)


@torch.no_grad()
def restore_buffers(method: nn.Module, checkpoint: Checkpoint) -> None:
    """Fills the buffers."""
    for name, buffer in method.named_buffers():
        read_whole(checkpoint, "buffers", name, buffer)


def read_whole(checkpoint: Checkpoint, section: str, name: str, target: Tensor) -> None:
    """Fills a tensor with one of the same shape, in its own memory if that is laid out in a row."""
    if target.is_contiguous():
        checkpoint.read_into(section, name, target.detach().view(-1))
    else:
        target.copy_(checkpoint.read(section, name))


def restore_moments(
    optimizer: torch.optim.Optimizer, method: nn.Module, checkpoint: Checkpoint, config: Optimizer
) -> None:
    """Fills an optimiser that is not sharded; parameters that never had a gradient start from nothing, as before."""
    names = {parameter: name for name, parameter in method.named_parameters()}
    counts = checkpoint.counts
    for group in optimizer.param_groups:
        steps = counts.updates.get(group["part"], counts.optimizer_steps)
        for parameter in group["params"]:
            optimizer.state.pop(parameter, None)
            name = names[parameter]
            kept = {key for key in config.moments if checkpoint.has(section_of(key), name)}
            if kept:
                state = config.restored(parameter, kept, steps)
                for key in config.moments:
                    if key in state:
                        read_whole(checkpoint, section_of(key), name, state[key])
                optimizer.state[parameter] = state


class _OnRanks(nn.Module):
    """A method, beside a weight that no step reaches: where there is none, torch warns that none need be expected."""

    def __init__(self, method: nn.Module, device: torch.device) -> None:
        super().__init__()
        self.method = method
        self.unreached = nn.Parameter(torch.zeros((), device=device))

    def forward(self, batch: DeviceBatch) -> dict[str, Tensor]:
        losses: dict[str, Tensor] = self.method(batch)
        return losses


def _averaged(method: nn.Module, device: torch.device) -> DistributedDataParallel | None:
    """The method as ranks run it together, from rank 0's weights on; None where there is one rank.

    It averages in buckets, while the backward pass goes on, and gradients lie in the buckets. Unless weights are
    expected that a step does not reach, buckets are cut anew after the first step; a run that was killed would then
    add up more than two ranks in another order than one left alone.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return None
    return DistributedDataParallel(
        _OnRanks(method, device), forward_sync_buffers=False, gradient_as_bucket_view=True, find_unused_parameters=True
    )
