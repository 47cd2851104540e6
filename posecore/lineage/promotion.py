"""Moving an alias such as ``champion``: only through stated gates, with a record of why, and undoable.

MLflow keeps no history of alias moves, so every attempt is an append-only run of kind ``promotion`` with the gate
report as an artifact. The alias moves last: a crash leaves a record without a move, never a move without a record.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Literal, TypeAlias

from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from pydantic import BeforeValidator

from posecore.config import Config
from posecore.errors import ConfigError, LineageError
from posecore.lineage.permissions import objections
from posecore.lineage.pictures import Editions
from posecore.lineage.query import LineageGraph
from posecore.lineage.tracking import RunLog, Tracking
from posecore.lineage.versions import WITHDRAWN_TAG, RegisteredVersion, evaluations, get_version

Action: TypeAlias = Literal["promote", "rollback", "withdrawal"]

_GATE = re.compile(r"^\s*(?P<metric>\S+?)\s*(?P<operator>>=|<=)\s*(?P<bound>[-+.\deE]+)\s*$")


class Gate(Config):
    """A bound on one metric, which also says which way is better.

    Attributes:
        metric: ``set/metric``, such as ``coco/AP``.
        operator: ``>=`` where more is better, ``<=`` where less is.
        bound: the value to reach.
        max_regression: how much worse than the alias's holder the candidate may be, in the metric's own unit, on the
            same evaluation data; None does not compare.
    """

    metric: str
    operator: Literal[">=", "<="]
    bound: float
    max_regression: float | None = None

    @classmethod
    def parse(cls, text: str, max_regression: float | None = None) -> "Gate":
        """Reads ``coco/AP>=0.6``.

        Raises:
            ConfigError: the text has another form.
        """
        match = _GATE.match(text)
        try:
            bound = float(match["bound"]) if match else None
        except ValueError:
            bound = None
        if match is None or bound is None:
            raise ConfigError(f"gate {text!r}: expected set/metric>=number or set/metric<=number, like coco/AP>=0.6.")
        operator: Literal[">=", "<="] = ">=" if match["operator"] == ">=" else "<="
        return cls(metric=match["metric"], operator=operator, bound=bound, max_regression=max_regression)

    def holds(self, value: float) -> bool:
        """Whether a value reaches the bound; NaN does not."""
        return value >= self.bound if self.operator == ">=" else value <= self.bound

    def regression(self, value: float, holder: float) -> float:
        """By how much ``value`` is worse than ``holder``; negative if better."""
        return holder - value if self.operator == ">=" else value - holder


def _gate_from_text(value: object) -> object:
    return Gate.parse(value) if isinstance(value, str) else value


class PromotionConfig(Config):
    """What a version must show to get an alias.

    Attributes:
        gates: bounds; a string such as ``coco/AP>=0.6`` or all fields.
        max_regression: for gates that state none of their own.
        commercial_use: refuse a model that has seen data whose licence forbids commercial use or says nothing of it.
    """

    gates: tuple[Annotated[Gate, BeforeValidator(_gate_from_text)], ...] = ()
    max_regression: float | None = None
    commercial_use: bool = False


class Check(Config):
    """One line of the gate report.

    Attributes:
        passed: whether it allows the promotion.
        statement: what was compared with what, as a sentence.
    """

    passed: bool
    statement: str


@dataclass(frozen=True, slots=True)
class Move:
    """One attempt to move an alias.

    Attributes:
        run_id: its record.
        action: ``promote`` or ``rollback``.
        time: UTC.
        user: who asked.
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


def check_gates(
    tracking: Tracking, candidate: RegisteredVersion, holder: RegisteredVersion | None, config: PromotionConfig
) -> list[Check]:
    """Compares a candidate with the bounds and with the alias's holder.

    Args:
        tracking: the store.
        candidate: the version that wants the alias.
        holder: the version that has it.
        config: the gates.
    """
    values = _measured(tracking, candidate)
    held = {} if holder is None else _measured(tracking, holder)
    checks = []
    for gate in config.gates:
        found = values.get(gate.metric, {})
        if not found:
            known = ", ".join(sorted(values)) or "none"
            checks.append(Check(passed=False, statement=f"{gate.metric} was not measured (measured: {known})."))
            continue
        for value in found.values():
            statement = f"{gate.metric} is {value:.6g}, required {gate.operator} {gate.bound:g}."
            checks.append(Check(passed=gate.holds(value), statement=statement))
        margin = gate.max_regression if gate.max_regression is not None else config.max_regression
        if margin is not None and holder is not None:
            checks += _compare(gate, margin, found, held.get(gate.metric, {}), holder)
    if config.commercial_use:
        checks.append(_licence_check(tracking, candidate))
    return checks


def promote(
    tracking: Tracking, candidate: RegisteredVersion, alias: str, config: PromotionConfig, reason: str = ""
) -> list[Check]:
    """Moves an alias to a version if every gate holds.

    Args:
        tracking: the store.
        candidate: the version.
        alias: such as ``champion``.
        config: the gates.
        reason: why, in the user's words.

    Returns:
        The gate report.

    Raises:
        LineageError: a gate failed (the message is its sentence), the version already holds the alias, or it does not
            exist. A failed gate is recorded, too.
    """
    marked = get_version(tracking, candidate.name, candidate.version).tags.get(WITHDRAWN_TAG)
    holder = alias_holder(tracking, candidate.name, alias)
    if holder == candidate:
        raise LineageError(f"{candidate.name} version {candidate.version} already holds {alias}; nothing was moved.")
    checks = check_gates(tracking, candidate, holder, config)
    if marked is not None:
        checks.append(Check(passed=False, statement=f"it has seen what was withdrawn since (run {marked})."))
    failed = [check.statement for check in checks if not check.passed]
    run = _start(tracking, "promote", candidate.name, alias, holder, candidate, reason)
    report = {
        "gates": config.model_dump(mode="json"),
        "checks": [check.model_dump() for check in checks],
        "promoted": not failed,
    }
    run.log_dict(report, "gate.json")
    if failed:
        run.set_tags({"posecore.reason": " ".join(failed)})
        run.end("FAILED")
        raise LineageError(f"{candidate.name} version {candidate.version} was not promoted: {' '.join(failed)}")
    if (now := alias_holder(tracking, candidate.name, alias)) != holder:  # somebody else was faster
        told = "nobody" if now is None else f"version {now.version}"
        sentence = f"{alias} is held by {told} since the gates were checked; compare with that one and promote again."
        run.set_tags({"posecore.reason": sentence})
        run.end("FAILED")
        raise LineageError(f"{candidate.name} version {candidate.version} was not promoted: {sentence}")
    tracking.client.set_registered_model_alias(candidate.name, alias, str(candidate.version))
    run.end()
    return checks


def rollback(tracking: Tracking, name: str, alias: str, reason: str) -> RegisteredVersion | None:
    """Undoes the last move of an alias; called again, the one before.

    Versions that were deleted, or that have seen what was withdrawn since, are passed over.

    Args:
        tracking: the store.
        name: registered model.
        alias: such as ``champion``.
        reason: why; a rollback without a reason helps nobody later.

    Returns:
        The version that holds the alias now, or None if nothing held it before the undone move.

    Raises:
        LineageError: no reason, no move to undo, or the alias was moved by other means since.
    """
    if not reason.strip():
        raise LineageError("a rollback needs a reason; say what went wrong.")
    holders = _holders(history(tracking, name, alias))
    if not holders:
        raise LineageError(f"{name}: no recorded move of {alias} is left to undo.")
    current = alias_holder(tracking, name, alias)
    if current is None or current.version != holders[-1]:
        now = "nothing" if current is None else f"version {current.version}"
        raise LineageError(
            f"{name}: {alias} points at {now}, the record says version {holders[-1]}; it was moved by other means, so "
            "promote the version you want instead."
        )
    earlier = (RegisteredVersion(name, number) for number in reversed(holders[:-1]))
    target = next((version for version in earlier if _may_hold(tracking, version)), None)
    run = _start(tracking, "rollback", name, alias, current, target, reason)
    _set_alias(tracking, name, alias, target)
    run.end()
    return target


def _may_hold(tracking: Tracking, version: RegisteredVersion) -> bool:
    """Whether a version is still registered and no withdrawal has marked it."""
    try:
        return WITHDRAWN_TAG not in get_version(tracking, version.name, version.version).tags
    except LineageError:
        return False


def move_off(
    tracking: Tracking,
    holder: RegisteredVersion,
    alias: str,
    acceptable: Callable[[RegisteredVersion], bool],
    reason: str,
) -> RegisteredVersion | None:
    """Moves an alias off a version: to the last that held it and is acceptable, else it is removed.

    Args:
        tracking: the store.
        holder: has the alias.
        alias: such as ``champion``.
        acceptable: which earlier holders may have it again.
        reason: why.

    Returns:
        The version that holds the alias now, or None.
    """
    earlier = [RegisteredVersion(holder.name, number) for number in _holders(history(tracking, holder.name, alias))]
    target = next((version for version in reversed(earlier) if version != holder and acceptable(version)), None)
    run = _start(tracking, "withdrawal", holder.name, alias, holder, target, reason)
    _set_alias(tracking, holder.name, alias, target)
    run.end()
    return target


def _set_alias(tracking: Tracking, name: str, alias: str, target: RegisteredVersion | None) -> None:
    if target is None:
        tracking.client.delete_registered_model_alias(name, alias)
    else:
        tracking.client.set_registered_model_alias(name, alias, str(target.version))


def history(tracking: Tracking, name: str, alias: str) -> list[Move]:
    """Every attempt to move an alias, oldest first, in whatever experiment it was recorded."""
    found = tracking.client.search_runs(
        [each.experiment_id for each in tracking.client.search_experiments()],
        "tags.`posecore.kind` = 'promotion'",
        order_by=["attributes.start_time ASC"],
        max_results=10_000,
    )
    # Compared here: a name may hold what a filter cannot quote.
    runs = [
        run
        for run in found
        if (run.data.tags.get("posecore.model"), run.data.tags.get("posecore.alias")) == (name, alias)
    ]
    holder = alias_holder(tracking, name, alias)
    moves = [_move(run) for run in runs]
    # A process that died between moving the alias and closing its record leaves the record RUNNING; the alias decides.
    if moves and runs[-1].info.status == "RUNNING" and moves[-1].target == (holder.version if holder else None):
        RunLog(tracking, moves[-1].run_id).end()
        moves[-1] = _move(tracking.client.get_run(moves[-1].run_id))
    return moves


def alias_holder(tracking: Tracking, name: str, alias: str) -> RegisteredVersion | None:
    """The version an alias points at, or None."""
    try:
        found = tracking.client.get_model_version_by_alias(name, alias)
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise LineageError(f"{name}@{alias}: {' '.join(str(error).split())}") from error
    return RegisteredVersion(name, int(found.version))


def _measured(tracking: Tracking, model: RegisteredVersion) -> dict[str, dict[str, float]]:
    """Metric ``set/metric`` → evaluation digest → value."""
    values: dict[str, dict[str, float]] = {}
    for result in evaluations(get_version(tracking, model.name, model.version)):
        for metric, value in result.metrics.items():
            values.setdefault(f"{result.name}/{metric}", {})[result.digest] = value
    return values


def _compare(
    gate: Gate, margin: float, candidate: dict[str, float], held: dict[str, float], holder: RegisteredVersion
) -> list[Check]:
    shared = sorted(candidate.keys() & held.keys())
    if not shared:
        statement = (
            f"{gate.metric} cannot be compared: version {holder.version} was not measured on the same evaluation data "
            f"({_shortened(candidate)}, but {_shortened(held)}); evaluate both on one set."
        )
        return [Check(passed=False, statement=statement)]
    checks = []
    for digest in shared:
        worse = gate.regression(candidate[digest], held[digest])
        statement = (
            f"{gate.metric} is {candidate[digest]:.6g}, version {holder.version} has {held[digest]:.6g} on the same "
            f"data: {abs(worse):.6g} {'worse' if worse > 0 else 'better or equal'}, allowed regression {margin:g}."
        )
        checks.append(Check(passed=worse <= margin, statement=statement))
    return checks


def _licence_check(tracking: Tracking, candidate: RegisteredVersion) -> Check:
    graph = LineageGraph.load(tracking)
    found, unknown = objections(graph, Editions.of(graph), graph.weights_node(candidate), "commercial")
    if found or unknown:
        said = [*map(str, found), *(f"not known: {why}" for why in unknown)]
        return Check(passed=False, statement=f"commercial use is not stated as allowed: {'; '.join(said)}.")
    return Check(passed=True, statement="every licence of what the model came from allows commercial use.")


def _start(
    tracking: Tracking,
    action: Action,
    name: str,
    alias: str,
    source: RegisteredVersion | None,
    target: RegisteredVersion | None,
    reason: str,
) -> RunLog:
    tags = {
        "posecore.kind": "promotion",
        "posecore.action": action,
        "posecore.model": name,
        "posecore.alias": alias,
        "posecore.from": "" if source is None else str(source.version),
        "posecore.to": "" if target is None else str(target.version),
        "posecore.reason": reason,
    }
    return tracking.start_run(f"{action} {name}@{alias}", tags)


def _move(run: Run) -> Move:
    tags = run.data.tags
    source, target = tags.get("posecore.from", ""), tags.get("posecore.to", "")
    return Move(
        run_id=run.info.run_id,
        action=tags["posecore.action"],
        time=datetime.fromtimestamp(run.info.start_time / 1000, UTC),
        user=tags.get("mlflow.user", ""),
        source=int(source) if source else None,
        target=int(target) if target else None,
        done=run.info.status == "FINISHED",
        reason=tags.get("posecore.reason", ""),
    )


def _holders(moves: Sequence[Move]) -> list[int]:
    """Versions that held the alias, as a stack: a promotion puts one on top, going back takes off what lies above."""
    stack: list[int] = []
    for move in moves:
        if not move.done:
            continue
        if move.action in ("rollback", "withdrawal"):
            while stack and stack[-1] != move.target:
                stack.pop()
        elif move.target is not None:
            stack.append(move.target)
    return stack


def _shortened(values: dict[str, float]) -> str:
    return ", ".join(digest[:12] for digest in sorted(values)) or "not at all"
