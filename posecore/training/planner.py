"""Whether a training run fits on given GPUs, how long a step takes, and what to change if it does not fit.

Parameters and arithmetic are counted on the real modules (:mod:`posecore.models.cost`), activations are followed
through the real forward and backward pass (:mod:`posecore.training.memory_trace`); what the engines keep beside them is
written down here, as measured on them (``benchmarks/plan.py``):

* both engines keep float32 weights, gradients and AdamW moments: 4, 4 and 8 bytes per parameter;
* plain PyTorch on several ranks keeps the memory of gradients, which are its communication buckets, between two steps;
* in ``bf16`` autocast keeps a 2-byte copy of every weight of a matrix product from its use in the forward pass until
  the backward pass is through with it, whatever is checkpointed, because its cache lives as long as the forward pass.
  Under stage 3 it does not: linear layers let gathered weights go, and the few others are left out here;
* DeepSpeed's stages 1 and 2 keep one more float32 copy of the part of the weights that a rank updates, as stage 3 does
  where its weights are bfloat16 or elsewhere;
* in ``bf16-weights`` weights and gradients have 2 bytes, gradients 4 where several passes are added up;
* stages 1 and 2 hold their communication buckets in the backward pass, stage 3 always; stage 3 gathers weights in their
  own precision, and keeps those that are needed again soon.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from posecore.counting import counted
from posecore.errors import ConfigError
from posecore.methods.heatmap_loss import heatmap_loss
from posecore.methods.strategies import Roles, StrategyConfig
from posecore.models.architecture import ModelConfig
from posecore.models.cost import ModelCost, build_parts, count_parameters, model_cost
from posecore.models.groups import Group
from posecore.models.outline import without_memory
from posecore.models.pose_model import rest_frozen
from posecore.training.bf16_weights import round_weights
from posecore.training.deepspeed_engine import bucket_elements, live_elements
from posecore.training.engine import DeepSpeedEngineConfig, EngineConfig
from posecore.training.gpus import GIB, Gpu
from posecore.training.memory_trace import MemoryTrace, Moment
from posecore.training.optimizer import OptimizerConfig, parameter_groups

OUTSIDE_BYTES = 3 * GIB // 2
"""Assumed for what no tensor holds: CUDA's context, NCCL, work space of cuBLAS and cuDNN."""
FRAGMENTATION = 0.05
"""Assumed share of the allocator's memory that is lost between tensors."""
HOST_BUILT_BYTES, HOST_BYTES = 70 << 20, 100 << 20
"""Measured of a process's host memory beside its imports and its tensors, once the engine is built and once a step was
made, alike for models of 1.5 and 90 M parameters: what DeepSpeed, gloo and autograd allocate when they are first used,
threads and their heaps, and what the C library keeps of blocks below 128 KiB."""


@dataclass(frozen=True)
class AdaptedParts:
    """What learns where not everything does.

    Attributes:
        strategy: decides it.
        roles: who takes part.
    """

    strategy: StrategyConfig
    roles: Roles


@dataclass(frozen=True, kw_only=True)
class PlannedRun:
    """A training run to be planned.

    Attributes:
        model: the architecture; its backbone says whether activations are checkpointed.
        keypoints: number of points by head.
        engine: engine, precision, ZeRO stage, offloading.
        gpu: what one rank has.
        num_gpus: ranks.
        micro_batch: crops per GPU and forward pass.
        accumulation: forward passes per step.
        num_copies: float32 copies of the weights: moving averages, a teacher, a parent; sharded as the weights are.
        trainable: parameters that are trained, None for all; not with ``adapted``, which says so itself.
        adapted: what learns in an adaptation; only that has gradients and optimiser state.
        mfu: share of the GPU's peak at which it computes, recomputation included.
    """

    model: ModelConfig
    keypoints: Mapping[str, int]
    engine: EngineConfig
    gpu: Gpu
    num_gpus: int = 1
    micro_batch: int = 1
    accumulation: int = 1
    num_copies: int = 0
    trainable: int | None = None
    adapted: AdaptedParts | None = None
    mfu: float = 0.4

    @property
    def zero_stage(self) -> int:
        """0 also for the engine without sharding."""
        return self.engine.zero_stage

    @property
    def rounds_weights(self) -> bool:
        """Whether layers compute with bfloat16 weights that are no copies of float32 ones."""
        return self.engine.precision == "bf16-weights"

    @property
    def checkpointing(self) -> bool:
        """Whether the backbone's blocks are recomputed in the backward pass."""
        return bool(getattr(self.model.backbone, "activation_checkpointing", False))

    @property
    def offloads_optimizer(self) -> bool:
        """Whether optimiser state is in the host's memory."""
        return self.engine.offload_optimizer

    @property
    def offloads_parameters(self) -> bool:
        """Whether weights are in the host's memory between uses."""
        return self.engine.offload_parameters


@dataclass(frozen=True, kw_only=True)
class StepTrace:
    """What one micro-batch keeps in memory on one GPU.

    Attributes:
        backbone: bytes the backbone has left for the backward pass.
        heads: likewise the heads and the loss.
        weight_copies: likewise autocast's copies of weights.
        moments: bytes alive after every operator of the forward and backward pass.
        largest_group: parameters of the largest optimiser group.
        parameters: of all that was built, what a strategy adds included.
        trained: those of them that learn.
        backbone_learns: whether any of them are the backbone's.
    """

    backbone: int
    heads: int
    weight_copies: int
    moments: tuple[Moment, ...]
    largest_group: int
    parameters: int
    trained: int
    backbone_learns: bool


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The answer, in bytes per GPU at the moment each row is largest; the peak is less than their sum.

    Attributes:
        run: the question.
        cost: parameters and arithmetic of the model.
        weights: float32 weights, or this rank's part.
        gradients: float32 gradients, or this rank's part.
        moments: both of AdamW's moments.
        master: the second copy of the weights that this rank updates.
        average: the moving averages.
        trace: activations.
        gathered: weights that stage 3 has gathered.
        buffers: communication buckets, and what the optimiser needs in passing.
        resident: what is alive between two steps.
        peak_tensors: the most that is alive at once.
        host: bytes of the host's memory per GPU, for offloading.
        checkpoint: bytes that a rank writes of a checkpoint, copied to the host's memory before.
        crop_flops: of forward and backward pass of one crop, recomputation left out.
    """

    run: PlannedRun
    cost: ModelCost
    weights: int
    gradients: int
    moments: int
    master: int
    average: int
    trace: StepTrace
    gathered: int
    buffers: int
    resident: int
    peak_tensors: int
    host: int
    checkpoint: int
    crop_flops: float

    @property
    def total_parameters(self) -> int:
        """Of the model as it is trained."""
        return self.trace.parameters if self.run.adapted is not None else self.cost.parameters

    @property
    def trained_parameters(self) -> int:
        """Those that learn."""
        return _trained(self.run, self.cost, self.trace)

    @property
    def weight_copies(self) -> int:
        """Bytes of autocast's copies; stage 3 lets them go."""
        return 0 if self.run.zero_stage == 3 else self.trace.weight_copies

    @property
    def peak(self) -> int:
        """Everything the GPU must hold, assumptions about libraries and fragmentation included."""
        return int(self.peak_tensors * (1 + FRAGMENTATION)) + OUTSIDE_BYTES

    @property
    def host_peak(self) -> int:
        """Bytes of the host's memory that a process beside a GPU takes above its imports."""
        return self.host + self.checkpoint + HOST_BYTES

    @property
    def cpu_resident(self) -> int:
        """Bytes that a process takes above its imports between two steps, where it computes on the CPU."""
        return self.resident + HOST_BUILT_BYTES

    @property
    def cpu_peak(self) -> int:
        """Likewise at the most; what it writes of a checkpoint is not copied there."""
        return self.peak_tensors + HOST_BYTES

    @property
    def fits(self) -> bool:
        """Whether the peak is within the GPU's memory."""
        return self.peak <= self.run.gpu.memory_bytes

    @property
    def model_flops(self) -> float:
        """FLOPs of one GPU and step that the model asks for.

        The backward pass is twice the forward pass where all of it learns; what is frozen needs no gradients of its
        weights, and what lies below everything that learns no backward pass at all.
        """
        return self.crop_flops * self.run.micro_batch * self.run.accumulation

    @property
    def recomputed_flops(self) -> float:
        """FLOPs of one GPU and step that checkpointing adds: the blocks' forward pass once more."""
        crops = self.run.micro_batch * self.run.accumulation
        return self.cost.backbone.flops * crops if self.run.checkpointing and self.trace.backbone_learns else 0.0

    @property
    def step_s(self) -> float:
        """Seconds per step, if all arithmetic runs at the stated share of the peak and nothing else takes time."""
        rate = self.run.gpu.peak_flops(self.run.engine.precision) * self.run.mfu
        return (self.model_flops + self.recomputed_flops) / rate

    @property
    def samples_per_s(self) -> float:
        """Crops per second of all GPUs together."""
        return self.run.micro_batch * self.run.accumulation * self.run.num_gpus / self.step_s


def plan(run: PlannedRun, trace: StepTrace | None = None) -> Plan:
    """Predicts a run's memory and time.

    Args:
        run: the question.
        trace: of the same model, micro-batch and precision; made if it is not given.

    Raises:
        ConfigError: the GPU lacks the precision.

    Example:
        >>> from posecore.models.architecture import ModelConfig
        >>> from posecore.training.gpus import find_gpu
        >>> from posecore.training.planner import PlannedRun
        >>> from posecore.training.engine import TorchEngineConfig
        >>> small = ModelConfig.model_validate({"backbone": "vitpose-small"})
        >>> engine = TorchEngineConfig(precision="bf16")
        >>> run = PlannedRun(model=small, keypoints={"coco": 17}, engine=engine, gpu=find_gpu("h100"), micro_batch=64)
        >>> plan(run).fits
        True
    """
    run.gpu.peak_flops(run.engine.precision)  # refuses before anything is traced
    trace = trace or trace_step(run)
    cost = model_cost(run.model, run.keypoints)
    total = trace.parameters if run.adapted is not None else cost.parameters
    trained = _trained(run, cost, trace)
    stage, ranks = run.zero_stage, run.num_gpus
    part = trained / ranks if stage else trained
    size = 2 if run.rounds_weights else 4
    weights = size * total / (ranks if stage == 3 else 1)
    gradients = (size if run.accumulation == 1 else 4) * (part if stage >= 2 else trained)
    master, moments = (4 * part if _has_masters(run) else 0), 8 * part
    average = 4 * total * run.num_copies // (ranks if stage == 3 else 1)
    gathered = size * min(total, live_elements(total)) if stage == 3 else 0
    largest_group = trace.largest_group / (ranks if stage else 1)
    if stage == 3:
        largest_group = min(largest_group, live_elements(trained))
    host = 0.0
    if run.offloads_optimizer:  # the part's gradients and, below stage 3, a staging buffer go there too
        host = master + moments + 4 * part + (4 * part if stage < 3 else 0)
        master = moments = 0
        gradients = gradients if stage < 2 else 0
    if run.offloads_parameters:
        host += weights
        weights = 0
    in_passing = 12 * largest_group  # AdamW's intermediate results, and a flat copy of the group's gradients
    buckets = _bucket_bytes(run, trained)
    resident = weights + master + moments + average + (gradients + buckets if _keeps_gradients(run) else 0)
    if stage == 3:  # gradients and buckets are laid out for good
        backward = float(max(moment.activations for moment in trace.moments) + gathered)
        update = float(in_passing)
    elif _keeps_gradients(run):
        summed = gradients if run.accumulation > 1 else 0  # beside those that ranks average in the last pass
        backward = float(max(moment.activations + moment.weight_copies for moment in trace.moments) + summed)
        update = float(in_passing)
    else:
        backward = max(_alive(run, moment, gradients, buckets) for moment in trace.moments)
        update = gradients + in_passing + (buckets if stage == 0 else 0)
    peak = resident + max(backward, update)
    return Plan(
        run=run,
        cost=cost,
        weights=int(weights),
        gradients=int(gradients),
        moments=int(moments),
        master=int(master),
        average=average,
        trace=trace,
        gathered=gathered,
        buffers=int(buckets + in_passing),
        resident=int(resident),
        peak_tensors=int(peak),
        host=int(host),
        checkpoint=int((8 * trained + 4 * total * (1 + run.num_copies)) / ranks),
        crop_flops=3 * cost.flops if run.adapted is None else _counted_flops(run),
    )


def _has_masters(run: PlannedRun) -> bool:
    """Whether the optimiser works on weights of its own."""
    if run.zero_stage < 3:
        return run.zero_stage > 0
    return run.rounds_weights or run.offloads_optimizer or run.offloads_parameters


def _keeps_gradients(run: PlannedRun) -> bool:
    """Whether gradients have memory of their own between two steps, too."""
    return run.zero_stage == 3 or (run.num_gpus > 1 and run.engine.kind == "torch")


def _trained(run: PlannedRun, cost: ModelCost, trace: StepTrace) -> int:
    if run.adapted is not None:
        return trace.trained
    return cost.parameters if run.trainable is None else run.trainable


def _alive(run: PlannedRun, moment: Moment, gradients: float, buckets: float) -> float:
    """Bytes of activations, autocast's copies, gradients and buckets at one moment, below stage 3."""
    alive = float(moment.activations + moment.weight_copies)
    if run.accumulation > 1:
        alive += gradients
    elif moment.gradients:
        alive += gradients if run.zero_stage == 2 else min(moment.gradients, gradients)
    return alive + (buckets if run.zero_stage and moment.gradients else 0)


def _bucket_bytes(run: PlannedRun, trained: int) -> float:
    """Flat buffers in which gradients are averaged over ranks."""
    stage, half = run.zero_stage, run.engine.precision != "fp32"
    if stage == 0:
        shared = run.num_gpus > 1 and run.engine.kind == "deepspeed"
        return 4 * min(trained, bucket_elements(trained)) if shared else 0
    if stage == 3:
        return bucket_elements(trained) * (2 if run.rounds_weights else 4 + 2 if half else 4)
    return bucket_elements(trained) * 4 * (2 if half else 1)  # one for parameters sent in two bytes, one for the others


def trace_step(run: PlannedRun, dtype: torch.dtype = torch.float16) -> StepTrace:
    """Follows one micro-batch through the model.

    Args:
        run: model, heads, micro-batch and precision count; crops are dealt to the heads as evenly as possible.
        dtype: of autocast. Float16 has bfloat16's size, and makes attention take the way it takes on a GPU even here;
            with bfloat16 it takes the CPU's.
    """
    method = _built(run)
    if run.rounds_weights:
        round_weights(method, dtype)
    backbone, heads = method["backbone"], dict(method["heads"].named_children())
    groups = _even_groups(_fed_heads(run, tuple(heads)), run.micro_batch)
    with FakeTensorMode(allow_non_fake_inputs=True):
        rest_frozen(method.to_empty(device="cpu").train())
        images = torch.empty(run.micro_batch, 3, *run.model.input_size)
        with MemoryTrace(tuple(method.parameters())) as trace:
            with torch.autocast("cpu", dtype=dtype, enabled=run.engine.precision != "fp32"):
                features = backbone(images, groups)
                after_backbone = trace.now
                loss = _loss(features, heads, groups)
                if "embedding_head" in method:
                    loss = loss + method["embedding_head"](features).square().mean()
                after_heads = trace.now
            del features
            loss.backward()
    largest = max(sum(p.numel() for p in group["params"]) for group in parameter_groups(method, OptimizerConfig()))
    return StepTrace(
        backbone=after_backbone.activations + images.untyped_storage().nbytes(),
        heads=after_heads.activations - after_backbone.activations,
        weight_copies=after_heads.weight_copies,
        moments=tuple(trace.moments),
        largest_group=largest,
        parameters=count_parameters(method),
        trained=sum(parameter.numel() for parameter in method.parameters() if parameter.requires_grad),
        backbone_learns=any(parameter.requires_grad for parameter in backbone.parameters()),
    )


def _built(run: PlannedRun) -> nn.ModuleDict:
    """Everything that takes part, without memory, marked as learning or frozen."""
    with without_memory():
        backbone, heads = build_parts(run.model, run.keypoints)
        method = nn.ModuleDict({"backbone": backbone, "heads": nn.ModuleDict(heads)})
        if run.adapted is not None:
            if run.model.embedding is not None:
                method["embedding_head"] = run.model.embedding.build(int(backbone.num_features))  # type: ignore[arg-type]
            run.adapted.strategy.apply(method, _roles_of_heads(run.model, run.adapted))
    return method


def _fed_heads(run: PlannedRun, heads: tuple[str, ...]) -> tuple[str, ...]:
    """Heads that get crops."""
    if run.adapted is None:
        return heads
    roles = _roles_of_heads(run.model, run.adapted)
    return tuple(dict.fromkeys((roles.target, *roles.replayed)))


def _roles_of_heads(model: ModelConfig, adapted: AdaptedParts) -> Roles:
    return adapted.roles.of_heads(lambda name: model.shared_heads.get(name, name))


def _counted_flops(run: PlannedRun) -> float:
    """FLOPs of forward and backward pass of one crop of the target, as autograd runs them."""
    assert run.adapted is not None
    method = _built(replace(run, model=_without_checkpointing(run.model)))
    name = _fed_heads(run, ())[0]
    with without_memory():
        images = torch.empty(1, 3, *run.model.input_size)
    with FlopCounterMode(display=False) as counter:
        features = method["backbone"](images, [(name, 0, 1)])
        outputs = method.get_submodule(f"heads.{name}")(features)
        outputs.square().sum().backward()
    return counter.get_total_flops()


def _without_checkpointing(model: ModelConfig) -> ModelConfig:
    if not getattr(model.backbone, "activation_checkpointing", False):
        return model
    return model.model_copy(update={"backbone": model.backbone.model_copy(update={"activation_checkpointing": False})})


def _even_groups(names: tuple[str, ...], num_rows: int) -> list[Group]:
    edges = [round(num_rows * i / len(names)) for i in range(len(names) + 1)]
    return [(name, start, stop) for name, start, stop in zip(names, edges, edges[1:], strict=False)]


def _loss(features: Tensor, heads: Mapping[str, nn.Module], groups: list[Group]) -> Tensor:
    total = torch.zeros(())
    for name, start, stop in groups:
        if start == stop:
            continue
        outputs = heads[name](features[start:stop])
        if outputs.dim() == 4:
            targets = torch.empty(outputs.shape)
            total = total + heatmap_loss(outputs, targets, torch.empty(outputs.shape[:2]), len(features))
        else:
            total = total + outputs.float().log_softmax(-1).square().sum()
    return total


def remedies(answer: Plan) -> Iterator[tuple[str, Plan]]:
    """Changes that save memory, the cheapest in time first, each on top of those before it, until the run fits.

    Yields:
        What is changed, in words, and the plan with all changes so far.
    """
    for words, run in _changes(answer.run):
        same = run.model == answer.run.model and run.micro_batch == answer.run.micro_batch
        answer = plan(run, answer.trace if same else None)
        yield words, answer
        if answer.fits:
            return


def _changes(run: PlannedRun) -> Iterator[tuple[str, PlannedRun]]:
    if not run.checkpointing and hasattr(run.model.backbone, "activation_checkpointing"):
        run = replace(run, model=with_checkpointing(run.model))
        yield "checkpoint activations (a third more arithmetic)", run
    for stage in range(run.zero_stage + 1, 4) if run.num_gpus > 1 else ():
        engine = DeepSpeedEngineConfig.model_validate(
            {**run.engine.model_dump(), "kind": "deepspeed", "zero_stage": stage}
        )
        run = replace(run, engine=engine)
        yield f"ZeRO stage {stage}", run
    while run.micro_batch > 1 and run.micro_batch % 2 == 0:
        run = replace(run, micro_batch=run.micro_batch // 2, accumulation=run.accumulation * 2)
        yield f"{counted(run.micro_batch, 'crop')} per pass, accumulated over {run.accumulation}", run
    if not run.offloads_optimizer:
        stage = max(1, run.zero_stage)
        settings = {"kind": "deepspeed", "zero_stage": stage, "offload_optimizer": True}
        engine = DeepSpeedEngineConfig.model_validate({**run.engine.model_dump(), **settings})
        run = replace(run, engine=engine)
        yield "optimiser state in host memory (slower steps)", run
    for num_gpus in (2 * run.num_gpus, 4 * run.num_gpus, 8 * run.num_gpus):
        if run.zero_stage == 0:
            return
        run = replace(run, num_gpus=num_gpus)
        yield counted(num_gpus, "GPU"), run


def with_checkpointing(model: ModelConfig) -> ModelConfig:
    """The same architecture, its blocks recomputed in the backward pass.

    Raises:
        ConfigError: the backbone has no such switch.
    """
    if not hasattr(model.backbone, "activation_checkpointing"):
        raise ConfigError(f"a {model.backbone.kind} backbone cannot checkpoint its activations; it is small enough.")
    return model.model_copy(update={"backbone": model.backbone.model_copy(update={"activation_checkpointing": True})})
