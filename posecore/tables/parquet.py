"""Parquet files, read by the thread that asks for them.

pyarrow 25.0 otherwise starts threads for them, and a process that ends soon afterwards, as short commands and refused
ones do, may be ended by the system instead: "terminate called without an active exception", status 134.
"""

import pyarrow as pa
import pyarrow.parquet as pq


def read_parquet(data: bytes) -> pa.Table:
    """The whole table that a file holds.

    Raises:
        pa.ArrowInvalid: it is no Parquet file, or damaged.
    """
    with pq.ParquetFile(pa.BufferReader(data)) as file:  # files of Python, and names, are read by a thread for them
        return file.read(use_threads=False)
