"""What somebody who waits for a training is told of it, beside its progress: lost workers, and waiting for new ones.

Ray Train logs every such event with the stacks of its own calls, of a worker that was killed as well as of one that is
shut down afterwards. Its console is closed therefore (its files in Ray's session folder have everything), and what
concerns a user is said here in a line.
"""

from typing import TYPE_CHECKING

from ray.train.v2._internal.execution.callback import ControllerCallback
from ray.train.v2._internal.execution.controller.state import (
    ReschedulingState,
    ResizingState,
    RestartingState,
    TrainControllerState,
)

from posecore.counting import counted

if TYPE_CHECKING:
    from ray.train import TrainingFailedError


class TrainingEvents(ControllerCallback):
    """Says what happened, in the process of Ray's controller, which Ray shows in the driver's output."""

    def __init__(self) -> None:
        self._waits = False

    def after_controller_state_update(
        self, previous_state: TrainControllerState, current_state: TrainControllerState
    ) -> None:
        """Ray calls it at every change."""
        if isinstance(current_state, RestartingState):
            print(restart_line(current_state.training_failed_error), flush=True)
        if isinstance(current_state, ResizingState):
            workers = current_state.scaling_decision.num_workers
            print(f"resized to {counted(workers, 'training worker')}, from the last checkpoint.", flush=True)
        if isinstance(current_state, ReschedulingState) and not self._waits:
            print(f"training waits for its workers: {_first_line(current_state.training_failed_error)}", flush=True)
        self._waits = isinstance(current_state, ReschedulingState)


def restart_line(error: "TrainingFailedError") -> str:
    """Which workers were lost, and what follows."""
    failures = getattr(error, "worker_failures", None) or {}
    lost = ", ".join(f"{rank} ({_first_line(failure)})" for rank, failure in sorted(failures.items()))
    what = f"training worker {lost}" if lost else _first_line(error)
    return f"lost: {what}; all workers start again from the last checkpoint."


def _first_line(error: BaseException) -> str:
    said = " ".join(str(error).strip().partition("\n")[0].split()).rstrip(".")
    return f"{type(error).__name__}: {said[:200]}" if said else type(error).__name__
