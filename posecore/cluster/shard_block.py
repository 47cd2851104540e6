"""A shard between two operators of the ingestion pipeline: one row of one Arrow block, whatever it holds.

Pictures lie in a large binary column, so that Ray hands them on through shared memory without taking them apart.
"""

import pickle
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from posecore.ingest.tally import Tally
from posecore.ingest.write import WrittenShard
from posecore.schema import record_from_json, record_to_json
from posecore.stages.protocol import Picture

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


def content(number: int, pictures: Sequence[Picture], tally: Tally) -> pa.Table:
    """A shard on its way, with what was counted so far."""
    return _row(
        number=number,
        tally=pickle.dumps(tally),
        records=[record_to_json(picture.record) for picture in pictures],
        pictures=[picture.data for picture in pictures],
        depths=[picture.depth for picture in pictures],
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


def content_of(block: pa.Table) -> tuple[list[Picture], Tally]:
    """The pictures of a shard on its way, and what was counted so far."""
    columns = (block[name][0].as_py() for name in ("pictures", "records", "depths"))
    pictures = [
        Picture(data=data, record=record_from_json(text), depth=depth)
        for data, text, depth in zip(*columns, strict=True)
    ]
    tally: Tally = pickle.loads(block["tally"][0].as_py())
    return pictures, tally


def _row(**values: Any) -> pa.Table:
    return pa.Table.from_pylist([values], _SCHEMA)
