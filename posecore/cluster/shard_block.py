"""A shard between two operators of the ingestion pipeline: one row of one Arrow block, whatever it holds.

Pictures lie in a large binary column, so that Ray hands them on through shared memory without taking them apart. They
are put there by one copy, and each is copied out when its turn has come: to make a thousand at a time in fresh memory
takes longer than to hash them.
"""

import pickle
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from posecore.ingest.tally import Tally
from posecore.ingest.write import WrittenShard
from posecore.schema import record_from_json, record_to_json
from posecore.stages.protocol import Picture

_FIRST_BYTES = 1 << 22
_SCHEMA = pa.schema(
    [
        pa.field("number", pa.int32(), nullable=False),
        pa.field("error", pa.large_binary()),
        pa.field("written", pa.large_binary()),
        pa.field("tally", pa.large_binary()),
        pa.field("records", pa.large_list(pa.large_binary())),
        pa.field("pictures", pa.large_list(pa.large_binary())),
        pa.field("depths", pa.large_list(pa.large_binary())),
    ]
)


def failed(number: int, error: Exception) -> pa.Table:
    """A shard that could not be made; the error travels as a value, because Ray would wrap one that is raised."""
    return _row(number=number, error=pickle.dumps(error))


def whole(shard: WrittenShard) -> pa.Table:
    """A shard that is on disk."""
    return _row(number=shard.number, written=pickle.dumps(shard))


def content(number: int, pictures: Iterable[Picture], tally: Tally) -> pa.Table:
    """A shard on its way, with what was counted until the last of its pictures had come."""
    records, data, depths = _Column(), _Column(), _Column()
    for picture in pictures:
        records.add(record_to_json(picture.record))
        data.add(picture.data)
        depths.add(picture.depth)
    return _row(
        number=number,
        tally=pickle.dumps(tally),
        records=records.in_one_row(),
        pictures=data.in_one_row(),
        depths=depths.in_one_row(),
    )


def number_of(block: pa.Table) -> int:
    """Which shard a block is of."""
    return int(block["number"][0].as_py())


def outcome(block: pa.Table) -> WrittenShard | Exception | None:
    """What came of the shard of a block, or None if it is still on its way."""
    for name in ("error", "written"):
        if (value := block[name][0].as_py()) is not None:
            result: WrittenShard | Exception = pickle.loads(value)
            return result
    return None


def content_of(block: pa.Table) -> tuple[Iterator[Picture], Tally]:
    """The pictures of a shard on its way, and what was counted so far."""
    columns = (block[name][0].values for name in ("pictures", "records", "depths"))
    pictures = (
        Picture(data=data.as_py(), record=record_from_json(text.as_py()), depth=depth.as_py())
        for data, text, depth in zip(*columns, strict=True)
    )
    tally: Tally = pickle.loads(block["tally"][0].as_py())
    return pictures, tally


class _Column:
    """Contents one after the other, copied when they are added, so that whoever made them can reuse their memory."""

    def __init__(self) -> None:
        # NumPy asks for large pages, with which 40 MB of pictures are copied in a third of the time.
        self._data = np.empty(_FIRST_BYTES, np.uint8)
        self._edges = [0]
        self._present: list[bool] = []

    def add(self, content: bytes | None) -> None:
        first = self._edges[-1]
        end = first + len(content or b"")
        if end > len(self._data):
            larger = np.empty(max(end, 2 * len(self._data)), np.uint8)
            larger[:first] = self._data[:first]
            self._data = larger
        if content:
            self._data[first:end] = np.frombuffer(content, np.uint8)
        self._edges.append(end)
        self._present.append(content is not None)

    def in_one_row(self) -> pa.Array:
        """A column of one row that has all of them."""
        present = None if all(self._present) else pa.array(self._present).buffers()[1]
        buffers = [
            present,
            pa.py_buffer(np.array(self._edges, np.int64)),
            pa.py_buffer(self._data).slice(0, self._edges[-1]),
        ]
        contents = pa.Array.from_buffers(pa.large_binary(), len(self._present), buffers)
        return pa.LargeListArray.from_arrays([0, len(self._present)], contents)


def _row(**values: Any) -> pa.Table:
    return pa.table(
        [
            values[field.name]
            if isinstance(values.get(field.name), pa.Array)
            else pa.array([values.get(field.name)], field.type)
            for field in _SCHEMA
        ],
        schema=_SCHEMA,
    )
