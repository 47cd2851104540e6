"""Ingestion on a Ray cluster: reading and planning as tasks of their own, writing as a Ray Data pipeline.

The driver holds what every shard came to, never a record: annotations lie in the scratch folder beside the shards.
"""

import functools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Concatenate, ParamSpec, TypeVar

import pyarrow as pa
import ray
from tqdm import tqdm

from posecore.cluster.actors import fitting_processes
from posecore.cluster.connection import quiet_ray_data
from posecore.cluster.shard_block import (
    failed,
    fetched,
    number_of,
    outcome,
    pictures_of,
    samples_of,
    staged,
    tally_of,
    whole,
)
from posecore.datasets.definition import StageResources
from posecore.errors import PoseCoreError
from posecore.ingest.fetch import divided_stages, samples
from posecore.ingest.job import IngestJob
from posecore.ingest.plan import Plan, planned_annotations
from posecore.ingest.staging import run_on_pictures
from posecore.ingest.tally import Tally
from posecore.ingest.write import (
    WrittenShard,
    finished,
    kept_shard,
    no_space_is_an_ingest_error,
    write_content,
    write_shard,
)
from posecore.shards.remote import outage_in_a_sentence
from posecore.stages.load import LoadedStage, load_stages
from posecore.stages.protocol import ModelStage

_P = ParamSpec("_P")
_T = TypeVar("_T")
_Item = TypeVar("_Item")


class OnRay:
    """The executor of a cluster (:class:`~posecore.ingest.executor.Executor`).

    Args:
        workers: shards written at a time; None takes what the cluster has.
    """

    def __init__(self, workers: int | None = None) -> None:
        self._workers = workers

    def call(self, function: Callable[_P, _T], *arguments: _P.args, **named: _P.kwargs) -> _T:
        """Runs a function as a task. A deliberate error travels as a value: raised, Ray would wrap it."""
        task = ray.remote(num_cpus=1)(_answer_or_error).options(name=function.__name__)
        return _answer(task.remote(functools.partial(function, *arguments, **named)))

    def map(
        self,
        function: Callable[Concatenate[_Item, _P], _T],
        items: Iterable[_Item],
        *arguments: _P.args,
        **named: _P.kwargs,
    ) -> list[_T]:
        """Runs a function as a task for each item, as many at a time as there are cores."""
        task = ray.remote(num_cpus=1)(_answer_or_error).options(name=function.__name__)
        given = [task.remote(functools.partial(function, item, *arguments, **named)) for item in items]
        ray.wait(given, num_returns=len(given))  # none works on when the first is known to have failed
        return [_answer(one) for one in given]

    def write(self, plan: Plan) -> Iterator[WrittenShard]:
        """Every planned shard, each in a block of its own from the first operator to the last.

        Without stages that see pictures there is one operator. With them, one reads a shard's pictures, each stage is
        one, and the last writes; so a stage on a GPU works on one shard while others read and write.
        """
        import ray.data

        quiet_ray_data()
        numbers = [{"number": shard.number} for shard in plan.shards]
        shards = ray.data.from_items(numbers, override_num_blocks=len(numbers))
        for operator in _operators(plan):
            shards = shards.map_batches(
                operator.work, batch_size=None, batch_format="pyarrow", **operator.options(self._workers, len(numbers))
            )
        title = f"ingest {plan.job.definition.name} {plan.job.split}"
        with tqdm(total=sum(shard.num_images for shard in plan.shards), unit="img", desc=title) as bar:
            for block in shards.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
                for row in range(block.num_rows):
                    result = outcome(block.slice(row, 1))
                    if not isinstance(result, WrittenShard):
                        raise result or AssertionError("the last operator left a shard unwritten")
                    bar.update(plan.shards[result.number].num_images)
                    yield result


@dataclass(frozen=True)
class _Operator:
    """One operator of the pipeline.

    Attributes:
        work: block of one shard to block of one shard; a class for what is built once per process.
        resources: of each process.
    """

    work: Callable[[pa.Table], pa.Table] | type
    resources: StageResources
    arguments: tuple[Any, ...] = ()

    def options(self, workers: int | None, shards: int) -> dict[str, Any]:
        own = self.resources
        reserved = {"num_cpus": own.num_cpus} | ({"num_gpus": own.num_gpus} if own.num_gpus else {})
        if not isinstance(self.work, type):
            wanted = own.concurrency or workers
            return {
                **reserved,
                "concurrency": wanted and min(wanted, shards),
            }
        processes = ray.data.ActorPoolStrategy(
            size=own.concurrency or fitting_processes(own.num_cpus, own.num_gpus, spare_cpus=1.0)
        )
        return {**reserved, "compute": processes, "fn_constructor_args": self.arguments}


def _operators(plan: Plan) -> list[_Operator]:
    _, _, stages = divided_stages(load_stages(plan.job.definition))
    if not stages:
        return [
            _Operator(
                _named("write_shard", _guarded(functools.partial(_write_whole, plan), plan.job)), StageResources()
            )
        ]
    middle = [
        _Operator(_actor_named(stage.label), stage.resources, (plan.job, place))
        if isinstance(stage.work, ModelStage)
        else _Operator(
            _named(stage.label, _guarded(functools.partial(_run_stage, plan.job, stage), plan.job)), stage.resources
        )
        for place, stage in enumerate(stages)
    ]
    return [
        _Operator(_named("fetch", _guarded(functools.partial(_fetch, plan), plan.job)), StageResources()),
        *middle,
        _Operator(_named("write", _guarded(functools.partial(_write_content, plan), plan.job)), StageResources()),
    ]


def _named(name: str, work: Callable[[pa.Table], pa.Table]) -> Callable[[pa.Table], pa.Table]:
    """The function under the name that Ray's dashboard shows."""

    def operator(block: pa.Table) -> pa.Table:
        return work(block)

    operator.__name__ = operator.__qualname__ = name
    return operator


def _guarded(work: Callable[[pa.Table], pa.Table], job: IngestJob) -> Callable[[pa.Table], pa.Table]:
    """Passes on what is finished or has failed, and turns a deliberate error, or a store that is gone, into a value."""
    places = (job.root, job.folder)

    def guarded(block: pa.Table) -> pa.Table:
        if "written" in block.column_names and outcome(block) is not None:
            return block
        try:
            with outage_in_a_sentence(*places):
                return work(block)
        except PoseCoreError as error:
            return failed(number_of(block), error)

    return guarded


def _write_whole(plan: Plan, block: pa.Table) -> pa.Table:
    return whole(write_shard(plan.job, plan.scratch, plan.shards[number_of(block)]))


def _fetch(plan: Plan, block: pa.Table) -> pa.Table:
    job, scratch, shard = plan.job, plan.scratch, plan.shards[number_of(block)]
    kept = kept_shard(job, scratch, shard)
    if kept is not None:
        return whole(kept)
    tally = Tally(job.stage_names)
    first, source, _ = divided_stages(load_stages(job.definition))
    up_to_pictures = first if source is None else [*first, source]
    of_shard = samples(job, up_to_pictures, planned_annotations(scratch, shard), tally)
    return fetched(shard.number, of_shard, job, tally)


def _run_stage(job: IngestJob, stage: LoadedStage, block: pa.Table) -> pa.Table:
    tally = tally_of(block)
    left = run_on_pictures(stage, pictures_of(block, job), tally, job.definition.skeleton)
    return staged(number_of(block), left, job, tally)


def _write_content(plan: Plan, block: pa.Table) -> pa.Table:
    shard = plan.shards[number_of(block)]
    with no_space_is_an_ingest_error(plan.job.folder / shard.name):
        written = write_content(plan.job, shard, [samples_of(block, plan.job)], tally_of(block))
        return whole(finished(plan.scratch, shard, written))


class _StageActor:
    """Holds a model stage."""

    def __init__(self, job: IngestJob, place: int) -> None:
        _, _, stages = divided_stages(load_stages(job.definition))
        self._job, self._stage = job, stages[place]
        assert isinstance(self._stage.work, ModelStage), self._stage
        self._stage.work.set_up()

    def __call__(self, block: pa.Table) -> pa.Table:
        return _guarded(functools.partial(_run_stage, self._job, self._stage), self._job)(block)


def _actor_named(label: str) -> type[_StageActor]:
    """The class under the name that Ray's dashboard shows for its operator."""
    return type(label, (_StageActor,), {})


def _answer(task: ray.ObjectRef) -> Any:
    answer = ray.get(task)
    if isinstance(answer, PoseCoreError):
        raise answer
    return answer


def _answer_or_error(work: Callable[[], Any]) -> Any:
    try:
        return work()
    except PoseCoreError as error:
        return error
