"""A JSON file that is one long list of objects, some of them at a time, so that memory holds no more than a block.

Objects are simdjson's views of a block, read where they are asked: columns of numbers need not become Python's floats,
which takes four times as long.
"""

from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

import numpy as np
import orjson
import simdjson

from posecore.errors import EvaluationError
from posecore.schema import Json
from posecore.storage import AnyPath, open_regular

_BLOCK_BYTES = 1 << 20
_SPACE = b" \t\r\n"
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_TRIES = 64


def read_blocks(path: AnyPath, block_bytes: int = _BLOCK_BYTES) -> Iterator[list[Mapping[str, Any]]]:
    """Yields the objects of the list in order, as many at a time as stand in about ``block_bytes``.

    What is in an object is read when it is asked for: lists and objects in it are sequences and mappings, and lists of
    numbers are best taken by :func:`float64_of`.

    Raises:
        EvaluationError: there is no such file, or it is not one list of objects.
    """
    try:
        file = open_regular(path)
    except FileNotFoundError:
        raise EvaluationError(f"{path}: no such file.") from None
    with file:
        yield from _blocks(file, str(path), block_bytes)


def float64_of(values: Any) -> bytes:
    """A list of numbers of an object, or of lists of them, as float64 one after the other.

    Raises:
        TypeError: it is no list, or something in it is no number.
        ValueError: likewise.
    """
    if isinstance(values, simdjson.Array):
        return bytes(values.as_buffer(of_type="d"))
    array = np.array(values)
    if array.dtype.kind not in "iuf":
        raise TypeError(f"{values!r:.60} is no list of numbers")
    return array.astype(np.float64).tobytes()


def _blocks(file: BinaryIO, origin: str, block_bytes: int) -> Iterator[list[Mapping[str, Any]]]:
    text = file.read(len(_BYTE_ORDER_MARK))
    text = b"" if text == _BYTE_ORDER_MARK else text
    while not (text := text.lstrip(_SPACE)) and (more := file.read(block_bytes)):
        text = more
    if not text.startswith(b"["):
        raise EvaluationError(f"{origin}: expected a list of objects, a results file.")
    text = text[1:]
    wanted = 0
    while True:
        more = file.read(max(block_bytes, wanted))
        text += more
        if not more:
            break
        items, text = _whole_objects(text)
        # An object larger than a block: twice as much is read until it ends, so that time stays linear in its size.
        wanted = 0 if items else len(text)
        if items:
            yield _objects(items, origin)
    yield _objects(_parsed(b"[" + text, origin), origin)


def _whole_objects(text: bytes) -> tuple[Any, bytes]:
    """The objects that end in a text, and what follows the last of them and its comma.

    A brace and a comma may also stand within an object or a text; what is cut there is no JSON, and the place before is
    tried.
    """
    end = len(text)
    for _ in range(_TRIES):
        end = text.rfind(b"}", 0, end)
        if end < 0:
            break
        rest = text[end + 1 : end + 1 + 64].lstrip(_SPACE)
        if not rest.startswith(b","):
            continue
        whole = b"[" + text[: end + 1] + b"]"
        try:
            items = simdjson.Parser().parse(whole)
        except RuntimeError:  # a whole number of more than 64 bits, which is no error of the file's
            items = orjson.loads(whole)
        except ValueError:
            continue
        return items, text[text.index(b",", end + 1) + 1 :]
    return [], text


def _parsed(text: bytes, origin: str) -> Json:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise EvaluationError(f"{origin} is not readable as JSON ({error}).") from None


def _objects(items: Any, origin: str) -> list[Mapping[str, Any]]:
    objects: list[Any] = list(items) if isinstance(items, list | simdjson.Array) else [None]
    if not set(map(type, objects)) <= {dict, simdjson.Object}:
        raise EvaluationError(f"{origin}: expected a list of objects, a results file.")
    return objects
