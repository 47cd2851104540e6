"""Training with plain PyTorch: the whole state on every rank, gradients averaged over ranks."""

from collections.abc import Sequence, Set

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._utils import _flatten_dense_tensors, _unflatten_dense_tensors

from posecore.methods.batch import DeviceBatch
from posecore.models.saving import load_weights
from posecore.training.engine import (
    AUTOCAST,
    FIRST_LOSS_SCALE,
    EngineSettings,
    EngineState,
    TorchEngineConfig,
    Update,
    checked_total,
)
from posecore.training.optimizer import make_optimizer


class TorchEngine:
    """See :class:`posecore.training.engine.Engine`."""

    def __init__(
        self, config: TorchEngineConfig, method: nn.Module, settings: EngineSettings, state: EngineState | None
    ) -> None:
        if state is not None:
            load_weights(method, state.weights | state.buffers, origin="the checkpoint")
        self.method = method.to(settings.device).train()
        for tensor in method.state_dict().values():
            _broadcast(tensor)
        self._settings = settings
        self._dtype = AUTOCAST.get(config.precision)
        self._optimizer = make_optimizer(method, settings.optimizer)
        if state is not None:
            restore_moments(self._optimizer, method, state)
        self._scaler = torch.amp.GradScaler(
            settings.device.type, init_scale=FIRST_LOSS_SCALE, enabled=config.precision == "fp16"
        )
        if state is not None and state.loss_scale is not None:
            scale, updates = state.loss_scale
            self._scaler.load_state_dict(self._scaler.state_dict() | {"scale": scale, "_growth_tracker": updates})

    def step(self, batches: Sequence[DeviceBatch], lr_factor: float, frozen: Set[str] = frozenset()) -> Update:
        """See :meth:`posecore.training.engine.Engine.step`."""
        totals: dict[str, Tensor] = {}
        for batch in batches:
            with torch.autocast(self._settings.device.type, dtype=self._dtype, enabled=self._dtype is not None):
                losses = self.method(batch)
            self._scaler.scale(checked_total(losses) / len(batches)).backward()
            for name, loss in losses.items():
                totals[name] = totals.get(name, 0) + loss.detach() / len(batches)
        trainable = [p for group in self._optimizer.param_groups for p in group["params"] if p.grad is not None]
        _average([parameter.grad for parameter in trainable if parameter.grad is not None])
        # Every rank has the same gradients now, and so finds the same of them not to be finite.
        self._scaler.unscale_(self._optimizer)
        made, rescaled = clip_gradients(trainable, self._settings.optimizer.clip_norm), False
        if made:
            set_learning_rates(self._optimizer, self._settings.optimizer.lr, lr_factor, frozen)
            self._scaler.step(self._optimizer)
        elif self._scaler.is_enabled():
            rescaled = self._scaler.get_scale() > 1  # below, it is not the scale that makes it overflow
        self._scaler.update()
        self._optimizer.zero_grad(set_to_none=True)
        return Update(losses=totals, made=made, rescaled=rescaled)

    def snapshot(self) -> EngineState | None:
        """See :meth:`posecore.training.engine.Engine.snapshot`."""
        if dist.is_initialized() and dist.get_rank() > 0:
            return None
        state = whole_state(self._optimizer, self.method)
        if self._scaler.is_enabled():
            scaler = self._scaler.state_dict()
            state.loss_scale = (scaler["scale"], scaler["_growth_tracker"])
        return state


def clip_gradients(parameters: Sequence[nn.Parameter], clip_norm: float | None) -> bool:
    """Scales the gradients of parameters down to an L2 norm, if any is given, and says whether theirs was finite.

    On a GPU this waits for the gradients: the one time in a step.
    """
    norm = nn.utils.get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])
    if clip_norm is not None:
        nn.utils.clip_grads_with_norm_(parameters, clip_norm, norm)
    return bool(norm.isfinite())


def set_learning_rates(
    optimizer: torch.optim.Optimizer, peak: float, factor: float, frozen: Set[str] = frozenset()
) -> None:
    """Gives every group the scheduled rate of its layer, and groups of frozen parts none, so that nothing decays."""
    for group in optimizer.param_groups:
        group["lr"] = 0.0 if group["part"] in frozen else peak * group["lr_scale"] * factor


def whole_state(optimizer: torch.optim.Optimizer, method: nn.Module) -> EngineState:
    """The state of an optimiser that is not sharded."""
    moments = {name: optimizer.state[p] for name, p in method.named_parameters() if p in optimizer.state}
    steps = max((int(moment["step"].item()) for moment in moments.values()), default=0)
    updates: dict[str, int] = {}
    for group in optimizer.param_groups:
        if group["part"]:
            made = [int(optimizer.state[p]["step"].item()) for p in group["params"] if p in optimizer.state]
            updates[group["part"]] = max([updates.get(group["part"], 0), *made])
    return EngineState(
        weights={name: to_cpu(parameter) for name, parameter in method.named_parameters()},
        exp_avg={name: to_cpu(moment["exp_avg"]) for name, moment in moments.items()},
        exp_avg_sq={name: to_cpu(moment["exp_avg_sq"]) for name, moment in moments.items()},
        buffers={name: to_cpu(buffer) for name, buffer in method.named_buffers()},
        optimizer_steps=steps,
        updates=updates,
        anchor={name: to_cpu(moment["anchor"]) for name, moment in moments.items() if "anchor" in moment},
    )


def restore_moments(optimizer: torch.optim.Optimizer, method: nn.Module, state: EngineState) -> None:
    """Fills an optimiser that is not sharded; parameters that never had a gradient start from nothing, as before."""
    names = {parameter: name for name, parameter in method.named_parameters()}
    for group in optimizer.param_groups:
        steps = state.updates.get(group["part"], state.optimizer_steps)
        for parameter in group["params"]:
            name = names[parameter]
            if name in state.exp_avg:
                optimizer.state[parameter] = {
                    "step": torch.tensor(float(steps)),
                    "exp_avg": state.exp_avg[name].to(parameter.device, copy=True),
                    "exp_avg_sq": state.exp_avg_sq[name].to(parameter.device, copy=True),
                }
                if name in state.anchor:
                    optimizer.state[parameter]["anchor"] = state.anchor[name].to(parameter.device, copy=True)


def to_cpu(tensor: Tensor) -> Tensor:
    """A copy on the CPU that later steps cannot change."""
    return tensor.detach().to("cpu", copy=True).contiguous()


def _average(tensors: list[Tensor]) -> None:
    if not dist.is_initialized() or dist.get_world_size() == 1 or not tensors:
        return
    flat = _flatten_dense_tensors(tensors)
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    for tensor, averaged in zip(tensors, _unflatten_dense_tensors(flat, tensors), strict=True):
        tensor.copy_(averaged)


def _broadcast(tensor: Tensor) -> None:
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.broadcast(tensor, src=0)
