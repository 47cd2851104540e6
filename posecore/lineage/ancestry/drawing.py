"""The part of the graph that is about one model or one dataset, in words, for a page to look at."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime

from posecore.counting import counted
from posecore.lineage.ancestry.graph import ALL, Node
from posecore.lineage.ancestry.pictures import Edition, Editions
from posecore.lineage.ancestry.query import LineageGraph
from posecore.lineage.store.tracking import Tracking
from posecore.lineage.versions.model_source import named_version
from posecore.lineage.versions.tags import WITHDRAWN_TAG

_REGISTRY = "models:/"
_RELATIONS = {"made": "made by"}  # as it is said of what came of it


@dataclass
class Drawing:
    """What is drawn.

    Attributes:
        title: what it is about.
        boxes: key to kind, title and further lines.
        arrows: keys of source and target, and what the target did with the source.
        unknown: what the record cannot know of it.
    """

    title: str
    boxes: dict[str, tuple[str, str, list[str]]] = field(default_factory=dict)
    arrows: list[tuple[str, str, str]] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)


def draw(tracking: Tracking, graph: LineageGraph, asked: str) -> Drawing:
    """Everything a model came from and all that came from it, or all that came from a dataset.

    Args:
        tracking: the store, which knows aliases.
        graph: what it records.
        asked: ``models:/name/version``, ``models:/name@alias``, or a dataset as ``posecore lineage dataset`` takes it.

    Raises:
        QuestionError: nothing of that name is recorded.
        LineageError: there is no such alias.
    """
    if asked.startswith(_REGISTRY):
        version = named_version(asked, tracking)
        starts = [graph.weights_node(version), graph.version_node(version)]
        title = f"{version.name} version {version.version}"
    else:
        starts, title = [seen for seen in graph.splits_named(asked)], asked
    about = {**graph.graph.reached(starts, ALL), **graph.graph.reached(starts, backwards=True)}
    for node in list(about):  # what models were judged on, and what was made beside them
        if node.kind == "run":
            about |= {edge.target: edge for edge in graph.graph.targets(node) if edge.relation == "made"}
            about |= {edge.source: edge for edge in graph.graph.sources(node) if edge.relation == "judged on"}
    found = Drawing(title)
    editions = {edition.split: edition for edition in Editions.of(graph, about).readable}
    for node in about:
        found.boxes[_key(node)] = (node.kind, *_told(graph, node, editions))
        found.arrows += [
            (_key(edge.source), _key(node), _RELATIONS.get(edge.relation, edge.relation))
            for edge in graph.graph.sources(node)
            if edge.source in about
        ]
        for kind, name, relation, forwards in _ends(graph, node):
            key = f"{kind} {name}"
            found.boxes[key] = (kind, name, [])
            found.arrows.append((_key(node), key, relation) if forwards else (key, _key(node), relation))
    found.arrows = list(dict.fromkeys(found.arrows))
    found.unknown = [why for node, why in graph.unknown_origins().items() if node in about] + graph.unreadable
    return found


def _key(node: Node) -> str:
    return f"{node.kind} {node.key}"


def _ends(graph: LineageGraph, node: Node) -> Iterator[tuple[str, str, str, bool]]:
    """What lies before and behind the graph: source data of an ingestion, aliases of a version."""
    if node.kind == "run" and "source" in graph.runs[node].params:
        yield "source", graph.runs[node].params["source"], "read", False
    if node.kind == "version":
        record = graph.versions[node]
        for alias in record.aliases:
            yield "alias", f"{record.version.name}@{alias}", "held by", True


def _told(graph: LineageGraph, node: Node, editions: dict[Node, Edition]) -> tuple[str, list[str]]:
    if node.kind == "run":
        return _told_run(graph, node)
    if node.kind == "split":
        return _told_split(graph, node, editions.get(node))
    lines = [node.key[:40], *graph.places.get(node, ())]
    if node.kind == "version":
        record = graph.versions[node]
        lines = [f"by {record.user or record.tags.get('mlflow.user', 'unknown')}", f"weights {record.sha256[:12]}"]
        lines += ["withdrawn: it has seen what is gone"] if WITHDRAWN_TAG in record.tags else []
    elif node in graph.origins:
        lines.append(graph.origins[node].license)
    return graph.name(node), lines


def _told_run(graph: LineageGraph, node: Node) -> tuple[str, list[str]]:
    run = graph.runs[node]
    began = datetime.fromtimestamp(run.start_ms / 1000, UTC)
    took = run.status.lower() if run.seconds is None else f"took {run.seconds:,.1f} s"
    return run.step, [f"{began:%Y-%m-%d %H:%M}, {took}", f"by {run.user or 'unknown'}", f"run {run.run_id}"]


def _told_split(graph: LineageGraph, node: Node, edition: Edition | None) -> tuple[str, list[str]]:
    use = graph.use(node)
    lines = [node.key[:12], *([use.license] if use is not None else [])]
    if edition is None:
        lines.append("its tables cannot be read")
    else:
        subjects = len(edition.subjects)
        lines.append(f"{counted(edition.images('key').num_rows, 'picture')}, {counted(subjects, 'named subject')}")
    place = next(iter(graph.places.get(node, ())), "")
    return (edition.label if edition is not None else graph.name(node)), [*lines, *([place] if place else [])]
