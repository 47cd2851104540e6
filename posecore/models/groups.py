"""Which rows of a micro-batch belong to which task; experts and heads are chosen by it."""

from typing import TypeAlias

Group: TypeAlias = tuple[str, int, int]
"""A task's rows of a micro-batch: name, first row, one past the last row. Groups cover a batch in order."""
