"""The training loop: one for every method, with or without Ray, on any engine.

A step is a pure function of the weights, the seed and the step's number: the loader's order, the augmentation and every
random number drawn in the method depend on nothing else. So a killed run continues from its last checkpoint and ends
with the weights of a run left alone, bit for bit on the same layout.
"""

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, nullcontext
from dataclasses import astuple, dataclass, replace
from itertools import chain
from typing import Any, Self, TypeAlias

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import nn
from tqdm import tqdm

from posecore.config import Config
from posecore.counting import counted
from posecore.errors import CheckpointError
from posecore.methods.batch import split_batch, to_device
from posecore.methods.staged import FollowingMethod, ObservingMethod, StagedMethod
from posecore.schema import CropBatch
from posecore.training.bad_samples import BadSamples
from posecore.training.batchnorm import normalise_whole_batches, synchronise_batchnorm
from posecore.training.best import BestConfig, BestSoFar
from posecore.training.checkpoint import Progress
from posecore.training.checkpoint_saver import CheckpointSaver
from posecore.training.context import TrainContext
from posecore.training.divergence import SkippedSteps
from posecore.training.ema import AverageConfig, WeightAverage
from posecore.training.engine import (
    Engine,
    EngineConfig,
    EngineSettings,
    TorchEngineConfig,
    build_engine,
)
from posecore.training.host_memory import give_back_freed
from posecore.training.meter import Meter
from posecore.training.optimizer import OptimizerChoice, OptimizerConfig
from posecore.training.preflight import crops_per_rank
from posecore.training.resume import refuse_unshared, resume
from posecore.training.schedule import MultiStepSchedule, ScheduleConfig
from posecore.training.spent import Spent
from posecore.training.start import FirstState, MethodMakers, is_sharded
from posecore.training.utilisation import flops_per_crop, peak_flops

LoaderFactory: TypeAlias = Callable[[int], Iterable[CropBatch]]
"""Given the first step to deliver, this rank's batches from there on, at least to the end of the run."""

Evaluate: TypeAlias = Callable[[nn.Module, int], Mapping[str, float]]
"""Given the method in evaluation mode and the steps done, metrics. Called on every rank, with equal work on each."""


class TrainingConfig(Config):
    """A run of the loop.

    Attributes:
        steps: optimiser steps of the whole run.
        global_batch: crops per step over all ranks.
        accumulation: forward passes a rank makes per step.
        seed: of everything random.
        optimizer: AdamW or another, and layer decay.
        schedule: learning rate over the run.
        engine: plain PyTorch or DeepSpeed.
        log_every: steps between two records of metrics.
        checkpoint_every: steps between two checkpoints; the last step always writes one.
        average: a moving average of the weights, which is then evaluated and kept; ``{}`` is the published one, None
            none.
        evaluate_every: steps between two calls of the evaluation, 0 for none.
        synchronised_batchnorm: backbones normalise by the statistics of all ranks' crops, as those of RTMPose and
            DWPose did in training, and not each rank by its own.
        compile: run the backbone through ``torch.compile``, which takes minutes at the start; not under ZeRO-3.
        skip_nonfinite_steps: so many steps of the run are passed over because a loss or the gradient is not finite,
            with weights, moments, statistics and averages left as they were before; at one more, and by default at
            the first, training stops. The buffers are copied in every step for that.
        best: the run's result is its best checkpoint by a metric of the evaluation, and it may end early; None keeps
            the last.
        progress: show a progress bar on rank 0.
    """

    steps: int = Field(gt=0)
    global_batch: int = Field(gt=0)
    accumulation: int = Field(default=1, gt=0)
    seed: int = Field(default=0, ge=0)
    optimizer: OptimizerChoice = OptimizerConfig()
    schedule: ScheduleConfig = MultiStepSchedule()
    engine: EngineConfig = TorchEngineConfig()
    log_every: int = Field(default=20, gt=0)
    checkpoint_every: int = Field(default=500, gt=0)
    evaluate_every: int = Field(default=0, ge=0)
    average: AverageConfig | None = None
    synchronised_batchnorm: bool = False
    compile: bool = False
    skip_nonfinite_steps: int = Field(default=0, ge=0)
    best: BestConfig | None = None
    progress: bool = True

    @model_validator(mode="before")
    @classmethod
    def _refuse_constant_decay(cls, values: Any) -> Any:
        if isinstance(values, Mapping) and "average_decay" in values:
            raise ValueError(
                "average_decay is no setting any more; give average: {} for the published moving average, or its "
                "momentum (1 - average_decay) and warmup, and null or nothing for none."
            )
        return values

    @model_validator(mode="after")
    def _check(self) -> Self:
        shards_weights = self.engine.zero_stage == 3
        if self.average is not None:
            self.average.check_length(self.steps)
        if self.engine.kind == "deepspeed" and not self.optimizer.is_adamw:
            raise ValueError(
                f"optimizer: DeepSpeed keeps the state of AdamW alone, and this is {self.optimizer.kind}; set "
                "engine.kind to torch."
            )
        if self.best is not None and not self.evaluate_every:
            raise ValueError("best: nothing is evaluated that could be best; set evaluate_every.")
        if shards_weights and self.compile:
            raise ValueError(
                "compile: ZeRO-3 gathers weights between layers, which cuts graphs there; use engine.zero_stage 2."
            )
        return self


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """How a run ended.

    Attributes:
        step: optimiser steps done.
        metrics: the last record of rank 0; empty on the others.
    """

    step: int
    metrics: Mapping[str, float]


def train(
    method: nn.Module | MethodMakers,
    make_loader: LoaderFactory,
    config: TrainingConfig,
    context: TrainContext,
    evaluate: Evaluate | None = None,
) -> TrainResult:
    """Trains a method from the newest whole checkpoint, or from its present weights, to the last step.

    If the context is asked to stop, the run ends early, with a checkpoint.

    Args:
        method: called with a :class:`~posecore.methods.batch.DeviceBatch`, returns scalar loss terms by name; their sum
            is minimised. A :class:`~posecore.methods.staged.StagedMethod` is told of every step before it, an
            :class:`~posecore.methods.staged.ObservingMethod` is asked after it. Where ways to make it are given and
            the engine shards weights, no rank but one has them whole at any time, and that one only for a fresh start;
            of a method that was made here nothing is left in the end.
        make_loader: makes this rank's batches; called once.
        config: the run.
        context: where it runs.
        evaluate: periodic evaluation.

    Raises:
        PreflightError: the global batch cannot be cut evenly, or the ranks do not share the folder of checkpoints.
        CheckpointError: the newest whole checkpoint belongs to another run, architecture or list of datasets, or there
            are checkpoints and none is whole.
        DivergenceError: a loss, the gradient or a weight is not finite, on whichever rank; raised on all. The
            checkpoint before is the last.
        IntegrityError: a sample is damaged, or more of them than may be passed over.
    """
    per_rank = crops_per_rank(config.global_batch, context.world_size, config.accumulation)
    refuse_unshared(context)
    settings = EngineSettings(
        optimizer=config.optimizer,
        micro_batch=per_rank // config.accumulation,
        accumulation=config.accumulation,
        device=context.device,
    )
    first, is_ours = None, isinstance(method, MethodMakers)
    if isinstance(method, MethodMakers):
        makers = method
        if is_sharded(config.engine, context):
            give_back_freed()
            first = FirstState(makers, context)
            if not context.store.names():
                first.write()  # before the engine takes its memory
        method = makers.build() if first is None else makers.outline()
    if config.synchronised_batchnorm:
        normalise_whole_batches(method)
    if config.compile:
        compile_backbone(method)
    engine = build_engine(config.engine, method, settings)
    average = None if config.average is None else WeightAverage(engine.method, config.average)
    progress = resume(engine, average, context, config.seed, config.global_batch)
    if first is not None:
        if progress is None:
            first.restore(engine)
        first.remove()
    start = 0 if progress is None else progress.step
    best = BestSoFar(config.best, progress)
    if best.has_lost_patience:  # it ended early, and was asked again
        if is_ours:
            engine.close()
        return TrainResult(step=start, metrics={})
    if progress is not None and progress.world_size != context.world_size and context.rank == 0:
        print(_other_world(config, progress, context.world_size), flush=True)
    if config.average is not None and average is not None and not average.updates:
        config.average.check_length(config.steps - start)  # again: it may begin in the middle of a run
    batches = _timed(make_loader(start), start, config.steps)
    if progress is not None:
        batches = _of_the_same_datasets(batches, progress)
    meter = Meter(
        context=context,
        global_batch=config.global_batch,
        learning_rate=lambda step: config.optimizer.lr * config.schedule.factor(step, config.steps),
        flops_per_crop=flops_per_crop(method),
        peak_flops=peak_flops(context.device, config.engine.precision),
    )
    spent = Spent(progress, context.device)
    bad = BadSamples({} if progress is None else progress.bad_samples, context.device)
    skipped = SkippedSteps(engine.method, config.skip_nonfinite_steps, 0 if progress is None else progress.skipped)
    with (
        closing(engine) if is_ours else nullcontext(),
        CheckpointSaver(context) as saver,
        _progress_bar(config, context, start) as bar,
    ):
        datasets: tuple[str, ...] = ()
        for batch, waited_s in batches:
            datasets = tuple(group.dataset for group in batch.groups)
            bad.add(batch.bad)
            seed_step(config.seed, batch.step, context.rank)
            parts = [to_device(part, context.device) for part in split_batch(batch, config.accumulation)]
            frozen = method.begin_step(batch.step, config.steps) if isinstance(method, StagedMethod) else frozenset()
            skipped.prepare()
            update = engine.step(parts, config.schedule.factor(batch.step, config.steps), frozen, saver.before_update)
            observed = method.observations() if isinstance(method, ObservingMethod) else {}
            step = batch.step + 1
            if update.made and average is not None:
                average.update(engine.method)
            if update.made or skipped.take(update, step):
                meter.add(update, observed, waited_s)
            meter.counts["skipped_steps"] = skipped.count
            bar.update()
            if step % config.log_every == 0 or step == config.steps:
                meter.counts["bad_samples"] = bad.agree()
                spent.look()
                meter.record(step)
                bar.set_postfix(meter.summary())
            is_best = False
            if config.evaluate_every and evaluate is not None and step % config.evaluate_every == 0:
                found = _evaluate(engine, average, evaluate, step)
                meter.record_evaluation(found, step)
                is_best = best.take(found, step)
            stopping = step < config.steps and (context.asked_to_stop() or best.has_lost_patience)
            if step % config.checkpoint_every == 0 or step == config.steps or stopping or is_best:
                bad.agree()
                at = Progress(
                    step=step,
                    seed=config.seed,
                    world_size=context.world_size,
                    config=config.model_dump(mode="json"),
                    datasets=datasets,
                    skipped=skipped.count,
                    bad_samples=bad.rows,
                    seconds=spent.seconds,
                    hardware=spent.hardware(step),
                    joules=spent.joules(),
                    best=None if best.best is None else astuple(best.best),
                )
                _save(engine, average, saver, at)
            if stopping:
                return TrainResult(step=step, metrics=meter.latest)
    return TrainResult(step=config.steps, metrics=meter.latest)


def _other_world(config: TrainingConfig, before: Progress, world_size: int) -> str:
    """What changes, and what does not, where another number of processes goes on."""
    rate = config.optimizer.lr * config.schedule.factor(before.step, config.steps)
    crops = crops_per_rank(config.global_batch, world_size, config.accumulation) // config.accumulation
    return (
        f"training goes on at step {before.step} with {counted(world_size, 'process')}, not {before.world_size}: still "
        f"{counted(config.global_batch, 'crop')} a step, now {crops} in each of a process's "
        f"{counted(config.accumulation, 'pass')} (accumulation), and a learning rate by the same schedule, {rate:.3g} "
        "now."
    )


def compile_backbone(method: nn.Module) -> None:
    """Compiles every backbone of a method in place; names and weights stay what they are."""
    for name, module in method.named_modules():
        if name.rpartition(".")[2] == "backbone":
            module.compile()


def seed_step(seed: int, step: int, rank: int) -> None:
    """Starts torch's generators anew for one step of one rank, so that a resumed run draws the same numbers."""
    torch.manual_seed(int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0]))


def _save(engine: Engine, average: WeightAverage | None, saver: CheckpointSaver, progress: Progress) -> None:
    _synchronise(engine.method, average)
    pieces, counts = engine.pieces(), engine.counts()
    if isinstance(engine.method, FollowingMethod):  # these do not wait until they are written
        following = tuple(f"weights/{prefix}" for prefix in engine.method.following)
        pieces = [replace(p, values=p.values.clone()) if p.key.startswith(following) else p for p in pieces]
    if average is not None:
        pieces, counts = pieces + average.pieces(), replace(counts, average_updates=average.updates)
    saver.save(pieces, counts, progress)


def _evaluate(engine: Engine, average: WeightAverage | None, evaluate: Evaluate, step: int) -> Mapping[str, float]:
    _synchronise(engine.method, average)
    engine.method.eval()
    with torch.no_grad(), nullcontext() if average is None else average.applied(engine.method):
        metrics = evaluate(engine.method, step)
    engine.method.train()
    return metrics


def _synchronise(method: nn.Module, average: WeightAverage | None) -> None:
    """Gives every rank the same statistics, also those that belong to the average."""
    if average is not None:
        with average.applied(method):
            synchronise_batchnorm(method)
    synchronise_batchnorm(method)


def _of_the_same_datasets(
    batches: Iterator[tuple[CropBatch, float]], progress: Progress
) -> Iterator[tuple[CropBatch, float]]:
    """The batches, of which the first is made at once to see what this run trains on.

    Raises:
        CheckpointError: on other datasets than before, or in another order, which names other samples by the same step.
    """
    first = next(batches, None)
    if first is None:
        return batches
    datasets = tuple(group.dataset for group in first[0].groups)
    if progress.datasets not in ((), datasets):
        raise CheckpointError(
            f"the checkpoint of step {progress.step} was trained on {', '.join(progress.datasets)}, this run would go "
            f"on with {', '.join(datasets)}: restore the list, or start a new run from the trained model (weights:)."
        )
    return chain([first], batches)


def _timed(batches: Iterable[CropBatch], start: int, stop: int) -> Iterator[tuple[CropBatch, float]]:
    """The batches of steps ``start`` to ``stop`` - 1, each with the seconds spent waiting for it."""
    source = iter(batches)
    for step in range(start, stop):
        began = time.perf_counter()
        batch = next(source, None)
        assert batch is not None, f"the loader ended before step {step}"
        assert batch.step == step, f"the loader delivered step {batch.step} for step {step}"
        yield batch, time.perf_counter() - began


@contextmanager
def _progress_bar(config: TrainingConfig, context: TrainContext, start: int) -> "Iterator[tqdm[Any]]":
    hidden = not config.progress or context.rank > 0
    every_s = 0.5 if sys.stderr.isatty() else 10.0  # in a log file every refresh is a line
    with tqdm(total=config.steps, initial=start, desc="train", unit="step", disable=hidden, mininterval=every_s) as bar:
        yield bar
