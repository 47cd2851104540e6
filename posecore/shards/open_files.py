"""Reading at any place of many files, of which only the latest used stay open."""

import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

_MAX_OPEN = 64


class OpenFiles:
    """Numbered files, opened when they are first read. Safe to use from several threads.

    Args:
        locate: path of a file by its number; may take long, which other threads need not wait for.
    """

    def __init__(self, locate: Callable[[int], Path]) -> None:
        self._locate = locate
        self._lock = threading.Lock()
        self._open: OrderedDict[int, _OpenFile] = OrderedDict()

    def read(self, number: int, offset: int, size: int) -> bytes:
        """``size`` bytes from ``offset`` on by one ``pread``; fewer where the file ends.

        Raises:
            FileNotFoundError: there is no such file.
        """
        file = self._file(number)  # held, so that it stays open although another thread may push it out
        return os.pread(file.descriptor, size, offset)

    def _file(self, number: int) -> "_OpenFile":
        with self._lock:
            if number in self._open:
                self._open.move_to_end(number)
                return self._open[number]
        file = _OpenFile(self._locate(number))
        with self._lock:
            self._open[number] = file
            if len(self._open) > _MAX_OPEN:
                self._open.popitem(last=False)
            return file


class _OpenFile:
    """A file descriptor that is closed when the last reader lets go of it."""

    def __init__(self, path: Path) -> None:
        self.descriptor = os.open(path, os.O_RDONLY)

    def __del__(self) -> None:
        if hasattr(self, "descriptor"):
            os.close(self.descriptor)
