"""Training under DeepSpeed ZeRO 0-3, with a state that any world size, stage or engine can continue from.

DeepSpeed's own checkpoints either refuse another world size or, as universal checkpoints with several parameter groups,
continue wrongly or not at all (stage 3 gives every group the first one's rate; stages 1 and 2 fail where a rank owns
no piece of a group). So the whole float32 state is gathered here tensor by tensor, and put back the same way. The
moments are laid out before the first step, because stages 1 and 2 otherwise link only the first group's. Private
attributes are read for that; ``tests/integration/test_deepspeed_engine.py`` would notice if they changed.
"""

import os
import warnings
from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import HashStore  # type: ignore[attr-defined]

from posecore.methods.batch import DeviceBatch
from posecore.models.saving import load_weights
from posecore.training.engine import DeepSpeedEngineConfig, EngineSettings, EngineState, Update, checked_total
from posecore.training.optimizer import OptimizerConfig, fresh_moments, make_optimizer
from posecore.training.torch_engine import clip_gradients, restore_moments, set_learning_rates, to_cpu, whole_state

BUCKET_ELEMENTS = 100_000_000
"""Gradients averaged in one message. DeepSpeed's own 5e8 takes 4 GB per GPU whatever the model's size, for two buffers;
a message of 400 MB is long enough for any network."""


class DeepSpeedEngine:
    """See :class:`posecore.training.engine.Engine`."""

    def __init__(
        self, config: DeepSpeedEngineConfig, method: nn.Module, settings: EngineSettings, state: EngineState | None
    ) -> None:
        deepspeed = _import_deepspeed(settings.device)
        if not dist.is_initialized():  # DeepSpeed wants a process group even for one process
            dist.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
        os.environ.setdefault("LOCAL_RANK", "0")
        if state is not None:
            load_weights(method, state.weights | state.buffers, origin="the checkpoint")
        self._settings = settings
        self._stage = config.zero_stage
        self._frozen = {name: to_cpu(p) for name, p in method.named_parameters() if not p.requires_grad}
        adam = settings.optimizer
        optimizer = make_optimizer(method, adam)
        names = {parameter: name for name, parameter in method.named_parameters()}
        self._anchored = {
            names[p] for group in optimizer.param_groups if group["anchor_decay"] for p in group["params"]
        }
        self._engine, self._optimizer, _, _ = deepspeed.initialize(
            model=method.to(settings.device).train(),
            optimizer=optimizer,
            config=deepspeed_settings(config, adam, settings.micro_batch, settings.accumulation),
        )
        self._steps = state.optimizer_steps if state is not None else 0
        if self._stage == 0:
            if state is not None:
                restore_moments(self._optimizer, self.method, state)
        else:
            self._lay_out_moments(state.updates if state is not None else {})
            if state is not None:
                self._restore_sharded_moments(state)

    @property
    def method(self) -> nn.Module:
        """See :attr:`posecore.training.engine.Engine.method`."""
        module: nn.Module = self._engine.module
        return module

    def step(self, batches: Sequence[DeviceBatch], lr_factor: float, frozen: Set[str] = frozenset()) -> Update:
        """See :meth:`posecore.training.engine.Engine.step`."""
        totals: dict[str, Tensor] = {}
        set_learning_rates(self._optimizer, self._settings.optimizer.lr, lr_factor, frozen)
        made = True
        for number, batch in enumerate(batches, start=1):
            losses = self._engine(batch)
            self._engine.backward(checked_total(losses))
            if self._stage == 0 and number == len(batches):
                made = self._clip()
            self._engine.step()
            for name, loss in losses.items():
                totals[name] = totals.get(name, 0) + loss.detach() / len(batches)
        if self._stage > 0:
            made = not self._optimizer.overflow  # it leaves out an update whose gradient has no finite norm
        if not made:
            return Update(losses=totals, made=False)
        self._steps += 1
        for moments, part in self._moments():  # DeepSpeed steps every group, with zeros for missing gradients
            if part in frozen:
                moments["step"].zero_()
        return Update(losses=totals, made=True)

    def snapshot(self) -> EngineState | None:
        """See :meth:`posecore.training.engine.Engine.snapshot`."""
        first = dist.get_rank() == 0
        if self._stage == 0:
            return whole_state(self._optimizer, self.method) if first else None
        from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

        state = EngineState(weights=dict(self._frozen), exp_avg={}, exp_avg_sq={}, buffers={}, optimizer_steps=0)
        for name, parameter in self._trainable():
            gathered = (
                safe_get_full_fp32_param(parameter),
                safe_get_full_optimizer_state(parameter, "exp_avg"),
                safe_get_full_optimizer_state(parameter, "exp_avg_sq"),
            )
            if first:  # copied at once, so that only one gathered tensor is ever held on the device
                sections = (state.weights, state.exp_avg, state.exp_avg_sq)
                for section, tensor in zip(sections, gathered, strict=True):
                    section[name] = to_cpu(tensor)
        for name, parameter in self._trainable():
            if name in self._anchored:
                anchor = safe_get_full_optimizer_state(parameter, "anchor")
                if first:
                    state.anchor[name] = to_cpu(anchor)
        state.buffers = {name: to_cpu(buffer) for name, buffer in self.method.named_buffers()}
        state.optimizer_steps = self._steps
        state.updates = {part: int(moments["step"].item()) for moments, part in self._moments() if part}
        return state if first else None

    def _clip(self) -> bool:
        """Stage 0 would make an update of any gradient. Without gradients it makes none."""
        trainable = [parameter for _, parameter in self._trainable() if parameter.grad is not None]
        finite = clip_gradients(trainable, self._settings.optimizer.clip_norm)
        if not finite:
            for parameter in trainable:
                parameter.grad = None
        return finite

    def _trainable(self) -> Iterator[tuple[str, nn.Parameter]]:
        return ((name, p) for name, p in self.method.named_parameters() if p.requires_grad)

    def _lay_out_moments(self, updates: Mapping[str, int]) -> None:
        zero = self._optimizer
        for flat, group in self._flats():
            steps = updates.get(group["part"], self._steps)
            zero.optimizer.state[flat] = fresh_moments(flat, group["anchor_decay"] > 0, steps)
        if self._stage < 3:
            zero._lazy_init_hp_params_optimizer_state()

    def _flats(self) -> Iterator[tuple[Tensor, Mapping[str, Any]]]:
        """This rank's piece of every flattened group, with the group."""
        zero = self._optimizer
        groups = zero.optimizer.param_groups
        if self._stage == 3:
            for index, flat in enumerate(zero.fp32_partitioned_groups_flat):
                yield flat, groups[zero.sub_group_to_group_id[index]]
        else:
            yield from zip(zero.single_partition_of_fp32_groups, groups, strict=True)

    def _moments(self) -> Iterator[tuple[dict[str, Tensor], str]]:
        """What AdamW keeps of every flattened group, or of every parameter where nothing is flattened."""
        if self._stage > 0:
            for flat, group in self._flats():
                yield self._optimizer.optimizer.state[flat], group["part"]
        else:
            for group in self._optimizer.param_groups:
                for parameter in group["params"]:
                    if parameter in self._optimizer.state:
                        yield self._optimizer.state[parameter], group["part"]

    def _restore_sharded_moments(self, state: EngineState) -> None:
        from deepspeed.utils import (
            safe_get_local_optimizer_state,
            safe_set_full_optimizer_state,
            safe_set_local_optimizer_state,
        )

        for name, parameter in self._trainable():
            for key, moments in (
                ("exp_avg", state.exp_avg),
                ("exp_avg_sq", state.exp_avg_sq),
                ("anchor", state.anchor),
            ):
                if name not in moments:
                    continue
                whole = moments[name].to(self._settings.device)
                if self._stage == 3:
                    size = safe_get_local_optimizer_state(parameter, key).numel()
                    safe_set_local_optimizer_state(parameter, _own_piece(whole, size), key)
                else:
                    safe_set_full_optimizer_state(parameter, whole, key)


def deepspeed_settings(
    config: DeepSpeedEngineConfig, optimizer: OptimizerConfig, micro_batch: int, accumulation: int
) -> dict[str, Any]:
    """The dictionary DeepSpeed wants."""
    zero: dict[str, Any] = {"stage": config.zero_stage, "reduce_bucket_size": BUCKET_ELEMENTS}
    if config.offload_optimizer:
        zero["offload_optimizer"] = {"device": "cpu"}
    if config.offload_parameters:
        zero["offload_param"] = {"device": "cpu"}
    settings: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": micro_batch,
        "gradient_accumulation_steps": accumulation,
        "gradient_clipping": (optimizer.clip_norm or 0.0) if config.zero_stage else 0.0,  # stage 0: _clip
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,  # AdamW with one step more is no type it knows
        "zero_force_ds_cpu_optimizer": False,  # its own CPU optimiser would be compiled at run time
        "steps_per_print": 1_000_000_000,
    }
    if config.precision == "bf16":
        settings["torch_autocast"] = {"enabled": True, "dtype": "bfloat16"}
    return settings


def _own_piece(whole: Tensor, size: int) -> Tensor:
    """This rank's piece of a flattened tensor that stage 3 cuts into equal, zero-padded pieces."""
    start = dist.get_rank() * size
    piece = whole.flatten()[start : start + size]
    return nn.functional.pad(piece, (0, size - len(piece)))


def _import_deepspeed(device: torch.device) -> Any:
    if device.type == "cpu":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # read when DeepSpeed is imported
    # DeepSpeed 0.19 still calls what torch 2.13 has renamed, once per collective.
    warnings.filterwarnings("ignore", r".*torch\.distributed\.\w+.* is deprecated", FutureWarning)
    import deepspeed
    import deepspeed.ops

    if device.type == "cpu":
        # Otherwise initialize() compiles a C++ operator: 36 s, and it fails where there is no compiler.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed
