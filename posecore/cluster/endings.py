"""How a job ends when something stops it: one sentence and an exit status, never a stack of calls.

A full disk, a tracking server that is gone, a lost Ray node and Ctrl-C are no faults of the program; what is finished
stays, and the same job submitted again goes on from there. An error nobody foresaw still shows where it arose.
"""

import atexit
import errno
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import ray
from ray.exceptions import RayError, RayTaskError

from posecore.errors import PoseCoreError
from posecore.interruption import Interrupted, signals_raise
from posecore.lineage.outage import told

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
_GO_ON = "what is finished stays: submit the same job again to go on."
_POLL_S = 1.0
_NODE_PATIENCE_S = 3.0
_HEAD_PATIENCE_S = 30.0  # Ray itself gives up, and ends the process, after 60 s


class ClusterLostError(PoseCoreError, RuntimeError):
    """The Ray processes this job runs on are gone."""


def exit_status(job: Callable[[], None]) -> int:
    """Runs a job to its end and returns its exit status; whatever stopped it is said in one sentence.

    Returns:
        0 if it ended well, 1 after an error, 128 and the signal's number after a signal.
    """
    try:
        with signals_raise(_Watch.take), _watched_cluster():
            job()
    except Interrupted as stop:
        print(f"{stop}: {_GO_ON}", file=sys.stderr, flush=True)
        return _leave_at_once(stop.status)
    except Exception as error:
        sentence = one_sentence(error)
        if sentence is None:
            raise
        print(f"error: {sentence}", file=sys.stderr, flush=True)
        return _leave_at_once(1) if isinstance(error, (ClusterLostError, RayError)) else 1
    return 0


def one_sentence(error: BaseException) -> str | None:
    """What stopped a job, for a person; None for an error that only its stack of calls explains."""
    if isinstance(error, RayTaskError):  # its text is the stack of the worker
        return one_sentence(error.cause) if isinstance(error.cause, Exception) else None
    failures = getattr(error, "worker_failures", None)  # of Ray Train's error about a group of workers
    if failures:
        sentences = [one_sentence(failure) for failure in failures.values()]
        known = sorted({sentence for sentence in sentences if sentence is not None})
        return known[0] if known else None
    if (controller := getattr(error, "controller_failure", None)) is not None:
        return one_sentence(controller)
    if isinstance(error, PoseCoreError):
        return str(error)
    if _is_full(error):
        where = f" ({error.filename})" if isinstance(error, OSError) and error.filename else ""
        return f"no space is left on the disk{where}; free some and submit the same job again: what is finished stays."
    if (sentence := told(error)) is not None:
        return sentence
    if isinstance(error, OSError):
        return str(error)  # it names the file, as our own do
    if isinstance(error, RayError):
        first = " ".join(str(error).strip().partition("\n")[0].split())
        return f"Ray gave up ({type(error).__name__}: {first}); {_GO_ON}"
    return None


def _is_full(error: BaseException) -> bool:
    # Writers in C++ and Rust raise errors of their own with the system's text in them.
    if isinstance(error, OSError) and error.errno in _NO_SPACE:
        return True
    return any(f"os error {number}" in str(error) or os.strerror(number) in str(error) for number in _NO_SPACE)


def _leave_at_once(status: int) -> int:
    """Has the process end without Ray's own farewell, which waits for processes that are gone or about to be."""

    def leave() -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)

    atexit.register(leave)
    return status


@contextmanager
def _watched_cluster() -> Iterator[None]:
    """Ends the job soon after the Ray processes it needs are gone.

    Left alone, a driver waits a quarter of a minute for a dead node manager and a minute for a dead head; then Ray ends
    the process itself, with its last 20 log lines or without a word to the program.
    """
    watch = _Watch()
    watch.start()
    try:
        yield
    finally:
        watch.ended.set()


class _Watch(threading.Thread):
    """Asks now and then whether the head's store and this node's manager still take connections."""

    lost: str | None = None
    """What is gone, between the moment that is known and the moment the main thread is told."""

    def __init__(self) -> None:
        super().__init__(name="ray-watch", daemon=True)
        self.ended = threading.Event()

    @classmethod
    def take(cls) -> ClusterLostError | None:
        """What the main thread is told of, once."""
        lost, cls.lost = cls.lost, None
        return None if lost is None else ClusterLostError(lost)

    def run(self) -> None:
        addresses: dict[str, tuple[tuple[str, int], float]] = {}
        seen: dict[str, float] = {}
        while not self.ended.wait(_POLL_S):
            if not ray.is_initialized():
                addresses, seen = {}, {}
                continue
            if not addresses:
                addresses = _addresses()
            for name, (address, patience_s) in addresses.items():
                now = time.monotonic()
                if _takes_connections(address):
                    seen[name] = now
                elif now - seen.setdefault(name, now) > patience_s and ray.is_initialized():
                    self._tell(f"{name} is gone; {_GO_ON}")
                    return

    def _tell(self, sentence: str) -> None:
        _Watch.lost = sentence
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
        if not self.ended.wait(20):  # the main thread waits for something that will not come
            print(f"error: {sentence}", file=sys.stderr, flush=True)
            os._exit(1)


def _addresses() -> dict[str, tuple[tuple[str, int], float]]:
    """What must live for a driver to live, and how long it may be away."""
    try:
        context = ray.get_runtime_context()
        host, _, port = context.gcs_address.rpartition(":")
        found = {"the head of the Ray cluster": ((host, int(port)), _HEAD_PATIENCE_S)}
        for node in ray.nodes():
            if node["NodeID"] == context.get_node_id():
                address = (node["NodeManagerAddress"], node["NodeManagerPort"])
                found["this machine's Ray process (raylet)"] = (address, _NODE_PATIENCE_S)
        return found
    except Exception:  # between two of Ray's states; asked again
        return {}


def _takes_connections(address: tuple[str, int]) -> bool:
    try:
        socket.create_connection(address, 5.0).close()
    except ConnectionRefusedError:
        return False
    except OSError:
        return True  # slow or filtered: no proof of anything
    return True
