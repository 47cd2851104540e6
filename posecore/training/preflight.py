"""Checks that cost nothing and are made before anything is started."""

from posecore.counting import counted
from posecore.errors import PreflightError


def crops_per_rank(global_batch: int, world_size: int, accumulation: int) -> int:
    """How many crops a rank gets per step.

    Raises:
        PreflightError: the batch cannot be cut into equal parts; the message names sizes that can.
    """
    parts = world_size * accumulation
    if global_batch % parts:
        below = global_batch // parts * parts
        choices = " or ".join(str(size) for size in (below, below + parts) if size)
        raise PreflightError(
            f"training.global_batch {global_batch} cannot be cut evenly for {counted(world_size, 'worker')} and "
            f"training.accumulation {accumulation}; use {choices}."
        )
    return global_batch // world_size
