"""Training under DeepSpeed ZeRO 0-3, with a state that any world size, stage or engine can continue from.

DeepSpeed's own checkpoints either refuse another world size or, as universal checkpoints with several parameter groups,
continue wrongly or not at all (stage 3 gives every group the first one's rate; stages 1 and 2 fail where a rank owns
no piece of a group). So every rank gives out the runs of the flattened float32 tensors that it keeps, and takes others
back. The moments are laid out before the first step, because stages 1 and 2 otherwise link only the first group's.
Private attributes are read for that; ``tests/integration/test_deepspeed_engine.py`` would notice if they changed.
"""

import math
import os
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import HashStore  # type: ignore[attr-defined]

from posecore.errors import ConfigError
from posecore.extras import refuse_missing
from posecore.methods.batch import DeviceBatch
from posecore.methods.staged import AskingMethod
from posecore.models.pose_model import PoseModel
from posecore.models.sharded import Run, copy_masters, drop_copies, is_sharded, let_go, moment_run, shape_of, weight_run
from posecore.models.sources import ModelFolder, is_outline
from posecore.training.asked import fill
from posecore.training.bf16_weights import round_weights
from posecore.training.checkpoint import Checkpoint, Counts
from posecore.training.checkpoint_pieces import Piece
from posecore.training.engine import (
    AUTOCAST,
    BeforeUpdate,
    DeepSpeedEngineConfig,
    EngineSettings,
    Update,
    at_once,
    checked_total,
)
from posecore.training.optimizer import Optimizer, OptimizerConfig, fresh_moments, make_optimizer
from posecore.training.torch_engine import (
    buffer_pieces,
    clip_gradients,
    materialise,
    own_share,
    read_whole,
    restore_buffers,
    restore_moments,
    restore_weights,
    set_learning_rates,
    whole_counts,
    whole_pieces,
)

_MOST_IN_BUCKET, _LEAST_IN_BUCKET, _BUCKETS = 100_000_000, 1_000_000, 32
_LIVE_BUCKETS = 4


def bucket_elements(parameters: int) -> int:
    """Gradients averaged in one message, and weights gathered ahead, for a model of so many parameters.

    DeepSpeed's own 5e8 takes 4 GB per GPU whatever the model's size, for two buffers. A message of 400 MB is long
    enough for any network, and a 32nd of a model leaves enough of its backward pass to send the gradients in.
    """
    return min(_MOST_IN_BUCKET, max(_LEAST_IN_BUCKET, parameters // _BUCKETS))


def live_elements(parameters: int) -> int:
    """Weights that stage 3 has whole at a time. DeepSpeed's own 1e9 keep all of most models on every rank."""
    return _LIVE_BUCKETS * bucket_elements(parameters)


class DeepSpeedEngine:
    """See :class:`posecore.training.engine.Engine`."""

    def __init__(self, config: DeepSpeedEngineConfig, method: nn.Module, settings: EngineSettings) -> None:
        rounds = config.precision == "bf16-weights"
        if rounds:
            _refuse_frozen(method)
        deepspeed = _import_deepspeed(settings.device)
        if not dist.is_initialized():  # DeepSpeed wants a process group even for one process
            dist.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
        os.environ.setdefault("LOCAL_RANK", "0")
        self._settings = settings
        self._stage = config.zero_stage
        adam = settings.optimizer
        trained = sum(parameter.numel() for parameter in method.parameters() if parameter.requires_grad)
        total = sum(parameter.numel() for parameter in method.parameters())
        described = deepspeed_settings(config, adam, settings.micro_batch, settings.accumulation, trained, total)
        exact = round_weights(method) if rounds else {}
        if self._stage == 3:
            _shard(deepspeed, method, settings.device, described)
            _let_gathered_go(method, settings.device)
            if isinstance(method, AskingMethod):
                for model, source in method.asked():
                    _shard_asked(deepspeed, model, source, settings.device, described)
        else:
            materialise(method, settings.device)
        optimizer = make_optimizer(method, adam)
        self._engine, self._optimizer, _, _ = deepspeed.initialize(
            model=method.to(settings.device).train(),
            optimizer=optimizer,
            config=described,
        )
        self._steps = 0
        self._take_over_masters(exact)
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
        norm = 0.0
        for number, batch in enumerate(batches, start=1):
            losses = self._engine(batch)
            self._engine.backward(checked_total(losses))
            if number == len(batches):
                norm = self._clip() if self._stage == 0 else 0.0
                before_update()
            self._engine.step()
            for name, loss in losses.items():
                totals[name] = totals.get(name, 0) + loss.detach() / len(batches)
        if self._stage > 0:  # it leaves out an update whose gradient has no finite norm
            norm = math.nan if self._optimizer.overflow else float(self._engine.get_global_grad_norm())
        if not math.isfinite(norm):
            return Update(losses=totals, made=False)
        self._steps += 1
        for moments, part in self._moments():  # DeepSpeed steps every group, with zeros for missing gradients
            if part in frozen:
                moments["step"].zero_()
        return Update(losses=totals, made=True, gradient_norm=norm)

    def pieces(self) -> list[Piece]:
        """See :meth:`posecore.training.engine.Engine.pieces`."""
        if self._stage == 0:
            return own_share(whole_pieces(self._optimizer, self.method, self._settings.optimizer))
        learned = [
            Piece(f"{section}/{name}", shape_of(parameter), run.start, run.values)
            for section in ("weights", *OptimizerConfig.moments)
            for name, parameter in self._trainable()
            if (run := self._run(parameter, section)) is not None
        ]
        frozen = [(name, p) for name, p in self.method.named_parameters() if not p.requires_grad]
        if self._stage == 3:
            learned += [
                Piece(f"weights/{name}", shape_of(parameter), run.start, run.values)
                for name, parameter in frozen
                if (run := weight_run(parameter)) is not None
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
            restore_moments(self._optimizer, self.method, checkpoint, self._settings.optimizer)
            return
        for moments, part in self._moments():
            moments["step"].fill_(counts.updates.get(part, self._steps))
        for name, parameter in self._trainable():
            for section in ("weights", *OptimizerConfig.moments):
                run = self._run(parameter, section)
                if run is None:
                    continue
                if checkpoint.has(section, name):
                    checkpoint.read_into(section, name, run.values, run.start)
                elif section == "anchor":  # these weights are what the run starts from
                    checkpoint.read_into("weights", name, run.values, run.start)
                else:
                    run.values.zero_()  # its moments: it had no gradient yet
        if self._stage == 3:
            self._restore_partitions(checkpoint)
        else:
            restore_weights(self.method, checkpoint)

    def close(self) -> None:
        """See :meth:`posecore.training.engine.Engine.close`."""
        parameters = list(self.method.parameters())
        kept: list[Tensor] = [*parameters, *(vars(p)["ds_tensor"] for p in parameters if is_sharded(p))]
        self._engine.destroy()
        # Under stage 3 its parts refer to one another through C++, in circles that no collector sees.
        vars(self._optimizer).clear()
        vars(self._engine).clear()
        for tensor in kept:
            tensor.data = tensor.new_empty(0)

    def _restore_partitions(self, checkpoint: Checkpoint) -> None:
        """Stage 3: what layers compute with are other tensors than the optimiser's where precision or place differ."""
        copy_masters(self._optimizer)
        for name, parameter in self.method.named_parameters():
            if not parameter.requires_grad and (run := weight_run(parameter)) is not None:
                checkpoint.read_into("weights", name, run.values, run.start)
            if parameter.numel():  # it is whole on every rank, because it is small
                read_whole(checkpoint, "weights", name, parameter)
        restore_buffers(self.method, checkpoint)

    def _clip(self) -> float:
        """Stage 0 would update by any gradient. Without gradients it makes none. Returns the gradient's norm."""
        trainable = [parameter for _, parameter in self._trainable() if parameter.grad is not None]
        norm = clip_gradients(trainable, self._settings.optimizer.clip_norm)
        if not math.isfinite(norm):
            for parameter in trainable:
                parameter.grad = None
        return norm

    def _trainable(self) -> Iterator[tuple[str, nn.Parameter]]:
        return ((name, p) for name, p in self.method.named_parameters() if p.requires_grad)

    def _run(self, parameter: nn.Parameter, section: str) -> Run | None:
        """What this rank's optimiser keeps of a parameter: weights, or a moment of that name; None for nothing."""
        key = None if section == "weights" else section
        if self._stage == 3:
            return moment_run(parameter, key)
        fragment = parameter._hp_mapping  # type: ignore[attr-defined]
        if fragment is None or (key is not None and key not in fragment.get_optim_state_keys()):
            return None
        return Run(fragment.lp_fragment_address.start, fragment.get_hp_fragment(key).detach())

    def _take_over_masters(self, exact: Mapping[str, Tensor]) -> None:
        """Gives the optimiser values that layers have rounded already."""
        for name, parameter in self._trainable():
            run = self._run(parameter, "weights") if name in exact else None
            if run is not None:
                run.values.copy_(exact[name].reshape(-1)[run.start : run.start + len(run.values)])

    def _lay_out_moments(self) -> None:
        zero = self._optimizer
        if self._stage == 3 and not zero.offload_optimizer:  # offloaded, its weights have gradients of their own
            drop_copies(zero)
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


def deepspeed_settings(
    config: DeepSpeedEngineConfig,
    optimizer: Optimizer,
    micro_batch: int,
    accumulation: int,
    trained: int,
    total: int,
) -> dict[str, Any]:
    """The dictionary DeepSpeed wants.

    Args:
        config: stage, precision, offloading.
        optimizer: clipping.
        micro_batch: crops per rank and forward pass.
        accumulation: forward passes per step.
        trained: number of parameters that learn.
        total: number of all.
    """
    zero: dict[str, Any] = {
        "stage": config.zero_stage,
        "reduce_bucket_size": bucket_elements(trained),
        "allgather_bucket_size": bucket_elements(total),
    }
    if config.zero_stage == 3:
        zero |= {
            "stage3_prefetch_bucket_size": bucket_elements(total),
            "stage3_max_live_parameters": live_elements(total),
            "stage3_max_reuse_distance": live_elements(total),
            "sub_group_size": live_elements(trained),  # what the optimiser works on at a time
        }
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
    if config.precision in AUTOCAST:
        settings["torch_autocast"] = {"enabled": True, "dtype": "bfloat16"}
    if config.precision == "bf16-weights":
        settings["bf16"] = {"enabled": True}
        settings["data_types"] = {"grad_accum_dtype": "bf16" if accumulation == 1 else "fp32"}
    return settings


def _refuse_frozen(method: nn.Module) -> None:
    """Returns if all weights learn: of others no rank would keep what is lost in bfloat16."""
    frozen = next((name for name, parameter in method.named_parameters() if not parameter.requires_grad), None)
    if frozen is not None:
        raise ConfigError(
            f"engine.precision: bf16-weights keeps float32 values of weights that learn only, and {frozen} does not; "
            "set it to bf16."
        )


def _shard(deepspeed: Any, method: nn.Module, device: torch.device, settings: Mapping[str, Any]) -> None:
    """Divides the parameters of a method among the ranks, layer by layer: no rank has more than one layer whole.

    Parameters on the meta device get no values; those of rank 0 go to every rank otherwise.
    """
    first = None
    for module in reversed(list(method.modules())):
        materialise(module, device, recurse=False)
        own = list(module.parameters(recurse=False))
        if not own:
            continue
        if first is None:
            deepspeed.zero.Init(module=module, config_dict_or_path=dict(settings))
            first = own[0]
        else:
            first.convert_to_zero_parameters(param_list=own)  # type: ignore[attr-defined]


def _let_gathered_go(method: nn.Module, device: torch.device) -> None:
    """Has linear layers keep no gathered weights, or autocast's copies of them, from the forward to the backward pass.

    For the backward pass they are gathered anew anyway.
    """
    from deepspeed.runtime.zero.linear import zero3_linear_wrap

    def forward(module: nn.Linear, rows: Tensor) -> Tensor:
        if torch.is_autocast_enabled(device.type):  # or it would be kept as it came
            rows = rows.to(torch.get_autocast_dtype(device.type))
        product: Tensor = zero3_linear_wrap(rows, module.weight, module.bias)
        return product

    for module in method.modules():
        if isinstance(module, nn.Linear) and type(module).forward is nn.Linear.forward:
            module.forward = partial(forward, module)  # type: ignore[method-assign]


def _shard_asked(
    deepspeed: Any, model: PoseModel, source: ModelFolder, device: torch.device, settings: Mapping[str, Any]
) -> None:
    """Divides a model that is asked and not trained; on the meta device, its values are read from its folder."""
    outline = is_outline(model)
    own = {name: value for name, value in settings.items() if name not in ("bf16", "data_types")}  # it stays float32
    _shard(deepspeed, model, device, own)
    deepspeed.initialize(model=model.to(device), config=own)
    if outline:
        fill(model, source)
        let_go(model)


def _import_deepspeed(device: torch.device) -> Any:
    refuse_missing("deepspeed", "engine.kind deepspeed")
    if device.type == "cpu":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # read when DeepSpeed is imported
    # DeepSpeed 0.19 still calls what torch 2.13 has renamed, once per collective.
    warnings.filterwarnings("ignore", r".*torch\.distributed\.\w+.* is deprecated", FutureWarning)
    with _light_imports():
        import deepspeed
        import deepspeed.ops
        import deepspeed.runtime.zero.muon.original_muon  # later, it would be imported by initialize()

    if device.type == "cpu":
        # Otherwise initialize() compiles a C++ operator: 36 s, and it fails where there is no compiler.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed


@contextmanager
def _light_imports() -> Iterator[None]:
    """Within it, MLflow seems not to be installed, unless it is in use already, and inductor is not loaded.

    DeepSpeed imports MLflow for its autotuner, and decorates a Muon of its own with ``torch.compile``, which imports
    dynamo, and inductor unless it is switched off: nothing here uses any of them, and without MLflow and inductor the
    import takes two fifths of its time.
    """
    hidden, before = "mlflow" not in sys.modules, os.environ.get("TORCHDYNAMO_DISABLE")
    if hidden:
        sys.modules["mlflow"] = None  # type: ignore[assignment]
    os.environ["TORCHDYNAMO_DISABLE"] = "1"
    try:
        yield
    finally:
        if hidden:
            del sys.modules["mlflow"]
        if before is None:
            del os.environ["TORCHDYNAMO_DISABLE"]
        else:
            os.environ["TORCHDYNAMO_DISABLE"] = before
