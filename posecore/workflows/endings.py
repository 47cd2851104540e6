"""How a job ends when something stops it: one sentence and an exit status, never a stack of calls.

A full disk, a tracking server that is gone, lost processes and Ctrl-C are no faults of the program; what is finished
stays, and the same job submitted again goes on from there. An error nobody foresaw still shows where it arose.
"""

import atexit
import os
import sys
from collections.abc import Callable
from contextlib import suppress

from posecore.errors import PoseCoreError, status_of
from posecore.interruption import Interrupted, signals_raise
from posecore.lineage.store.outage import told
from posecore.shards.remote import is_of_a_store
from posecore.system_errors import is_full, said_of_system

GO_ON = "what is finished stays: submit the same job again to go on."


def one_sentence(error: BaseException) -> str | None:
    """What stopped a job, for a person; None for an error that only its stack of calls explains."""
    if isinstance(error, PoseCoreError):
        return str(error)
    if is_full(error):
        where = f" ({error.filename})" if isinstance(error, OSError) and error.filename else ""
        return f"no space is left on the disk{where}; free some and submit the same job again: what is finished stays."
    if (sentence := told(error)) is not None:
        return sentence
    if isinstance(error, OSError):
        return said_of_system(error)
    if is_of_a_store(error):
        return f"a store does not do what it is asked ({' '.join(str(error).split())}); {GO_ON}"
    return None


def exit_status(
    job: Callable[[], None],
    sentence_of: Callable[[BaseException], str | None] = one_sentence,
    instead: Callable[[], BaseException | None] = lambda: None,
    lost: tuple[type[BaseException], ...] = (),
) -> int:
    """Runs a job to its end and returns its exit status; whatever stopped it is said in one sentence.

    Args:
        job: to be run.
        sentence_of: what is said of an error; None for one that only its stack of calls explains.
        instead: asked at each signal for an error to raise in its place.
        lost: errors after which nobody is left to say farewell to.

    Returns:
        0 if it ended well, 1 after an error, 2 if the command line was wrong, 128 and the number of a signal after it.
    """
    try:
        with signals_raise(instead):
            job()
    except Interrupted as stop:
        with suppress(OSError):  # the terminal may be gone
            print(f"{stop}: {GO_ON}", file=sys.stderr, flush=True)
        return _leave_at_once(stop.status)
    except Exception as error:
        sentence = sentence_of(error)
        if sentence is None:
            raise
        print(f"error: {sentence}", file=sys.stderr, flush=True)
        return _leave_at_once(1) if isinstance(error, lost) else status_of(error)
    return 0


def _leave_at_once(status: int) -> int:
    """Has the process end without farewells, which would wait for processes that are gone or about to be."""

    def leave() -> None:
        with suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)

    atexit.register(leave)
    return status
