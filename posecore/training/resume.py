"""Going on from the newest whole checkpoint, the same one on every rank."""

import sys

from tqdm import tqdm

from posecore.errors import CheckpointError, IntegrityError
from posecore.training.checkpoint import Checkpoint, Progress, UnfinishedError
from posecore.training.context import TrainContext, first_said
from posecore.training.ema import WeightAverage
from posecore.training.engine import Engine
from posecore.training.sharded import shape_of


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
