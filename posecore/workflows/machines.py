"""Who does the work of a job: the processes of a Ray cluster, or this one and those that torchrun started with it.

Steps are written against :class:`Machines`. What they write does not depend on who writes it.

Every process of a cluster imports this module before it does anything, whether it will need a model or not.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self, TypeAlias

from pydantic import Field, model_validator

from posecore.config import Config
from posecore.storage import AnyPath
from posecore.workflows.nodes import Needs

if TYPE_CHECKING:
    from posecore.ingest.executor import Executor
    from posecore.lineage.store.curve import CurveLog
    from posecore.training.context import TrainContext
    from posecore.training.loop import TrainingConfig, TrainResult

RUN_NAME = "checkpoints"
"""Folder of the checkpoints in a training's folder, whoever trained."""

Tool: TypeAlias = Callable[[Any], Any]
"""Does one piece of work."""


def as_given(tool: Tool) -> Tool:
    """Builds a tool that is there already, and is picklable and small itself."""
    return tool


class Worker(Protocol):
    """What every training process does; must be picklable."""

    @property
    def training(self) -> "TrainingConfig":
        """The loop."""
        ...

    def __call__(self, context: "TrainContext") -> "TrainResult":
        """Trains from the newest checkpoint, or from the start, to the last step."""
        ...


Placement: TypeAlias = Literal["pack", "spread", "strict-pack", "strict-spread"]
"""Where on a cluster training processes are put."""


class WorkersConfig(Config):
    """How training is spread over a Ray cluster; torchrun has flags of its own for that.

    Attributes:
        num_workers: training processes.
        min_workers: fewer may go on after a node is lost, down to this number, if they cut a batch evenly; None
            insists on ``num_workers`` and waits for a replacement.
        grow_interval_s: how often fewer workers are looked for company, which has all start again from the last
            checkpoint.
        cpus_per_worker: CPU cores Ray reserves for each worker; loader threads count.
        gpus_per_worker: GPUs for each worker, 0 or 1.
        placement: ``pack`` fills one node after the other, ``spread`` takes as many nodes as there are,
            ``strict-spread`` insists on a node for each worker, ``strict-pack`` on one node for all.
        network_interface: that the workers' processes talk over, on every node; None takes that of the address by which
            Ray knows the node, unless the node's environment names another.
        max_failures: restarts after a lost worker before the job gives up.
        num_to_keep: older checkpoints are deleted.
        poll_interval_s: how often the controller looks after its workers; its default of 2 s delays every checkpoint.
        start_timeout_s: how long a group of workers may take to start before it is tried again. The first attempt
            after a node loss still counts the lost node, so this is what a loss costs at least.
        checkpoint_on_stop: Ctrl-C and SIGTERM have the workers write a checkpoint before they end; a second one does
            not wait for it. Costs a question among the workers in every step.
    """

    num_workers: int = Field(default=1, gt=0)
    min_workers: int | None = Field(default=None, gt=0)
    grow_interval_s: float = Field(default=60.0, gt=0)
    cpus_per_worker: float = Field(default=1.0, gt=0)
    gpus_per_worker: int = Field(default=0, ge=0, le=1)
    placement: Placement = "pack"
    network_interface: str | None = None
    max_failures: int = Field(default=3, ge=0)
    num_to_keep: int = Field(default=3, gt=0)
    poll_interval_s: float = Field(default=0.5, gt=0)
    start_timeout_s: float = Field(default=30.0, gt=0)
    checkpoint_on_stop: bool = False

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.min_workers is not None and self.min_workers > self.num_workers:
            raise ValueError(f"min_workers {self.min_workers} exceeds num_workers {self.num_workers}.")
        return self

    def needs(self, run_folder: AnyPath, tracking: str) -> Needs:
        """What every node must reach, for a job with this folder and this tracking store."""
        return Needs(run_folder=str(run_folder), tracking=tracking, network_interface=self.network_interface)


class ActorSettings(Config):
    """How pieces of work that need a model are spread over a Ray cluster.

    Attributes:
        actors: processes; None takes one per CPU (or per GPU) of the cluster.
        cpus_per_actor: CPU cores Ray reserves for each.
        gpus_per_actor: GPUs for each; a fraction shares one.
    """

    actors: int | None = Field(default=None, gt=0)
    cpus_per_actor: float = Field(default=1.0, gt=0)
    gpus_per_actor: float = Field(default=0.0, ge=0)


@dataclass(frozen=True, kw_only=True)
class TrainedRun:
    """How training ended.

    Attributes:
        checkpoint: folder of the checkpoint that is its result (:mod:`posecore.training.best`).
        last: folder of the last one.
        metrics: rank 0's, at the end.
    """

    checkpoint: AnyPath
    last: AnyPath
    metrics: Mapping[str, float]


class Ranked(Protocol):
    """What trials are ranked by."""

    @property
    def error(self) -> float:
        """The lower, the better; not finite where the trial goes no further."""
        ...

    @property
    def told(self) -> str:
        """What ended the trial, as a sentence; "" where nothing did."""
        ...


@dataclass(frozen=True, kw_only=True)
class Race:
    """Trials that climb rungs.

    Attributes:
        names: of the trials.
        rungs: steps of each, every one ``eta`` times the one before.
        eta: of so many trials one goes on.
        most_steps: of all trials together.
        seconds: after which no more is begun; None for no bound.
        folder: for records of whoever watches over it.
    """

    names: tuple[str, ...]
    rungs: tuple[int, ...]
    eta: int
    most_steps: int
    seconds: float | None
    folder: str


class Machines(Protocol):
    """What a job has its work done by."""

    def connect(self, needs: Needs) -> None:
        """Returns when they are there to work.

        Args:
            needs: what all of them must reach.

        Raises:
            PreflightError: they are not, or some cannot do their part.
        """
        ...

    def ingestion(self, workers: int | None = None) -> "Executor":
        """Who reads, plans and writes shards; ``workers`` of them at a time, None for what there is room for."""
        ...

    def train(
        self, worker: Worker, run_dir: str | AnyPath, config: WorkersConfig, curve: "CurveLog | None" = None
    ) -> TrainedRun:
        """Runs a worker function on several processes until it has returned on all of them.

        A run that was interrupted continues when it is called again with the same ``run_dir``.

        Args:
            worker: called with a context on every process.
            run_dir: a folder that all of them can write; checkpoints go to ``run_dir/checkpoints``.
            config: how many workers, and how patient.
            curve: where rank 0's metrics go.

        Raises:
            PreflightError: there is no room for the workers.
            PoseCoreError: whatever deliberate error the workers raised.
        """
        ...

    def work(
        self, build: Callable[[], Tool], works: Sequence[Any], settings: ActorSettings
    ) -> Iterator[tuple[int, Any]]:
        """Has every piece of work done; yields its position and the answer, in the order they are finished.

        Args:
            build: makes the tool, once in each process; must be picklable, and small.
            works: what the tool is given.
            settings: how many processes, and what each reserves.

        Raises:
            PoseCoreError: what the tool, or building it, raised deliberately; the first of them.
        """
        ...

    def room(self, settings: ActorSettings, num_works: int) -> int:
        """Processes that :meth:`work` would spread so many pieces over, at least one if there is anything to do."""
        ...

    def race(self, build: Callable[[], Tool], race: Race, settings: ActorSettings) -> dict[str, str]:
        """Has trials climb rungs, all at once as far as there is room, the worse of them ending early.

        A trial that fails is out of the race, and the others go on.

        Args:
            build: makes the tool, which is given a trial's name and a rung and answers with a :class:`Ranked`; what it
                finds it also keeps.
            race: who takes part, and for how long.
            settings: how many processes, and what each reserves.

        Raises:
            PreflightError: there is only this process.

        Returns:
            By name of the trials that failed, what ended each, as a sentence.
        """
        ...

    def kept(self) -> AbstractContextManager[None]:
        """Keeps the tools of :meth:`work` for the next pieces, as long as the block lasts, in which nothing trains."""
        ...
