"""A graph of what came from what as one HTML file that needs nothing else: boxes in columns, sources on the left."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from posecore.storage import AnyPath, as_path, write_atomically
from posecore.viz.page import render

_COLORS = {
    "source": "#767676",
    "split": "#1a7f37",
    "run": "#9a6700",
    "weights": "#0969da",
    "answers": "#6639ba",
    "export": "#bf3989",
    "report": "#953800",
    "version": "#0a6b77",
    "alias": "#cf222e",
}
_CHARACTERS, _MOST_LINES = 36, 5
_WIDTH, _GAP_X, _GAP_Y, _MARGIN = 256, 84, 22, 16
_SWEEPS = 4


@dataclass(frozen=True)
class GraphNode:
    """A box.

    Attributes:
        kind: what it is; decides the colour.
        title: its name.
        lines: more of it.
    """

    kind: str
    title: str
    lines: Sequence[str] = ()


@dataclass(frozen=True)
class GraphEdge:
    """An arrow between two boxes, by their keys."""

    source: str
    target: str
    label: str


@dataclass
class _Box:
    id: str
    node: GraphNode
    column: int = 0
    x: int = 0
    y: int = 0
    sources: list[GraphEdge] = field(default_factory=list)

    @property
    def texts(self) -> list[str]:
        lines = [self.node.title, *self.node.lines][:_MOST_LINES]
        return [line if len(line) <= _CHARACTERS else f"{line[: _CHARACTERS - 1]}…" for line in lines]

    @property
    def height(self) -> int:
        return 14 * len(self.texts) + 12


def write_graph_page(
    path: str | AnyPath,
    title: str,
    nodes: Mapping[str, GraphNode],
    edges: Sequence[GraphEdge],
    notes: Sequence[str] = (),
) -> AnyPath:
    """Writes the page and returns its path.

    Args:
        path: of the HTML file.
        title: heading, plain text.
        nodes: by key, in the order of the table below the drawing.
        edges: between keys of ``nodes``.
        notes: paragraphs above the drawing, such as what is not known.
    """
    boxes = {key: _Box(f"n{number}", node) for number, (key, node) in enumerate(nodes.items())}
    for edge in edges:
        boxes[edge.target].sources.append(edge)
    width, height = _place(boxes, edges)
    page = render(
        "graph_page.html.j2",
        title=title,
        notes=notes,
        width=width,
        height=height,
        colors=_COLORS,
        kinds=[kind for kind in _COLORS if any(node.kind == kind for node in nodes.values())],
        boxes=[_shown(box, boxes) for box in boxes.values()],
        lines=[_line(boxes[edge.source], boxes[edge.target], edge) for edge in edges],
    )
    out = as_path(path)
    write_atomically(out, page)
    return out


def _shown(box: _Box, boxes: Mapping[str, _Box]) -> dict[str, Any]:
    return {
        "id": box.id,
        "kind": box.node.kind,
        "title": box.node.title,
        "lines": list(box.node.lines),
        "told": "\n".join([box.node.title, *box.node.lines]),
        "texts": box.texts,
        "x": box.x,
        "y": box.y,
        "width": _WIDTH,
        "height": box.height,
        "sources": [
            {"label": edge.label, "id": boxes[edge.source].id, "title": boxes[edge.source].node.title}
            for edge in box.sources
        ],
    }


def _line(source: _Box, target: _Box, edge: GraphEdge) -> dict[str, str]:
    begin, end = source.x + _WIDTH, target.x
    from_y, to_y = source.y + source.height // 2, target.y + target.height // 2
    bend = max(_GAP_X // 2, (end - begin) // 2)
    path = f"M{begin} {from_y} C{begin + bend} {from_y} {end - bend} {to_y} {end} {to_y}"
    return {"path": path, "told": f"{target.node.title}: {edge.label} {source.node.title}"}


def _place(boxes: Mapping[str, _Box], edges: Sequence[GraphEdge]) -> tuple[int, int]:
    """Gives every box its place; returns width and height of the drawing."""
    _columns(boxes, edges)
    columns: dict[int, list[str]] = defaultdict(list)
    for key, box in boxes.items():
        columns[box.column].append(key)
    near: dict[str, list[str]] = defaultdict(list)
    for edge in edges:
        near[edge.source].append(edge.target)
        near[edge.target].append(edge.source)
    for sweep in range(_SWEEPS):
        order = sorted(columns, reverse=bool(sweep % 2))
        rank = {key: position for keys in columns.values() for position, key in enumerate(keys)}
        for column in order:  # each box beside those it is joined to
            joined = {key: [rank[other] for other in near[key]] or [rank[key]] for key in columns[column]}
            columns[column].sort(key=lambda key, joined=joined: sum(joined[key]) / len(joined[key]))  # type: ignore[misc]
            rank |= {key: position for position, key in enumerate(columns[column])}
    height = 0
    for column, keys in columns.items():
        y = _MARGIN
        for key in keys:
            boxes[key].x, boxes[key].y = _MARGIN + column * (_WIDTH + _GAP_X), y
            y += boxes[key].height + _GAP_Y
        height = max(height, y)
    return 2 * _MARGIN + len(columns) * (_WIDTH + _GAP_X), height + _MARGIN


def _columns(boxes: Mapping[str, _Box], edges: Sequence[GraphEdge]) -> None:
    """Every box in the first column after all it came from; in a circle the order of the boxes decides."""
    waiting = {key: len(box.sources) for key, box in boxes.items()}
    after: dict[str, list[str]] = defaultdict(list)
    for edge in edges:
        after[edge.source].append(edge.target)
    ready = [key for key, count in waiting.items() if not count]
    left = dict.fromkeys(boxes)
    while left:
        if not ready:  # only circles are left
            ready = [next(iter(left))]
        key = ready.pop()
        if key not in left:
            continue
        del left[key]
        for target in after[key]:
            if target in left:
                boxes[target].column = max(boxes[target].column, boxes[key].column + 1)
                waiting[target] -= 1
                if waiting[target] == 0:
                    ready.append(target)
