"""Whether a model may be used for something: the terms of all it came from, asked of one rule engine.

Asked are, over the whole ancestry, the licence of every dataset as its definition states it, of every picture as its
annotations state it, and of every weights a model started from or was taught by, published or ours.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from posecore.config import Config
from posecore.counting import counted
from posecore.lineage.ancestry.graph import Node
from posecore.lineage.ancestry.pictures import Edition, Editions
from posecore.lineage.ancestry.query import LineageGraph
from posecore.lineage.ancestry.terms import USE_CLASSES, UseClass, licence_ids, terms_of
from posecore.lineage.versions.dataset_inputs import DatasetUse
from posecore.lineage.versions.weights_use import WeightsUse


class Permission(Config):
    """What somebody was told beyond a licence's text.

    Attributes:
        license: id of the licence.
        use: what is allowed.
        source: who said so, where and when.
    """

    license: str
    use: UseClass
    source: str


@dataclass(frozen=True, slots=True)
class Objection:
    """Why a use is not allowed.

    Attributes:
        node: the split or weights it lies in.
        what: it in words.
        license: the licence.
        forbidden: whether it forbids the use; otherwise it does not say that it allows it.
        source: where that is said.
    """

    node: Node
    what: str
    license: str
    forbidden: bool
    source: str

    def __str__(self) -> str:
        verb = "forbids it" if self.forbidden else "does not say that it allows it"
        return f"{self.what} ({self.license}) {verb}: {self.source}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What everything behind a model says of one class of use.

    Attributes:
        use: the class.
        objections: whatever does not allow it.
        unknown: why there may be more.
    """

    use: UseClass
    objections: tuple[Objection, ...]
    unknown: tuple[str, ...]

    @property
    def word(self) -> str:
        """``allowed`` if all of it allows the use, ``forbidden`` if any of it forbids it, else ``not stated``."""
        if any(each.forbidden for each in self.objections):
            return "forbidden"
        return "not stated" if self.objections or self.unknown else "allowed"

    @property
    def reasons(self) -> list[str]:
        """Whatever stands against it, a sentence each; what forbids it first."""
        ordered = sorted(self.objections, key=lambda each: not each.forbidden)
        return [*dict.fromkeys(map(str, ordered)), *(f"not known: {why}" for why in self.unknown)]


def verdicts(
    graph: LineageGraph, model: Node, uses: Sequence[UseClass] = USE_CLASSES, stated: Sequence[Permission] = ()
) -> list[Verdict]:
    """What a model may be used for, by the terms of all it came from.

    Args:
        graph: what is recorded.
        model: weights, or a version.
        uses: the classes asked about.
        stated: what is allowed beyond the licences' texts.
    """
    editions = Editions.of(graph, graph.graph.reached([model], backwards=True))
    found = ((use, objections(graph, editions, model, use, stated)) for use in uses)
    return [Verdict(use, tuple(against), tuple(unknown)) for use, (against, unknown) in found]


def objections(
    graph: LineageGraph, editions: Editions, model: Node, use: UseClass, stated: Sequence[Permission] = ()
) -> tuple[list[Objection], list[str]]:
    """Everything a model came from that does not allow a use, and why there may be more.

    Args:
        graph: what is recorded.
        editions: of the splits.
        model: weights, or a version.
        use: what it is to be used for.
        stated: what is allowed beyond the licences' texts.
    """
    behind = graph.graph.reached([model], backwards=True)
    tables = {edition.split: edition for edition in editions.readable}
    found: list[Objection] = []
    unknown: list[str] = []
    for node in behind:
        found += _of_node(graph, node, tables.get(node), use, stated)
        if node.kind == "split" and node not in tables:
            unknown.append(f"the pictures' own licences of {editions.unread.get(node, graph.name(node))}")
    unknown += [why for node, why in graph.unknown_origins().items() if node in behind]
    return found, unknown


def objecting(graph: LineageGraph, editions: Editions, use: UseClass) -> dict[Node, DatasetUse | WeightsUse | None]:
    """Every split and every weights of the record that does not allow a use."""
    found: dict[Node, DatasetUse | WeightsUse | None] = {}
    tables = {edition.split: edition for edition in editions.readable}
    for node in [*graph.graph.of_kind("split"), *graph.graph.of_kind("weights")]:
        if any(_of_node(graph, node, tables.get(node), use, ())):
            found[node] = graph.use(node) if node.kind == "split" else graph.origins.get(node)
    return found


def _of_node(
    graph: LineageGraph, node: Node, edition: Edition | None, use: UseClass, stated: Sequence[Permission]
) -> Iterator[Objection]:
    if node.kind == "split":
        if uses := graph.uses.get(node):
            yield from _of_dataset(node, uses, use, stated)
        if edition is not None:
            yield from _of_pictures(node, edition, use, stated)
    elif node in graph.origins and (graph.is_published(node) or not graph.graph.sources(node)):
        # Of a model of ours whose data are known, those data say what binds it; its card joins their names.
        origin = graph.origins[node]
        yield from _of_licenses(node, origin.source, origin.license, use, stated)


def _of_dataset(
    node: Node, uses: Sequence[DatasetUse], use: UseClass, stated: Sequence[Permission]
) -> Iterator[Objection]:
    if use != "commercial":
        yield from _of_licenses(node, uses[0].label, uses[0].license, use, stated)
        return
    # The definition has looked at annotations and pictures together. Of records that disagree the strictest counts.
    said = min(uses, key=lambda each: (False, None, True).index(each.commercial_use))
    if said.commercial_use is not True and not _is_stated(said.license, use, stated):
        source = "as the dataset's definition states"
        yield Objection(node, said.label, said.license, said.commercial_use is False, source)
        return
    for each in uses:  # a definition cannot allow what a licence known here forbids
        for terms in terms_of(each.license):
            if terms.verdict(use) is False and not _is_stated(terms.id, use, stated):
                yield Objection(node, each.label, terms.id, True, terms.source)


def _of_pictures(node: Node, edition: Edition, use: UseClass, stated: Sequence[Permission]) -> Iterator[Objection]:
    for license, count in edition.picture_licenses.items():
        yield from _of_licenses(node, f"{edition.label}, {counted(count, 'picture')}", license, use, stated)


def _of_licenses(node: Node, what: str, text: str, use: UseClass, stated: Sequence[Permission]) -> Iterator[Objection]:
    for terms in terms_of(text):
        verdict = terms.verdict(use)
        if verdict is not True and not _is_stated(terms.id, use, stated):
            yield Objection(node, what, terms.id, verdict is False, terms.source)


def _is_stated(text: str, use: UseClass, stated: Sequence[Permission]) -> bool:
    allowed = {each.license for each in stated if each.use == use}
    return bool(allowed) and set(licence_ids(text)) <= allowed


def licences_recorded(graph: LineageGraph, editions: Editions) -> dict[str, dict[Node, DatasetUse | WeightsUse | None]]:
    """Licence id to the splits and weights under it, those of single pictures included."""
    found: dict[str, dict[Node, DatasetUse | WeightsUse | None]] = {}

    def note(text: str, node: Node, use: DatasetUse | WeightsUse | None) -> None:
        for id in licence_ids(text):
            found.setdefault(id, {})[node] = use

    for split, uses in graph.uses.items():
        for use in uses:
            note(use.license, split, graph.use(split))
    for weights, origin in graph.origins.items():
        note(origin.license, weights, origin)
    for edition in editions.readable:
        for license in edition.picture_licenses:
            note(license, edition.split, graph.use(edition.split))
    return found
