"""``posecore plan``: memory and time of a training run, before a GPU is rented."""

import argparse
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

from posecore.cli.commands import Commands, input_size, positive
from posecore.config import COMMAND_LINE, load_config, parse_config
from posecore.counting import counted
from posecore.datasets.discovery import load_dataset
from posecore.errors import UsageError
from posecore.nearest import choices

if TYPE_CHECKING:
    from rich.table import Table

    from posecore.models.architecture import ModelConfig
    from posecore.training.loop import TrainingConfig
    from posecore.training.planner import Plan, PlannedRun


def add(commands: Commands) -> None:
    """Adds ``plan``."""
    parser = commands.add_parser("plan")
    parser.add_argument("--config", help="run file (YAML) of the main job; options below override it")
    parser.add_argument("--backbone", help="preset, for example sapiens-1b; see posecore models list")
    parser.add_argument("--input", metavar="HxW", help="crop height and width in pixels (default: the preset's)")
    heads = parser.add_mutually_exclusive_group()
    heads.add_argument("--keypoints", type=positive, help="points of a single head (default: 17)")
    heads.add_argument("--datasets", help="names with commas; one head per dataset")
    parser.add_argument("--gpu", required=True, help="kind of GPU, for example h100, a100-80, rtx4090")
    parser.add_argument("--gpus", type=positive, help="number of GPUs (default: 1)")
    parser.add_argument("--batch", type=positive, help="crops per GPU and forward pass (default: 1)")
    parser.add_argument("--accumulation", type=positive, help="forward passes per step (default: 1)")
    parser.add_argument("--engine", choices=["torch", "deepspeed"], help="default: deepspeed")
    parser.add_argument("--zero", type=int, choices=[0, 1, 2, 3], help="DeepSpeed ZeRO stage (default: 2)")
    parser.add_argument("--precision", choices=["bf16", "bf16-weights", "fp16", "fp32"], help="default: bf16")
    parser.add_argument("--offload", action="store_true", help="optimiser state in host memory")
    parser.add_argument("--checkpointing", action="store_true", help="recompute activations in the backward pass")
    parser.add_argument("--trainable", type=positive, help="number of trained parameters (default: all)")
    parser.add_argument(
        "--strategy", help="of adapting to the last head: full, frozen-backbone, lora …; see pipelines/adapt.py"
    )
    parser.add_argument("--mfu", type=_share, default=0.4, help="share of the GPU's peak it computes at (default: 0.4)")
    parser.set_defaults(run=_plan)


def _plan(options: argparse.Namespace) -> int:
    # Imported here because torch takes seconds, which --help should not wait for.
    from rich.console import Console

    from posecore.training.planner import plan, remedies

    run = _planned_run(options)
    answer = plan(run)
    console = Console()
    console.print(_table(answer))
    if answer.fits:
        console.print(f"It fits, with {_gib(run.gpu.memory_bytes - answer.peak)} to spare.")
        return 0
    console.print("It does not fit. In this order, each on top of those before:")
    for change, better in remedies(answer):
        console.print(f"  {change}: {_gib(better.peak)}, {better.samples_per_s:,.0f} crops/s")
        if better.fits:
            console.print("  That fits.")
            return 1
    console.print("  Still not: take GPUs with more memory, a smaller input or a smaller backbone.")
    return 1


def _planned_run(options: argparse.Namespace) -> "PlannedRun":
    from posecore.methods.strategies import Roles, parse_strategy
    from posecore.models.architecture import ModelConfig
    from posecore.training.engine import DeepSpeedEngineConfig, TorchEngineConfig
    from posecore.training.gpus import GPUS
    from posecore.training.planner import AdaptedParts, PlannedRun, with_checkpointing

    if options.gpu not in GPUS:
        raise UsageError(f"--gpu: no GPU is called {options.gpu!r}.{choices(options.gpu, GPUS)}")
    gpu = GPUS[options.gpu]
    job = _job_of(options.config) if options.config else None
    if options.backbone:
        fields: dict[str, Any] = {"backbone": options.backbone}
    elif job is not None:
        fields = job.model.model_dump()
    else:
        raise UsageError("give --backbone, for example --backbone sapiens-1b, or a run file with --config.")
    if options.input:
        fields["input_size"] = input_size(options.input)
    model = parse_config(fields, ModelConfig, origin=COMMAND_LINE if options.backbone or options.input else "model")
    model = with_checkpointing(model) if options.checkpointing else model
    keypoints = _keypoints(options, job)
    adapted = None
    if options.strategy:
        if options.trainable:
            raise UsageError("--strategy says itself what learns; leave out --trainable.")
        strategy = parse_strategy(options.strategy)
        model = strategy.architecture(model)
        adapted = AdaptedParts(strategy, Roles(target=list(keypoints)[-1]))
    training = None if job is None else job.training
    num_gpus = options.gpus or (1 if job is None else job.num_workers)
    accumulation = options.accumulation or (training.accumulation if training else 1)
    batch = options.batch
    if batch is None:
        batch = max(1, training.global_batch // (num_gpus * accumulation)) if training else 1
    engine = training.engine if training else DeepSpeedEngineConfig()
    kind = options.engine or ("deepspeed" if options.zero is not None or options.offload else engine.kind)
    changes: dict[str, Any] = {"precision": options.precision or engine.precision}
    if kind == "torch":
        if options.zero or options.offload:
            raise UsageError("--engine torch shards and offloads nothing; leave out --zero and --offload.")
        engine = parse_config(changes, TorchEngineConfig, origin=COMMAND_LINE)
    else:
        known = engine.model_dump() if engine.kind == "deepspeed" else {}
        if options.zero is not None:
            changes["zero_stage"] = options.zero
        if options.offload:
            changes["offload_optimizer"] = True
        engine = parse_config({**known, **changes}, DeepSpeedEngineConfig, origin=COMMAND_LINE)
        if engine.offload_optimizer and engine.zero_stage == 0:
            raise UsageError("--offload needs a ZeRO stage of at least 1; add --zero 1.")
    return PlannedRun(
        model=model,
        keypoints=keypoints,
        engine=engine,
        gpu=gpu,
        num_gpus=num_gpus,
        micro_batch=batch,
        accumulation=accumulation,
        num_copies=int(bool(training and training.average is not None)),
        trainable=options.trainable,
        adapted=adapted,
        mfu=options.mfu,
    )


class _Job(NamedTuple):
    """What the job of a run file would train."""

    model: "ModelConfig"
    training: "TrainingConfig"
    keypoints: dict[str, int]
    num_workers: int


def _job_of(path: str) -> _Job:
    """The main job of a run file, completed by its recipe as it would be; what is followed is printed."""
    script = import_module("posecore.pipelines.multidataset_train")
    stated = load_config(path, script.JobConfig)
    definitions = {entry.name: entry.load() for entry in stated.datasets}
    followed = stated.followed(definitions)
    for line in followed.lines():
        print(line)
    config = followed.config
    model = config.method.architecture(config.model)
    return _Job(model, config.training, config.num_keypoints(definitions), config.cluster.num_workers)


def _keypoints(options: argparse.Namespace, job: _Job | None) -> dict[str, int]:
    if options.keypoints:
        return {"head": options.keypoints}
    if options.datasets:
        return {name: load_dataset(name).skeleton.num_keypoints for name in options.datasets.split(",")}
    return {"head": 17} if job is None else job.keypoints


def _table(plan: "Plan") -> "Table":
    from rich.table import Table

    from posecore.training.planner import HOST_BYTES

    run, cost = plan.run, plan.cost
    precision = run.engine.precision
    engine = f"ZeRO {run.zero_stage}" if run.engine.kind == "deepspeed" else "torch"
    height, width = run.model.input_size
    table = Table(
        title=f"{height}x{width}, {counted(run.num_gpus, 'GPU')}, {engine}, {precision}, "
        f"{counted(run.micro_batch * run.accumulation, 'crop')} ({run.micro_batch} x {run.accumulation}) per GPU "
        "and step"
    )
    table.add_column("per GPU")
    table.add_column("value", justify="right")
    table.add_column("meaning")
    heads = sum(head.parameters for head in cost.heads.values())
    stage = run.zero_stage
    sharded = f"1/{run.num_gpus} of " if run.num_gpus > 1 else ""
    size, kept = (2, "bfloat16, ") if run.rounds_weights else (4, "float32, ")
    rows: list[tuple[str, str, str]] = [
        (
            "parameters",
            f"{plan.total_parameters / 1e6:,.1f} M",
            f"whole model; {heads / 1e6:,.1f} M of them in the heads",
        ),
        (
            "trained parameters",
            f"{plan.trained_parameters / 1e6:,.2f} M",
            f"{plan.trained_parameters / plan.total_parameters:.2%}; they alone have gradients and optimiser state",
        ),
        ("weights", _gib(plan.weights), f"{kept}{sharded if stage == 3 else ''}{size} bytes per parameter"),
        (
            "gradients",
            _gib(plan.gradients),
            f"{sharded if stage >= 2 else ''}{size if run.accumulation == 1 else 4} bytes per trained parameter",
        ),
        ("optimiser state", _gib(plan.moments), f"AdamW's two moments, {sharded if stage else ''}8 bytes"),
        (
            "master weights",
            _gib(plan.master),
            f"the optimiser's own float32 copy, {sharded}4 bytes" if plan.master else "none",
        ),
        ("moving average", _gib(plan.average), "of all weights, float32"),
        (
            "activations, backbone",
            _gib(plan.trace.backbone),
            "checkpointed" if run.checkpointing else "not checkpointed",
        ),
        ("activations, heads", _gib(plan.trace.heads), "heads and loss"),
        ("bfloat16 weights", _gib(plan.weight_copies), "autocast's copies, until the backward pass is through"),
        ("gathered weights", _gib(plan.gathered), "from the other ranks" if stage == 3 else "none"),
        ("buffers", _gib(plan.buffers), "gradient buckets, and AdamW in passing"),
        ("peak of tensors", _gib(plan.peak_tensors), "not their sum: not all live at once"),
        ("peak", _gib(plan.peak), "with 1.5 GiB for CUDA and its libraries and 5 % fragmentation (assumed)"),
        ("memory of the GPU", _gib(run.gpu.memory_bytes), run.gpu.device_name),
    ]
    rows += [
        (
            "host memory",
            _gib(plan.host_peak),
            f"beside libraries: a checkpoint's {_gib(plan.checkpoint)}, "
            + (f"{_gib(plan.host)} offloaded, " if plan.host else "")
            + f"{_gib(HOST_BYTES)} that is no tensor",
        ),
        ("forward pass", _si(cost.flops, "FLOPs"), f"per crop; {_si(cost.macs, 'MACs')}, which papers call FLOPs"),
        ("step", _si(plan.model_flops + plan.recomputed_flops, "FLOPs"), _recomputed(plan)),
        (
            "step time",
            f"{plan.step_s:,.2f} s" if plan.step_s >= 1 else f"{plan.step_s * 1e3:.3g} ms",
            f"at {run.mfu:.0%} of {_si(run.gpu.peak_flops(precision), 'FLOP/s')}",
        ),
        ("samples", f"{plan.samples_per_s:,.0f} crops/s", "of all GPUs together, if loading and messages keep up"),
    ]
    for row in rows:
        table.add_row(*row)
    return table


def _recomputed(plan: "Plan") -> str:
    passes = "forward, and backward at twice that" if plan.run.adapted is None else "forward and backward, as counted"
    return f"{passes}; {_si(plan.recomputed_flops, 'FLOPs')} recomputed" if plan.recomputed_flops else passes


def _gib(num_bytes: float) -> str:
    return f"{num_bytes / (1 << 30):,.2f} GiB"


def _si(value: float, unit: str) -> str:
    for factor, prefix in ((1e12, "T"), (1e9, "G")):
        if value >= factor:
            return f"{value / factor:,.2f} {prefix}{unit}"
    return f"{value / 1e6:,.2f} M{unit}"


def _share(text: str) -> float:
    share = float(text)
    if not 0 < share <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return share
