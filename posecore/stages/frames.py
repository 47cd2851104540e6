"""What stages ask of the frames of annotations."""

import numpy as np
import polars as pl
from numpy.typing import NDArray


def keypoints_of(instances: pl.DataFrame) -> NDArray[np.float32]:
    """(n, K, 3) x, y, flag of every instance."""
    column = instances["keypoints"]
    kind = column.dtype
    assert isinstance(kind, pl.Array), kind
    return column.to_numpy().reshape(len(column), kind.shape[0] // 3, 3)


def column_of(value: str | None, rows: int) -> pl.Series:
    """A column of one text."""
    return pl.Series([value] * rows, dtype=pl.String)
