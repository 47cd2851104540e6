"""What stages ask of the frames of annotations."""

import numpy as np
import polars as pl
from numpy.typing import NDArray


def keypoints_of(instances: pl.DataFrame) -> NDArray[np.float32]:
    """(n, K, 3) x, y, flag of every instance."""
    column = instances["keypoints"]
    kind = column.dtype
    if not isinstance(kind, pl.Array):  # a skeleton without points, such as a folder of photographs has
        return np.zeros((len(column), 0, 3), np.float32)
    return column.to_numpy().reshape(len(column), kind.shape[0] // 3, 3)


def column_of(value: str | None, rows: int) -> pl.Series:
    """A column of one text."""
    return pl.Series([value] * rows, dtype=pl.String)
