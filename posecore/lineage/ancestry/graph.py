"""The graph that lineage's questions walk: contents and runs as nodes, and what became of what as edges.

A node is named by its content wherever it has one: a split by its manifest's digest, a model by the SHA-256 of its
weights. A parent that was given as a folder, as a file or as ``models:/…`` is therefore one node. Walks visit every
node once, so that a chain of a thousand models costs a thousand steps.
"""

from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

Kind: TypeAlias = Literal["split", "run", "weights", "answers", "export", "report", "version"]

Relation: TypeAlias = Literal[
    "trained on", "judged on", "looked at", "started from", "taught by", "made", "used", "registered as"
]
"""``split`` → ``run`` or ``weights``: trained on, judged on, looked at (an audit). ``weights`` → ``run`` or
``weights``: started from, taught by. ``run`` → what it ``made``; ``run``, ``weights`` or ``answers`` → ``run`` that
``used`` them. ``weights`` → ``version`` they are registered as."""

DERIVED: frozenset[Relation] = frozenset({"trained on", "started from", "taught by", "made", "used", "registered as"})
"""By these a model comes from its data; whoever was judged on a set has not learned from it."""
ALL: frozenset[Relation] = DERIVED | {"judged on", "looked at"}
"""By these whatever may show a picture, or a figure made of it, comes from it."""


class Node(NamedTuple):
    """One thing of the record.

    Attributes:
        kind: what it is.
        key: digest of a split, of weights, of answers, of an export or a report; id of a run; ``name/number`` of a
            version.
    """

    kind: Kind
    key: str


@dataclass(frozen=True, slots=True)
class Edge:
    """``target`` came from ``source``."""

    source: Node
    target: Node
    relation: Relation


class Graph:
    """Nodes and edges; adding either twice changes nothing."""

    def __init__(self) -> None:
        self._after: dict[Node, dict[Edge, None]] = defaultdict(dict)
        self._before: dict[Node, dict[Edge, None]] = defaultdict(dict)
        self._nodes: dict[Node, None] = {}

    def add(self, node: Node) -> None:
        """A node, with or without edges."""
        self._nodes[node] = None

    def link(self, source: Node, target: Node, relation: Relation) -> None:
        """An edge and its two nodes; a thing does not come from itself."""
        self.add(source)
        self.add(target)
        if source != target:
            edge = Edge(source, target, relation)
            self._after[source][edge] = self._before[target][edge] = None

    def __contains__(self, node: Node) -> bool:
        return node in self._nodes

    def of_kind(self, kind: Kind) -> Iterator[Node]:
        """All nodes of a kind, in the order they were added."""
        return (node for node in self._nodes if node.kind == kind)

    def sources(self, node: Node) -> list[Edge]:
        """Edges that end here."""
        return list(self._before.get(node, ()))

    def targets(self, node: Node) -> list[Edge]:
        """Edges that begin here."""
        return list(self._after.get(node, ()))

    def reached(
        self, starts: Iterable[Node], relations: frozenset[Relation] = DERIVED, *, backwards: bool = False
    ) -> dict[Node, Edge | None]:
        """Everything that came from some nodes, or that they came from, nearest first, them included.

        Args:
            starts: where to begin.
            relations: edges that count.
            backwards: towards the sources.

        Returns:
            Node to the edge by which it was first reached; None for the starts.
        """
        edges = self._before if backwards else self._after
        found: dict[Node, Edge | None] = dict.fromkeys(starts)
        queue = deque(found)
        while queue:
            for edge in edges.get(queue.popleft(), ()):
                following = edge.source if backwards else edge.target
                if edge.relation in relations and following not in found:
                    found[following] = edge
                    queue.append(following)
        return found


def path_to(node: Node, reached: Mapping[Node, Edge | None]) -> list[Edge]:
    """The edges from a start to a node that :meth:`Graph.reached` found, in their own direction."""
    edges: list[Edge] = []
    backwards = False
    while (edge := reached[node]) is not None:
        edges.append(edge)
        backwards = edge.source == node
        node = edge.target if backwards else edge.source
    return edges if backwards else edges[::-1]
