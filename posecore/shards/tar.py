"""Tar shards whose bytes depend on nothing but their members: POSIX ustar with every header field fixed.

Names are short and sizes below 8 GiB, so no extension header is ever needed (POSIX.1-2017, pax, "ustar Interchange
Format"). Any tar or WebDataset tool reads the result.

A tar is named by its digest: the SHA-256 of the tar with the content of every member replaced by the 64 hexadecimal
digits of that content's own SHA-256. It covers every byte as the SHA-256 of the file would (a header states how long
its content is, so no two tars give the same text), and spares hashing an image twice, whose SHA-256 is wanted anyway.
"""

import hashlib
import os
import struct
from collections.abc import Iterator
from io import FileIO
from typing import NamedTuple

from posecore.errors import IntegrityError

BLOCK_BYTES = 512
MAX_NAME_BYTES = 99
END_OF_ARCHIVE = bytes(2 * BLOCK_BYTES)

_WRITE_BYTES = 1 << 20
_WRITE_PARTS = 512
"""Linux takes at most 1024 pieces in one write; a member adds three."""
_MAX_SIZE = 8**11 - 1
_NAME_AND_MODE = struct.Struct("<100s8s8s8s")
_TAIL = b"0" + bytes(100) + b"ustar\x0000" + bytes(32 + 32 + 8 + 8 + 155 + 12)
_OWNER = (b"0000644\x00", b"0000000\x00", b"0000000\x00")
_TIME = b"00000000000\x00"
_FIXED_SUM = sum(b"".join(_OWNER)) + sum(_TIME) + 8 * ord(" ") + sum(_TAIL)


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
    checksum = b"%06o\x00 " % (_FIXED_SUM + sum(encoded) + sum(length))
    return _NAME_AND_MODE.pack(encoded, *_OWNER) + length + _TIME + checksum + _TAIL


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
        self._digest = hashlib.sha256()
        self._pending: list[bytes] = []
        self._pending_bytes = 0

    def add(self, name: str, content: bytes, sha256: str) -> Member:
        """Appends a member.

        Args:
            name: file name, ASCII.
            content: its bytes.
            sha256: of the content, 64 hexadecimal digits.

        Raises:
            OSError: an earlier piece could not be written.
        """
        size = len(content)
        header, fill = member_header(name, size), padding(size)
        self._digest.update(b"".join((header, sha256.encode(), fill)))
        member = Member(name, self.position + BLOCK_BYTES, size)
        self._append(BLOCK_BYTES + size + len(fill), header, content, fill)
        return member

    def finish(self) -> str:
        """Ends the archive, writes what is left of it, and returns the digest of the tar.

        Raises:
            OSError: a piece could not be written.
        """
        self._digest.update(END_OF_ARCHIVE)
        self._append(len(END_OF_ARCHIVE), END_OF_ARCHIVE)
        self._flush()
        return self._digest.hexdigest()

    def _append(self, size: int, *parts: bytes) -> None:
        self._pending += parts
        self._pending_bytes += size
        self.position += size
        if self._pending_bytes >= _WRITE_BYTES or len(self._pending) >= _WRITE_PARTS:
            self._flush()

    def _flush(self) -> None:
        parts, size = self._pending, self._pending_bytes
        self._pending, self._pending_bytes = [], 0
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
