"""Training under DeepSpeed ZeRO 0-3, with a state that any world size, stage or engine can continue from.

DeepSpeed's own checkpoints either refuse another world size or, as universal checkpoints with several parameter groups,
continue wrongly or not at all (stage 3 gives every group the first one's rate; stages 1 and 2 fail where a rank owns
no piece of a group). So every rank gives out the runs of the flattened float32 tensors that it keeps, and takes others
back. The moments are laid out before the first step, because stages 1 and 2 otherwise link only the first group's.
Private attributes are read for that; ``tests/integration/test_deepspeed_engine.py`` would notice if they changed.
"""

import os
import warnings
from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import HashStore  # type: ignore[attr-defined]

from posecore.methods.batch import DeviceBatch
from posecore.training.checkpoint import Checkpoint, Counts
from posecore.training.checkpoint_pieces import Piece
from posecore.training.engine import (
    BeforeUpdate,
    DeepSpeedEngineConfig,
    EngineSettings,
    Update,
    at_once,
    checked_total,
)
from posecore.training.optimizer import OptimizerConfig, fresh_moments, make_optimizer
from posecore.training.torch_engine import (
    MOMENTS,
    buffer_pieces,
    clip_gradients,
    own_share,
    read_whole,
    restore_buffers,
    restore_moments,
    restore_weights,
    set_learning_rates,
    whole_counts,
    whole_pieces,
)

BUCKET_ELEMENTS = 100_000_000
"""Gradients averaged in one message. DeepSpeed's own 5e8 takes 4 GB per GPU whatever the model's size, for two buffers;
a message of 400 MB is long enough for any network."""


class DeepSpeedEngine:
    """See :class:`posecore.training.engine.Engine`."""

    def __init__(self, config: DeepSpeedEngineConfig, method: nn.Module, settings: EngineSettings) -> None:
        deepspeed = _import_deepspeed(settings.device)
        if not dist.is_initialized():  # DeepSpeed wants a process group even for one process
            dist.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
        os.environ.setdefault("LOCAL_RANK", "0")
        self._settings = settings
        self._stage = config.zero_stage
        adam = settings.optimizer
        optimizer = make_optimizer(method, adam)
        self._engine, self._optimizer, _, _ = deepspeed.initialize(
            model=method.to(settings.device).train(),
            optimizer=optimizer,
            config=deepspeed_settings(config, adam, settings.micro_batch, settings.accumulation),
        )
        self._steps = 0
        if self._stage > 0:
            self._lay_out_moments()

    @property
    def method(self) -> nn.Module:
        """See :attr:`posecore.training.engine.Engine.method`."""
        module: nn.Module = self._engine.module
        return module

    def step(
        self,
        batches: Sequence[DeviceBatch],
        lr_factor: float,
        frozen: Set[str] = frozenset(),
        before_update: BeforeUpdate = at_once,
    ) -> Update:
        """See :meth:`posecore.training.engine.Engine.step`."""
        totals: dict[str, Tensor] = {}
        set_learning_rates(self._optimizer, self._settings.optimizer.lr, lr_factor, frozen)
        made = True
        for number, batch in enumerate(batches, start=1):
            losses = self._engine(batch)
            self._engine.backward(checked_total(losses))
            if number == len(batches):
                made = self._clip() if self._stage == 0 else True
                before_update()
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

    def pieces(self) -> list[Piece]:
        """See :meth:`posecore.training.engine.Engine.pieces`."""
        if self._stage == 0:
            return own_share(whole_pieces(self._optimizer, self.method))
        learned = [
            Piece(f"{section}/{name}", _shape(parameter), run.start, run.values)
            for section in ("weights", *MOMENTS)
            for name, parameter in self._trainable()
            if (run := self._run(parameter, section)) is not None
        ]
        frozen = [(name, p) for name, p in self.method.named_parameters() if not p.requires_grad]
        if self._stage == 3:
            learned += [
                Piece(f"weights/{name}", _shape(parameter), run.start, run.values)
                for name, parameter in frozen
                if (run := _own_run(parameter)) is not None
            ]
            return learned + own_share(buffer_pieces(self.method))
        alike = [Piece.whole(f"weights/{name}", parameter) for name, parameter in frozen]
        return learned + own_share(alike + buffer_pieces(self.method))

    def counts(self) -> Counts:
        """See :meth:`posecore.training.engine.Engine.counts`."""
        if self._stage == 0:
            return whole_counts(self._optimizer)
        updates = {part: int(moments["step"].item()) for moments, part in self._moments() if part}
        return Counts(optimizer_steps=self._steps, updates=updates)

    @torch.no_grad()
    def restore(self, checkpoint: Checkpoint) -> None:
        """See :meth:`posecore.training.engine.Engine.restore`."""
        counts = checkpoint.counts
        self._steps = counts.optimizer_steps
        if self._stage == 0:
            restore_weights(self.method, checkpoint)
            restore_moments(self._optimizer, self.method, checkpoint)
            return
        for moments, part in self._moments():
            moments["step"].fill_(counts.updates.get(part, self._steps))
        for name, parameter in self._trainable():
            for section in ("weights", *MOMENTS):
                run = self._run(parameter, section)
                if run is None:
                    continue
                if checkpoint.has(section, name):
                    checkpoint.read_into(section, name, run.values, run.start)
                elif section != "anchor":
                    run.values.zero_()  # its moments: it had no gradient yet
        if self._stage == 3:
            self._restore_partitions(checkpoint)
        else:
            restore_weights(self.method, checkpoint)

    def _restore_partitions(self, checkpoint: Checkpoint) -> None:
        """Stage 3: what layers compute with are other tensors than the optimiser's where precision or place differ."""
        zero = self._optimizer
        for index, (own, master) in enumerate(
            zip(zero.fp16_partitioned_groups_flat, zero.fp32_partitioned_groups_flat, strict=True)
        ):
            if own is not master:
                zero._reassign_or_swap_out_partitioned_parameters(index)
        for name, parameter in self.method.named_parameters():
            if not parameter.requires_grad and (run := _own_run(parameter)) is not None:
                checkpoint.read_into("weights", name, run.values, run.start)
            if parameter.numel():  # it is whole on every rank, because it is small
                read_whole(checkpoint, "weights", name, parameter)
        restore_buffers(self.method, checkpoint)

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

    def _run(self, parameter: nn.Parameter, section: str) -> "_Run | None":
        """What this rank's optimiser keeps of a parameter: weights, or a moment of that name; None for nothing."""
        zero, key = self._optimizer, None if section == "weights" else section
        if self._stage == 3:
            group, offset, size = zero.grad_position[zero.get_param_id(parameter)]
            flat = zero.fp32_partitioned_groups_flat[group]
            kept = flat.detach() if key is None else zero.optimizer.state[flat].get(key)
            return None if kept is None else _run_of(parameter, kept.narrow(0, offset, size))
        fragment = parameter._hp_mapping  # type: ignore[attr-defined]
        if fragment is None or (key is not None and key not in fragment.get_optim_state_keys()):
            return None
        return _Run(fragment.lp_fragment_address.start, fragment.get_hp_fragment(key).detach())

    def _lay_out_moments(self) -> None:
        zero = self._optimizer
        for flat, group in self._flats():
            zero.optimizer.state[flat] = fresh_moments(flat, group["anchor_decay"] > 0)
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


class _Run(NamedTuple):
    """Values that a rank keeps of a flattened tensor, and the index of the first."""

    start: int
    values: Tensor


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


def _shape(parameter: nn.Parameter) -> tuple[int, ...]:
    return tuple(getattr(parameter, "ds_shape", parameter.shape))  # under stage 3 the local shape is (0,)


def _own_run(parameter: Any) -> _Run | None:
    """What this rank keeps of a parameter under stage 3."""
    return _run_of(parameter, parameter.ds_tensor.detach())


def _run_of(parameter: Any, piece: Tensor) -> _Run | None:
    """This rank's piece of a flattened tensor that stage 3 cuts into equal, padded pieces, without the padding."""
    start = dist.get_rank() * len(piece)
    count = min(len(piece), parameter.ds_numel - start)
    return _Run(start, piece[:count]) if count > 0 else None


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
