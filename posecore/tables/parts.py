"""Annotations on disk: numbered Arrow files of some thousand images each, and reading any rows of them in any order.

A part is written whole by whoever reads that piece of the download, so no process ever holds a split. Rows are counted
through all parts in order. The files live as long as one ingestion, so they are as Arrow has tables in memory: where
they are mounted, rows are taken from them without decoding anything.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from posecore.schema import Reject
from posecore.storage import AnyPath
from posecore.tables.columns import Annotations, rejects_table, renumbered

Table = Literal["images", "instances", "rejects"]
_KEPT_OPEN = 4


@dataclass(frozen=True, slots=True)
class PartEntry:
    """One part.

    Attributes:
        number: in the names of its files; each part has its own, in any order.
        num_images: rows of its images.
        num_instances: rows of its instances.
        num_rejects: rows of its rejects.
    """

    number: int
    num_images: int
    num_instances: int
    num_rejects: int


def write_part(folder: AnyPath, number: int, annotations: Annotations, rejects: Sequence[Reject]) -> PartEntry:
    """Writes one part; what was there under its number is replaced."""
    folder.mkdir(parents=True, exist_ok=True)
    tables = {"images": annotations.images, "instances": annotations.instances, "rejects": rejects_table(list(rejects))}
    for name, table in tables.items():
        write_table(folder, number, name, table)
    return PartEntry(number, *(table.num_rows for table in tables.values()))


def write_table(folder: AnyPath, number: int, name: str, table: pa.Table) -> None:
    """Writes one table of a part."""
    with _path(folder, number, name).open("wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table.combine_chunks())


def read_table(folder: AnyPath, number: int, name: str) -> pa.Table:
    """One table of a part; of a mounted file what is looked at is read, when it is looked at."""
    path = _path(folder, number, name)
    with pa.memory_map(str(path)) if isinstance(path, Path) else path.open("rb") as file:
        return pa.ipc.open_file(file).read_all()


def _path(folder: AnyPath, number: int, name: str) -> AnyPath:
    return folder / f"part-{number:06d}.{name}.arrow"


class Parts:
    """All parts of a split, read by row.

    Args:
        folder: that they lie in.
        entries: of every part, at least one, in order.
    """

    def __init__(self, folder: AnyPath, entries: Sequence[PartEntry]) -> None:
        self.folder = folder
        self.entries = tuple(entries)
        self._firsts = {
            "images": np.cumsum([0, *(entry.num_images for entry in entries)]),
            "instances": np.cumsum([0, *(entry.num_instances for entry in entries)]),
        }
        self._open: OrderedDict[tuple[str, int], pa.Table] = OrderedDict()

    @property
    def num_images(self) -> int:
        """Images of all parts."""
        return int(self._firsts["images"][-1])

    @property
    def num_instances(self) -> int:
        """Instances of all parts."""
        return int(self._firsts["instances"][-1])

    def columns(self, table: Literal["images", "instances"], names: Sequence[str]) -> pa.Table:
        """Some columns of every row, in order; ``image_row`` counts through all parts."""
        found = []
        for entry, first in zip(self.entries, self._firsts["images"].tolist(), strict=False):
            read = read_table(self.folder, entry.number, table).select(list(names))
            found.append(renumbered(read, first) if "image_row" in names else read)
        return pa.concat_tables(found)

    def rejects(self) -> pa.Table:
        """The rejects of every part, in order."""
        found = [rejects_table([])]
        for entry in self.entries:
            if entry.num_rejects:
                found.append(read_table(self.folder, entry.number, "rejects"))
        return pa.concat_tables(found)

    def take(self, table: Literal["images", "instances"], rows: NDArray[np.int64]) -> pa.Table:
        """Any rows in any order; quick where neighbours lie in the same parts."""
        firsts = self._firsts[table]
        part_of = np.searchsorted(firsts, rows, side="right") - 1
        found, places = [], []
        for number in np.unique(part_of).tolist():
            here = np.flatnonzero(part_of == number)
            found.append(_taken(self._table(table, number), rows[here] - firsts[number]))
            places.append(here)
        if not found:
            return self._table(table, 0).slice(0, 0)
        together = pa.concat_tables(found)
        if len(found) == 1:
            return together
        back = np.empty(len(rows), np.int64)
        back[np.concatenate(places)] = np.arange(len(rows))
        return together if (back == np.arange(len(rows))).all() else together.take(back)

    def _table(self, table: str, number: int) -> pa.Table:
        key = (table, number)
        if key not in self._open:
            while len(self._open) >= 2 * _KEPT_OPEN:
                self._open.popitem(last=False)
            self._open[key] = read_table(self.folder, self.entries[number].number, table)
        self._open.move_to_end(key)
        return self._open[key]


def _taken(table: pa.Table, rows: NDArray[np.int64]) -> pa.Table:
    """Rows of a table, at least one; neighbours are not copied."""
    first, last = int(rows[0]), int(rows[-1])
    if last - first == len(rows) - 1 and (np.diff(rows) == 1).all():
        return table.slice(first, len(rows))
    return table.take(rows)
