"""Ctrl-C, the signal by which ``ray job stop`` and batch systems ask a process to end, and that of a lost terminal.

Each ends a program with one line and the status 128 + the number of the signal, also while it is still imported, which
takes seconds.
"""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(KeyboardInterrupt):
    """A signal asked this process to end.

    Attributes:
        number: of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number

    def __str__(self) -> str:
        return f"stopped by {signal.Signals(self.number).name}"

    @property
    def status(self) -> int:
        """Exit status of a process that ends by it."""
        return 128 + self.number


def signals_end_the_process() -> None:
    """From now on a signal ends this process at once: for the first statement of a script, before it imports the rest.

    An exception would be a stack of imports, or would be lost in one of them that catches everything.
    """

    def end(number: int, _: FrameType | None) -> None:
        with suppress(OSError):  # the terminal may be gone
            os.write(2, f"{Interrupted(number)}.\n".encode())  # print may be what was interrupted
        os._exit(Interrupted(number).status)

    for number in _heeded():
        signal.signal(number, end)


@contextmanager
def signals_raise(instead: Callable[[], BaseException | None] = lambda: None) -> Iterator[None]:
    """In this block a signal raises :class:`Interrupted` in the main thread; on another thread nothing changes.

    Args:
        instead: asked at each signal for an error to raise in its place.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, _: FrameType | None) -> None:
        raise instead() or Interrupted(number)

    before = {number: signal.signal(number, stop) for number in _heeded()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _heeded() -> list[signal.Signals]:
    """All but the one that ``nohup`` has a program ignore."""
    return [number for number in _SIGNALS if (number, signal.getsignal(number)) != (signal.SIGHUP, signal.SIG_IGN)]
