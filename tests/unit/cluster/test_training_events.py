"""What is said of a lost training worker: a line, whatever Ray's error holds."""

import pytest
from ray.train import ControllerError, WorkerGroupError
from ray.train.v2._internal.execution.controller.state import ReschedulingState, RestartingState, RunningState

from posecore.cluster.training_events import TrainingEvents

LOST = WorkerGroupError("1 worker", {1: RuntimeError("A worker health check failed.\nWorker info: Worker(\n")})
NO_ROOM = ControllerError(TimeoutError("The group did not start\nin 30 s"))


def test_each_event_is_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    events = TrainingEvents()
    waits = ReschedulingState(training_failed_error=NO_ROOM)
    states = [RestartingState(training_failed_error=LOST), waits, waits, RunningState(), waits]
    for before, after in zip([RunningState(), *states[:-1]], states, strict=True):
        events.after_controller_state_update(before, after)
    lost, *waiting = capsys.readouterr().out.splitlines()
    assert lost == (
        "lost: training worker 1 (RuntimeError: A worker health check failed); all workers start again from the last "
        "checkpoint."
    )
    assert len(waiting) == 2, "once each time"
    assert all(line.startswith("training waits for its workers: ControllerError: ") for line in waiting)
