"""Large tables of the index, mapped from local disk: one copy per machine instead of one per process.

The Parquet file is turned, a part at a time, into files whose bytes are what Arrow holds in memory: numbers that are
never null, and lists of these, a file per buffer, so that a column is one numpy array; everything else, in parts, an
Arrow file. The folder is named by the digest of the Parquet file, which is checked before the folder gets its name.
"""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq

from posecore.asides import alone_in, aside_folder
from posecore.errors import IntegrityError
from posecore.shards.remote import asked_again
from posecore.storage import AnyPath, sha256_of

LEAST_ROWS = 200_000
"""A smaller table is held in memory."""

_PART_ROWS = 1 << 14
_MOST_BYTES = 32 << 30
_OTHERS = "others.arrow"


class MappedTable:
    """A table that is mapped; its folder is not removed as long as this is there.

    Attributes:
        table: in one piece, but for the columns that are in parts.
    """

    def __init__(self, folder: Path) -> None:
        self._descriptor = os.open(folder, os.O_RDONLY)
        fcntl.flock(self._descriptor, fcntl.LOCK_SH)
        self.table = _mapped(folder)

    def __del__(self) -> None:
        if hasattr(self, "_descriptor"):
            os.close(self._descriptor)


def mapped_table(source: AnyPath, sha256: str, scratch: Path) -> MappedTable:
    """A Parquet file's table, mapped; turned into mappable files by the first process of the machine that asks.

    Args:
        source: the file.
        sha256: of its content.
        scratch: local folder for such tables; those not used for longest are removed beyond 32 GiB.

    Raises:
        IntegrityError: the file has another content.
        FileNotFoundError: there is none.
        StorageError: a remote store does not answer.
    """
    scratch.mkdir(parents=True, exist_ok=True)
    target = scratch / sha256[:32]
    with alone_in(scratch):
        if not target.exists():
            with aside_folder(scratch) as aside:
                with _local(source, aside) as path:
                    if sha256_of(path) != sha256:
                        raise IntegrityError(f"{source}: not the table that its manifest names.")
                    _write(path, aside)
                    pa.default_memory_pool().release_unused()  # which would be kept for later
                aside.rename(target)
        os.utime(target)
        mapped = MappedTable(target)
        _make_room(scratch)
    return mapped


@contextmanager
def _local(source: AnyPath, aside: Path) -> Iterator[Path]:
    """The file on local disk."""
    if isinstance(source, Path):
        yield source
        return
    copy = aside / "source.parquet"

    def download() -> None:
        with source.open("rb") as remote, copy.open("wb") as local:
            shutil.copyfileobj(remote, local, 1 << 22)

    asked_again(source, download)
    yield copy
    copy.unlink()


def _write(path: Path, folder: Path) -> None:
    with pq.ParquetFile(path, memory_map=True) as file, ExitStack() as stack:
        schema = file.schema_arrow
        flat = {field.name for field in schema if _is_flat(field)}
        others = pa.schema([field for field in schema if field.name not in flat], schema.metadata)
        parts = stack.enter_context(pa.ipc.new_file(folder / _OTHERS, others))
        values = {name: stack.enter_context((folder / f"{name}.values").open("wb")) for name in flat}
        offsets = {
            name: stack.enter_context((folder / f"{name}.offsets").open("wb"))
            for name in flat
            if pa.types.is_list(schema.field(name).type)
        }
        for of_list in offsets.values():
            of_list.write(bytes(4))
        ends = dict.fromkeys(offsets, 0)
        for table in _parts(file):
            parts.write_table(table.select(others.names))
            for name in flat:
                column = table[name].chunk(0)
                if name in ends:
                    lengths = np.diff(column.offsets.to_numpy())
                    _put(offsets[name], (ends[name] + np.cumsum(lengths)).astype(np.int32))
                    ends[name] += int(lengths.sum())
                _put(values[name], _numbers(column))
        (folder / "rows").write_text(str(file.metadata.num_rows))
        pq.write_metadata(schema, folder / "schema.parquet")


def _parts(file: pq.ParquetFile) -> Iterator[pa.Table]:
    """The rows in parts of one chunk each, however small the row groups are."""
    waiting: list[pa.RecordBatch] = []
    for batch in file.iter_batches(_PART_ROWS, use_threads=False):
        waiting.append(batch)
        if sum(len(part) for part in waiting) >= _PART_ROWS:
            yield pa.Table.from_batches(waiting).combine_chunks()
            waiting.clear()
    if waiting:
        yield pa.Table.from_batches(waiting).combine_chunks()


def _is_flat(field: pa.Field) -> bool:
    if field.nullable:
        return False
    kind = field.type
    if pa.types.is_fixed_size_list(kind) or pa.types.is_list(kind):
        kind = kind.value_type
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


def _numbers(column: pa.Array) -> Any:
    return column.flatten() if isinstance(column, pa.ListArray | pa.FixedSizeListArray) else column


def _put(file: BinaryIO, numbers: Any) -> None:
    file.write(np.ascontiguousarray(numbers).data)


def _mapped(folder: Path) -> pa.Table:
    schema = pq.read_schema(folder / "schema.parquet")
    others = pa.ipc.open_file(pa.memory_map(str(folder / _OTHERS))).read_all()
    columns = [
        _flat(folder, field) if field.name not in others.schema.names else others[field.name] for field in schema
    ]
    return pa.Table.from_arrays(columns, schema=schema)


def _flat(folder: Path, field: pa.Field) -> pa.Array:
    rows, kind = int((folder / "rows").read_text()), field.type
    if not (pa.types.is_fixed_size_list(kind) or pa.types.is_list(kind)):
        return pa.Array.from_buffers(kind, rows, [None, _buffer(folder / f"{field.name}.values")])
    data = _buffer(folder / f"{field.name}.values")
    count = data.size * 8 // kind.value_type.bit_width
    values = pa.Array.from_buffers(kind.value_type, count, [None, data])
    if pa.types.is_fixed_size_list(kind):
        return pa.FixedSizeListArray.from_arrays(values, type=kind)
    offsets = pa.Array.from_buffers(pa.int32(), rows + 1, [None, _buffer(folder / f"{field.name}.offsets")])
    return pa.ListArray.from_arrays(offsets, values, type=kind)


def _buffer(path: Path) -> pa.Buffer:
    if not path.stat().st_size:
        return pa.py_buffer(b"")  # nothing to map
    return pa.memory_map(str(path)).read_buffer()


def _make_room(scratch: Path) -> None:
    """Removes the tables that were opened longest ago and are in no process's use, beyond a bound."""
    tables = sorted((path for path in scratch.iterdir() if not path.name.startswith(".")), key=_opened_ns)
    sizes = {path: sum(file.stat().st_size for file in path.iterdir()) for path in tables}
    total = sum(sizes.values())
    for path in tables:
        if total <= _MOST_BYTES:
            return
        descriptor = os.open(path, os.O_RDONLY)
        with suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path)
            total -= sizes[path]
        os.close(descriptor)


def _opened_ns(path: Path) -> int:
    return path.stat().st_mtime_ns
