"""A hash of a table's values, whatever buffers, chunks and offsets they lie in."""

import hashlib
from typing import Any

import numpy as np
import pyarrow as pa


def update_with_table(digest: "hashlib._Hash", table: pa.Table) -> None:
    """Feeds names, types, missing values and values of every column, column after column."""
    digest.update(f"{table.num_rows}\n".encode())
    for name in table.column_names:
        column = table[name].combine_chunks()
        if isinstance(column, pa.ChunkedArray):  # of no chunk at all
            column = pa.concat_arrays([*column.chunks, pa.array([], column.type)])
        digest.update(f"{name}\0{column.type}\n".encode())
        _update(digest, column)


def _update(digest: Any, column: pa.Array) -> None:
    present = np.asarray(column.is_valid().to_numpy(zero_copy_only=False), np.bool_)
    digest.update(np.packbits(present).tobytes())
    kind = column.type
    if pa.types.is_fixed_size_list(kind):
        _update(digest, column.flatten())
    elif pa.types.is_list(kind):
        lengths = np.diff(column.offsets.to_numpy())
        digest.update(np.where(present, lengths, 0).astype(np.int64).tobytes())
        # flatten leaves out what lies behind missing lists.
        _update(digest, column.flatten())
    elif pa.types.is_string(kind) or pa.types.is_binary(kind):
        plain = column.cast(pa.large_binary())
        lengths = plain.fill_null(b"") if column.null_count else plain
        _, offsets, data = lengths.buffers()
        first = lengths.offset
        edges = np.frombuffer(offsets, np.int64)[first : first + len(lengths) + 1]
        digest.update(np.diff(edges).tobytes())
        if data is not None and len(edges):
            digest.update(memoryview(data)[int(edges[0]) : int(edges[-1])])
    else:
        filled = column.fill_null(False if pa.types.is_boolean(kind) else 0) if column.null_count else column
        digest.update(np.ascontiguousarray(filled.to_numpy(zero_copy_only=False)).tobytes())
