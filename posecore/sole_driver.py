"""One driver at a time: a locked file on one machine, a lease in an object store for machines that share no more.

Whoever holds the lease has an object ``<name>/<number>`` there, made by a put that fails if the object exists, and
writes it again every few seconds. One that has not changed for a minute belongs to a dead driver: the next one makes
the object of the next number, which of several that try one alone can. What an object says is read, and listings are
asked for numbers only: an object that a listing leaves out makes the put fail.
"""

import fcntl
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from types import TracebackType
from typing import Self, TextIO

from upath import UPath

from posecore.errors import StorageError
from posecore.schema import Json
from posecore.storage import AnyPath, make_object

_BEAT_S, _PATIENCE_S, _LOOK_S = 15.0, 60.0, 0.5


@contextmanager
def sole_driver(file: Path, place: AnyPath, waiting: Callable[[str], None]) -> Iterator[None]:
    """Keeps all other drivers out as long as the block lasts; waits while another is in it.

    Args:
        file: is locked on this machine, in a folder that is there. It stays: removing it while another driver waits
            would let two of them in.
        place: what is to have one driver; where it is remote, the lease lies there.
        waiting: called once with who is waited for, if somebody is.
    """
    locked = try_lock(file)
    if locked is None:
        waiting("on this machine")
        locked = file.open("a")
        fcntl.flock(locked, fcntl.LOCK_EX)
    lease: AbstractContextManager[object] = (
        nullcontext() if isinstance(place, Path) else Lease(place, file.parent, waiting)
    )
    with locked, lease:
        yield


def try_lock(file: Path) -> TextIO | None:
    """An open, exclusively locked file, or None if another process holds it. Closing it releases the lock."""
    opened = file.open("a")
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        opened.close()
        return None
    return opened


class Lease:
    """Held inside a ``with``.

    Args:
        folder: in the store.
        machine: a folder of this machine that tells it from others; who shares it must not try at the same time, so
            that a holder who shares it is known to be dead.
        waiting: called once with who holds it, if it is held.
        beat_s: seconds between two signs of life.
        patience_s: without a sign for so long a holder counts as dead.
    """

    def __init__(
        self,
        folder: UPath,
        machine: Path,
        waiting: Callable[[str], None],
        beat_s: float = _BEAT_S,
        patience_s: float = _PATIENCE_S,
    ) -> None:
        self._folder = folder
        self._me = {"host": socket.gethostname(), "process": os.getpid(), "machine": _identity(machine)}
        self._waiting = waiting
        self._beat_s, self._patience_s = beat_s, patience_s
        self._own: UPath | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._live, daemon=True, name="lease")

    def __enter__(self) -> Self:
        seen, since, told = "", time.monotonic(), False
        while self._own is None:
            number = max(self._numbers(), default=0)
            said = self._read(number)
            if said is not None and said != seen:
                seen, since = said, time.monotonic()
            holder = {} if said is None else json.loads(said)
            alive = said is not None and time.monotonic() - since < self._patience_s
            if alive and holder["machine"] != self._me["machine"]:
                if not told:
                    self._waiting(f"{holder['host']}, process {holder['process']}")
                    told = True
                time.sleep(_LOOK_S)
                continue
            mine = self._folder / f"{number + 1:06d}"
            if make_object(mine, self._sign(0)):
                self._own = mine
        for number in self._numbers():
            if number < int(self._own.name):
                (self._folder / f"{number:06d}").unlink(missing_ok=True)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._ended.set()
        self._thread.join()
        assert self._own is not None
        lost = not self._is_mine()
        if not lost:
            self._own.unlink(missing_ok=True)
        elif error is None:
            raise StorageError(
                f"{self._folder}: another driver has gone on with this, because for {self._patience_s:g} s this "
                "one gave no sign of life; let that one end."
            )

    def _live(self) -> None:
        count = 0
        while not self._ended.wait(self._beat_s):
            count += 1
            try:
                if not self._is_mine():
                    return
                assert self._own is not None
                self._own.write_bytes(self._sign(count))
            except OSError:
                continue  # the store cannot be reached for a while

    def _is_mine(self) -> bool:
        assert self._own is not None
        return max(self._numbers(), default=0) == int(self._own.name)

    def _sign(self, count: int) -> bytes:
        return json.dumps({**self._me, "count": count}).encode()

    def _read(self, number: int) -> str | None:
        try:
            said: str = (self._folder / f"{number:06d}").read_bytes().decode()
        except FileNotFoundError:
            return None
        return said

    def _numbers(self) -> list[int]:
        self._folder.fs.invalidate_cache()
        try:
            names = [path.name for path in self._folder.iterdir()]
        except (FileNotFoundError, NotADirectoryError):  # a store has no empty folders
            return []
        return [int(name) for name in names if name.isdigit()]


def _identity(machine: Path) -> Json:
    """A word that everybody reads who shares the folder."""
    machine.mkdir(parents=True, exist_ok=True)
    path = machine / "machine"
    if not path.exists():
        aside = machine / f".{uuid.uuid4().hex}"
        aside.write_text(uuid.uuid4().hex)
        with suppress(FileExistsError):  # another process was faster
            os.link(aside, path)
        aside.unlink()
    return path.read_text()
