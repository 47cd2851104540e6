"""Which rows of a micro-batch belong to which task; experts and heads are chosen by it."""

from collections.abc import Collection, Sequence
from typing import TypeAlias

import torch
from torch import Tensor, nn

from posecore.counting import counted

Group: TypeAlias = tuple[str, int, int]
"""A task's rows of a micro-batch: name, first row, one past the last row. Groups cover a batch in order."""


def check_groups(groups: Sequence[Group], tasks: Collection[str], num_rows: int) -> None:
    """Refuses groups that would leave a row without an expert.

    Args:
        groups: of one micro-batch.
        tasks: names of the experts.
        num_rows: B.

    Raises:
        ValueError: a group names an unknown task, or the groups do not cover the rows one after the other.
    """
    row = 0
    for task, start, stop in groups:
        if task not in tasks:
            raise ValueError(f"the model has no expert for {task!r}; it has experts for {', '.join(tasks)}.")
        if start != row or stop < start:
            raise ValueError(f"group {task!r} has rows {start} to {stop}, but the group before it ends at row {row}.")
        row = stop
    if row != num_rows:
        raise ValueError(f"the groups cover {row} of {counted(num_rows, 'row')}; every row needs the name of its task.")


def run_by_group(modules: nn.ModuleDict, x: Tensor, groups: Sequence[Group]) -> Tensor:
    """Every row of ``x`` through its own task's module, in order.

    A group without rows runs too: it adds nothing but hangs on its module's parameters, with zero gradient. Under
    ZeRO-3 every rank must run every module in every step, or the collectives do not match.

    Args:
        modules: one per task.
        x: (B, …), covered by the groups in order.
        groups: which rows are whose.
    """
    # One split, not a slice per group: the gradient of a slice is a whole tensor of zeros with the slice filled in.
    parts = x.split([stop - start for _, start, stop in groups])
    return torch.cat([modules[task](part) for (task, _, _), part in zip(groups, parts, strict=True)])
