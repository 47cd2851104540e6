"""XML of others, one element of the top level at a time; a document type, where entities are declared, is refused."""

from collections.abc import Iterator
from typing import BinaryIO
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from posecore.errors import DatasetError
from posecore.formats.files import open_file
from posecore.formats.reader import Source

MAX_DEPTH = 64
MAX_NODES = 1_000_000
"""Of one element of the top level."""
_BLOCK_BYTES = 1 << 20


class _Refused(Exception):
    """The file does what no annotations do."""


def elements(source: Source, name: str, root: str) -> Iterator[Element]:
    """The children of the root of an XML file, each whole and forgotten after it was given.

    Args:
        source: the split.
        name: of the file.
        root: tag that the root must have.

    Raises:
        DatasetError: it is missing, not well-formed, of another root, declares a document type, or is nested or large
            beyond measure.
    """
    where = f"{source.dataset} {source.split}: {name}"
    with open_file(source, name) as file:
        walk = _Walk(root)
        try:
            yield from walk.through(file)
        except (expat.ExpatError, _Refused, LookupError, ValueError) as error:  # LookupError: of an encoding
            raise DatasetError(f"{where} is not XML of {root} ({error}).") from None


class _Walk:
    def __init__(self, root: str) -> None:
        self._root, self._depth, self._nodes = root, 0, 0
        self._done: list[Element] = []
        self._builder: TreeBuilder | None = None
        self._parser = expat.ParserCreate()
        self._parser.buffer_text = True
        self._parser.StartDoctypeDeclHandler = self._doctype
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end
        self._parser.CharacterDataHandler = self._text

    def through(self, file: BinaryIO) -> Iterator[Element]:
        while block := file.read(_BLOCK_BYTES):
            self._parser.Parse(block, False)
            yield from self._taken()
        self._parser.Parse(b"", True)
        yield from self._taken()

    def _taken(self) -> Iterator[Element]:
        done, self._done = self._done, []
        yield from done

    def _doctype(self, *_: object) -> None:
        raise _Refused("it declares a document type, which this format does not need")

    def _start(self, tag: str, attributes: dict[str, str]) -> None:
        self._depth += 1
        if self._depth == 1 and tag != self._root:
            raise _Refused(f"its root is {tag}")
        if self._depth > MAX_DEPTH:
            raise _Refused(f"elements are nested deeper than {MAX_DEPTH}")
        if self._depth == 2:
            self._builder, self._nodes = TreeBuilder(), 0
        if self._builder is not None:
            self._nodes += 1
            if self._nodes > MAX_NODES:
                raise _Refused(f"an element holds more than {MAX_NODES} others")
            self._builder.start(tag, attributes)

    def _end(self, tag: str) -> None:
        self._depth -= 1
        if self._builder is None:
            return
        element = self._builder.end(tag)
        if self._depth == 1:
            self._done.append(element)
            self._builder = None

    def _text(self, text: str) -> None:
        if self._builder is not None:
            self._builder.data(text)
