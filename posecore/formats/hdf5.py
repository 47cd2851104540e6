"""HDF5 files of others: only numbers and texts that lie in the file itself, of bounded size, and all there."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import h5py
import numpy as np
import orjson
from numpy.typing import NDArray

from posecore.counting import counted
from posecore.errors import DatasetError
from posecore.formats.files import open_file
from posecore.formats.reader import Source
from posecore.schema import Json

MAX_H5_BYTES = 256 << 20
"""Of what is stored in one piece and unpacked in one go, and of a table; labels have kilobytes."""
_MAX_TEXT_BYTES = 64 << 20
_PROBLEMS = (OSError, KeyError, ValueError, TypeError, RuntimeError, AttributeError, IndexError)


@contextmanager
def open_h5(source: Source, name: str, kind: str) -> Iterator[h5py.File]:
    """A file of the download, opened as HDF5; whatever it does wrong while it is read becomes one sentence.

    Raises:
        DatasetError: it is missing or not a file of that kind.
    """
    try:
        with open_file(source, name) as stream, h5py.File(stream, "r") as file:
            yield file
    except DatasetError:
        raise
    except _PROBLEMS as error:
        said = " ".join(str(error).split())
        raise DatasetError(f"{source.dataset} {source.split}: {name} is not {kind} ({said}).") from None


def member(file: h5py.Group, path: str) -> h5py.Group | h5py.Dataset:
    """A group or table of the file itself.

    Raises:
        ValueError: it is not there, or lies in another file.
    """
    found: Any = file
    for name in path.strip("/").split("/"):
        if not isinstance(found, h5py.Group) or not isinstance(found.get(name, getlink=True), h5py.HardLink):
            raise ValueError(f"{name} is not in it, but elsewhere or nowhere")
        found = found[name]
    return found


def table(file: h5py.Group, path: str) -> h5py.Dataset:
    """A table of a file that may state any size and point anywhere: nothing of its values is read yet.

    Raises:
        ValueError: it lies in another file, or is stored in pieces beyond measure.
    """
    found = member(file, path)
    if not isinstance(found, h5py.Dataset) or found.is_virtual or found.external:
        raise ValueError(f"the numbers of its table lie elsewhere ({path})")
    piece = math.prod(found.chunks or ()) * found.dtype.itemsize
    if piece > MAX_H5_BYTES:
        raise ValueError(f"it is stored in pieces of {piece} bytes, and {MAX_H5_BYTES} are allowed")
    return found


def values(file: h5py.Group, path: str, max_bytes: int | None = None) -> NDArray[Any]:
    """All of a table, of at most :data:`MAX_H5_BYTES` unless stated.

    Raises:
        ValueError: it is too large, or a piece of it is missing.
    """
    found = table(file, path)
    most = MAX_H5_BYTES if max_bytes is None else max_bytes
    if found.nbytes > most:
        raise ValueError(f"{path}: it states {found.nbytes} bytes, and {most} are allowed")
    check_pieces(found)
    return np.asarray(found[...])


def check_pieces(found: h5py.Dataset) -> None:
    """Raises ValueError where the file's index has lost a piece of a table: HDF5 reads zeros in its place."""
    if not found.size:
        return
    if found.chunks is None:
        pieces, sizes = 1, [found.id.get_storage_size()]
    else:
        pieces = math.prod(-(-side // chunk) for side, chunk in zip(found.shape, found.chunks, strict=True))
        sizes = []
        found.id.chunk_iter(lambda piece: sizes.append(piece.size if piece.byte_offset else 0))
    if (there := sum(size > 0 for size in sizes)) != pieces:
        raise ValueError(f"{there} of the {counted(pieces, 'piece')} of its table are there")


def texts(file: h5py.Group, path: str) -> list[str]:
    """A column of texts, read one after the other.

    Raises:
        ValueError: it is none, or too large.
    """
    found = table(file, path)
    if len(found.shape) != 1:
        raise ValueError(f"{path} is not a list of texts")
    rows: list[str] = []
    left = _MAX_TEXT_BYTES
    for number in range(found.shape[0]):
        row = found[number]
        if not isinstance(row, (bytes, str)):
            raise ValueError(f"{path} is not a list of texts")
        left -= len(row) + 64
        if left < 0:
            raise ValueError(f"{path} has more than {_MAX_TEXT_BYTES} bytes of text")
        rows.append(row.decode() if isinstance(row, bytes) else row)
    return rows


def json_rows(file: h5py.Group, path: str) -> list[Json]:
    """A column of JSON texts, parsed.

    Raises:
        ValueError: as :func:`texts`, or one is not JSON.
    """
    return [orjson.loads(row) for row in texts(file, path)]


def text_attribute(found: h5py.Group | h5py.Dataset, name: str) -> str:
    """An attribute that is a text.

    Raises:
        ValueError: it is none.
    """
    value = found.attrs[name]
    if isinstance(value, np.ndarray) and value.size == 1:
        value = value.item()
    if isinstance(value, bytes):
        return value.decode()
    if not isinstance(value, str):
        raise ValueError(f"its attribute {name} is not a text")
    return value
