"""Lineage asked both ways: what a model has seen, and every model that has seen something.

The record is read once into a :class:`~posecore.lineage.ancestry.graph.Graph`; every question is a walk through it.
What the record cannot know is part of the answer.
"""

import difflib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from posecore.errors import QuestionError
from posecore.lineage.ancestry.graph import DERIVED, Edge, Graph, Node, path_to
from posecore.lineage.ancestry.records import Records, RunRecord, VersionRecord, read_records
from posecore.lineage.store.tracking import Tracking
from posecore.lineage.versions.dataset_inputs import DatasetUse
from posecore.lineage.versions.tags import RegisteredVersion, parse_uri
from posecore.lineage.versions.weights_use import WeightsUse

_DIGEST_DIGITS = 8  # shorter hexadecimal words are taken for names
_MODELS = ("version", "weights")


@dataclass(frozen=True, eq=False)
class Sighting:
    """A model that has to do with something that was asked about.

    Attributes:
        model: a version, or the weights of a model that is not registered.
        start: where the nearest way from what was asked about begins.
        through: the model that met it first: the model itself or an ancestor.
        use: the split, or the weights, where the way begins.
        reached: everything that was reached, by which the way can be followed.
    """

    model: Node
    start: Node
    through: Node
    use: DatasetUse | WeightsUse | None
    reached: Mapping[Node, Edge | None]

    @property
    def path(self) -> list[Edge]:
        """The way; as long as there are generations, so of many models nobody should ask for all."""
        return path_to(self.model, self.reached)


@dataclass(frozen=True)
class Answer:
    """Which models, and what the record cannot know.

    Attributes:
        sightings: each model once.
        unknown: why there may be more, a sentence each; empty for a complete answer.
        on_trust: what is true only if others have said the truth; no part of the record says more.
    """

    sightings: list[Sighting]
    unknown: list[str] = field(default_factory=list)
    on_trust: list[str] = field(default_factory=list)


class LineageGraph:
    """All that a tracking store says of splits, runs, models and versions.

    Args:
        records: what was read of it.

    Attributes:
        graph: nodes and edges.
        runs: by node.
        versions: by node.
        uses: every use of a split, by its node.
        origins: how weights were named by what came from them, by their node.
        places: folders and files where a content was made.
        unreadable: what of the record could not be read.
    """

    def __init__(self, records: Records) -> None:
        self.graph = Graph()
        self.runs: dict[Node, RunRecord] = {}
        self.versions: dict[Node, VersionRecord] = {}
        self.uses: dict[Node, list[DatasetUse]] = defaultdict(list)
        self.origins: dict[Node, WeightsUse] = {}
        self.places: dict[Node, dict[str, None]] = defaultdict(dict)
        self.unreadable = list(records.unreadable)
        self._weights_of: dict[RegisteredVersion, Node] = {}
        for version in records.versions:
            self._add_version(version)
        for version in records.versions:
            self._add_parent(version)
        for run in records.runs:
            self._add_run(run)
        self._add_reads(records.runs)

    @classmethod
    def load(cls, tracking: Tracking) -> "LineageGraph":
        """Reads every step and version of a store."""
        return cls(read_records(tracking))

    def _add_version(self, record: VersionRecord) -> None:
        suffix = f"~{record.model_id}" if record.deleted else ""
        node = Node("version", f"{record.version.name}/{record.version.version}{suffix}")
        own = Node("weights", record.sha256 or f"{record.version.uri}{suffix}")
        self.versions[node] = record
        if not record.deleted or record.version not in self._weights_of:
            self._weights_of[record.version] = own
        self.graph.link(own, node, "registered as")
        for use in record.uses:
            self._add_use(use, own if use.role == "training" else node)
        self._add_origins(record.weights, [own])

    def _add_parent(self, record: VersionRecord) -> None:
        if not record.parent:
            return
        try:
            parent = parse_uri(record.parent)
        except ValueError:
            self.unreadable.append(f"{record.version.uri}: its parent is {record.parent!r:.80}, which names no version")
            return
        source = self._weights_of.get(parent, Node("weights", parent.uri))
        self.graph.link(source, self.weights_node(record.version), "started from")

    def _add_run(self, run: RunRecord) -> None:
        node = Node("run", run.run_id)
        self.runs[node] = run
        self.graph.add(node)
        for content in run.made:
            made = Node(content.kind, content.digest)
            self.graph.link(node, made, "made")
            self.places[made][content.place] = None
        for use in run.uses:
            self._add_use(use, node)
        self._add_origins(run.weights, [Node("weights", c.digest) for c in run.made if c.kind == "weights"])

    def _add_reads(self, runs: Iterable[RunRecord]) -> None:
        # Results are handed on within a job; equal ones of other jobs, such as "nothing is shared", are not those.
        results: dict[tuple[Path | None, str], list[Node]] = defaultdict(list)
        for run in runs:
            if run.result:
                results[run.folder, run.result].append(Node("run", run.run_id))
        for run in runs:
            reader = Node("run", run.run_id)
            used = {Node("split", use.digest) for use in run.uses}
            for digest in run.reads:
                for source in (
                    Node("weights", digest),
                    Node("answers", digest),
                    *results.get((run.folder, digest), ()),
                ):
                    if source in self.graph:
                        self.graph.link(source, reader, "used")
                split = Node("split", digest)
                if split in self.graph and split not in used:
                    self.graph.link(split, reader, "looked at")

    def _add_use(self, use: DatasetUse, user: Node) -> None:
        split = Node("split", use.digest)
        self.uses[split].append(use)
        if use.location:
            self.places[split][use.location] = None
        self.graph.link(split, user, "trained on" if use.role == "training" else "judged on")

    def _add_origins(self, weights: Iterable[WeightsUse], own: Iterable[Node]) -> None:
        for use in weights:
            source = Node("weights", use.digest)
            self.origins.setdefault(source, use)
            for target in [Node("weights", use.child)] if use.child else own:
                self.graph.link(source, target, use.relation)
            for data in use.data:
                self._add_use(data, source)

    @property
    def models(self) -> list[Node]:
        """Every version, and the weights of every model that is not registered; published ones are not ours."""
        return [
            *self.versions,
            *(node for node in self.graph.of_kind("weights") if self._is_unregistered(node)),
        ]

    def _is_unregistered(self, weights: Node) -> bool:
        # Of what stands for a parent that is not there, nothing can be said but that it is unknown.
        return not self.registered_as(weights) and not self.is_published(weights) and not _is_uri(weights)

    def is_published(self, weights: Node) -> bool:
        """Whether others made these weights."""
        return weights in self.origins and self.origins[weights].published

    def registered_as(self, weights: Node) -> list[Node]:
        """The versions that have these weights."""
        return [edge.target for edge in self.graph.targets(weights) if edge.relation == "registered as"]

    def version_node(self, model: RegisteredVersion) -> Node:
        """The node of a version, of a deleted one if it is the only one.

        Raises:
            QuestionError: there is none.
        """
        node = Node("version", f"{model.name}/{model.version}")
        if node in self.versions:
            return node
        deleted = [each for each, record in self.versions.items() if record.version == model]
        if deleted:
            return deleted[-1]
        recorded = [record.version for record in self.versions.values()]
        numbers = sorted(each.version for each in recorded if each.name == model.name)
        known = numbers and f"; its versions: {', '.join(map(str, numbers))}"
        instead = known or _nearest(model.name, sorted({each.name for each in recorded}))
        raise QuestionError(f"model {model.name} version {model.version} is not registered{instead}.")

    def weights_node(self, model: RegisteredVersion) -> Node:
        """The weights of a version.

        Raises:
            QuestionError: there is no such version.
        """
        self.version_node(model)
        return self._weights_of[model]

    def name(self, node: Node) -> str:
        """A node in words."""
        if node.kind == "version":
            record = self.versions[node]
            return f"{record.version.name} version {record.version.version}{' (deleted)' if record.deleted else ''}"
        if node.kind == "weights":
            versions = self.registered_as(node)
            if versions:
                return self.name(versions[0])
            if node in self.origins:
                return f"{self.origins[node].source} ({node.key[:12]})"
            place = next(iter(self.places.get(node, ())), None)
            return f"the model in {place} (not registered)" if place else f"weights {node.key[:40]}"
        if node.kind == "run":
            return f"{self.runs[node].step} (run {node.key})"
        if node.kind == "split":
            labels = sorted({use.label for use in self.uses.get(node, ())})
            return f"{' or '.join(labels) or 'a split'} {node.key[:12]}"
        return f"{node.kind} {node.key[:12]}"

    def ancestry(self, model: RegisteredVersion) -> list[Node]:
        """The weights of a version and of everything it came from, nearest first.

        Raises:
            QuestionError: there is no such version.
        """
        return [node for node in self.behind(model) if node.kind == "weights"]

    def behind(self, model: RegisteredVersion) -> dict[Node, Edge | None]:
        """Everything a version came from, nearest first."""
        return self.graph.reached([self.weights_node(model)], DERIVED, backwards=True)

    def uses_of(self, weights: Node) -> list[DatasetUse]:
        """The splits that a model itself was trained on."""
        trained = {
            edge.source
            for target in (weights, *(edge.source for edge in self.graph.sources(weights) if edge.relation == "made"))
            for edge in self.graph.sources(target)
            if edge.relation == "trained on"
        }
        return [self._use(split) for split in sorted(trained)]

    def training_data(self, model: RegisteredVersion) -> list[DatasetUse]:
        """Everything the version or an ancestor was trained on, each split once."""
        return [self._use(node) for node in self.behind(model) if node.kind == "split"]

    def weights(self, model: RegisteredVersion) -> list[WeightsUse]:
        """Every weights the version came from, as they were named."""
        return [self.origins[node] for node in self.ancestry(model) if node in self.origins]

    def use(self, split: Node) -> DatasetUse | None:
        """What is said of a split that was used; None of one that never was."""
        uses = self.uses.get(split)
        return self._use(split) if uses else None

    def _use(self, split: Node) -> DatasetUse:
        uses = self.uses[split]
        return next((use for use in uses if use.location and use.role == "training"), uses[0])

    def unknown_origins(self) -> dict[Node, str]:
        """Weights of which no record says what they were made from, with the sentence that says so."""
        found = {}
        for node in self.graph.of_kind("weights"):
            if self.is_published(node) or any(edge.relation in DERIVED for edge in self.graph.sources(node)):
                continue
            reached = self.graph.reached([node])
            child = next((self.name(each) for each in reached if each.kind == "version"), None)
            if _is_uri(node) and not self.registered_as(node):
                what = f"{node.key}, from which {child} was made, is not registered (any more), or not yours to read"
            else:
                of = "" if child in (None, self.name(node)) else f", from which {child} was made"
                what = (
                    f"no record says what {self.name(node)}{of}, was made from"
                    if of
                    else (f"no record says what {self.name(node)} was made from")
                )
            found[node] = what
        return found

    def answer(self, starts: Mapping[Node, DatasetUse | WeightsUse | None], unknown: Iterable[str] = ()) -> Answer:
        """Every model that came from some nodes.

        Args:
            starts: where ways begin, with what is said of each.
            unknown: what else is not known.
        """
        reached = self.graph.reached(starts)
        models = set(self.models)
        found = []
        begun: dict[Node, tuple[Node, Node | None]] = {}  # where the way to a node began, and the first model on it
        for node, edge in reached.items():
            start, first = (node, None) if edge is None else begun[edge.source]
            if first is None and node.kind == "weights" and edge is not None:
                first = node
            begun[node] = start, first
            if node in models:
                found.append(Sighting(node, start, first or node, starts[start], reached))
        return Answer(found, self.unknown(unknown), self.on_trust())

    def unknown(self, more: Iterable[str] = ()) -> list[str]:
        """Why an answer about all models may not be complete."""
        return [*self.unreadable, *self.unknown_origins().values(), *more]

    def on_trust(self) -> list[str]:
        """Published weights: of their data only their publishers know."""
        return [f"what {use.source} was trained on is known to its publisher" for use in self._published()]

    def _published(self) -> list[WeightsUse]:
        return [use for use in self.origins.values() if use.published]

    def of_dataset(self, name_or_digest: str) -> Answer:
        """Every model that has seen a dataset.

        Args:
            name_or_digest: ``coco``, ``coco/train``, or a manifest digest or at least its first 8 digits.

        Raises:
            QuestionError: nothing of that name was ever used.
        """
        return self.answer(self.splits_named(name_or_digest))

    def judged_on(self, name_or_digest: str) -> Answer:
        """Every model that was judged on a dataset.

        Raises:
            QuestionError: nothing of that name was ever used.
        """
        found = []
        for split, use in self.splits_named(name_or_digest).items():
            for edge in self.graph.targets(split):
                if edge.relation == "judged on":
                    models = self._judged_in(edge.target)
                    found += [
                        Sighting(model, split, model, use, {model: Edge(split, model, "judged on")}) for model in models
                    ]
        once = {seen.model: seen for seen in reversed(found)}
        return Answer(list(once.values())[::-1], list(self.unreadable))

    def _judged_in(self, node: Node) -> Iterator[Node]:
        """A version whose tags say that it was judged, or the models that a run of an evaluation read."""
        if node.kind == "version":
            yield node
        for edge in self.graph.sources(node):
            made = (each.target for each in self.graph.targets(edge.source) if each.relation == "made")
            for weights in [edge.source] if edge.source.kind == "weights" else made:
                if weights.kind == "weights":
                    yield from self.registered_as(weights) or [weights]

    def splits_named(self, name_or_digest: str) -> dict[Node, DatasetUse | WeightsUse | None]:
        """Splits of a name, or with a digest, with what is said of each.

        Raises:
            QuestionError: nothing of that name was ever used.
        """
        found: dict[Node, DatasetUse | WeightsUse | None] = {}
        for split, uses in self.uses.items():
            if any(_has_digest(use, name_or_digest) or name_or_digest in (use.name, use.label) for use in uses):
                found[split] = self._use(split)
        if not found:
            names = sorted({name for uses in self.uses.values() for use in uses for name in (use.name, use.label)})
            raise QuestionError(
                f"{name_or_digest}: no dataset or digest of this name is recorded{_nearest(name_or_digest, names)}."
            )
        return found

    def of_weights(self, source_or_digest: str) -> Answer:
        """Every model that came from certain weights.

        Args:
            source_or_digest: as they were named, or their SHA-256 or at least its first 8 digits.

        Raises:
            QuestionError: nothing was made from such.
        """
        found: dict[Node, DatasetUse | WeightsUse | None] = {
            node: use
            for node, use in self.origins.items()
            if _has_digest(use, source_or_digest) or source_or_digest == use.source
        }
        if not found:
            known = sorted({use.source for use in self.origins.values()})
            raise QuestionError(
                f"{source_or_digest}: no model came from weights of this name or digest"
                f"{_nearest(source_or_digest, known)}."
            )
        return self.answer(found)


def _has_digest(use: DatasetUse | WeightsUse, digits: str) -> bool:
    return len(digits) >= _DIGEST_DIGITS and use.digest.startswith(digits.lower())


def _is_uri(node: Node) -> bool:
    return node.key.startswith("models:/")


def _nearest(asked: str, known: Iterable[str]) -> str:
    names = list(known)
    near = difflib.get_close_matches(asked, names, n=3, cutoff=0.5) or names[:5]
    return f"; there is {', '.join(near)}" if near else "; there is nothing at all"
