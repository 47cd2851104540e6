"""Moves of an alias: in one order that all machines agree on, with a record of each, and nothing lost between.

MLflow has no compare-and-set for aliases and no history. Every attempt is therefore a run of kind ``promotion`` with
its report as an artifact, and every move first takes the next number in a list of the registry
(:mod:`posecore.lineage.store.ledger`). A number that does not follow the last one seen means that somebody else was
faster: that attempt is refused. The list decides; the alias follows it. Whoever finds a move whose driver died between
its entry and the alias finishes it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal, TypeAlias

from mlflow.entities import Run, ViewType
from mlflow.exceptions import MlflowException

from posecore.errors import LineageError
from posecore.lineage.store import ledger
from posecore.lineage.store.tracking import RunLog, Tracking
from posecore.lineage.versions.tags import RegisteredVersion

Action: TypeAlias = Literal["promote", "rollback", "withdrawal"]
REPORT = "gate.json"
"""Artifact of an attempt: what was asked and what was found."""
_FROM, _TO, _AFTER, _POLICIES = "from", "to", "after", "policies"
_PAGE = 1000


@dataclass(frozen=True, slots=True)
class Move:
    """One attempt to move an alias.

    Attributes:
        run_id: its record; "" of a move that was made by other means.
        action: ``promote``, ``rollback`` or ``withdrawal``; ``by hand`` where the records do not follow on each other.
        time: UTC; of a move by hand, when it was noticed.
        user: who asked, "" by hand.
        source: version that held the alias before, or None.
        target: version that was to hold it, or None where the alias was to be removed.
        done: whether the alias moved.
        reason: why, as given or as the failing gates say.
    """

    run_id: str
    action: str
    time: datetime
    user: str
    source: int | None
    target: int | None
    done: bool
    reason: str


@dataclass(frozen=True, slots=True)
class Standing:
    """Where an alias stands, as it was looked at.

    Attributes:
        name: registered model.
        alias: the alias.
        holder: the version it points at, or None.
        last: number of the last entry in the list of its moves, 0 if there is none.
        policies: number of the policies that its last move was checked against.
    """

    name: str
    alias: str
    holder: RegisteredVersion | None
    last: int
    policies: int


def look(tracking: Tracking, name: str, alias: str) -> Standing:
    """Where an alias stands now, after a move that somebody could not finish was finished.

    Raises:
        LineageError: the store refused.
    """
    listed = ledger.moves_of(name, alias)
    last = entry = ledger.newest(tracking, listed)
    while entry is not None and not _counts(entry):  # it came too late, and moved nothing
        entry = ledger.before(tracking, listed, entry.number)
    holder = alias_holder(tracking, name, alias)
    if entry is not None and _is_open(tracking, entry):
        holder = _finish(tracking, name, alias, entry, holder)
    policies = 0 if entry is None else int(entry.tags.get(_POLICIES) or 0)
    return Standing(name, alias, holder, 0 if last is None else last.number, policies)


def begin_attempt(
    tracking: Tracking, action: Action, seen: Standing, target: RegisteredVersion | None, reason: str
) -> RunLog:
    """The run that records an attempt, before anything moves."""
    tags = {
        "posecore.kind": "promotion",
        "posecore.action": action,
        "posecore.model": seen.name,
        "posecore.alias": seen.alias,
        "posecore.from": _number(seen.holder),
        "posecore.to": _number(target),
        "posecore.reason": reason,
    }
    return tracking.start_run(f"{action} {seen.name}@{seen.alias}", tags)


def refuse(run: RunLog, sentence: str) -> None:
    """Closes the record of an attempt that moves nothing."""
    run.set_tags({"posecore.reason": sentence})
    run.end("FAILED")


def move(
    tracking: Tracking, seen: Standing, target: RegisteredVersion | None, run: RunLog, policies: int, told: str
) -> None:
    """Moves an alias, if nobody has since it was looked at.

    Args:
        tracking: the store.
        seen: where it stood.
        target: the version that is to hold it; None removes it.
        run: the record, which has its report.
        policies: number of those it was checked against.
        told: the move in words, for the list in the registry.

    Raises:
        LineageError: somebody else moved it first; the record says so.
    """
    listed = ledger.moves_of(seen.name, seen.alias)
    tags = {
        _FROM: _number(seen.holder),
        _TO: _number(target),
        _AFTER: str(seen.last),
        _POLICIES: str(policies),
    }
    now = alias_holder(tracking, seen.name, seen.alias)
    number = seen.last + 1 if now != seen.holder else ledger.append(tracking, listed, run, REPORT, tags, told)
    if now != seen.holder or number != seen.last + 1:
        now = look(tracking, seen.name, seen.alias).holder
        holds = "nobody" if now is None else f"version {now.version}"
        sentence = (
            f"{seen.alias} was moved by somebody else meanwhile and is held by {holds}; compare with that one, and ask "
            "again."
        )
        refuse(run, sentence)
        raise LineageError(f"{seen.name}: {sentence}")
    run.set_tags({"posecore.move": str(number)})
    _point(tracking, seen.name, seen.alias, target)
    # Somebody who finished this move for us, and then moved on, must not find it undone by us.
    while (last := ledger.newest(tracking, listed)) is not None and last.number > number and _counts(last):
        number = last.number
        _point(tracking, seen.name, seen.alias, _version(seen.name, last.tags[_TO]))
    run.end()


def history(tracking: Tracking, name: str, alias: str) -> list[Move]:
    """Every attempt to move an alias, oldest first, in whatever experiment it was recorded, deleted ones included.

    Where one record does not begin at the version that the record before it ended at, somebody moved the alias by other
    means; such moves are in the list, too.
    """
    holder = look(tracking, name, alias).holder
    moves: list[Move] = []
    standing: int | None = None
    for run in _records(tracking, name, alias):
        attempt = _move(run)
        if attempt.done and attempt.source != standing:
            moves.append(_by_hand(attempt.time, standing, attempt.source))
        moves.append(attempt)
        standing = attempt.target if attempt.done else standing
    now = None if holder is None else holder.version
    if now != standing:
        moves.append(_by_hand(datetime.now(UTC), standing, now))
    return moves


def promoted(moves: Sequence[Move]) -> list[int]:
    """Versions that were promoted and not taken back since, the last one last; what was moved by hand is none."""
    stack: list[int] = []
    for each in moves:
        if not each.done:
            continue
        if each.action in ("rollback", "withdrawal"):
            while stack and stack[-1] != each.target:
                stack.pop()
        elif each.action == "promote" and each.target is not None:
            stack.append(each.target)
    return stack


def alias_holder(tracking: Tracking, name: str, alias: str) -> RegisteredVersion | None:
    """The version an alias points at, or None."""
    try:
        found = tracking.ask(lambda client: client.get_model_version_by_alias(name, alias))
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise LineageError(f"{name}@{alias}: {' '.join(str(error).split())}") from error
    return RegisteredVersion(name, int(found.version))


def _finish(
    tracking: Tracking, name: str, alias: str, entry: ledger.Entry, holder: RegisteredVersion | None
) -> RegisteredVersion | None:
    """Does what a driver died before; what was deleted since, or moved by other means, stays as it is."""
    run = RunLog(tracking, entry.run_id)
    try:
        if _number(holder) == entry.tags.get(_FROM):
            target = _version(name, entry.tags[_TO])
            _point(tracking, name, alias, target)
            holder = target
    except MlflowException as error:
        refuse(run, " ".join(str(error).split()))
        return holder
    if _number(holder) == entry.tags.get(_TO):
        run.end()
    else:
        refuse(run, "it did not end, and the alias was moved by other means since.")
    return holder


def _counts(entry: ledger.Entry) -> bool:
    return entry.tags.get(_AFTER) == str(entry.number - 1)


def _is_open(tracking: Tracking, entry: ledger.Entry) -> bool:
    try:
        return tracking.ask(lambda client: client.get_run(entry.run_id)).info.status == "RUNNING"
    except MlflowException:
        return False


def _point(tracking: Tracking, name: str, alias: str, target: RegisteredVersion | None) -> None:
    if target is None:
        tracking.ask(lambda client: client.delete_registered_model_alias(name, alias))
    else:
        tracking.ask(lambda client: client.set_registered_model_alias(name, alias, str(target.version)))


def _records(tracking: Tracking, name: str, alias: str) -> list[Run]:
    client = tracking.client
    experiments = [each.experiment_id for each in client.search_experiments(view_type=ViewType.ALL)]
    found: list[Run] = []
    token: str | None = None
    while True:
        page = client.search_runs(
            experiments,
            "tags.`posecore.kind` = 'promotion'",
            run_view_type=ViewType.ALL,
            order_by=["attributes.start_time ASC"],
            max_results=_PAGE,
            page_token=token,
        )
        found += page
        token = page.token
        if not token:
            break
    # Compared here: a name may hold what a filter cannot quote.
    return [
        run
        for run in found
        if (run.data.tags.get("posecore.model"), run.data.tags.get("posecore.alias")) == (name, alias)
    ]


def _move(run: Run) -> Move:
    tags = run.data.tags
    return Move(
        run_id=run.info.run_id,
        action=tags.get("posecore.action", "promote"),
        time=datetime.fromtimestamp(run.info.start_time / 1000, UTC),
        user=tags.get("mlflow.user", ""),
        source=_digits(tags.get("posecore.from", "")),
        target=_digits(tags.get("posecore.to", "")),
        done=run.info.status == "FINISHED",
        reason=tags.get("posecore.reason", ""),
    )


def _by_hand(noticed: datetime, source: int | None, target: int | None) -> Move:
    return Move("", "by hand", noticed, "", source, target, done=True, reason="no record of it")


def _number(version: RegisteredVersion | None) -> str:
    return "" if version is None else str(version.version)


def _version(name: str, number: str) -> RegisteredVersion | None:
    return RegisteredVersion(name, int(number)) if number else None


def _digits(text: str) -> int | None:
    return int(text) if text.isdigit() else None
