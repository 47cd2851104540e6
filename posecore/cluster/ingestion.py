"""Ingestion on a Ray cluster: reading and planning as tasks of their own, writing as a Ray Data pipeline.

The driver holds what every shard came to, never a record: annotations lie in the scratch folder beside the shards.
"""

import functools
import pickle
from collections.abc import Callable, Iterator
from typing import Any, ParamSpec, TypeVar

import ray
from tqdm import tqdm

from posecore.cluster.connection import connect_to_ray, for_all_nodes, quiet_ray_data
from posecore.datasets.definition import DatasetDefinition
from posecore.errors import IngestError, PoseCoreError
from posecore.ingest.job import IngestSettings, ingest_job
from posecore.ingest.plan import Plan, PlannedShard
from posecore.ingest.run import advice, ingest
from posecore.ingest.write import WrittenShard, write_shard
from posecore.shards.manifest import Manifest
from posecore.storage import AnyPath

_P = ParamSpec("_P")
_T = TypeVar("_T")


def ingest_split(
    definition: DatasetDefinition,
    split: str,
    root: str | AnyPath,
    out: str | AnyPath,
    settings: IngestSettings | None = None,
    workers: int | None = None,
) -> Manifest:
    """Ingests one split on the Ray cluster this process is connected to (a local one is started if there is none).

    Args:
        definition: the dataset.
        split: name of the split.
        root: folder of the download; every node must reach it.
        out: shards go to ``<out>/<dataset>/<split>``; every node must reach it.
        settings: shape of the shards and depth of the examination.
        workers: shards written at a time; None takes what the cluster has.

    Raises:
        DatasetError: the annotations cannot be read.
        IngestError: the split is empty, too much of it is rejected, or the disk is full.
    """
    job = ingest_job(definition, split, for_all_nodes(root), for_all_nodes(out), settings or IngestSettings())
    connect_to_ray()
    manifest = ingest(job, executor=OnRay(workers))
    told = advice(manifest)
    if told is not None:
        print(told)
    return manifest


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
        answer = ray.get(task.remote(functools.partial(function, *arguments, **named)))
        if isinstance(answer, PoseCoreError):
            raise answer
        return answer

    def write(self, plan: Plan) -> Iterator[WrittenShard]:
        """Every planned shard, each by one task, with a bar that counts images."""
        quiet_ray_data()
        rows = [{"number": shard.number} for shard in plan.shards]
        written = (
            ray.data.from_items(rows, override_num_blocks=len(rows))
            .map(_shard_writer(plan), num_cpus=1, concurrency=self._workers)
            .iter_rows()
        )
        title = f"ingest {plan.job.definition.name} {plan.job.split}"
        with tqdm(total=sum(shard.num_images for shard in plan.shards), unit="img", desc=title) as bar:
            for row in written:
                if row["error"]:
                    raise IngestError(row["error"])
                shard: WrittenShard = pickle.loads(row["shard"])
                bar.update(plan.shards[shard.number].num_images)
                yield shard


def _answer_or_error(work: Callable[[], Any]) -> Any:
    try:
        return work()
    except PoseCoreError as error:
        return error


def _shard_writer(plan: Plan) -> Callable[[dict[str, Any]], dict[str, Any]]:
    job, scratch, shards = plan.job, plan.scratch, plan.shards

    def write(row: dict[str, Any]) -> dict[str, Any]:
        shard: PlannedShard = shards[row["number"]]
        answer = _answer_or_error(functools.partial(write_shard, job, scratch, shard))
        if isinstance(answer, PoseCoreError):
            return {"shard": b"", "error": str(answer)}
        return {"shard": pickle.dumps(answer), "error": ""}

    return write
