"""Tables are read by the thread that asks: one that Arrow starts can end a process that is about to end by itself."""

import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from posecore.tables.parquet import read_parquet

SCRIPT = """
import os, sys
from pathlib import Path
from posecore.tables.parquet import read_parquet
tasks = Path("/proc/self/task")
before = set(os.listdir(tasks))
rows = read_parquet(Path(sys.argv[1]).read_bytes()).num_rows
started = set(os.listdir(tasks)) - before
names = [(tasks / task / "comm").read_text().strip() for task in started]
print(rows, [name for name in names if not name.startswith("jemalloc")])
"""


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="only Linux lists the threads of a process there")
def test_no_thread_is_started(tmp_path: Path) -> None:
    file = tmp_path / "table.parquet"
    pq.write_table(pa.table({"a": list(range(5000)), "b": ["x"] * 5000}), file)
    command = [sys.executable, "-c", SCRIPT, str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "5000 []\n"


def test_what_is_read_was_written(tmp_path: Path) -> None:
    table = pa.table({"a": [1, 2], "b": [["x"], None]})
    file = tmp_path / "table.parquet"
    pq.write_table(table, file)
    assert read_parquet(file.read_bytes()) == table
    with pytest.raises(pa.ArrowInvalid):
        read_parquet(b"no table")
