"""Ray Train's list of a run's checkpoints, made true to what lies in the run's folder before a training starts.

Ray keeps the list in a file that it writes in place, after a checkpoint is there. A full disk or a kill leaves the file
cut, or without the newest checkpoint; a deleted folder, or a list of another version of Ray, has it refused; each of
them for ever. A damaged checkpoint counts as one of those to keep, so that whole ones are deleted in its place.
"""

import json
import sys

from ray.train.v2._internal.execution.checkpoint.checkpoint_manager import (
    _CheckpointManagerState,
    _TrainingResultState,
)

from posecore.errors import CheckpointError, IntegrityError
from posecore.storage import AnyPath, remove_folder, write_atomically
from posecore.training.checkpoint import check_sizes, step_of

LIST_FILE = "checkpoint_manager_snapshot.json"


def mend_checkpoint_list(folder: AnyPath) -> None:
    """Has the list name the whole checkpoints of a folder, and says which of those it named are not.

    Looks at sizes alone: a worker reads what it goes on from, and passes over what proves damaged. Where no checkpoint
    is whole, the list goes on naming damaged ones, so that the worker refuses to start from nothing. They, and what a
    killed process left unfinished, are removed once a whole one has come as far.

    Args:
        folder: where Ray puts the checkpoints; no training may run in it.
    """
    listed = _listed(folder / LIST_FILE)
    found = {path.name: step for path in folder.glob("step_*") if (step := step_of(path.name)) is not None}
    faults = {name: fault for name in found if (fault := _fault(folder / name)) is not None}
    whole = found.keys() - faults.keys()
    reached = max((found[name] for name in whole), default=-1)
    for name, fault in faults.items():
        if found[name] <= reached:
            remove_folder(folder / name)
        elif whole and name in (listed or ()):
            print(f"a checkpoint is passed over: {fault}", file=sys.stderr, flush=True)
    names = whole
    if not whole:  # of a list that cannot be read nobody knows what it named
        names = found.keys() & (found.keys() if listed is None else listed)
    known = {name: place for place, name in enumerate(listed or ())}
    ordered = sorted(names, key=lambda name: (found[name], known.get(name, len(known)), name))
    if ordered != listed:
        write_atomically(folder / LIST_FILE, _content(ordered))


def _listed(file: AnyPath) -> list[str] | None:
    """What the list names; None if Ray would not read it."""
    try:
        state = _CheckpointManagerState.parse_obj(json.loads(file.read_bytes()))
    except FileNotFoundError:
        return []
    except ValueError:
        return None
    return [result.checkpoint_dir_name for result in state.checkpoint_results]


def _content(names: list[str]) -> bytes:
    results = [_TrainingResultState(checkpoint_dir_name=name, metrics={}) for name in names]
    state = _CheckpointManagerState(
        checkpoint_results=results,
        checkpoint_report_indices=list(range(len(names))),
        latest_checkpoint_result=results[-1] if results else None,
        pending_training_results=[],
        pending_validation_specs=[],
        current_report_index=len(names),
        validated_checkpoint_dir_names=[],
        timed_out_validation_checkpoint_dir_names=[],
        failed_validation_checkpoint_dir_names=[],
    )
    return str(state.json()).encode()


def _fault(checkpoint: AnyPath) -> str | None:
    try:
        check_sizes(checkpoint)
    except (CheckpointError, IntegrityError) as error:
        return str(error)
    return None
