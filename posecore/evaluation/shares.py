"""A pass over a split, divided among the ranks of a training.

Where weights are sharded the ranks must call the model equally often, so one whose share is smaller makes passes that
nobody looks at. Batches are those of one process, and so are the numbers.
"""

from dataclasses import dataclass
from typing import TypeVar

import torch.distributed as dist

_PartT = TypeVar("_PartT")


@dataclass(frozen=True, slots=True)
class Share:
    """Which batches a rank passes through the model.

    Attributes:
        start: number of the first that is its own.
        stop: number after the last.
        idle: further passes, of any batch, until all ranks have made equally many.
    """

    start: int
    stop: int
    idle: int


def share_of(num_batches: int) -> Share:
    """This rank's share of so many batches: a row of neighbours, which have images in common."""
    rank, world_size = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    each = -(-num_batches // world_size)
    start, stop = (min(place * each, num_batches) for place in (rank, rank + 1))
    return Share(start, stop, each - (stop - start))


def gathered(part: _PartT) -> list[_PartT] | None:
    """What all ranks give, in their order, on rank 0; None on the others. Collective."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return [part]
    parts: list[_PartT] | None = [part] * dist.get_world_size() if dist.get_rank() == 0 else None
    dist.gather_object(part, parts)
    return parts
