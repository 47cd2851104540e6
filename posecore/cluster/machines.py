"""The processes of a Ray cluster, as jobs see them."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

from posecore.cluster.actors import actor_count, kept_actors, work_on_actors
from posecore.cluster.connection import connect_to_ray
from posecore.cluster.ingestion import OnRay
from posecore.cluster.node_check import check_nodes
from posecore.cluster.training import train_with_ray
from posecore.ingest.executor import Executor
from posecore.lineage.store.curve import CurveLog
from posecore.storage import AnyPath
from posecore.workflows.machines import ActorSettings, Race, Tool, TrainedRun, Worker, WorkersConfig
from posecore.workflows.nodes import Needs


class RayMachines:
    """See :class:`~posecore.workflows.machines.Machines`: the cluster RAY_ADDRESS names, or one on this machine."""

    def connect(self, needs: Needs) -> None:
        """Joins the cluster, or starts one; see :func:`~posecore.cluster.node_check.check_nodes`."""
        connect_to_ray()
        check_nodes(needs)

    def ingestion(self, workers: int | None = None) -> Executor:
        """See :meth:`~posecore.workflows.machines.Machines.ingestion`."""
        connect_to_ray()
        return OnRay(workers)

    def train(
        self, worker: Worker, run_dir: str | AnyPath, config: WorkersConfig, curve: CurveLog | None = None
    ) -> TrainedRun:
        """See :func:`~posecore.cluster.training.train_with_ray`."""
        return train_with_ray(worker, run_dir, config, curve)

    def work(
        self, build: Callable[[], Tool], works: Sequence[Any], settings: ActorSettings
    ) -> Iterator[tuple[int, Any]]:
        """See :func:`~posecore.cluster.actors.work_on_actors`."""
        return work_on_actors(build, works, settings)

    def room(self, settings: ActorSettings, num_works: int) -> int:
        """See :func:`~posecore.cluster.actors.actor_count`."""
        connect_to_ray()
        return actor_count(settings, num_works)

    def race(self, build: Callable[[], Tool], race: Race, settings: ActorSettings) -> dict[str, str]:
        """See :func:`~posecore.cluster.tune.race_on_ray`."""
        from posecore.cluster.tune import race_on_ray  # seconds of imports that no other job needs

        return race_on_ray(build, race, settings)

    def kept(self) -> AbstractContextManager[None]:
        """See :func:`~posecore.cluster.actors.kept_actors`."""
        return kept_actors()
