"""How a job on Ray ends when something stops it, its Ray processes included."""

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
from posecore.workflows import endings
from posecore.workflows.endings import GO_ON

_POLL_S = 1.0
_NODE_PATIENCE_S = 3.0
_HEAD_PATIENCE_S = 30.0  # Ray itself gives up, and ends the process, after 60 s


class ClusterLostError(PoseCoreError, RuntimeError):
    """The Ray processes this job runs on are gone."""


def exit_status(job: Callable[[], None]) -> int:
    """See :func:`posecore.workflows.endings.exit_status`; a lost cluster stops a job, too."""

    def watched() -> None:
        with _watched_cluster():
            job()

    return endings.exit_status(watched, one_sentence, _Watch.take, lost=(ClusterLostError, RayError))


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
    sentence = endings.one_sentence(error)
    if sentence is None and isinstance(error, RayError):
        first = " ".join(str(error).strip().partition("\n")[0].split())
        return f"Ray gave up ({type(error).__name__}: {first}); {GO_ON}"
    return sentence


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
                    self._tell(f"{name} is gone; {GO_ON}")
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
