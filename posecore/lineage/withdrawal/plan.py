"""What a withdrawal concerns: everything that holds the pictures or came from them, and what must be made again.

``holds`` is said of what shows the pictures, names the person or repeats their annotations; ``descends`` of what was
made from them, such as weights. Nothing is changed here.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import pyarrow as pa

from posecore.errors import LineageError
from posecore.ingest.write import commit_name
from posecore.lineage.ancestry.graph import ALL, DERIVED, Node
from posecore.lineage.ancestry.pictures import Edition, Editions, Found
from posecore.lineage.ancestry.query import LineageGraph
from posecore.lineage.jobs.steps import outputs_everywhere
from posecore.lineage.store.stored_artifacts import artifact_place, model_artifacts, model_place, run_artifacts
from posecore.lineage.store.tracking import RunLog, Tracking
from posecore.models.saving import CARD_FILE, MAX_CARD_BYTES, WEIGHTS_FILE
from posecore.schema import Json
from posecore.shards.editions import EDITIONS_NAME
from posecore.shards.manifest import IMAGES_NAME, INSTANCES_NAME, QUARANTINE_NAME, read_manifest
from posecore.shards.precut import FOLDER_NAME as PRECUT_FOLDER
from posecore.storage import AnyPath, as_path, read_at_most

ItemKind: TypeAlias = Literal[
    "shard", "table", "answers", "checkpoint", "model", "working copy", "adapter", "export", "report", "artifact",
    "registered files",
]  # fmt: skip

_PAGES = (".html", ".csv", ".json", ".parquet", ".png", ".jpg")


@dataclass(frozen=True, slots=True)
class Item:
    """A file or folder that a withdrawal concerns.

    Attributes:
        kind: what it is.
        place: local path, URL, or a place of MLflow's artifacts with the path below it.
        size_bytes: its size; 0 if it cannot be known.
        holds: whether it shows pictures, names or annotations, and does not only descend from them.
        node: of the graph.
        artifact: of a file that MLflow keeps for a run, its path there; else "".
    """

    kind: ItemKind
    place: str
    size_bytes: int
    holds: bool
    node: Node
    artifact: str = ""

    def as_json(self) -> dict[str, Json]:
        """For the record."""
        relation = "holds" if self.holds else "descends"
        found = {"kind": self.kind, "place": self.place, "bytes": self.size_bytes, "relation": relation}
        return {**found, "node": list(self.node)}


@dataclass(frozen=True, slots=True)
class Again:
    """A step to run again.

    Attributes:
        step: its name.
        run_id: of the run that must be replaced.
        folder: run folder of its job.
        seconds: that it took, which is the estimate; None if it was never finished.
    """

    step: str
    run_id: str
    folder: Path | None
    seconds: float | None


@dataclass(frozen=True, slots=True)
class Shortcut:
    """The cheapest way to a clean model in the place of a version.

    Attributes:
        version: the affected one.
        ancestor: nearest model it came from that has not seen the pictures, or None where there is none.
        seconds: what the steps took that must be done again.
        whole_seconds: what all steps behind the version took.
    """

    version: Node
    ancestor: Node | None
    seconds: float
    whole_seconds: float


@dataclass(frozen=True)
class WithdrawalPlan:
    """All that a withdrawal concerns.

    Attributes:
        name: what is withdrawn, as it was asked for.
        dataset: of a subject, or the one that is withdrawn as a whole; else "".
        subject: id of a subject, else "".
        found: the pictures, and the editions that hold them.
        present: of those, the ones whose shards are there now.
        items: files and folders, what holds pictures first.
        versions: affected versions.
        aliases: ``(model, alias)`` to the affected version that holds it.
        again: what must run again, in this order.
        shortcuts: one per affected version that is not deleted.
        unknown: why there may be more.
    """

    name: str
    dataset: str
    subject: str
    found: Found
    present: list[tuple[Edition, pa.Table, str]]
    items: list[Item]
    versions: list[Node]
    aliases: dict[tuple[str, str], Node]
    again: list[Again]
    shortcuts: list[Shortcut]
    unknown: list[str]

    def is_whole(self, edition: Edition) -> bool:
        """Whether all of an edition is withdrawn, so that nothing of it is made anew."""
        return not self.subject and edition.dataset == self.dataset


def plan_withdrawal(
    tracking: Tracking,
    graph: LineageGraph,
    editions: Editions,
    found: Found,
    name: str,
    of: tuple[str, str] = ("", ""),
) -> WithdrawalPlan:
    """Looks at everything, changes nothing.

    Args:
        tracking: the store.
        graph: what it records.
        editions: of the splits.
        found: the pictures.
        name: what is withdrawn.
        of: dataset and subject, if it is one; the subject is "" for all of a dataset.
    """
    splits = [edition.split for edition, _ in found.editions]
    for split in splits:
        graph.graph.add(split)
    shown = graph.graph.reached(splits, ALL)
    learned = graph.graph.reached(splits, DERIVED)
    unknown = [*found.unread.values(), *found.unknown, *graph.unreadable, *graph.unknown_origins().values()]
    present = [(edition, pictures, place) for edition, pictures in found.editions for place in _present(graph, edition)]
    showing = _showing(graph, splits)
    items = [*_of_splits(graph, found, present), *_of_reports(graph, showing)]
    for node in shown:
        if node.kind == "run":
            found_there = _of_run(tracking, graph, node, holds=node in showing, unknown=unknown)
            # What a run made does not descend from what it only looked at.
            items += [item for item in found_there if item.holds or node in learned]
    items += _working_copies(graph, {node for node in learned if node.kind == "weights"})
    items += _of_contents(graph, learned)
    versions = [node for node in learned if node.kind == "version"]
    for node in versions:
        items += _registered(tracking, graph, node, unknown)
    aliases = {
        (graph.versions[node].version.name, alias): node for node in versions for alias in graph.versions[node].aliases
    }
    affected = [node for node in learned if node.kind == "run" and _makes(graph, node)]
    again = sorted((graph.runs[node] for node in affected), key=lambda run: run.start_ms)
    return WithdrawalPlan(
        name=name,
        dataset=of[0],
        subject=of[1],
        found=found,
        present=present,
        items=_once(sorted(items, key=lambda item: not item.holds)),
        versions=versions,
        aliases=aliases,
        again=[Again(run.step, run.run_id, run.folder, run.seconds) for run in again],
        shortcuts=[_shortcut(graph, node, set(learned)) for node in versions if not graph.versions[node].deleted],
        unknown=unknown,
    )


def _present(graph: LineageGraph, edition: Edition) -> Iterator[str]:
    """Folders of a split in which this edition's shards lie now."""
    folder = edition.folder
    places = {*graph.places.get(edition.split, ()), str(folder.parent.parent), str(folder)}
    for place in sorted(places):
        try:
            if read_manifest(as_path(place)).digest == edition.split.key and EDITIONS_NAME not in Path(place).parts:
                yield place
        except (OSError, ValueError):
            continue


def _of_splits(graph: LineageGraph, found: Found, present: Sequence[tuple[Edition, pa.Table, str]]) -> Iterator[Item]:
    for edition, pictures, place in present:
        manifest = read_manifest(as_path(place))
        for number in sorted(set(pictures["shard"].to_pylist())):
            shard = manifest.shards[number].name
            for file in (as_path(place) / shard, as_path(place) / commit_name(shard)):
                yield from _file("shard", file, edition.split)
        yield from _tables(as_path(place), edition.split)
        yield from _file("shard", as_path(place) / PRECUT_FOLDER, edition.split)
    for edition, _ in found.editions:
        places = {*graph.places.get(edition.split, ())}
        kept = {str(as_path(place) / EDITIONS_NAME / edition.split.key[:32]) for place in places}
        for folder in sorted(kept | {str(edition.folder)}):
            yield from _tables(as_path(folder), edition.split)


def _tables(folder: AnyPath, split: Node) -> Iterator[Item]:
    for name in (IMAGES_NAME, INSTANCES_NAME, QUARANTINE_NAME):
        yield from _file("table", folder / name, split)


def _file(kind: ItemKind, path: AnyPath, node: Node, *, holds: bool = True) -> Iterator[Item]:
    if path.exists():
        yield Item(kind, str(path), _size(path), holds, node)


def _size(path: AnyPath) -> int:
    try:
        if path.is_dir():
            return sum(inner.stat().st_size for inner in path.rglob("*") if inner.is_file())
        return int(path.stat().st_size)
    except OSError:
        return 0


def _showing(graph: LineageGraph, splits: Iterable[Node]) -> set[Node]:
    """Runs that wrote down what they read of the pictures, or what another run had; weights show nothing."""
    readers = [edge.target for split in splits for edge in graph.graph.targets(split) if edge.target.kind == "run"]
    others = [run for run in readers if not _makes(graph, run)]
    return {*readers, *graph.graph.reached(others, frozenset({"used"}))}


def _makes(graph: LineageGraph, run: Node) -> bool:
    """Whether a run made what others are made from; of pages to look at nothing is."""
    return any(edge.relation == "made" and edge.target.kind != "report" for edge in graph.graph.targets(run))


def _of_run(tracking: Tracking, graph: LineageGraph, node: Node, *, holds: bool, unknown: list[str]) -> Iterator[Item]:
    run = graph.runs[node]
    log = RunLog(tracking, run.run_id)
    places = [run.params["run_dir"]] if "run_dir" in run.params else []
    if run.status == "FINISHED" and not run.withdrawn:
        try:
            for outputs in outputs_everywhere(log):
                places += [file.path for file in outputs.files] + list(_paths(outputs.values))
        except LineageError as error:
            unknown.append(f"what {graph.name(node)} wrote: {error}")
    for place in dict.fromkeys(places):
        yield from _of_place(as_path(place), run.folder, node, holds=holds)
    try:
        stored = run_artifacts(tracking, run.run_id)
        root = artifact_place(tracking, run.run_id)
    except LineageError as error:
        unknown.append(str(error))
        return
    for path, size in stored.items():
        kind: ItemKind = "adapter" if path.endswith((".safetensors", "adapter_config.json")) else "artifact"
        yield Item(kind, f"{root}/{path}", size, holds and kind == "artifact", node, path)


def _paths(value: Json) -> Iterator[str]:
    """Absolute paths in what a step returned."""
    if isinstance(value, str):
        if value.startswith("/") or "://" in value:
            yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _paths(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _paths(inner)


def _of_place(path: AnyPath, run_folder: Path | None, node: Node, *, holds: bool) -> Iterator[Item]:
    """A place of a run: of a training folder all that lies in it, of a file also what lies beside it."""
    try:
        if not path.exists():
            return
        if path.is_file() and run_folder is not None and path.parent != run_folder:
            path = path.parent
        inner = sorted(path.iterdir(), key=lambda each: each.name) if path.is_dir() else [path]
    except (OSError, ValueError):
        return
    for each in inner:
        kind = _kind(each)
        # Weights came from pictures; losses of labels, tables and pages may name or show them.
        yield Item(kind, str(each), _size(each), holds and kind not in ("model", "checkpoint", "adapter"), node)


def _kind(path: AnyPath) -> ItemKind:
    if path.name in ("model", WEIGHTS_FILE, CARD_FILE):
        return "model"
    if path.name == "adapter" or path.parent.name == "adapter":
        return "adapter"
    if path.suffix == ".onnx":
        return "export"
    if path.name.startswith("answers-") or "answers" in path.parts[:-1]:
        return "answers"
    if path.suffix in _PAGES or not {"evaluation", "label_losses", "samples"}.isdisjoint(path.parts):
        return "report"
    return "checkpoint"


def _working_copies(graph: LineageGraph, weights: set[Node]) -> Iterator[Item]:
    """Folders of models with affected weights anywhere below the run folders: copies that jobs made for themselves."""
    wanted = {node.key for node in weights}
    folders = {run.folder for run in graph.runs.values() if run.folder is not None}
    for folder in sorted(folders):
        for card in sorted(folder.rglob(CARD_FILE)) if folder.is_dir() else ():
            digest = _stated_weights(card)
            if digest in wanted:
                yield Item("working copy", str(card.parent), _size(card.parent), False, Node("weights", digest))


def _stated_weights(card: Path) -> str:
    try:
        return str(json.loads(read_at_most(card, MAX_CARD_BYTES)).get("weights_sha256", ""))
    except (OSError, ValueError, AttributeError):
        return ""


def _of_contents(graph: LineageGraph, learned: Iterable[Node]) -> Iterator[Item]:
    for node in learned:
        if node.kind in ("answers", "export", "weights"):
            kind: ItemKind = {"answers": "answers", "export": "export", "weights": "model"}[node.kind]  # type: ignore[assignment]
            for place in graph.places.get(node, ()):
                yield from _file(kind, as_path(place), node, holds=node.kind == "answers")


def _registered(tracking: Tracking, graph: LineageGraph, node: Node, unknown: list[str]) -> Iterator[Item]:
    record = graph.versions[node]
    if not record.model_id:
        return
    try:
        size = sum(model_artifacts(tracking, record.model_id).values())
        place = model_place(tracking, record.model_id)
    except LineageError as error:
        unknown.append(str(error))
        return
    yield Item("registered files", place, size, False, node)


def _of_reports(graph: LineageGraph, showing: Iterable[Node]) -> Iterator[Item]:
    """Pages and pictures of runs that show what they read, wherever they lie, by content."""
    for run in sorted(showing):
        for edge in graph.graph.targets(run):
            if edge.target.kind == "report":
                for place in graph.places.get(edge.target, ()):
                    yield from _file("report", as_path(place), edge.target)


def _shortcut(graph: LineageGraph, version: Node, learned: set[Node]) -> Shortcut:
    behind = graph.graph.reached([version], DERIVED, backwards=True)
    clean = [node for node in behind if node.kind == "weights" and node not in learned]
    making = [node for node in behind if node.kind == "run" and _makes(graph, node)]
    again = sum(graph.runs[node].seconds or 0.0 for node in making if node in learned)
    whole = sum(graph.runs[node].seconds or 0.0 for node in making)
    return Shortcut(version, clean[0] if clean else None, again, whole)


def _once(items: Sequence[Item]) -> list[Item]:
    """Each place once, and nothing that lies within another."""
    by_place: dict[Path, Item] = {}
    for item in items:
        by_place.setdefault(_local(item.place), item)
    return [item for place, item in by_place.items() if by_place.keys().isdisjoint(place.parents)]


def _local(place: str) -> Path:
    """A place as a path that can be compared; MLflow names local folders as URLs."""
    return Path(place.removeprefix("file://"))
