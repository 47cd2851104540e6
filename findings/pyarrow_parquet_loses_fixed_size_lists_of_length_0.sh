#!/usr/bin/env bash
# pyarrow 25.0.1: Parquet takes a column of fixed-size lists of length 0 and does not give it back. Arrow allows the type,
# write_table writes it without a word, and read_table fails on every file that has a row. A table of bodies with 3·K
# numbers each meets it where a skeleton has no points. One guesses that what is written can be read: length 1 can, as
# can lists of no fixed length that are all empty, and Arrow's own IPC file gives the length 0 back.
#
# Seen: ArrowInvalid: Expected all lists to be of size=0 but index 1 had size=1. Fails if that changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3.11 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'pyarrow==25.0.1'
"$work/venv/bin/python" - <<'PYTHON'
import io
import sys

import pyarrow as pa
import pyarrow.parquet as pq

print(f"pyarrow {pa.__version__}")


def table(kind: pa.DataType, values: list[list[float]]) -> pa.Table:
    schema = pa.schema([pa.field("points", kind, nullable=False), pa.field("row", pa.int64())])
    return pa.Table.from_arrays([pa.array(values, kind), pa.array(range(len(values)), pa.int64())], schema=schema)


def through_parquet(made: pa.Table) -> str:
    buffer = io.BytesIO()
    pq.write_table(made, buffer)
    buffer.seek(0)
    try:
        return "the same" if pq.read_table(buffer).equals(made) else "another table"
    except pa.ArrowInvalid as error:
        return f"ArrowInvalid: {error}"


def through_ipc(made: pa.Table) -> str:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, made.schema) as writer:
        writer.write_table(made)
    return "the same" if pa.ipc.open_file(sink.getvalue()).read_all().equals(made) else "another table"


item = pa.field("item", pa.float32(), nullable=False)
empty = table(pa.list_(item, 0), [[], [], []])
found = {
    "length 0, Parquet": through_parquet(empty),
    "length 0, IPC": through_ipc(empty),
    "length 1, Parquet": through_parquet(table(pa.list_(item, 1), [[1.0], [2.0], [3.0]])),
    "no fixed length, all empty, Parquet": through_parquet(table(pa.list_(item), [[], [], []])),
}
for name, what in found.items():
    print(f"{name}: {what}")
expected = ["ArrowInvalid: Expected all lists to be of size=0 but index 1 had size=1", *["the same"] * 3]
sys.exit(list(found.values()) != expected)
PYTHON
