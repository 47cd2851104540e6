"""A job without Ray: this process does its work, and those that torchrun started with it train along.

The process of rank 0 runs the job. The others wait until it trains something, take part in that, and wait again.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from typing import Any

import torch.distributed as dist

from posecore.errors import PreflightError
from posecore.ingest.executor import Executor, InProcess
from posecore.lineage.store.curve import CurveLog
from posecore.storage import AnyPath, for_all_nodes
from posecore.training.best import result_of
from posecore.training.context import LocalContext, default_device
from posecore.training.host_memory import give_back_unused
from posecore.workflows.endings import exit_status
from posecore.workflows.machines import ActorSettings, Machines, Race, Tool, TrainedRun, Worker, WorkersConfig
from posecore.workflows.nodes import Needs

_WAIT = timedelta(days=30)  # for a job to train, after ingesting whatever it has


class ThisProcess:
    """See :class:`~posecore.workflows.machines.Machines`.

    Args:
        waiting: the processes that train along, this one among them; None for none.
    """

    def __init__(self, waiting: dist.ProcessGroup | None = None) -> None:
        self._waiting = waiting

    def connect(self, needs: Needs) -> None:
        """Everything is here."""

    def ingestion(self, workers: int | None = None) -> Executor:
        """See :meth:`~posecore.workflows.machines.Machines.ingestion`; one shard after the other."""
        return InProcess()

    def train(
        self, worker: Worker, run_dir: str | AnyPath, config: WorkersConfig, curve: CurveLog | None = None
    ) -> TrainedRun:
        """See :meth:`~posecore.workflows.machines.Machines.train`; torchrun says on how many processes."""
        _tell(self._waiting, (worker, run_dir, config))
        with curve.writing() if curve is not None else nullcontext() as log:
            context = LocalContext(for_all_nodes(run_dir), log, num_to_keep=config.num_to_keep)
            result = worker(context)
        give_back_unused()  # the model is judged in this process
        checkpoint, last = result_of(context.store)
        return TrainedRun(checkpoint=checkpoint, last=last, metrics=result.metrics)

    def work(
        self, build: Callable[[], Tool], works: Sequence[Any], settings: ActorSettings
    ) -> Iterator[tuple[int, Any]]:
        """See :meth:`~posecore.workflows.machines.Machines.work`; one piece after the other."""
        tool = build() if works else None
        for position, each in enumerate(works):
            assert tool is not None
            yield position, tool(each)

    def room(self, settings: ActorSettings, num_works: int) -> int:
        """One process."""
        return min(1, num_works)

    def race(self, build: Callable[[], Tool], race: Race, settings: ActorSettings) -> dict[str, str]:
        """See :meth:`~posecore.workflows.machines.Machines.race`: not with one process."""
        raise PreflightError("search.scheduler: asha has trials race, which takes a Ray cluster; take halving here.")

    def kept(self) -> AbstractContextManager[None]:
        """Nothing is kept."""
        return nullcontext()


def launched_here(job: Callable[[Machines], None]) -> int:
    """Runs a job in this process, or takes part in the one that rank 0 runs; returns the exit status."""
    world_size, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    if world_size == 1:
        return exit_status(lambda: job(ThisProcess()))
    dist.init_process_group("nccl" if default_device().type == "cuda" else "gloo", timeout=timedelta(minutes=30))
    waiting = dist.new_group(backend="gloo", timeout=_WAIT)
    if rank:
        return exit_status(lambda: _train_along(waiting))

    def led() -> None:
        job(ThisProcess(waiting))
        _tell(waiting, None)

    status = exit_status(led)
    dist.destroy_process_group()
    return status


def _train_along(waiting: dist.ProcessGroup) -> None:
    while (told := _tell(waiting, None)) is not None:
        worker, run_dir, config = told
        worker(LocalContext(for_all_nodes(run_dir), num_to_keep=config.num_to_keep))
        del worker, told
        give_back_unused()
    dist.destroy_process_group()


def _tell(waiting: dist.ProcessGroup | None, what: Any) -> Any:
    """What rank 0 tells the others, on all of them."""
    box = [what]
    if waiting is not None:
        dist.broadcast_object_list(box, src=0, group=waiting)
    return box[0]
