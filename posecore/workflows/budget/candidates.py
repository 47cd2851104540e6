"""What a search tries: the usual ways of adapting a given parent, and whether each fits the memory there is."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from posecore.config import parse_config
from posecore.doors import trusted_file
from posecore.errors import ConfigError
from posecore.labels.dynamics import LEAST_PASSES
from posecore.methods.strategies import (
    FrozenBackboneConfig,
    FullConfig,
    LastNConfig,
    LoraConfig,
)
from posecore.models.architecture import ModelConfig
from posecore.training.engine import TorchEngineConfig
from posecore.training.gpus import GIB
from posecore.training.planner import Plan
from posecore.workflows.adaptation.job import AdaptationJob
from posecore.workflows.budget.settings import Candidate

_FASTER = 3.0
"""Learning rate of what is added to weights that rest, or is a part of them, relative to that of all of them; both did
best at these on rendered infants (docs/benchmarks/adaptation_2cpu_2026-11-26.md)."""
_RANKS = (16, 4)
KNOWN = ("full", "lora", "dora", "two-stage", "last-n", "expert", "adapter", "bitfit", "frozen-backbone", "prototypes")
"""Strategies, those first that ended best on rendered infants with 10 to 1000 labels (the same page)."""
_WARM = 10


@dataclass(frozen=True)
class Fit:
    """Whether a candidate fits.

    Attributes:
        candidate: which.
        config: the run file that it stands for.
        memory: planned bytes of a training process.
        step_s: planned seconds of a step on the run file's ``plan_gpu``.
        trained: parameters that learn.
        total: of all parameters.
        fits: whether the memory is within the bound.
    """

    candidate: Candidate
    config: AdaptationJob
    memory: int
    step_s: float
    trained: int
    total: int
    fits: bool


def usual(config: AdaptationJob, model: ModelConfig) -> tuple[Candidate, ...]:
    """Everything, low-rank updates, the last half of the blocks, and the target's head alone; with replay and without.

    They are in the order in which they are left out where there is no room for all, the last ones first.

    Args:
        config: says whether there is anything to replay; what it holds the child to by other means needs shared weights
            that learn, and then the head alone is left out.
        model: the parent's architecture: only a transformer has blocks.
    """
    depth = int(getattr(model.backbone, "depth", 0) or 0)
    low_rank = [
        Candidate(name=f"lora-{rank}", strategy=LoraConfig(rank=rank, alpha=2.0 * rank), rate=_FASTER)
        for rank in _RANKS
        if depth and not config.l2_sp  # no inherited weight learns by it
    ]
    shared = [Candidate(name="full", strategy=FullConfig()), *low_rank[:1]]
    if blocks := depth // 2:
        shared.append(Candidate(name=f"last-{blocks}", strategy=LastNConfig(blocks=blocks), rate=_FASTER))
    shared += low_rank[1:]
    held = config.method.distillation or config.l2_sp or config.depth_input
    head = () if held else (Candidate(name="head", strategy=FrozenBackboneConfig()),)
    if not can_replay(config):
        return (*shared, *head)
    share = config.replay or 0.25
    kept = [each.model_copy(update={"name": f"{each.name}-replay", "replay": share}) for each in shared]
    alone = [each.model_copy(update={"replay": 0.0}) for each in shared]
    return (*alone[:2], kept[0], *alone[2:], *head, *kept[1:])


def by_what_is_known(candidates: Sequence[Candidate]) -> tuple[Candidate, ...]:
    """Those first whose strategy is known to end best; of the same strategy as they are listed."""
    return tuple(sorted(candidates, key=lambda candidate: KNOWN.index(candidate.strategy.kind)))


def can_replay(config: AdaptationJob) -> bool:
    """Whether any kept set that takes part has data to train on."""
    return any(entry.train is not None for entry in config.kept)


def as_run_file(config: AdaptationJob, candidate: Candidate, steps: int | None = None) -> AdaptationJob:
    """The run file by which ``posecore adapt`` does what a candidate does.

    Args:
        config: of the search.
        candidate: which.
        steps: of the run, a tenth of which is its warm-up at the most, and a quarter at the most lies between two looks
            at the losses of its labels; None leaves the run file's.

    Raises:
        ConfigError: the candidate does not go with the rest of the run file.
    """
    values = config.model_dump(exclude={"search"})
    values["method"] |= {"strategy": candidate.strategy.model_dump()}
    if not candidate.strategy.touches_shared:
        values["replay"] = 0.0
    elif candidate.replay is not None:
        values["replay"] = candidate.replay
    optimizer = dict(values["training"]["optimizer"])
    optimizer["lr"] *= candidate.rate
    values["training"] |= {"optimizer": optimizer}
    if steps is not None:
        values["training"] |= {"steps": steps}
        if config.label_check is not None:
            values["training"]["evaluate_every"] = min(config.training.evaluate_every, steps // LEAST_PASSES)
        schedule = dict(values["training"]["schedule"])
        if schedule.get("warmup_steps", 0) > steps // _WARM:  # written for another length
            values["training"]["schedule"] = schedule | {"warmup_steps": steps // _WARM}
    with trusted_file():  # it was read as one before
        return parse_config(values, AdaptationJob, origin=f"search.candidates.{candidate.name}")


def as_trial(config: AdaptationJob) -> AdaptationJob:
    """The job as one process does it: as many crops in a pass as each of the job's workers would have had."""
    training = config.training
    changes = {"engine": training.engine, "accumulation": training.accumulation * config.cluster.num_workers}
    if training.engine.kind != "torch":  # nobody is there to share with
        precision: Any = training.engine.precision
        changes["engine"] = TorchEngineConfig(precision="bf16" if precision == "bf16-weights" else precision)
    return config.model_copy(
        update={
            "training": training.model_copy(update=changes),
            "cluster": config.cluster.model_copy(update={"num_workers": 1}),
        }
    )


def as_overrides(chosen: AdaptationJob) -> list[str]:
    """What of the run file is to be changed, as ``--set`` takes it, to adapt by what a search chose."""
    strategy = chosen.method.strategy.model_dump_json()
    said = [f"method.strategy={strategy}", f"training.optimizer.lr={chosen.training.optimizer.lr!r}"]
    said += [f"training.steps={chosen.training.steps}", f"replay={chosen.replay_share:g}", "search=null"]
    if chosen.label_check is not None:
        said.append(f"training.evaluate_every={chosen.training.evaluate_every}")
    if hasattr(chosen.training.schedule, "warmup_steps"):  # whole, as the run file may leave it out
        said.append(f"training.schedule={chosen.training.schedule.model_dump_json()}")
    return said + [
        f"datasets.{place}.corrections={entry.corrections}"
        for place, entry in enumerate(chosen.datasets)
        if entry.name == chosen.target and entry.corrections is not None
    ]


def refuse_none(fits: Sequence[Fit], memory: float | None) -> list[Fit]:
    """Those that fit.

    Raises:
        ConfigError: none does.
    """
    fitting = [fit for fit in fits if fit.fits]
    if not fitting:
        assert memory is not None
        least = min(fits, key=lambda fit: fit.memory)
        raise ConfigError(
            f"search.memory: no strategy fits {memory / GIB:.3g} GiB; the least, {least.candidate.name}, takes "
            f"{least.memory / GIB:.3g} GiB in a training process: give more, or a smaller training.global_batch, or "
            "more training.accumulation."
        )
    return fitting


def fits_of(
    config: AdaptationJob,
    candidates: Sequence[Candidate],
    plan_of: Callable[[AdaptationJob], Plan],
    memory: float | None,
) -> Iterator[Fit]:
    """Plans every candidate.

    Args:
        config: of the search.
        candidates: what is tried.
        plan_of: what the planner says of a run file.
        memory: the bound in bytes; None for none.
    """
    for candidate in candidates:
        own = as_run_file(config, candidate)
        planned = plan_of(as_trial(own))
        needed = planned.peak if config.cluster.gpus_per_worker else planned.cpu_peak
        yield Fit(
            candidate=candidate,
            config=own,
            memory=needed,
            step_s=planned.step_s,
            trained=planned.trained_parameters,
            total=planned.total_parameters,
            fits=memory is None or needed <= memory,
        )
