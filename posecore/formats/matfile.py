"""MATLAB level-5 files (``-v6`` and ``-v7``) as plain Python values, with every length checked before it is believed.

Written for annotation files from the internet: objects, function handles and sparse arrays are refused, nothing is
executed, and a damaged file ends in one sentence (:func:`scipy.io.loadmat` was seen to crash the interpreter on
flipped bytes). Layout: MathWorks, "MAT-File Format", chapter 1, level 5.

Values: a struct array is a list of dicts or, where it is long, :class:`StoredStructs`; a cell array is a list (all
column-major), text a ``str``, a single number a ``float``, any other numeric array an ndarray of its shape.
"""

import math
import struct
import zlib
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias, overload

import numpy as np

from posecore.counting import counted
from posecore.errors import DatasetError

MatValue: TypeAlias = Any
"""``float``, ``str``, ndarray, list of values (cell array), list of dicts or :class:`StoredStructs` (struct array)."""

MAX_UNPACKED_BYTES = 1 << 30
"""All compressed variables together may grow to this; the largest known annotation file stays below a fifth of it."""

MADE_AT_ONCE = 256
"""Of a struct array of more, entries are made when they are asked for."""

_MAX_DEPTH = 32
_NUMERIC = {1: "i1", 2: "u1", 3: "<i2", 4: "<u2", 5: "<i4", 6: "<u4", 7: "<f4", 9: "<f8", 12: "<i8", 13: "<u8"}
_TEXT = {1: "latin-1", 2: "latin-1", 4: "utf-16-le", 16: "utf-8", 17: "utf-16-le"}
_MATRIX, _COMPRESSED = 14, 15
_CELL, _STRUCT, _CHAR, _FIRST_NUMERIC, _LAST_NUMERIC = 1, 2, 4, 6, 15


def read_mat(data: bytes, origin: str) -> dict[str, MatValue]:
    """All variables of a file by name.

    Args:
        data: the file's bytes.
        origin: its name, for the message.

    Raises:
        DatasetError: not a level-5 file, damaged, or holding kinds of values that annotations have no use for.
    """
    if data[:4] == b"\x89HDF" or data[124:128] == b"\x00\x02IM":
        raise DatasetError(f"{origin}: this is a MATLAB 7.3 (HDF5) file; save it with -v7.")
    if len(data) < 128 or data[124:128] != b"\x00\x01IM":
        raise DatasetError(f"{origin}: not a little-endian MATLAB level-5 file.")
    variables: dict[str, MatValue] = {}
    with damage_in_a_sentence(origin):
        _read_variables(memoryview(data)[128:], variables)
    return variables


@contextmanager
def damage_in_a_sentence(origin: str) -> Iterator[None]:
    """Says of which file the damage is that is met within; also when entries of :class:`StoredStructs` are made.

    Raises:
        DatasetError: there is some.
    """
    try:
        yield
    except (_Damaged, zlib.error, UnicodeDecodeError, struct.error) as error:
        raise DatasetError(f"{origin}: damaged or unusual MATLAB file ({error}); download it again.") from None


class _Damaged(Exception):
    """The bytes contradict the format."""


def _read_variables(data: memoryview, variables: dict[str, MatValue]) -> None:
    position = 0
    room = MAX_UNPACKED_BYTES
    while position < len(data):
        kind, body, position = _element(data, position)
        if kind == _COMPRESSED:
            unpacker = zlib.decompressobj()
            unpacked = unpacker.decompress(body, max(room, 1))  # 0 would mean any number
            room -= len(unpacked)
            if not unpacker.eof or room < 0:
                raise _Damaged(f"a compressed variable is cut, or all are more than {MAX_UNPACKED_BYTES} bytes")
            kind, body, _ = _element(memoryview(unpacked), 0)
        if kind != _MATRIX:
            raise _Damaged(f"element of type {kind} where a variable must be")
        name, value = _matrix(body, depth=0)
        variables[name] = value


def _element(data: memoryview, position: int) -> tuple[int, memoryview, int]:
    """Type, body and the position after it of the data element at ``position``."""
    if position + 8 > len(data):
        raise _Damaged("the file ends within a tag")
    kind, size = struct.unpack_from("<II", data, position)
    if kind >> 16:
        kind, size = kind & 0xFFFF, kind >> 16
        if size > 4:
            raise _Damaged(f"a small element states {size} bytes")
        return kind, data[position + 4 : position + 4 + size], position + 8
    begin = position + 8
    end = begin + size
    if end > len(data):
        raise _Damaged(f"an element of {size} bytes does not fit the file")
    padded = end if kind == _COMPRESSED else begin + (size + 7) // 8 * 8
    return kind, data[begin:end], min(padded, len(data))


def _matrix(data: memoryview, depth: int) -> tuple[str, MatValue]:
    if not len(data):
        return "", np.zeros((0, 0))
    if depth > _MAX_DEPTH:
        raise _Damaged(f"values nested deeper than {_MAX_DEPTH}")
    _, flags, position = _element(data, 0)
    _, dims_bytes, position = _element(data, position)
    _, name_bytes, position = _element(data, position)
    if len(flags) != 8 or len(dims_bytes) % 4 or len(dims_bytes) < 8:
        raise _Damaged("an array without flags or dimensions")
    array_class, is_complex = flags[0], bool(flags[1] & 0x08)
    shape = struct.unpack(f"<{len(dims_bytes) // 4}i", dims_bytes)
    if min(shape) < 0:
        raise _Damaged("a negative dimension")
    name = bytes(name_bytes).decode("latin-1")
    count = math.prod(shape)
    if array_class in (_CELL, _STRUCT):
        if count > len(data) // 8:
            raise _Damaged(f"{counted(count, 'entry')} do not fit {len(data)} bytes")
        return name, (_cells if array_class == _CELL else _structs)(data, position, count, depth)
    if array_class == _CHAR:
        kind, body, _ = _element(data, position)
        if kind not in _TEXT:
            raise _Damaged(f"text of element type {kind}")
        return name, bytes(body).decode(_TEXT[kind])
    if _FIRST_NUMERIC <= array_class <= _LAST_NUMERIC and not is_complex:
        return name, _numeric(data, position, shape, count)
    raise _Damaged(f"array class {array_class}, which annotations do not need")


def _cells(data: memoryview, position: int, count: int, depth: int) -> list[MatValue]:
    values = []
    for _ in range(count):
        value, position = _nested(data, position, depth)
        values.append(value)
    return values


def _structs(data: memoryview, position: int, count: int, depth: int) -> Sequence[dict[str, MatValue]]:
    _, length_bytes, position = _element(data, position)
    _, names_bytes, position = _element(data, position)
    if len(length_bytes) != 4:
        raise _Damaged("a struct without a field name length")
    (length,) = struct.unpack("<i", length_bytes)
    if length <= 0 or len(names_bytes) % length:
        raise _Damaged("a struct whose field names have no common length")
    packed = bytes(names_bytes)
    names = [packed[i : i + length].split(b"\0")[0].decode("latin-1") for i in range(0, len(packed), length)]
    if count > MADE_AT_ONCE:
        return StoredStructs(data, position, names, count, depth)
    entries: list[dict[str, MatValue]] = []
    for _ in range(count):
        entry = {}
        for name in names:
            entry[name], position = _nested(data, position, depth)
        entries.append(entry)
    return entries


class StoredStructs(Sequence[dict[str, MatValue]]):
    """A struct array whose entries are made when they are asked for, within :func:`damage_in_a_sentence`.

    Args:
        data: of the array.
        position: where the first field of the first entry begins.
        names: of the fields.
        count: entries.
        depth: of the array.
    """

    def __init__(self, data: memoryview, position: int, names: list[str], count: int, depth: int) -> None:
        self._data, self._names, self._count, self._depth = data, names, count, depth
        self._places = array("q")
        for _ in range(count * len(names)):
            self._places.append(position)
            _, _, position = _element(data, position)

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> dict[str, MatValue]: ...
    @overload
    def __getitem__(self, index: slice) -> list[dict[str, MatValue]]: ...
    def __getitem__(self, index: int | slice) -> dict[str, MatValue] | list[dict[str, MatValue]]:
        """An entry, or some."""
        if isinstance(index, slice):
            return [self[row] for row in range(*index.indices(self._count))]
        return {name: self.value(index, name) for name in self._names}

    def value(self, index: int, name: str) -> MatValue:
        """One field of an entry; None where entries have no such field."""
        if not -self._count <= index < self._count:
            raise IndexError(index)
        if name not in self._names:
            return None
        place = self._places[index % self._count * len(self._names) + self._names.index(name)]
        return _nested(self._data, place, self._depth)[0]


def _nested(data: memoryview, position: int, depth: int) -> tuple[MatValue, int]:
    kind, body, position = _element(data, position)
    if kind != _MATRIX:
        raise _Damaged(f"element of type {kind} where an array must be")
    return _matrix(body, depth + 1)[1], position


def _numeric(data: memoryview, position: int, shape: tuple[int, ...], count: int) -> MatValue:
    kind, body, _ = _element(data, position)
    dtype = np.dtype(_NUMERIC.get(kind, "V1"))
    if kind not in _NUMERIC or len(body) != count * dtype.itemsize:
        raise _Damaged(f"{len(body)} bytes of type {kind} for {counted(count, 'number')}")
    array = np.frombuffer(body, dtype)
    return float(array[0]) if count == 1 else array.reshape(shape, order="F")
