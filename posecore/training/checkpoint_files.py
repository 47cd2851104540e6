"""Files of a checkpoint: written with the hash of every block, read by range, and never believed unread.

A reader on one of many ranks needs a part of each file. The hash of a whole file would make it read all of it; the
hashes of blocks of 4 MiB make it read what it needs, rounded up to blocks, and each block proves itself.
"""

import hashlib
import os
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pydantic import Field, NonNegativeInt, model_validator

from posecore.config import Config
from posecore.counting import counted
from posecore.errors import IntegrityError
from posecore.storage import AnyPath, sha256_of

BLOCK_BYTES = 4 << 20
_RUN_BLOCKS = 8  # fetched at once: a request to an object store takes as long as many megabytes
_KEPT_BLOCKS = 4


class TensorEntry(Config):
    """Where a run of a tensor's values lies in a file.

    Attributes:
        dtype: as safetensors files name it.
        shape: of the whole tensor.
        start: index of the first value in the flattened tensor.
        count: number of values.
        offset: of the first byte in the file.
    """

    dtype: str
    shape: tuple[NonNegativeInt, ...]
    start: int = Field(ge=0)
    count: int = Field(ge=0)
    offset: int = Field(ge=0)


class FileEntry(Config):
    """What a manifest says of a file.

    Attributes:
        num_bytes: its size.
        blocks: SHA-256 of each :data:`BLOCK_BYTES` of it, the last of which may be shorter.
        tensors: what it holds, by ``section/name``; none for a file that holds no tensors.
    """

    num_bytes: int = Field(ge=0)
    blocks: tuple[str, ...]
    tensors: dict[str, TensorEntry] = {}

    @model_validator(mode="after")
    def _check(self) -> "FileEntry":
        if len(self.blocks) != -(-self.num_bytes // BLOCK_BYTES):
            raise ValueError(f"{self.num_bytes} bytes are not {counted(len(self.blocks), 'block')}")
        return self


class OldFileEntry(Config):
    """What a manifest of format 1 says of a file.

    Attributes:
        num_bytes: its size.
        sha256: of all of it.
    """

    num_bytes: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class HashedFile:
    """A file being written from front to back.

    Attributes:
        num_bytes: written so far.
    """

    def __init__(self, file: Any) -> None:
        self.num_bytes = 0
        self._file = file
        self._blocks: list[str] = []
        self._block = hashlib.sha256()

    def write(self, data: "bytes | memoryview") -> None:
        """Appends bytes."""
        view = memoryview(data)
        while len(view):
            part = view[: BLOCK_BYTES - self.num_bytes % BLOCK_BYTES]
            self._block.update(part)
            self._file.write(part)
            self.num_bytes += len(part)
            view = view[len(part) :]
            if self.num_bytes % BLOCK_BYTES == 0:
                self._end_block()

    def entry(self, tensors: dict[str, TensorEntry] | None = None) -> FileEntry:
        """What a manifest says of it, once all is written."""
        if self.num_bytes % BLOCK_BYTES:
            self._end_block()
        return FileEntry(num_bytes=self.num_bytes, blocks=tuple(self._blocks), tensors=tensors or {})

    def _end_block(self) -> None:
        self._blocks.append(self._block.hexdigest())
        self._block = hashlib.sha256()


@contextmanager
def hashed_file(path: AnyPath) -> Iterator[HashedFile]:
    """A new file; what was written is not needed any more when the block has ended, and :func:`settle` keeps it.

    It is written under its own name: nobody looks at it before a manifest names it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        yield HashedFile(file)


def settle(folder: AnyPath, names: Iterable[str]) -> None:
    """Returns when files that were written are on the disk; in an object store they are already.

    Raises:
        OSError: they cannot be.
    """
    for name in names:
        path = folder / name
        if isinstance(path, Path):
            with path.open("rb") as file:
                os.fsync(file.fileno())


class VerifiedFile:
    """A file that a manifest names, read by range; nothing of it is given out before its hash was right.

    Args:
        path: of the file.
        entry: what the manifest says of it. A file of format 1 is read through once, at the first reading.
    """

    def __init__(self, path: AnyPath, entry: FileEntry | OldFileEntry) -> None:
        self.path, self.entry = path, entry
        self._descriptor: int | None = None
        self._known: OrderedDict[int, bytes] = OrderedDict()
        self._looked_at = False

    def read_into(self, offset: int, target: memoryview) -> None:
        """Fills a buffer with the bytes from an offset on.

        Raises:
            IntegrityError: the file is missing, of another size, changed, or cannot be read.
        """
        if offset + len(target) > self.entry.num_bytes:
            raise self._damaged()
        try:
            self.look()
            if isinstance(self.entry, OldFileEntry):
                target[:] = self._fetch(offset, len(target))
            else:
                self._read_blocks(offset, target, self.entry)
        except OSError as error:
            raise IntegrityError(
                f"{self.path} cannot be read ({error.strerror or error}); use another checkpoint."
            ) from None

    def read(self, offset: int, count: int) -> bytes:
        """So many bytes from an offset on; see :meth:`read_into`."""
        data = bytearray(min(count, self.entry.num_bytes))
        if len(data) < count:
            raise self._damaged()
        self.read_into(offset, memoryview(data))
        return bytes(data)

    def close(self) -> None:
        """Lets go of the file."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
        self._known.clear()

    def look(self) -> None:
        """Looks at its size: what has another need not be read.

        Raises:
            IntegrityError: it is missing, or not of the size that was written.
        """
        if self._looked_at:
            return
        if not self.path.is_file():
            raise IntegrityError(f"{self.path} is missing; use another checkpoint.")
        size = self.path.stat().st_size
        if size != self.entry.num_bytes:
            raise self._damaged(size)
        if isinstance(self.entry, OldFileEntry) and sha256_of(self.path) != self.entry.sha256:
            raise self._damaged(size)
        self._looked_at = True

    def _read_blocks(self, offset: int, target: memoryview, entry: FileEntry) -> None:
        stop = offset + len(target)
        block = offset // BLOCK_BYTES
        while block * BLOCK_BYTES < stop:
            if block not in self._known:
                last = min(block + _RUN_BLOCKS, -(-stop // BLOCK_BYTES))
                self._fetch_blocks(block, next((b for b in range(block, last) if b in self._known), last), entry)
            data = self._known[block]
            begin = block * BLOCK_BYTES
            part = memoryview(data)[max(offset - begin, 0) : stop - begin]
            place = max(begin - offset, 0)
            target[place : place + len(part)] = part
            block += 1
            while len(self._known) > _RUN_BLOCKS + _KEPT_BLOCKS:
                self._known.popitem(last=False)

    def _fetch_blocks(self, first: int, stop: int, entry: FileEntry) -> None:
        while len(self._known) > _KEPT_BLOCKS:
            self._known.popitem(last=False)
        begin = first * BLOCK_BYTES
        data = memoryview(self._fetch(begin, min(stop * BLOCK_BYTES, entry.num_bytes) - begin))
        for block in range(first, stop):
            part = bytes(data[(block - first) * BLOCK_BYTES : (block - first + 1) * BLOCK_BYTES])
            if hashlib.sha256(part).hexdigest() != entry.blocks[block]:
                raise self._damaged()
            self._known[block] = part

    def _fetch(self, offset: int, count: int) -> bytes:
        if not isinstance(self.path, Path):
            data: bytes = self.path.fs.cat_file(self.path.path, start=offset, end=offset + count)
        else:
            if self._descriptor is None:
                self._descriptor = os.open(self.path, os.O_RDONLY)
            data = b""
            while len(data) < count and (more := os.pread(self._descriptor, count - len(data), offset + len(data))):
                data = data + more if data else more
        if len(data) != count:
            raise self._damaged(offset + len(data))
        return data

    def _damaged(self, size: int | None = None) -> IntegrityError:
        if size is None:
            with suppress(OSError):
                size = self.path.stat().st_size
        return IntegrityError(
            f"{self.path} is not what was written ({size} of {self.entry.num_bytes} bytes, or changed); use another "
            "checkpoint."
        )
