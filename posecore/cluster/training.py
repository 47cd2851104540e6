"""Runs the training loop under Ray Train: workers are started, watched, and started again from the last checkpoint.

The loop knows nothing of Ray; :class:`RayContext` is all it sees. Nor does Ray know of checkpoints: the workers write
them into the run's folder themselves, each its own pieces. Reported to Ray they would pass through rank 0's node, a
crash within the next two seconds would lose one that is whole, and two attempts at a step would be merged into one.
"""

import logging
import os
import pickle
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
import torch

from posecore.cluster.answered_calls import begun, outcome
from posecore.cluster.verdicts import Verdict, comes_again
from posecore.counting import counted
from posecore.errors import DivergenceError, PoseCoreError, PreflightError
from posecore.storage import AnyPath, as_path, folder_of_machine
from posecore.training.best import result_of
from posecore.training.checkpoint_store import CheckpointStore
from posecore.training.context import Log, agreed_word
from posecore.workflows.machines import RUN_NAME, TrainedRun, Worker, WorkersConfig

if TYPE_CHECKING:
    from ray.train import Result
    from ray.train.torch import TorchTrainer

    from posecore.lineage.store.curve import CurveLog

_RAY_NAME = "ray"
_UNUSED = ("PlacementGroupCleanerCallback", "DatasetsCallback")
_TALKATIVE = ("aiobotocore", "botocore")  # each worker would say where it found its credentials
_LOOK_S = 0.5  # between two looks for the stop file, which may lie on a shared file system


def train_with_ray(
    worker: Worker, run_dir: str | AnyPath, config: WorkersConfig, curve: "CurveLog | None" = None
) -> TrainedRun:
    """Runs a worker function on several processes until it has returned on all of them.

    A worker that dies takes its group with it; the group starts again from the newest whole checkpoint. A run that
    was interrupted as a whole continues the same way when it is called again with the same ``run_dir``.

    Args:
        worker: called with a context on every process.
        run_dir: local or shared folder, or an fsspec URL all nodes can write; checkpoints go to ``run_dir/train``.
        config: how many workers, and how patient.
        curve: where rank 0's metrics go.

    Raises:
        PreflightError: the cluster has fewer free resources than the workers need; Ray itself would wait for ever.
        PoseCoreError: whatever deliberate error the workers raised; one that would come again is not waited for.
    """
    check_resources(config)
    # The controller inherits these from the driver.
    os.environ["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] = str(config.poll_interval_s)
    os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = str(config.start_timeout_s)
    # Its start logs an error in every good run; without it a node that is taken away is a lost node.
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    storage = as_path(run_dir)
    if isinstance(storage, Path):
        storage = storage.absolute()  # workers have another working directory
    stop, verdict = storage / "stop", storage / "verdict.json"
    store = CheckpointStore(storage / RUN_NAME, config.num_to_keep)
    from ray import train

    from posecore.cluster.process_group import GroupConfig
    from posecore.cluster.training_events import TrainingEvents

    packed = None if curve is None else pickle.dumps(curve)  # only rank 0 needs MLflow, which takes seconds to import
    workers = config.num_workers if config.min_workers is None else (config.min_workers, config.num_workers)
    trainer = _trainer_class(worker.training.global_batch // worker.training.accumulation)(
        lambda: _work(worker, store, packed, verdict, stop if config.checkpoint_on_stop else None),
        scaling_config=train.ScalingConfig(
            num_workers=workers,
            use_gpu=config.gpus_per_worker > 0,
            resources_per_worker={"CPU": config.cpus_per_worker} | ({"GPU": 1} if config.gpus_per_worker else {}),
            placement_strategy=config.placement.replace("-", "_").upper(),
            elastic_resize_monitor_interval_s=config.grow_interval_s,
        ),
        torch_config=GroupConfig(interface=config.network_interface),
        run_config=train.RunConfig(
            name=_RAY_NAME,
            storage_path=str(folder_of_machine(storage)),  # of its own records; checkpoints are not its business
            failure_config=train.FailureConfig(
                max_failures=config.max_failures, controller_failure_limit=10 * (1 + config.max_failures)
            ),
            callbacks=[TrainingEvents()],
            logging_config=train.LoggingConfig(log_level="CRITICAL"),
        ),
    )
    for file in (stop, verdict):
        file.unlink(missing_ok=True)
    try:
        result = _fit(trainer, stop if config.checkpoint_on_stop else None)
    except train.WorkerGroupError as error:
        for failure in error.worker_failures.values():
            if isinstance(failure, PoseCoreError):
                raise failure from None
        raise
    if isinstance(result.return_value, Verdict):
        raise result.return_value.error()
    checkpoint, last = result_of(store)
    return TrainedRun(checkpoint=checkpoint, last=last, metrics=result.return_value or {})


def check_resources(config: WorkersConfig) -> None:
    """Refuses a group of workers that cannot start.

    Raises:
        PreflightError: names what is missing.
    """
    total = ray.cluster_resources()
    workers = config.min_workers or config.num_workers
    for resource, each in (("CPU", config.cpus_per_worker), ("GPU", float(config.gpus_per_worker))):
        if workers * each > total.get(resource, 0.0):
            raise PreflightError(
                f"a cluster with {total.get(resource, 0.0):g} {resource} has no room for "
                f"{counted(workers, 'training worker')} with {each:g} {resource} each; lower num_workers or "
                f"{resource.lower()}s_per_worker."
            )
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    together, apart = (workers, 1) if config.placement == "strict-pack" else (1, workers)
    if config.placement.startswith("strict") and _nodes_with_room(nodes, config, together) < apart:
        raise PreflightError(
            f"cluster.placement {config.placement}: of {counted(len(nodes), 'node')} "
            f"{_nodes_with_room(nodes, config, together)} have room for {counted(together, 'training worker')}, and "
            f"{apart} must; lower num_workers, or take {config.placement.removeprefix('strict-')}, which is content "
            "with less."
        )


def _nodes_with_room(nodes: Sequence[Mapping[str, float]], config: WorkersConfig, num_workers: int) -> int:
    needs = {"CPU": config.cpus_per_worker, "GPU": float(config.gpus_per_worker)}
    return sum(all(node.get(name, 0.0) >= num_workers * each for name, each in needs.items()) for node in nodes)


def _trainer_class(crops: int) -> "type[TorchTrainer]":
    """Ray's trainer as it is wanted here.

    Args:
        crops: of one pass over all workers, for :class:`~posecore.cluster.elasticity.WholeBatches`.
    """
    from ray.train.torch import TorchTrainer

    from posecore.cluster.elasticity import WholeBatches

    class Trainer(TorchTrainer):
        """Without two processes that Ray would start for every training, and that have nothing to do here.

        One frees the resources of a dead controller, as the end of the job does anyway. Where Ray has no dashboard, it
        cannot see the controller: it is slow to end after every training, and a stack of calls about it is printed.
        The other hands out Ray's datasets, of which there are none, and is started again with every group of workers.
        """

        def _create_default_callbacks(self) -> "list[object]":
            callbacks = super()._create_default_callbacks()
            return [callback for callback in callbacks if type(callback).__name__ not in _UNUSED]

        def _initialize_and_run_controller(self, **given: Any) -> "Result":
            if self.scaling_config.elasticity_enabled:
                given["scaling_policy"] = WholeBatches(self.scaling_config, crops)
            return super()._initialize_and_run_controller(**given)

    return Trainer


def _fit(trainer: "TorchTrainer", stop: AnyPath | None) -> "Result":
    """Trains; Ray itself would answer Ctrl-C with half a minute of silence and status 1.

    Args:
        trainer: to be run.
        stop: file by which workers are asked for a last checkpoint, or None.
    """
    training = begun(trainer.fit, "ray-train")
    try:
        return outcome(training)
    except KeyboardInterrupt:
        if stop is not None:
            print("stopping after a checkpoint; the next Ctrl-C stops at once.", file=sys.stderr, flush=True)
            stop.parent.mkdir(parents=True, exist_ok=True)
            stop.touch()
            with suppress(Exception):
                outcome(training)
        raise


def _work(
    worker: Worker, store: CheckpointStore, packed_curve: bytes | None, verdict: AnyPath, stop: AnyPath | None
) -> "Verdict | Mapping[str, float]":
    """Runs the worker, and returns its last metrics, or what ended it for good.

    Only what every rank has may be returned: the others would wait for a rank that did. What one rank may have alone is
    left for the next attempt, and all of that return it.
    """
    from ray import train

    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.WARNING)
    if (known := Verdict.left_in(verdict)) is not None:
        return known
    context = train.get_context()
    curve: CurveLog | None = None
    if packed_curve is not None and context.get_world_rank() == 0:
        curve = pickle.loads(packed_curve)
    with nullcontext() if curve is None else curve.writing() as log:
        try:
            return dict(worker(RayContext(store, log, stop)).metrics)
        except PoseCoreError as error:
            if not comes_again(error):
                raise
            if isinstance(error, DivergenceError) or context.get_world_size() == 1:
                return Verdict.of(error)
            Verdict.of(error).leave_in(verdict)
            raise


class RayContext:
    """A training process under Ray Train; see :class:`posecore.training.context.TrainContext`."""

    def __init__(self, store: CheckpointStore, log: Log | None, stop: AnyPath | None = None) -> None:
        from ray import train
        from ray.train.torch import get_device

        self.rank: int = train.get_context().get_world_rank()
        self.world_size: int = train.get_context().get_world_size()
        self.device: torch.device = get_device()
        if self.device.type == "cpu":  # Ray sets OMP_NUM_THREADS to 1, whatever was reserved
            torch.set_num_threads(max(1, int(ray.get_runtime_context().get_assigned_resources().get("CPU", 1))))
        self.attempt = agreed_word()
        self.store = store
        self._log = log
        self._stop = stop
        self._looked = time.monotonic()

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """See :meth:`posecore.training.context.TrainContext.log`."""
        if self._log is not None:
            self._log(metrics, step)

    def asked_to_stop(self) -> bool:
        """See :meth:`posecore.training.context.TrainContext.asked_to_stop`."""
        if self._stop is None:
            return False
        asked = False
        if self.rank == 0 and time.monotonic() - self._looked > _LOOK_S:
            self._looked = time.monotonic()
            asked = self._stop.exists()
        if self.world_size == 1:
            return asked
        answer = torch.tensor(int(asked), device=self.device)
        torch.distributed.broadcast(answer, src=0)
        return bool(answer)
