"""How a record names a picture within a tar where others name a file: ``films/a.tar#000123.jpg@1536+20480``.

The numbers are where its bytes begin and how many they are, so that one is read without a look at the rest of the tar.
"""

import errno
import io
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from posecore.storage import AnyPath, TooLarge, open_regular

_ADDRESS = re.compile(r"(?P<archive>.+?\.tar)#(?P<name>.+)@(?P<offset>\d{1,15})\+(?P<size>\d{1,15})", re.DOTALL)
_MOST_BYTES = 256 << 20


@dataclass(frozen=True, slots=True)
class TarMember:
    """A file within a tar that is not compressed; what is wrong with it is said when it is read.

    Attributes:
        archive: the tar.
        name: of the member, as the tar has it.
        offset: where its bytes begin.
        size: how many they are.
    """

    archive: AnyPath
    name: str
    offset: int
    size: int

    def __str__(self) -> str:
        return f"{self.archive}#{self.name}"

    def read(self, max_bytes: int) -> bytes:
        """Its content.

        Raises:
            TooLarge: it is larger.
            OSError: there is no such tar, it has fewer bytes, or it cannot be read.
        """
        if self.size > max_bytes:
            raise TooLarge(errno.EFBIG, f"it has more than the {max_bytes} bytes allowed", str(self))
        if isinstance(self.archive, Path):
            with open_regular(self.archive) as file:
                file.seek(self.offset)
                data = file.read(self.size)
        else:
            data = self.archive.fs.cat_file(self.archive.path, start=self.offset, end=self.offset + self.size)
        if len(data) != self.size:
            raise OSError(errno.EIO, "the tar ends before the member does", str(self))
        return data

    def close(self) -> None:
        """Nothing is held open."""


def member_address(archive: str, name: str, offset: int, size: int) -> str:
    """What a record's ``image`` says of a member of a tar, by the tar's path below the download."""
    return f"{archive}#{name}@{offset}+{size}"


def picture_at(root: AnyPath, image: str) -> AnyPath | TarMember:
    """What the ``image`` of a record names below the folder of a download: a file, or a member of a tar.

    A video's frame is neither: see :mod:`posecore.videos.address`.
    """
    found = _ADDRESS.fullmatch(image)
    if found is None:
        return root / image
    return TarMember(root / found["archive"], found["name"], int(found["offset"]), int(found["size"]))


def archive_of(image: str) -> str | None:
    """The tar that an ``image`` is a member of, by its path below the download; None of a file."""
    found = _ADDRESS.fullmatch(image)
    return None if found is None else found["archive"]


def open_picture(picture: AnyPath | TarMember) -> BinaryIO:
    """A picture, opened for reading.

    Raises:
        OSError: there is none, it is no regular file or a member of more than 256 MiB, or it cannot be read.
    """
    return io.BytesIO(picture.read(_MOST_BYTES)) if isinstance(picture, TarMember) else open_regular(picture)


def members(path: AnyPath) -> Iterator[tarfile.TarInfo]:
    """The regular files in a tar that is not compressed, in order; their contents are passed over.

    Links, devices and files with holes are left out: their bytes are elsewhere, or nowhere.

    Raises:
        OSError: it cannot be read.
        tarfile.TarError: it is no tar, or cut.
    """
    with open_regular(path) as file, tarfile.open(fileobj=file, mode="r:") as tar:
        while (member := tar.next()) is not None:
            if member.isreg() and not member.issparse():
                yield member
            tar.members = []  # type: ignore[attr-defined]  # else it remembers every one
