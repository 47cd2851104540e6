"""Large JSON files whose long lists are read an entry at a time: places are kept in memory, entries stay in the file.

A first pass finds where each entry of each list of the top level begins and ends, and checks that it is JSON. It walks
the file in blocks with the standard library's scanner, which can start anywhere and says where a value ends. Blocks are
taken as Latin-1, so that a character is a byte; values are parsed from the bytes themselves, as
:func:`~posecore.formats.files.read_json` parses a whole file. A file in any other shape is left to that function.
"""

import io
import json
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, TypeAlias

import numpy as np
import orjson
from numpy.typing import NDArray

from posecore.formats.files import open_file, parse_json, read_bytes, storable_json
from posecore.formats.reader import Source
from posecore.schema import Json

STREAMED_FROM_BYTES = 64 << 20
"""Smaller files are parsed at once, which is quicker and takes ten times their size in memory."""
WHOLE = ""
"""What the list is called of a file that is nothing but a list."""
_BLOCK_BYTES = 4 << 20
_SPACE = " \t\n\r"


class StoredList:
    """A list of a JSON file; each entry is parsed when it is asked for.

    Args:
        file: stays open as long as entries are asked for.
        places: (n, 2) first byte and end of each entry.
        loads: parses one.
    """

    def __init__(self, file: BinaryIO, places: NDArray[np.int64], loads: Callable[[bytes], Json]) -> None:
        self._file, self._places, self._loads = file, places, loads

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> Json:
        start, end = self._places[index].tolist()
        self._file.seek(start)
        return self._loads(self._file.read(end - start))

    def __iter__(self) -> Iterator[Json]:
        return (self[index] for index in range(len(self)))

    def chosen(self, rows: Sequence[int], change: Callable[[Json], Json]) -> "StoredList":
        """Some of the entries, each changed when it is asked for."""
        loads = self._loads
        return StoredList(self._file, self._places[np.asarray(rows, np.int64)], lambda data: change(loads(data)))


Entries: TypeAlias = list[Json] | StoredList


def chosen(entries: Entries, rows: Sequence[int], change: Callable[[Json], Json]) -> Entries:
    """Some of the entries, changed; of a :class:`StoredList` each when it is asked for."""
    if isinstance(entries, StoredList):
        return entries.chosen(rows, change)
    return [change(entries[row]) for row in rows]


@contextmanager
def open_json(
    source: Source, relative: str, lists: tuple[str, ...], streamed_from: int | None = None
) -> Iterator[Json]:
    """Content of a JSON file of the download, as long as the block lasts.

    From so many bytes on, :data:`STREAMED_FROM_BYTES` unless stated, the named lists of its top level, or the whole if
    it is a list and :data:`WHOLE` is named, are :class:`StoredList`; all else is as
    :func:`~posecore.formats.files.read_json` gives it. A remote file is read into memory first.

    Raises:
        Refusal: as :func:`~posecore.formats.files.read_json`, before the block begins.
    """
    with _opened(source, relative) as file:
        size = file.seek(0, io.SEEK_END)
        document = (
            _streamed(file, lists)
            if size >= (STREAMED_FROM_BYTES if streamed_from is None else streamed_from)
            else None
        )
        if document is None:
            file.seek(0)
            document = parse_json(source, relative, file.read())
        yield document


def _opened(source: Source, relative: str) -> BinaryIO:
    if isinstance(source.root, Path):
        return open_file(source, relative)
    return io.BytesIO(read_bytes(source, relative))


def _streamed(file: BinaryIO, lists: tuple[str, ...]) -> Json:
    """The document, or None if it is no object or something in it is not JSON."""
    named = set(lists) - {WHOLE}
    for loads in (orjson.loads, storable_json):  # the second is for the whole file if the first fails anywhere in it
        file.seek(0)
        try:
            content = _Scanner(file, loads).content(WHOLE in lists)
        except _Unusual:
            return None
        except (ValueError, TypeError, RecursionError):
            continue
        if isinstance(content, StoredList):
            return content
        return {
            name: value if isinstance(value, StoredList) and name in named else _plain(value)
            for name, value in content.items()
        }
    return None


def _plain(value: Json) -> Json:
    return list(value) if isinstance(value, StoredList) else value


class _Unusual(Exception):
    """The file is not an object of members as far as the scanner can see."""


class _Scanner:
    """Walks a file once."""

    def __init__(self, file: BinaryIO, loads: Callable[[bytes], Json]) -> None:
        self._file, self._loads = file, loads
        self._scan = json.JSONDecoder().raw_decode
        self._text, self._first, self._at = "", 0, 0  # a piece of the file, its place in it, and the next character
        self._ended = False

    def content(self, may_be_list: bool) -> dict[str, Json] | StoredList:
        """Name to value, of which lists are :class:`StoredList`; or the whole as one, if it may be a list and is."""
        found = self._list() if may_be_list and self._next() == "[" else self._members()
        if self._next():
            raise _Unusual
        return found

    def _members(self) -> dict[str, Json]:
        found: dict[str, Json] = {}
        more = self._begins("{", "}")
        while more:
            name = self._value()
            if not isinstance(name, str):
                raise _Unusual
            self._expect(":")
            found[name] = self._list() if self._next() == "[" else self._value()
            more = self._goes_on("}")
        return found

    def _list(self) -> StoredList:
        places = array("q")
        more = self._begins("[", "]")
        while more:
            start, end = self._place()
            self._loads(self._bytes(start, end))
            places.extend((start, end))
            more = self._goes_on("]")
        return StoredList(self._file, np.frombuffer(places, np.int64).reshape(-1, 2), self._loads)

    def _value(self) -> Json:
        start, end = self._place()
        return self._loads(self._bytes(start, end))

    def _bytes(self, start: int, end: int) -> bytes:
        return self._text[start - self._first : end - self._first].encode("latin-1")

    def _place(self) -> tuple[int, int]:
        """First byte and end of the next value, which is passed."""
        self._next()
        while True:
            try:
                _, end = self._scan(self._text, self._at)
            except (ValueError, RecursionError):
                end = len(self._text)
            if end < len(self._text):
                place = self._first + self._at, self._first + end
                self._at = end
                return place
            if self._ended:  # no value ends a file, the object's brace does
                raise _Unusual
            self._read_on()

    def _begins(self, opening: str, closing: str) -> bool:
        """Passes the opening bracket, and the closing one if nothing is in between."""
        self._expect(opening)
        if self._next() != closing:
            return True
        self._expect(closing)
        return False

    def _goes_on(self, closing: str) -> bool:
        """Passes a comma, or the closing bracket."""
        if self._next() == ",":
            self._expect(",")
            return True
        self._expect(closing)
        return False

    def _expect(self, character: str) -> None:
        if self._next() != character:
            raise _Unusual
        self._at += 1

    def _next(self) -> str:
        """The next character that is no space, "" at the end of the file."""
        while True:
            while self._at < len(self._text):
                if self._text[self._at] not in _SPACE:
                    return self._text[self._at]
                self._at += 1
            if self._ended:
                return ""
            self._read_on()

    def _read_on(self) -> None:
        """Drops what was passed and reads as much again as is left, a block at least."""
        left = self._text[self._at :]
        block = self._file.read(max(_BLOCK_BYTES, len(left)))
        self._first += self._at
        self._text, self._at, self._ended = left + block.decode("latin-1"), 0, not block
