"""YAML as this project reads it: what another parser would accept in silence, or unfold without end, is refused.

PyYAML's safe loader takes the last of two equal keys, so that a second ``training:`` far below wins unseen; it shares
the nodes of aliases, so that a page of text stands for billions of values as soon as somebody walks through them; and
it recurses as deep as the text is nested.

The text is taken apart by libyaml, which PyYAML's wheels bring: in a sixth of the time that its own scanner takes.
"""

from collections.abc import Sequence
from typing import Any

import yaml
from yaml.composer import Composer
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

MAX_DEPTH = 64
"""Mappings and lists within each other; no file of this repository has more than 12."""
MAX_NODES = 1_000_000
"""Keys, values and collections of a document, those behind an alias counted each time it is named; the largest file of
this repository has about 7,000."""


def parse_yaml(text: str) -> Any:
    """The value of a YAML document.

    Raises:
        yaml.YAMLError: it is not YAML, names a key twice in one mapping, is nested deeper than :data:`MAX_DEPTH` or
            unfolds to more than :data:`MAX_NODES` nodes; the message names the line.
    """
    try:
        return yaml.load(text, _StrictLoader)
    except (ValueError, OverflowError) as error:  # the 31st of February, a number of ten thousand digits
        raise yaml.YAMLError(str(error)) from None


def place_of(text: str, keys: Sequence[str | int]) -> tuple[int, int] | None:
    """Line and column, from 1, of what stands under some keys of a YAML document.

    Args:
        text: a document that :func:`parse_yaml` reads.
        keys: of mappings and positions in lists, from the top. What leads nowhere at a level, such as the name that a
            validator gives a kind of settings, is passed over; if the last one does, the place is that of the mapping
            that lacks it.

    Returns:
        None where the document is empty.
    """
    node = yaml.compose(text, _StrictLoader)
    if node is None:
        return None
    mark = node.start_mark
    for key in keys:
        if isinstance(node, MappingNode):
            found = [(name, value) for name, value in node.value if getattr(name, "value", None) == str(key)]
            if found:
                (name, node) = found[0]
                mark = name.start_mark
        elif isinstance(node, SequenceNode) and isinstance(key, int) and key < len(node.value):
            node = node.value[key]
            mark = node.start_mark
    return mark.line + 1, mark.column + 1


class _StrictLoader(Composer, yaml.CSafeLoader):
    def __init__(self, text: str) -> None:
        Composer.__init__(self)
        yaml.CSafeLoader.__init__(self, text)
        self._depth = 0
        self._sizes: dict[int, int] = {}
        """Nodes below each composed node and itself, by its ``id``."""

    def compose_node(self, parent: Node | None, index: Any) -> Node | None:
        event: Any = self.peek_event()
        is_alias = isinstance(event, yaml.AliasEvent)
        if self._depth == MAX_DEPTH and isinstance(event, yaml.CollectionStartEvent):
            raise _refused(f"nested deeper than {MAX_DEPTH} mappings and lists", event)
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        if node is None:
            return None
        if not is_alias:
            self._sizes[id(node)] = 1 + sum(self._sizes[id(child)] for child in _children(node))
        elif id(node) not in self._sizes:
            raise _refused(f"the alias {event.anchor!r} stands within what it names", event)
        if self._sizes[id(node)] > MAX_NODES:
            raise _refused(f"more than {MAX_NODES} values, its aliases unfolded", event)
        return node

    def compose_mapping_node(self, anchor: Any) -> MappingNode:
        node = super().compose_mapping_node(anchor)
        seen: dict[tuple[str, str], ScalarNode] = {}
        for key, _ in node.value:
            if not isinstance(key, ScalarNode):
                continue
            first = seen.setdefault((key.tag, key.value), key)
            if first is not key:
                line = first.start_mark.line + 1
                raise _refused(f"the key {key.value!r} is there twice, first in line {line}", key)
        return node


def _children(node: Node) -> list[Node]:
    if isinstance(node, MappingNode):
        return [part for pair in node.value for part in pair]
    return list(node.value) if isinstance(node, SequenceNode) else []


def _refused(what: str, at: Any) -> yaml.YAMLError:
    return yaml.MarkedYAMLError(problem=what, problem_mark=at.start_mark)
