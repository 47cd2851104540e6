"""What ``index.parquet`` says of every body's points, as arrays, so that nobody opens a record to cut a crop."""

from functools import cached_property

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from posecore.schema import KeypointState
from posecore.tables.columns import keypoints_of

STATE_OF_FLAG = np.array([KeypointState.UNLABELLED, KeypointState.OCCLUDED, KeypointState.VISIBLE], np.uint8)
"""Looked up by a COCO flag."""


class Labels:
    """The points of N bodies, in the dataset's own order. Nothing is copied of a table that is in one piece.

    Args:
        instances: of :func:`~posecore.shards.index.instance_schema`.
    """

    def __init__(self, instances: pa.Table) -> None:
        self._keypoints = keypoints_of(instances)
        absent = _one_array(instances["absent"])
        self._absent = absent.offsets.to_numpy(), absent.values.to_numpy()
        self._instances = instances

    def keypoints(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """(n, K, 2) x, y in image pixels; 0, 0 where not labelled.

        Args:
            rows: (n,) of ``index.parquet``.
        """
        return self._keypoints[rows, :, :2]

    def state(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """(n, K) uint8 :class:`~posecore.schema.KeypointState`.

        Args:
            rows: (n,) of ``index.parquet``.
        """
        state = STATE_OF_FLAG[self._keypoints[rows, :, 2].astype(np.intp)]
        offsets, points = self._absent
        starts, stops = offsets[rows], offsets[rows + 1]
        for place in np.flatnonzero(stops > starts).tolist():
            state[place, points[starts[place] : stops[place]]] = KeypointState.ABSENT
        return state

    def center_scale(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(n, 2) centres x, y and (n, 2) scales w, h in image pixels; NaN where the dataset gives none.

        Args:
            rows: (n,) of ``index.parquet``.
        """
        center, scale = self._centers_and_scales
        return center[rows], scale[rows]

    @cached_property
    def _centers_and_scales(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        return lists_or_nan(self._instances["center"], 2), lists_or_nan(self._instances["scale"], 2)


def with_fewer_labels(instances: pa.Table, rows: NDArray[np.int64], points: NDArray[np.int64]) -> pa.Table:
    """The table of a split some labels of which are not to be believed.

    Args:
        instances: of the index.
        rows: (n,) rows that lose a label.
        points: (n,) native index of the point.
    """
    left = instances["num_labelled"].to_numpy() - np.bincount(rows, minlength=len(instances))
    keypoints = keypoints_of(instances).copy()
    keypoints[rows, points] = 0.0
    kind = instances.schema.field("keypoints").type
    changed = {
        "num_labelled": pa.array(left, pa.int32()),
        "keypoints": pa.FixedSizeListArray.from_arrays(pa.array(keypoints.ravel()), type=kind),
    }
    for name, values in changed.items():
        column = instances.schema.get_field_index(name)
        instances = instances.set_column(column, instances.schema.field(column), values)
    return instances


def lists_or_nan(column: pa.ChunkedArray, length: int) -> NDArray[np.float64]:
    """(n, length) the lists of a column; NaN where there is none."""
    values = np.full((len(column), length), np.nan)
    given = column.is_valid().to_numpy()
    values[given] = _one_array(column).flatten().to_numpy().reshape(-1, length)
    return values


def _one_array(column: pa.ChunkedArray) -> pa.ListArray:
    return column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays([pa.array([], column.type), *column.chunks])
