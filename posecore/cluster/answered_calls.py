"""Calls of Ray that take long, made on a thread: on the main one Ray answers Ctrl-C itself, late and with status 1."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

_Answer = TypeVar("_Answer")


def begun(call: Callable[[], _Answer], name: str) -> "Future[_Answer]":
    """Begins a call.

    Args:
        call: whatever it answers or raises is the future's.
        name: of the thread.
    """
    future: Future[_Answer] = Future()

    def run() -> None:
        try:
            future.set_result(call())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, name=name, daemon=True).start()
    return future


def outcome(future: "Future[_Answer]") -> _Answer:
    """Waits for a call that was begun; a signal is heard meanwhile."""
    while True:
        try:
            return future.result(timeout=0.2)  # a wait without end would hear no signal
        except TimeoutError:
            if future.done():  # it is the call's own
                raise
