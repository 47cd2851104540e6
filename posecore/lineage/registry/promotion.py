"""Moving an alias such as ``champion``: only through what its policies ask, with a record of why, and undoable.

The policies of an alias (:mod:`posecore.lineage.registry.policies`) always apply; what somebody asks beside them can
only ask for more. Figures come from evaluations, licences and leaks from the whole ancestry, and the alias moves last
(:mod:`posecore.lineage.registry.moves`).
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from posecore.counting import counted
from posecore.errors import LineageError
from posecore.lineage.ancestry.graph import Node
from posecore.lineage.ancestry.leaks import leaks_between
from posecore.lineage.ancestry.measurements import Measurement, Measurements, measurements_of
from posecore.lineage.ancestry.permissions import verdicts
from posecore.lineage.ancestry.query import LineageGraph
from posecore.lineage.registry.announcement import announce
from posecore.lineage.registry.gates import Check, Held, Requirements, check_figures
from posecore.lineage.registry.moves import (
    REPORT,
    Action,
    Standing,
    begin_attempt,
    history,
    look,
    move,
    promoted,
    refuse,
)
from posecore.lineage.registry.policies import AliasPolicy, CurrentPolicies, policies_in_force
from posecore.lineage.store.tracking import Tracking
from posecore.lineage.versions.model_source import weights_in_registry
from posecore.lineage.versions.tags import SHA256, WITHDRAWN_TAG, RegisteredVersion, get_version


@dataclass(frozen=True)
class Promotion:
    """What a promotion would be checked against.

    Attributes:
        candidate: the version.
        seen: where the alias stands.
        in_force: the policies that hold.
        wanted: every requirement: those of the alias's policies, and what is asked beside them.
        policies: those of the alias.
    """

    candidate: RegisteredVersion
    seen: Standing
    in_force: CurrentPolicies
    policies: Sequence[AliasPolicy]
    wanted: Sequence[Requirements]


def prepare(
    tracking: Tracking, candidate: RegisteredVersion, alias: str, beside: Requirements | None = None
) -> Promotion:
    """Looks at the alias and at what it asks.

    Args:
        tracking: the store.
        candidate: the version.
        alias: such as ``champion``.
        beside: what is asked beside the alias's policies.

    Raises:
        LineageError: there is no such version, it holds the alias already, or the policies are not what they were.
    """
    get_version(tracking, candidate.name, candidate.version)
    seen = look(tracking, candidate.name, alias)
    if seen.holder == candidate:
        raise LineageError(f"{candidate.name} version {candidate.version} already holds {alias}; nothing was moved.")
    in_force = policies_in_force(tracking)
    if in_force.number < seen.policies:
        raise LineageError(
            f"{candidate.name}@{alias} was last moved under policies {seen.policies}, and the newest there now are "
            f"{in_force.number or 'none'}; register them again."
        )
    policies = in_force.of(candidate.name, alias)
    asked = () if beside is None or beside == Requirements() else (beside,)
    return Promotion(candidate, seen, in_force, policies, (*policies, *asked))


def promote(
    tracking: Tracking,
    candidate: RegisteredVersion,
    alias: str,
    beside: Requirements | None = None,
    reason: str = "",
    *,
    measured_before: Callable[[Promotion], None] | None = None,
) -> list[Check]:
    """Moves an alias to a version if everything holds that its policies ask.

    Args:
        tracking: the store.
        candidate: the version.
        alias: such as ``champion``.
        beside: what is asked beside the policies.
        reason: why, in the user's words.
        measured_before: called before figures are read, to measure what is missing.

    Returns:
        The gate report.

    Raises:
        LineageError: something does not hold (the message is its sentence), or see :func:`prepare`; or somebody else
            moved the alias meanwhile. A refused attempt is recorded, too.
    """
    asked = prepare(tracking, candidate, alias, beside)
    if measured_before is not None:
        measured_before(asked)
    checks = looked_at(tracking, asked)
    failed = [each.statement for each in checks if not each.passed]
    run = begin_attempt(tracking, "promote", asked.seen, candidate, reason)
    report = {
        "policies": {"number": asked.in_force.number, "sha256": asked.in_force.digest},
        "required": [each.model_dump(mode="json") for each in asked.wanted],
        "checks": [each.model_dump() for each in checks],
        "promoted": not failed,
    }
    run.log_dict(report, REPORT)
    if failed:
        refuse(run, " ".join(failed))
        raise LineageError(f"{candidate.name} version {candidate.version} was not promoted: {' '.join(failed)}")
    told = _told(tracking, "promote", asked.seen, candidate, reason)
    move(tracking, asked.seen, candidate, run, asked.in_force.number, told)
    return [*checks, *_announced(tracking, asked.in_force, "promote", asked.seen, candidate, reason)]


def looked_at(tracking: Tracking, asked: Promotion) -> list[Check]:
    """Whether everything holds that a promotion asks; nothing is changed or recorded."""
    candidate = asked.candidate
    marked = get_version(tracking, candidate.name, candidate.version).tags.get(WITHDRAWN_TAG)
    graph = LineageGraph.load(tracking) if asked.wanted else None
    checks = [] if graph is None else check(tracking, graph, candidate, asked.seen.holder, asked.wanted)
    if marked is not None:
        checks.append(Check(passed=False, statement=f"it has seen what was withdrawn since (run {marked})."))
    return checks


def check(
    tracking: Tracking,
    graph: LineageGraph,
    candidate: RegisteredVersion,
    holder: RegisteredVersion | None,
    wanted: Sequence[Requirements],
    more: Mapping[str, Mapping[str, float]] | None = None,
) -> list[Check]:
    """Whether a version meets requirements, one line per thing that was looked at.

    Args:
        tracking: the store.
        graph: what it records.
        candidate: the version.
        holder: the version that has the alias.
        wanted: what is required.
        more: name of an evaluation set to figures of the candidate beside those its evaluations recorded.

    Raises:
        QuestionError: there is no such version.
    """
    own = graph.weights_node(candidate)
    if any(each.gates for each in wanted):
        stated = weights_in_registry(tracking, candidate)
        if stated != own.key:
            said = f"its files are weights {stated[:12]}, its tag {SHA256} says {own.key[:12]}; register it again."
            return [Check(passed=False, statement=said)]
    figures = measurements_of(tracking, graph, own.key)
    found = _with_more(figures.found, more or {})
    held = _held(tracking, graph, holder) if any(each.compares for each in wanted) else None
    checks = []
    for requirements in wanted:
        checks += check_figures(requirements, found, None if held is None else held[0])
        checks += _licences(graph, own, requirements)
        if requirements.no_leaked_pairs:
            checks += _leaks(tracking, graph, own, requirements, found)
    if not all(each.passed for each in checks):
        doubts = [*figures.doubts, *(() if held is None else held[1].doubts)]
        checks += [Check(passed=False, statement=doubt) for doubt in dict.fromkeys(doubts)]
    once: dict[str, Check] = {each.statement: each for each in checks}
    return list(once.values())


def _with_more(found: Sequence[Measurement], more: Mapping[str, Mapping[str, float]]) -> list[Measurement]:
    return [replace(each, metrics={**each.metrics, **more.get(each.name, {})}) for each in found]


def _held(
    tracking: Tracking, graph: LineageGraph, holder: RegisteredVersion | None
) -> tuple[Held, Measurements] | None:
    if holder is None:
        return None
    figures = measurements_of(tracking, graph, graph.weights_node(holder).key)
    return Held(holder.version, figures.found), figures


def _licences(graph: LineageGraph, weights: Node, wanted: Requirements) -> Iterator[Check]:
    for verdict in verdicts(graph, weights, wanted.use, wanted.stated):
        if verdict.reasons:
            said = f"{verdict.use} use is not stated as allowed: {'; '.join(verdict.reasons)}."
        else:
            said = f"every licence of what the model came from allows {verdict.use} use."
        yield Check(passed=not verdict.reasons, statement=said)


def _leaks(
    tracking: Tracking, graph: LineageGraph, weights: Node, wanted: Requirements, figures: Sequence[Measurement]
) -> Iterator[Check]:
    gated = {name for gate in wanted.gates for name in gate.sets}
    judged = {each.digest: each.name for each in figures if each.name in gated}
    behind = graph.graph.reached([weights], backwards=True)
    trained = [node.key for node in behind if node.kind == "split"]
    shared = leaks_between(tracking, graph, trained, judged)
    for sentence in shared:
        yield Check(passed=False, statement=sentence)
    if not shared:
        statement = f"nothing it learned from ({counted(len(trained), 'set')}) shares a picture, subject or video with"
        yield Check(
            passed=True, statement=f"{statement} what it is judged on ({', '.join(sorted(set(judged.values())))})."
        )


@dataclass(frozen=True, slots=True)
class Way:
    """Where a rollback leads.

    Attributes:
        seen: where the alias stands.
        target: the version that would hold it, or None for none.
        passed_over: earlier holders that may not have it again, with why.
    """

    seen: Standing
    target: RegisteredVersion | None
    passed_over: Sequence[tuple[RegisteredVersion, str]]


def way_back(tracking: Tracking, name: str, alias: str) -> Way:
    """To the last version that was promoted, still lives and is not marked by a withdrawal; nothing is changed.

    Where the alias was moved by hand, that is the version promoted last; else the one before it.

    Raises:
        LineageError: no promotion is recorded that could be taken back.
    """
    moves = history(tracking, name, alias)
    seen = look(tracking, name, alias)
    stack = promoted(moves)
    if not stack:
        raise LineageError(f"{name}: no recorded promotion to {alias} is left to go back on.")
    if seen.holder is not None and stack[-1] == seen.holder.version:
        stack.pop()
    passed_over: list[tuple[RegisteredVersion, str]] = []
    while stack:
        version = RegisteredVersion(name, stack.pop())
        why = "it holds the alias" if version == seen.holder else _why_not(tracking, version)
        if why is None:
            return Way(seen, version, passed_over)
        passed_over.append((version, why))
    return Way(seen, None, passed_over)


def rollback(tracking: Tracking, name: str, alias: str, reason: str) -> RegisteredVersion | None:
    """Undoes the last move of an alias; called again, the one before. See :func:`way_back`.

    Args:
        tracking: the store.
        name: registered model.
        alias: such as ``champion``.
        reason: why; a rollback without a reason helps nobody later.

    Returns:
        The version that holds the alias now, or None if no promoted version is left.

    Raises:
        LineageError: no reason, nothing to undo, or somebody else moved the alias meanwhile.
    """
    if not reason.strip():
        raise LineageError("a rollback needs a reason; say what went wrong.")
    way = way_back(tracking, name, alias)
    report = {"passed_over": {str(version.version): why for version, why in way.passed_over}}
    _carry_out(tracking, "rollback", way.seen, way.target, reason, report)
    return way.target


def _why_not(tracking: Tracking, version: RegisteredVersion) -> str | None:
    """Why a version may not have an alias again, or None."""
    try:
        marked = WITHDRAWN_TAG in get_version(tracking, version.name, version.version).tags
    except LineageError:
        return "it was deleted"
    return "it has seen what was withdrawn since" if marked else None


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
    seen = look(tracking, holder.name, alias)
    earlier = [RegisteredVersion(holder.name, number) for number in promoted(history(tracking, holder.name, alias))]
    target = next((version for version in reversed(earlier) if version != holder and acceptable(version)), None)
    _carry_out(tracking, "withdrawal", seen, target, reason, {})
    return target


def _carry_out(
    tracking: Tracking,
    action: Action,
    seen: Standing,
    target: RegisteredVersion | None,
    reason: str,
    report: Mapping[str, Any],
) -> None:
    run = begin_attempt(tracking, action, seen, target, reason)
    run.log_dict(report, REPORT)
    in_force = policies_in_force(tracking)
    move(
        tracking, seen, target, run, max(seen.policies, in_force.number), _told(tracking, action, seen, target, reason)
    )
    for problem in _announced(tracking, in_force, action, seen, target, reason):
        run.set_tags({"posecore.not_told": problem.statement})


def _told(tracking: Tracking, action: Action, seen: Standing, target: RegisteredVersion | None, reason: str) -> str:
    before, after = ("no version" if each is None else f"version {each.version}" for each in (seen.holder, target))
    return f"{action}: from {before} to {after}, by {tracking.user}{f': {reason}' if reason else ''}"


def _announced(
    tracking: Tracking,
    in_force: CurrentPolicies,
    action: Action,
    seen: Standing,
    target: RegisteredVersion | None,
    reason: str,
) -> list[Check]:
    """Tells whoever the policies name; what could not be told, as lines of the report."""
    urls: Iterable[str] = (url for policy in in_force.of(seen.name, seen.alias) for url in policy.notify)
    message = {
        "event": "model_version_alias.moved",
        "model": seen.name,
        "alias": seen.alias,
        "action": action,
        "from": None if seen.holder is None else seen.holder.version,
        "to": None if target is None else target.version,
        "user": tracking.user,
        "reason": reason,
    }
    return [Check(passed=False, statement=problem) for problem in announce(urls, message)]
