"""Going on from the newest whole checkpoint, the same one on every rank."""

import socket
import sys
import time

from tqdm import tqdm

from posecore.errors import CheckpointError, IntegrityError, PreflightError
from posecore.models.sharded import shape_of
from posecore.storage import AnyPath, write_atomically
from posecore.training.checkpoint import Checkpoint, Progress, UnfinishedError
from posecore.training.context import TrainContext, first_said
from posecore.training.ema import WeightAverage
from posecore.training.engine import Engine

_LOOKS, _LOOK_S = 20, 0.1


def resume(
    engine: Engine, average: WeightAverage | None, context: TrainContext, seed: int, global_batch: int
) -> Progress | None:
    """Restores engine and average from the newest checkpoint that every rank can read. Collective.

    A damaged one is named on standard error and passed over; so is one that was never finished.

    Args:
        engine: as it was built.
        average: of the weights, or None.
        context: has the checkpoints.
        seed: of the run that goes on.
        global_batch: likewise; the two say which samples a step is made of.

    Returns:
        Where the run stood; None if there is no checkpoint, or none was ever finished.

    Raises:
        CheckpointError: it belongs to another run or architecture, or there are checkpoints and none is whole.
    """
    faults: list[str] = []
    damaged = False
    for name in context.store.names():
        checkpoint, fault = None, None
        try:
            checkpoint = Checkpoint(context.store.path(name))
            checkpoint.shapes("weights")
        except (CheckpointError, IntegrityError) as error:
            fault = (str(error), isinstance(error, UnfinishedError))
        fault = first_said(fault)
        if fault is None:
            assert checkpoint is not None
            _refuse_other_run(checkpoint, engine, seed, global_batch)
            fault = first_said(_restore(checkpoint, engine, average))
            checkpoint.close()
        if fault is None:
            assert checkpoint is not None
            if faults and context.rank == 0:
                step = checkpoint.progress.step
                tqdm.write(f"training goes on from the checkpoint of step {step}: {' '.join(faults)}", file=sys.stderr)
            return checkpoint.progress
        faults.append(fault[0])
        damaged = damaged or not fault[1]
        context.store.pass_over(name)
    if damaged:
        raise CheckpointError(
            f"none of the run's {len(faults)} checkpoints is whole (the newest: {faults[0]}) Put one back from a copy, "
            "or start anew (of a job: --no-reuse)."
        )
    if faults and context.rank == 0:
        tqdm.write(f"training starts anew: {' '.join(faults)}", file=sys.stderr)
    return None


def refuse_unshared(context: TrainContext) -> None:
    """Returns if all ranks see what rank 0 writes where checkpoints lie. Collective.

    Raises:
        PreflightError: one does not, or rank 0 cannot write there; on every rank.
    """
    if context.world_size == 1:
        return
    probe, fault = context.store.folder / f".{context.attempt}.probe", None
    if context.rank == 0:
        try:
            write_atomically(probe, b"")
        except OSError as error:
            fault = f"{context.store.folder} cannot be written ({error.strerror or error})"
    fault = first_said(fault)
    if fault is None:
        seen = context.rank == 0 or _appears(probe)
        fault = first_said(
            None if seen else f"rank {context.rank} on {socket.gethostname()} does not see {context.store.folder}"
        )
        if context.rank == 0:
            probe.unlink(missing_ok=True)
    if fault is not None:
        raise PreflightError(f"{fault}; put the run's folder on a disk that all nodes share, or behind a URL (s3://…).")


def _appears(path: AnyPath) -> bool:
    for _ in range(_LOOKS):
        if path.exists():
            return True
        time.sleep(_LOOK_S)  # network file systems show new files late
    return False


def _restore(checkpoint: Checkpoint, engine: Engine, average: WeightAverage | None) -> tuple[str, bool] | None:
    """Why it cannot be read, and that it was finished."""
    try:
        engine.restore(checkpoint)
        if average is not None:
            average.restore(engine.method, checkpoint)
    except (CheckpointError, IntegrityError) as error:
        return str(error), False
    return None


def _refuse_other_run(checkpoint: Checkpoint, engine: Engine, seed: int, global_batch: int) -> None:
    progress = checkpoint.progress
    batch = progress.config.get("global_batch")
    if progress.seed != seed or batch != global_batch:
        raise CheckpointError(
            f"the checkpoint of step {progress.step} was written with seed {progress.seed} and global_batch {batch}, "
            f"not {seed} and {global_batch}: its steps name other samples; set them back or start a new "
            "run."
        )
    shapes = {name: shape_of(parameter) for name, parameter in engine.method.named_parameters()}
    checkpoint.refuse_other_method(shapes | {name: tuple(b.shape) for name, b in engine.method.named_buffers()})
