"""Curves that outlive an outage of the tracking server.

A point goes into a journal file of the run folder first, and a thread sends from there, so that training never waits
for the server, memory stays bounded however long the server is away, and a killed process loses no point. A journal
that was sent whole is removed; any other stays, and whoever opens the folder next sends it: the next attempt of the
same training, the next submission, or ``posecore lineage send``. The writer holds a lock on its journal, and the system
releases it with the process: a lock that can be taken marks a journal somebody left.

A training that goes on from a checkpoint makes some steps again. Their points are on the curve already: a journal
leaves out what is not beyond the last step its run had of a metric when the journal was begun.
"""

import errno
import fcntl
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar

from mlflow.entities import Metric

from posecore.errors import LineageError, PreflightError
from posecore.lineage.store.outage import STORE_ERRORS, may_pass
from posecore.lineage.store.reachable import check_reachable, shown_uri
from posecore.lineage.store.sample_pictures import SamplePictureLog
from posecore.lineage.store.tracking import RunLog, Tracking, metric_name
from posecore.storage import as_path, folder_of_machine, write_atomically

FORMAT = 1
SPOOL = "spool"
"""Folder of the journals within the run folder."""

_BATCH_POINTS = 1000  # MLflow's limit for one call
_LONGEST_WAIT_S = 30.0
T = TypeVar("T")


class StoreAway(LineageError):
    """The tracking store does not answer; try later."""


@dataclass(frozen=True, slots=True)
class CurveLog:
    """Where a training's points go. Small and picklable; the process that has points opens it.

    Attributes:
        run: the MLflow run.
        folder: the run folder; journals of a remote one lie on the machine of the process that writes them.
        pictures: folder of pictures that the training draws, to be sent along; "" for none.
    """

    run: RunLog
    folder: str
    pictures: str = ""

    @contextmanager
    def writing(self, flush_s: float = 30.0) -> Iterator["CurveWriter"]:
        """Takes points until the block ends, then waits at most ``flush_s`` for the server to have them all."""
        pictures = SamplePictureLog(self.run, as_path(self.pictures)) if self.pictures else None
        writer = CurveWriter(self.run, folder_of_machine(self.folder) / SPOOL, pictures)
        try:
            yield writer
        except BaseException:
            writer.close(min(flush_s, 2.0))  # whoever waits for the error should not wait for a server
            raise
        writer.close(flush_s)


class CurveWriter:
    """Appends points to a journal of its own, which a thread sends. See :meth:`CurveLog.writing`."""

    def __init__(self, run: RunLog, folder: Path, pictures: SamplePictureLog | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._tracking = run.tracking
        self._pictures = pictures
        self._folder = folder
        # Older journals are sent first, so that a curve's points arrive in order: names sort by time.
        self.path = folder / f"{time.time_ns():020d}-{run.run_id}.jsonl"
        self._file = self.path.open("xb", buffering=0)
        fcntl.flock(self._file, fcntl.LOCK_EX)
        self._file.write(_line(_header(run.run_id, run.tracking)))
        self._journal = _Journal(self.path, self._file)
        self._wake, self._closing = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._send, name="curve", daemon=True)
        self._thread.start()

    def __call__(self, metrics: Mapping[str, float], step: int) -> None:
        """Takes the values of one step; returns once they are in the journal."""
        values = {metric_name(key): float(value) for key, value in metrics.items()}
        line, start = _line({"step": step, "time_ms": int(time.time() * 1000), "metrics": values}), self._file.tell()
        if self._file.write(line) < len(line):
            os.ftruncate(self._file.fileno(), start)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
        self._wake.set()

    def close(self, flush_s: float) -> None:
        """Waits for the last points to arrive; what has not after ``flush_s`` seconds stays in the journal."""
        self._closing.set()
        self._wake.set()
        self._thread.join(flush_s)
        if self._thread.is_alive():
            _say(f"points of the curve wait in {self.path}; the next submission sends them, or posecore lineage send.")

    def _send(self) -> None:
        wait_s, away = 1.0, False
        while True:
            last_round = self._closing.is_set()
            self._wake.clear()
            try:
                send_left_behind(self._tracking, self._folder)
                self._journal.send(self._tracking)
                self._send_pictures()
                if away:
                    _say("the tracking server answers again; the curve is complete.")
                wait_s, away = 1.0, False
            except StoreAway as error:
                if not away:
                    _say(f"{error} Training goes on; the curve's points wait in {self._folder}.")
                away = True
            except OSError as error:
                _say(f"the curve cannot be sent from {self.path} now ({error.strerror}).")
                away = True
            if not away:
                if last_round:
                    self._journal.remove()
                    self._file.close()
                    return
                self._wake.wait()
            else:
                time.sleep(1.0 if self._closing.is_set() else wait_s)
                wait_s = min(2 * wait_s, _LONGEST_WAIT_S)

    def _send_pictures(self) -> None:
        if self._pictures is None:
            return
        try:
            self._pictures.send(lambda call: _ask(self._tracking, lambda: call(self._tracking.client)))
        except STORE_ERRORS as error:
            _say(f"pictures of the training are not shown: {' '.join(str(error).split())[:200]}")
            self._pictures = None


def send_left_behind(tracking: Tracking, folder: Path) -> int:
    """Sends the journals in a spool folder that no living process writes, oldest first, and removes what was sent.

    Journals of another tracking store are left alone.

    Returns:
        The number of journals sent.

    Raises:
        StoreAway: the server does not answer.
    """
    sent = 0
    for path in sorted(folder.glob("*.jsonl")):
        try:
            file = path.open("rb")
        except FileNotFoundError:
            continue  # another process has just sent it
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue  # its writer lives
            journal = _Journal(path, file)
            if not path.exists() or not journal.belongs_to(tracking):
                continue
            journal.send(tracking)
            journal.remove()
            sent += 1
    return sent


def send_if_reachable(tracking: Tracking, run_folder: Path) -> None:
    """Sends what earlier submissions left in the run folder; an unreachable server is no error here."""
    try:
        send_left_behind(tracking, run_folder / SPOOL)
    except StoreAway as error:
        _say(f"{error} Points of earlier curves wait in {run_folder / SPOOL}.")


class _Journal:
    """A file of points and how much of it was sent; one process at a time reads it, under the file's lock.

    Beside the journal lies ``.sent``: the bytes sent so far, and for every metric the step its run had reached before.
    """

    def __init__(self, path: Path, locked: IO[bytes]) -> None:
        self._path = path
        self._locked = locked
        self._state_path = path.with_suffix(".sent")

    def belongs_to(self, tracking: Tracking) -> bool:
        return self._header() | {"run_id": ""} == _header("", tracking)

    def remove(self) -> None:
        """Removes what was sent; what the store refused is kept under another name."""
        state = self._state()
        if state is not None and "refused" in state:
            self._path.replace(self._path.with_suffix(".refused"))
        else:
            self._path.unlink(missing_ok=True)
        self._state_path.unlink(missing_ok=True)

    def send(self, tracking: Tracking) -> None:
        """Sends what is new in the journal.

        A batch that was sent but not noted is sent again by the next reader with the same times, which the store takes
        as the same points.
        """
        state = self._state()
        if state is not None and "refused" in state:
            return
        try:
            run_id = self._header()["run_id"]
            if state is None:
                state = {"offset": 0, "reached": _reached(tracking, run_id)}
                self._note(state)
            for points, offset in _batches(self._path, state["offset"], state["reached"]):
                _store(tracking, run_id, points)
                if offset > state["offset"]:
                    state["offset"] = offset
                    self._note(state)
        except STORE_ERRORS as error:
            why = " ".join(str(error).split())[:200]
            kept = self._path.with_suffix(".refused").name
            _say(f"{self._path.name} cannot be sent: the tracking store refused it ({why}); it is kept as {kept}.")
            self._note({"offset": 0, "reached": {}, "refused": why})

    def _header(self) -> dict[str, Any]:
        with self._path.open("rb") as file:
            return _read_line(file.readline(1 << 20))

    def _state(self) -> dict[str, Any] | None:
        try:
            state = json.loads(self._state_path.read_bytes())
        except (OSError, ValueError):
            return None
        return state if isinstance(state, dict) and {"offset", "reached"} <= set(state) else None

    def _note(self, state: Mapping[str, Any]) -> None:
        write_atomically(self._state_path, json.dumps(state).encode())


def _store(tracking: Tracking, run_id: str, points: list[Metric]) -> None:
    def log() -> None:
        for start in range(0, len(points), _BATCH_POINTS):
            tracking.client.log_batch(run_id, metrics=points[start : start + _BATCH_POINTS])

    if points:
        _ask(tracking, log)


def _reached(tracking: Tracking, run_id: str) -> dict[str, int]:
    """The last step the store has of every metric of a run."""
    run = _ask(tracking, lambda: tracking.client.get_run(run_id))
    return {metric.key: int(metric.step) for metric in run.data.to_proto().metrics}


def _ask(tracking: Tracking, call: Callable[[], T]) -> T:
    """Raises StoreAway if the store may answer later, or its own error if it never will."""
    try:
        check_reachable(tracking.uri)  # MLflow's client would try for a minute before it says that nobody answers
        return call()
    except PreflightError:
        raise StoreAway(_away(tracking)) from None
    except STORE_ERRORS as error:
        if may_pass(error):
            raise StoreAway(_away(tracking)) from None
        raise


def _away(tracking: Tracking) -> str:
    return f"tracking server {shown_uri(tracking.uri)} does not answer."


def _batches(path: Path, offset: int, reached: Mapping[str, int]) -> Iterator[tuple[list[Metric], int]]:
    """What a journal holds beyond an offset: points of at most a call each, and the offset behind them."""
    points: list[Metric] = []
    with path.open("rb") as file:
        file.seek(offset)
        while (line := file.readline()).endswith(b"\n"):
            new = [metric for metric in _points(_read_line(line)) if metric.step > reached.get(metric.key, -1)]
            if points and len(points) + len(new) > _BATCH_POINTS:
                yield points, offset
                points = []
            points += new
            offset += len(line)
    yield points, offset


def _points(value: Mapping[str, Any]) -> list[Metric]:
    """The points of a journal's line; none of the header, or of a line that is not as it was written."""
    try:
        step, time_ms = int(value["step"]), int(value["time_ms"])
        return [Metric(str(key), float(number), time_ms, step) for key, number in value["metrics"].items()]
    except (KeyError, TypeError, ValueError, AttributeError):
        return []


def _header(run_id: str, tracking: Tracking) -> dict[str, Any]:
    return {"format": FORMAT, "run_id": run_id, "tracking": shown_uri(tracking.uri)}


def _line(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode() + b"\n"


def _read_line(line: bytes) -> dict[str, Any]:
    """A journal's line; empty for one that a power cut left damaged."""
    try:
        value = json.loads(line)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)
