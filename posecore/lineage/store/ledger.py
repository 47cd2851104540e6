"""A list in the registry that only grows: entries get their numbers from the store, so no two writers share one.

The store numbers the versions of a registered model one by one, whoever asks, and never gives the number of a deleted
one again. Lists that must agree between machines are therefore kept as such: the moves of an alias, and the policies.
An entry's files are artifacts of the run that made it. Lineage does not take such entries for models.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from posecore.errors import LineageError
from posecore.lineage.store.tracking import RunLog, Tracking

POLICIES = "posecore policies"
"""List of the policies."""
_MOVES = "moves of "
_ABSENT = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")


def moves_of(name: str, alias: str) -> str:
    """List of the moves of an alias."""
    return f"{_MOVES}{name}@{alias}"


def is_ledger(name: str) -> bool:
    """Whether a registered model is such a list; no model may be called so."""
    return name == POLICIES or name.startswith(_MOVES)


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry.

    Attributes:
        number: its place; 1 is the first, numbers of lost entries are missing.
        run_id: of the run that made it.
        tags: what it says.
    """

    number: int
    run_id: str
    tags: Mapping[str, str]


def newest(tracking: Tracking, ledger: str) -> Entry | None:
    """The last entry that is there, or None.

    Raises:
        LineageError: the store refused.
    """
    try:
        found = tracking.ask(lambda client: client.get_registered_model(ledger)).latest_versions
    except MlflowException as error:
        if error.error_code in _ABSENT:
            return None
        raise _refused(ledger, error) from error
    return _entry(max(found, key=lambda version: int(version.version))) if found else None


def before(tracking: Tracking, ledger: str, number: int) -> Entry | None:
    """The last entry before a number, or None.

    Raises:
        LineageError: the store refused.
    """
    while number > 1:
        number -= 1
        try:
            return _entry(tracking.ask(lambda client, number=number: client.get_model_version(ledger, str(number))))  # type: ignore[misc]
        except MlflowException as error:
            if error.error_code not in _ABSENT:
                raise _refused(ledger, error) from error
    return None


def append(tracking: Tracking, ledger: str, run: RunLog, artifact: str, tags: Mapping[str, str], told: str) -> int:
    """Adds an entry and returns its number.

    Args:
        tracking: the store.
        ledger: the list; begun if there is none.
        run: that has made it.
        artifact: a file of that run.
        tags: what it says.
        told: the same for people.

    Raises:
        LineageError: the store refused.
    """
    try:
        if newest(tracking, ledger) is None:
            begin(tracking, ledger)
        source = f"{tracking.ask(lambda client: client.get_run(run.run_id)).info.artifact_uri}/{artifact}"
        # If an answer is lost, the entry is there twice: the second number follows nothing, and its move is refused.
        made = tracking.ask(
            lambda client: client.create_model_version(
                ledger, source, run_id=run.run_id, tags=dict(tags), description=told
            )
        )
    except MlflowException as error:
        raise _refused(ledger, error) from error
    return int(made.version)


def begin(tracking: Tracking, name: str) -> None:
    """Creates a registered model unless it is there.

    SQLite refuses whoever has read and then finds another writer at once, however long it was told to wait.
    """
    try:
        tracking.ask(lambda client: client.create_registered_model(name))
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _entry(version: ModelVersion) -> Entry:
    return Entry(int(version.version), version.run_id or "", dict(version.tags))


def _refused(ledger: str, error: MlflowException) -> LineageError:
    return LineageError(f"{ledger}: {' '.join(str(error).split())}")
