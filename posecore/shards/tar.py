"""Tar shards whose bytes depend on nothing but their members: POSIX ustar with every header field fixed.

Names are short and sizes below 8 GiB, so no extension header is ever needed (POSIX.1-2017, pax, "ustar Interchange
Format"). Any tar or WebDataset tool reads the result.

A tar is named by its digest: the BLAKE3 of the tar with the content of every member of 16 KiB or more replaced by the
digest of that content (:mod:`posecore.shards.digests`). It covers every byte as the BLAKE3 of the file would (a header
states how long its content is, so no two tars give the same text), and spares hashing a picture twice, whose digest is
wanted anyway. Tars of format 3 are named by SHA-256, and there every member's content is replaced by its own.
"""

import hashlib
import os
from collections.abc import Iterator
from io import FileIO
from typing import NamedTuple

from blake3 import blake3

from posecore.errors import IntegrityError
from posecore.shards.digests import as_blake3, content_digest, is_blake3

BLOCK_BYTES = 512
MAX_NAME_BYTES = 99
END_OF_ARCHIVE = bytes(2 * BLOCK_BYTES)

_DIGESTED_FROM = 1 << 14
"""Smaller contents are hashed with the headers around them, many at a time, which takes less than a digest of each."""
_WRITE_BYTES = 1 << 20
_WRITE_PARTS = 512
"""Linux takes at most 1024 pieces in one write; a member adds three."""
_MAX_SIZE = 8**11 - 1
_MODE_AND_OWNER = b"0000644\x00" + b"0000000\x00" + b"0000000\x00"
_TIME = b"00000000000\x00"
_TAIL = b"0" + bytes(100) + b"ustar\x0000" + bytes(32 + 32 + 8 + 8 + 155 + 12)
_HEADER = b"%b" + _MODE_AND_OWNER + b"%b" + _TIME + b"%06o\x00 " + _TAIL
_FIXED_SUM = sum(_MODE_AND_OWNER) + sum(_TIME) + 8 * ord(" ") + sum(_TAIL)


class Member(NamedTuple):
    """One file within a tar.

    Attributes:
        name: file name.
        offset: first byte of the content, from the start of the tar.
        size: bytes of the content.
    """

    name: str
    offset: int
    size: int


def member_header(name: str, size: int) -> bytes:
    """The 512-byte header of a regular file: mode 644, owner 0, time 0.

    Raises:
        ValueError: the name or the size does not fit a plain ustar header.
    """
    encoded = name.encode("ascii")
    if not 0 < len(encoded) <= MAX_NAME_BYTES or not 0 <= size <= _MAX_SIZE:
        raise ValueError(f"tar member {name!r} of {size} bytes: the name must have 1 to 99 bytes, the file below 8 GiB")
    length = b"%011o\x00" % size
    return _HEADER % (encoded.ljust(100, b"\x00"), length, _FIXED_SUM + sum(encoded) + sum(length))


def padding(size: int) -> bytes:
    """Zeros that fill a member of ``size`` bytes to whole blocks."""
    return bytes(-size % BLOCK_BYTES)


def stored_size(size: int) -> int:
    """Bytes that a member of ``size`` bytes takes in the tar, its header included."""
    return BLOCK_BYTES + size + -size % BLOCK_BYTES


class TarWriter:
    """Writes a tar in pieces of about a megabyte, and knows its digest when it is done.

    A piece is written by the calling thread while it is still in the processor's cache. Writing copies it to the system
    and waits for no disk; a thread for that took more of the processor than it saved.

    Attributes:
        position: bytes of the tar so far.
    """

    def __init__(self, file: FileIO) -> None:
        self.position = 0
        self._file = file
        self._digest = blake3()
        self._named: list[bytes] = []
        self._pending: list[bytes] = []
        self._pending_bytes = 0

    def add(self, name: str, content: bytes, digest: str | None = None) -> Member:
        """Appends a member.

        Args:
            name: file name, ASCII.
            content: its bytes.
            digest: of the content, if it is known already.

        Raises:
            OSError: an earlier piece could not be written.
        """
        size = len(content)
        header, fill = member_header(name, size), padding(size)
        named = content if size < _DIGESTED_FROM else (digest or content_digest(content)).encode()
        self._named += (header, named, fill)
        member = Member(name, self.position + BLOCK_BYTES, size)
        self._append(BLOCK_BYTES + size + len(fill), header, content, fill)
        return member

    def finish(self) -> str:
        """Ends the archive, writes what is left of it, and returns the digest of the tar.

        Raises:
            OSError: a piece could not be written.
        """
        self._named.append(END_OF_ARCHIVE)
        self._append(len(END_OF_ARCHIVE), END_OF_ARCHIVE)
        self._flush()
        return as_blake3(self._digest.hexdigest())

    def _append(self, size: int, *parts: bytes) -> None:
        self._pending += parts
        self._pending_bytes += size
        self.position += size
        if self._pending_bytes >= _WRITE_BYTES or len(self._pending) >= _WRITE_PARTS:
            self._flush()

    def _flush(self) -> None:
        parts, size = self._pending, self._pending_bytes
        self._digest.update(b"".join(self._named))
        self._named, self._pending, self._pending_bytes = [], [], 0
        written = os.writev(self._file.fileno(), parts)
        if written < size:  # a signal, or a disk with room for a part only: the next write says which
            rest = memoryview(b"".join(parts))[written:]
            while rest:
                rest = rest[self._file.write(rest) :]


def tar_digest(data: bytes | memoryview, origin: str) -> str:
    """The digest of a tar, computed from its bytes.

    Args:
        data: the whole tar.
        origin: what to call it in messages.

    Raises:
        IntegrityError: a header is damaged, or the tar ends early.
    """
    digest = blake3()
    position = 0
    for member in members(data, origin):
        if member.size >= _DIGESTED_FROM:
            end = member.offset + member.size
            digest.update(data[position : member.offset])
            digest.update(content_digest(data[member.offset : end]).encode())
            position = end
    digest.update(data[position:])
    return as_blake3(digest.hexdigest())


def has_tar_digest(data: bytes | memoryview, digest: str, origin: str) -> bool:
    """Whether a tar is the one that a digest names, of whatever format.

    Args:
        data: the whole tar.
        digest: as its writer stated it.
        origin: what to call it in messages.

    Raises:
        IntegrityError: a header is damaged, or the tar ends early.
    """
    return (tar_digest if is_blake3(digest) else _sha256_tar_digest)(data, origin) == digest


def _sha256_tar_digest(data: bytes | memoryview, origin: str) -> str:
    digest = hashlib.sha256()
    position = 0
    for member in members(data, origin):
        end = member.offset + member.size
        digest.update(data[position : member.offset])
        digest.update(hashlib.sha256(data[member.offset : end]).hexdigest().encode())
        position = end
    digest.update(data[position:])
    return digest.hexdigest()


def members(data: bytes | memoryview, origin: str) -> Iterator[Member]:
    """The members of a tar as :func:`member_header` writes them, in order.

    Args:
        data: the whole tar.
        origin: what to call it in messages.

    Raises:
        IntegrityError: a header is damaged, or the tar ends early.
    """
    position = 0
    while True:
        header = bytes(data[position : position + BLOCK_BYTES])
        if len(header) < BLOCK_BYTES:
            raise IntegrityError(f"{origin}: the tar ends at byte {len(data)} without its end mark; ingest it again.")
        if not any(header):
            return
        name = header[:100].rstrip(b"\x00").decode("ascii", "replace")
        try:
            size = int(header[124:135], 8)
            intact = member_header(name, size) == header
        except ValueError:
            intact = False
        if not intact:
            raise IntegrityError(f"{origin}: the tar header at byte {position} is damaged; ingest the split again.")
        if position + stored_size(size) > len(data):
            raise IntegrityError(f"{origin}: the tar ends within {name} at byte {position}; ingest the split again.")
        yield Member(name, position + BLOCK_BYTES, size)
        position += stored_size(size)
