"""Questions that need more than the graph: by licence, by stage, by person, by code."""

import difflib

from posecore.errors import QuestionError
from posecore.lineage.ancestry.graph import Node
from posecore.lineage.ancestry.permissions import licences_recorded, objecting
from posecore.lineage.ancestry.pictures import Editions
from posecore.lineage.ancestry.query import Answer, LineageGraph
from posecore.lineage.ancestry.terms import USE_CLASSES

_LEAST_DIGITS = 8


def of_license(graph: LineageGraph, editions: Editions, asked: str) -> Answer:
    """Every model under a licence, or under one that does not allow a class of use.

    Args:
        graph: what is recorded.
        editions: of the splits; the licences of single pictures stand in their tables.
        asked: id of a licence, or ``commercial``, ``research``, ``clinical``, ``biometric``, ``derivative``.

    Raises:
        QuestionError: nothing that is recorded is under such a licence.
    """
    unread = [f"the pictures' own licences of {why}" for why in editions.unread.values()]
    for use in USE_CLASSES:
        if asked == use:
            return graph.answer(objecting(graph, editions, use), unread)
    recorded = licences_recorded(graph, editions)
    if asked not in recorded:
        near = difflib.get_close_matches(asked, recorded, n=3, cutoff=0.4) or sorted(recorded)[:8]
        raise QuestionError(
            f"{asked}: nothing recorded is under this licence; there is {', '.join(near) or 'none'}, and the classes "
            f"of use {', '.join(USE_CLASSES)}."
        )
    return graph.answer(recorded[asked], unread)


def of_stage(graph: LineageGraph, editions: Editions, stage: str) -> Answer:
    """Every model trained on pictures that a stage of ingestion has handled.

    Raises:
        QuestionError: no edition has such a stage.
    """
    names: set[str] = set()
    starts = {}
    for edition in editions.readable:
        stages = edition.stages
        names |= set(stages)
        if stage in stages:
            starts[edition.split] = graph.use(edition.split)
    if not starts and not editions.unread:
        raise QuestionError(f"{stage}: no edition has such a stage; there is {', '.join(sorted(names)) or 'none'}.")
    return graph.answer(starts, editions.unread.values())


def of_user(graph: LineageGraph, user: str) -> Answer:
    """Every model that somebody registered, or that came out of a step they ran, such as an ingestion.

    Raises:
        QuestionError: nothing recorded is theirs.
    """
    starts: dict[Node, None] = {node: None for node, run in graph.runs.items() if run.user == user}
    people = {run.user for run in graph.runs.values()}
    for record in graph.versions.values():
        registered = {record.user, record.tags.get("mlflow.user", "")}
        people |= registered
        if user in registered:
            starts[graph.weights_node(record.version)] = None
    if not starts:
        near = difflib.get_close_matches(user, people, n=3, cutoff=0.4) or sorted(people - {""})[:8]
        raise QuestionError(f"{user}: nothing recorded is theirs; there is {', '.join(near) or 'nobody'}.")
    return graph.answer(starts)


def of_code(graph: LineageGraph, digits: str) -> Answer:
    """Every model that came out of a version of the code, by git commit or by digest of the code.

    Raises:
        QuestionError: nothing was made by such code.
    """
    asked = digits.lower()
    starts: dict[Node, None] = {}
    if len(asked) >= _LEAST_DIGITS:
        starts = {node: None for node, run in graph.runs.items() if run.code.startswith(asked)}
        starts |= {
            graph.weights_node(record.version): None
            for record in graph.versions.values()
            if any(record.tags.get(name, "").startswith(asked) for name in ("git", "code"))
        }
    if not starts:
        raise QuestionError(f"{digits}: no recorded step or version was made by a commit or code of these digits.")
    return graph.answer(starts)
