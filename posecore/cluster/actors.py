"""Processes that build something dear once, a model with its weights, and then do one piece of work after the other.

They serve evaluation and a teacher's answers, of any set and model of a job: within :func:`kept_actors` they start at
the first piece of work and stay for the next, elsewhere they end with their work. A piece of work is some batches, so
that the threads of a process read ahead within it; while it lasts, the next one waits in the process already.
"""

import hashlib
import pickle
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import ray

from posecore.cluster.connection import connect_to_ray
from posecore.errors import PoseCoreError
from posecore.workflows.machines import ActorSettings, Tool

_WAITING = 2
_RESTARTS = 3


def work_on_actors(
    build: Callable[[], Tool], works: Sequence[Any], settings: ActorSettings
) -> Iterator[tuple[int, Any]]:
    """Has every piece of work done; yields its position and the answer, in the order they are finished.

    Args:
        build: makes the tool, once in each process; must be picklable, and small.
        works: what the tool is given.
        settings: how many processes, and what each reserves.

    Raises:
        PoseCoreError: what the tool, or building it, raised deliberately; the first of them.
    """
    if not works:
        return
    connect_to_ray()
    packed = pickle.dumps(build)
    key = hashlib.sha256(packed).hexdigest()
    actors = _actors(settings, len(works))
    left = list(range(len(works)))[::-1]
    doing: dict[Any, tuple[int, Any]] = {}

    def hand_out(actor: Any) -> None:
        if left:
            position = left.pop()
            doing[actor.do.remote(key, packed, works[position])] = (position, actor)

    try:
        for _ in range(_WAITING):
            for actor in actors:
                hand_out(actor)
        while doing:
            (done,), _ = ray.wait(list(doing))
            position, actor = doing.pop(done)
            answer = ray.get(done)
            if isinstance(answer, PoseCoreError):
                raise answer
            hand_out(actor)
            yield position, answer
    finally:
        for reference in doing:
            ray.cancel(reference)
        _release()


def actor_count(settings: ActorSettings, num_works: int) -> int:
    """Processes for some work: as many as wanted, have room on the connected cluster and find something to do."""
    fitting = fitting_processes(settings.cpus_per_actor, settings.gpus_per_actor)
    return min(settings.actors or fitting, fitting, num_works)


def fitting_processes(num_cpus: float, num_gpus: float, spare_cpus: float = 0.0) -> int:
    """Processes of these needs that the connected cluster has room for, at least one.

    Args:
        num_cpus: cores of each; what counts where they need no GPU.
        num_gpus: GPUs of each.
        spare_cpus: cores that are left to others.
    """
    have = ray.cluster_resources()
    if num_gpus:
        return max(1, int(have.get("GPU", 0.0) / num_gpus))
    return max(1, int((have.get("CPU", 0.0) - spare_cpus) / num_cpus))


@contextmanager
def kept_actors() -> Iterator[None]:
    """Keeps processes from one piece of work to the next, so that a job starts them once for all its sets.

    What they reserve is free again when the block ends; a training inside it would wait for that in vain.
    """
    global _keeping
    _keeping += 1
    try:
        yield
    finally:
        _keeping -= 1
        _release()


def _release() -> None:
    if _keeping:
        return
    if ray.is_initialized():
        for kept in _kept.values():
            for actor in kept:
                ray.kill(actor)
    _kept.clear()


_keeping = 0
_kept: dict[tuple[float, float], list[Any]] = {}


def _actors(settings: ActorSettings, num_works: int) -> list[Any]:
    wanted = actor_count(settings, num_works)
    kept = _kept.setdefault((settings.cpus_per_actor, settings.gpus_per_actor), [])
    remote = ray.remote(
        num_cpus=settings.cpus_per_actor,
        num_gpus=settings.gpus_per_actor,
        max_restarts=_RESTARTS,
        max_task_retries=_RESTARTS,
    )(_Worker)
    kept += [remote.remote() for _ in range(len(kept), wanted)]
    return kept[:wanted]


class _Worker:
    """One process. A deliberate error travels as a value: raised, Ray would wrap it."""

    def __init__(self) -> None:
        self._tools: dict[str, Tool] = {}

    def do(self, key: str, packed: bytes, work: Any) -> Any:
        try:
            if key not in self._tools:
                self._tools.clear()  # the model before this one
                self._tools[key] = pickle.loads(packed)()
            return self._tools[key](work)
        except PoseCoreError as error:
            return error
