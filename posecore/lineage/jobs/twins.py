"""Two drivers of one job on machines that share nothing but the tracking server: the later one waits.

Locks in the run's folder keep two drivers apart where both see them (:mod:`posecore.lineage.jobs.steps`). Where they do
not, as with folders of the same name on two machines' own disks, the server is asked: every submission signs in its run
now and then, and one that finds an earlier submission of the same configuration and code alive waits until that has
ended. A server has no lock to offer; but a submission is there before it looks, so that of two at least the later sees
the other.
"""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from mlflow.entities import Run

from posecore.lineage.store.outage import STORE_ERRORS
from posecore.lineage.store.tracking import RunLog, Tracking

ALIVE, HOST = "posecore.alive", "posecore.host"
"""Tags of a submission: a number that grows while its driver lives, and where that is."""
CONFIG, CODE, LOCK = "posecore.config", "posecore.code", "posecore.lock"
"""Tags of a submission by which it is known: its configuration's and its code's digest, and its lock file."""
_BEAT_S, _PATIENCE_S, _LOOK_S = 15.0, 60.0, 2.0


class Pulse:
    """Signs in a submission's run as long as the ``with`` lasts.

    Args:
        run: of the submission.
    """

    def __init__(self, run: RunLog) -> None:
        self._run = run
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._live, daemon=True, name="pulse")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._ended.set()
        self._thread.join()

    def _live(self) -> None:
        count = 0
        while not self._ended.wait(_BEAT_S):
            count += 1
            try:
                self._run.tracking.client.set_tag(self._run.run_id, ALIVE, str(count))
            except STORE_ERRORS:
                continue  # it is away for a while; nobody else can ask it either


def wait_for_earlier(tracking: Tracking, own: Run, waiting: Callable[[str], None]) -> None:
    """Returns when no earlier submission of the same job is alive on a machine whose locks cannot be seen from here.

    Args:
        tracking: the store.
        own: run of this submission.
        waiting: called once with who is waited for. Who gives no sign for a minute counts as dead.
    """
    seen: dict[str, tuple[str, float]] = {}
    told = False
    while twins := [run for run in _earlier(tracking, own) if not Path(run.data.tags[LOCK]).exists()]:
        for run in twins:
            sign, now = run.data.tags[ALIVE], time.monotonic()
            if seen.get(run.info.run_id, ("", 0.0))[0] != sign:
                seen[run.info.run_id] = (sign, now)
            elif now - seen[run.info.run_id][1] >= _PATIENCE_S:
                dead = RunLog(tracking, run.info.run_id)
                dead.set_tags({"posecore.error": f"its driver gave no sign of life for {_PATIENCE_S:g} s"})
                dead.end("KILLED")
        if not told:
            waiting(", ".join(sorted({run.data.tags.get(HOST, "another machine") for run in twins})))
            told = True
        time.sleep(_LOOK_S)


def _earlier(tracking: Tracking, own: Run) -> list[Run]:
    """Submissions of the same job that have not ended and began before; of two of one moment, one says so."""
    tags = own.data.tags
    found = tracking.ask(
        lambda client: client.search_runs(
            [own.info.experiment_id],
            f"attributes.status = 'RUNNING' AND tags.`{CONFIG}` = '{tags[CONFIG]}' AND tags.`{CODE}` = '{tags[CODE]}' "
            f"AND tags.`{ALIVE}` LIKE '%'",
        )
    )
    began = (own.info.start_time, own.info.run_id)
    return [run for run in found if (run.info.start_time, run.info.run_id) < began]
