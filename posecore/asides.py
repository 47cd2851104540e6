"""What is written beside its place until it is whole: files and folders named ``.<32 digits>.part``.

A writer holds a lock on what it writes, and the system releases the lock with the process. So what a killed writer left
is known by a lock that can be taken, and the next writer in the folder removes it, while what others are writing at the
same moment stays.
"""

import fcntl
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_NAME = re.compile(r"\.[0-9a-f]{32}\.part(\.\w+)?")
_swept: set[Path] = set()


def is_aside(path: Path) -> bool:
    """Whether a file or folder is named as one that is still being written."""
    return _NAME.fullmatch(path.name) is not None


@contextmanager
def aside_file(folder: Path, suffix: str = "") -> Iterator[Path]:
    """An empty file of this writer alone, removed at the end of the block unless it was renamed.

    Args:
        folder: where it lies; made if missing, and swept by the first writer of this process.
        suffix: of the name, for writers that look at it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    sweep_once(folder)
    path, descriptor = _locked(folder, suffix)
    try:
        yield path
    finally:
        os.close(descriptor)
        path.unlink(missing_ok=True)


@contextmanager
def aside_folder(folder: Path) -> Iterator[Path]:
    """An empty folder of this writer alone, removed with its content at the end of the block unless it was renamed."""
    aside = AsideFolder(folder)
    try:
        yield aside.path
    finally:
        shutil.rmtree(aside.path, ignore_errors=True)
        aside.close()


class AsideFolder:
    """An empty folder of this writer alone, until it is closed; whoever fills it also moves or removes it.

    Args:
        folder: where it lies; made if missing, and swept by the first writer of this process.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        sweep_once(folder)
        while True:
            self.path = folder / f".{uuid.uuid4().hex}.part"
            self.path.mkdir(mode=0o700)
            with suppress(FileNotFoundError):  # swept before it was locked
                self._descriptor = os.open(self.path, os.O_RDONLY)
                _lock(self._descriptor)
                if self.path.exists():
                    return
                os.close(self._descriptor)

    def close(self) -> None:
        """Gives up the lock."""
        os.close(self._descriptor)


def sweep_once(folder: Path) -> None:
    """:func:`sweep`, unless this process has done it before."""
    if folder not in _swept:
        _swept.add(folder)
        sweep(folder)


def sweep(folder: Path) -> None:
    """Removes what killed writers left in a folder, and nothing that a living one writes or that has another name."""
    with os.scandir(folder) as entries:
        left = [Path(entry.path) for entry in entries if _NAME.fullmatch(entry.name) and not entry.is_symlink()]
    for path in left:
        with suppress(OSError):  # its writer lives, has just renamed it, or another user's process wrote it
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if path.is_dir():
                    shutil.rmtree(path)
                else:
                    path.unlink()
            finally:
                os.close(descriptor)


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Within the block no other thread or process is in a block of the same folder, which must exist."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _locked(folder: Path, suffix: str) -> tuple[Path, int]:
    while True:
        path = folder / f".{uuid.uuid4().hex}.part{suffix}"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        _lock(descriptor)
        if path.exists():
            return path, descriptor
        os.close(descriptor)  # swept before it was locked


def _lock(descriptor: int) -> None:
    with suppress(OSError):  # a file system without locks: nothing will be swept there either
        fcntl.flock(descriptor, fcntl.LOCK_EX)
