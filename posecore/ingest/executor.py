"""Who does the work of an ingestion: this process, or a cluster (:mod:`posecore.cluster.ingestion`)."""

from collections.abc import Callable, Iterable, Iterator
from functools import cache, partial
from typing import Concatenate, ParamSpec, Protocol, TypeVar

from posecore.ingest.fetch import ready_stages
from posecore.ingest.plan import Plan
from posecore.ingest.write import WrittenShard, write_shard

_P = ParamSpec("_P")
_T = TypeVar("_T")
_Item = TypeVar("_Item")


class Executor(Protocol):
    """Does pieces of an ingestion, wherever that is."""

    def call(self, function: Callable[_P, _T], *arguments: _P.args, **named: _P.kwargs) -> _T:
        """One piece of work that nothing can be done beside: planning, publishing."""
        ...

    def map(
        self,
        function: Callable[Concatenate[_Item, _P], _T],
        items: Iterable[_Item],
        *arguments: _P.args,
        **named: _P.kwargs,
    ) -> list[_T]:
        """The same work for each item, side by side where there is room; answers in the order of the items.

        Where some fail, the first of them in that order is what is raised, after all have ended.
        """
        ...

    def write(self, plan: Plan) -> Iterable[WrittenShard]:
        """Every planned shard by :func:`~posecore.ingest.write.write_shard`, in any order."""
        ...


class InProcess:
    """The executor without any cluster: one piece after the other."""

    def call(self, function: Callable[_P, _T], *arguments: _P.args, **named: _P.kwargs) -> _T:
        """See :class:`Executor`."""
        return function(*arguments, **named)

    def map(
        self,
        function: Callable[Concatenate[_Item, _P], _T],
        items: Iterable[_Item],
        *arguments: _P.args,
        **named: _P.kwargs,
    ) -> list[_T]:
        """See :class:`Executor`."""
        return [function(item, *arguments, **named) for item in items]

    def write(self, plan: Plan) -> Iterator[WrittenShard]:
        """See :class:`Executor`."""
        stages = cache(partial(ready_stages, plan.job.definition))
        for shard in plan.shards:
            yield write_shard(plan.job, plan.scratch, shard, stages)
