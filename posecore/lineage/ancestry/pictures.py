"""From a picture or a person to the editions of splits that hold them: lineage's way into the tables beside the shards.

A picture is known by the digest of its bytes, and by that of the file it came from where a stage changed it; so one
picture in two datasets, or before and after its faces were blurred, is one picture. Splits of format 3 have digests of
another kind; between formats a picture is known by its 64-bit XXH3, which all have. A person's name means something
within one dataset only: ``minirgbd/03``.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from posecore.counting import counted
from posecore.errors import IntegrityError, QuestionError
from posecore.lineage.ancestry.graph import Node
from posecore.lineage.ancestry.query import Answer, LineageGraph
from posecore.shards.digests import as_blake3, is_blake3, known_digests
from posecore.shards.editions import EDITIONS_NAME, find_edition
from posecore.shards.index import read_columns
from posecore.shards.manifest import IMAGES_NAME, INSTANCES_NAME, read_manifest
from posecore.storage import AnyPath, as_path

PICTURE_COLUMNS = ("key", "shard", "digest", "source_digest", "image_xxh3")
"""Of a table of pictures."""

_UNREADABLE = (OSError, IntegrityError, pa.ArrowInvalid)


@dataclass(frozen=True)
class Edition:
    """The tables of one edition of a split.

    Attributes:
        split: its node.
        dataset: name of the dataset.
        label: ``dataset/split``.
        folder: where its tables lie.
    """

    split: Node
    dataset: str
    label: str
    folder: AnyPath

    def images(self, *columns: str) -> pa.Table:
        """Columns of the table of images."""
        return read_columns(self.folder / IMAGES_NAME, columns)

    def instances(self, *columns: str) -> pa.Table:
        """Columns of the table of instances."""
        return read_columns(self.folder / INSTANCES_NAME, columns)

    def holding(self, digests: Iterable[str], marks: Iterable[int] = ()) -> pa.Table:
        """:data:`PICTURE_COLUMNS` of the pictures that have, or came from a file that has, a digest, or have a mark."""
        wanted, marked, table = pa.array(sorted(set(digests)), pa.string()), pa.array(marks, pa.uint64()), self.pictures
        found = [pc.is_in(table[name], wanted) for name in ("digest", "source_digest")]
        return table.filter(pc.or_(pc.or_(*found), pc.is_in(table["image_xxh3"], marked)))

    @cached_property
    def picture_licenses(self) -> dict[str, int]:
        """Pictures by the licence that the annotations give each; those that are given none are left out."""
        counts = pc.value_counts(self.images("license")["license"]).to_pylist()
        return {entry["values"]: entry["counts"] for entry in counts if entry["values"] is not None}

    @cached_property
    def stages(self) -> list[str]:
        """Names of the stages that its definition lists."""
        return [entry.stage for entry in read_manifest(self.folder).definition.stages]

    def pictures_of(self, subject_id: str) -> set[str]:
        """Digests of the pictures that show a person, those of their source files included."""
        bodies = self.instances("subject_id", "digest")
        shown = bodies.filter(pc.equal(bodies["subject_id"], subject_id))["digest"].to_pylist()
        return digests_in(self.holding(shown)) if shown else set()

    @cached_property
    def pictures(self) -> pa.Table:
        """:data:`PICTURE_COLUMNS` of all."""
        return self.images(*PICTURE_COLUMNS)

    @cached_property
    def subjects(self) -> set[str]:
        """Names of all people and animals in it."""
        return set(pc.unique(self.instances("subject_id")["subject_id"]).to_pylist()) - {None}

    def unnamed(self) -> tuple[int, int]:
        """How many bodies, crowds excepted, have no name, and of how many."""
        bodies = self.instances("subject_id", "is_crowd")
        bodies = bodies.filter(pc.invert(bodies["is_crowd"]))
        return bodies["subject_id"].null_count, bodies.num_rows


def digests_in(pictures: pa.Table) -> set[str]:
    """Every digest, own or of the source, in a table of pictures."""
    return (set(pictures["digest"].to_pylist()) | set(pictures["source_digest"].to_pylist())) - {None}


@dataclass
class Editions:
    """Every edition of every split that the record, or a folder it names, knows of.

    Attributes:
        readable: those whose tables can be read.
        unread: of the others, why not, by node of the split.
    """

    readable: list[Edition] = field(default_factory=list)
    unread: dict[Node, str] = field(default_factory=dict)

    @classmethod
    def of(cls, graph: LineageGraph, behind: Iterable[Node] | None = None) -> "Editions":
        """Finds them, by digest, wherever a use of a split says that it lay.

        Args:
            graph: what is recorded.
            behind: only the splits among these nodes; None looks for those as well that were never used.
        """
        found = cls()
        for split in graph.graph.of_kind("split") if behind is None else behind:
            if split.kind == "split":
                found._find(graph, split)
        if behind is not None:
            return found
        known = {edition.split.key for edition in found.readable} | {split.key for split in found.unread}
        places = {place for split in graph.graph.of_kind("split") for place in graph.places.get(split, ())}
        for place in sorted(places):
            for folder in _kept(as_path(place), known):
                try:
                    manifest = read_manifest(folder)
                except _UNREADABLE:
                    continue  # what was never used and cannot be read is nobody's edition
                if manifest.digest not in known:
                    known.add(manifest.digest)
                    split = Node("split", manifest.digest)
                    label = f"{manifest.dataset}/{manifest.split}"
                    found.readable.append(Edition(split, manifest.dataset, label, folder))
        return found

    def _find(self, graph: LineageGraph, split: Node) -> None:
        said = "the record names no place"
        for place in graph.places.get(split, ()):
            try:
                folder = find_edition(as_path(place), split.key)
                manifest = _manifest(folder)
            except _UNREADABLE as error:
                said = " ".join(str(error).split()).removesuffix(".")
                continue
            self.readable.append(Edition(split, manifest[0], f"{manifest[0]}/{manifest[1]}", folder))
            return
        self.unread[split] = f"{graph.name(split)}: {said}"


@lru_cache(maxsize=4096)
def _manifest(folder: AnyPath) -> tuple[str, str]:
    manifest = read_manifest(folder)
    return manifest.dataset, manifest.split


def _kept(location: AnyPath, known: set[str]) -> Iterator[AnyPath]:
    """Folders of a split that may hold an edition which is not known yet."""
    shortened = {digest[:32] for digest in known}
    yield location
    try:
        kept = sorted((location / EDITIONS_NAME).iterdir(), key=lambda path: path.name)
    except OSError:
        return
    yield from (folder for folder in kept if folder.name not in shortened)


@dataclass(frozen=True)
class Found:
    """Where a picture or a person is.

    Attributes:
        digests: of the pictures.
        editions: with the pictures of each (:meth:`Edition.holding`).
        unread: editions where it may be as well, with why they cannot be read.
        unknown: why else there may be more.
        marks: 64-bit XXH3 of the pictures.
    """

    digests: frozenset[str]
    editions: list[tuple[Edition, pa.Table]]
    unread: dict[Node, str]
    unknown: list[str]
    marks: frozenset[int] = frozenset()


def find_picture(editions: Editions, file_or_digest: str) -> Found:
    """Every edition with a picture.

    Args:
        editions: all.
        file_or_digest: the picture or the file it came from, or the BLAKE3 or SHA-256 of its bytes.

    Raises:
        QuestionError: it is neither, or every edition could be read and none has it.
    """
    found = _holding(editions, picture_digests(file_or_digest), [])
    return _or_mistake(found, f"{file_or_digest}: no edition of any recorded split has this picture.")


def picture_digests(file_or_digest: str) -> set[str]:
    """Every digest that an edition may know a picture by.

    Args:
        file_or_digest: the picture, or the BLAKE3 or SHA-256 of its bytes.

    Raises:
        QuestionError: it is neither.
    """
    path = Path(file_or_digest)
    if path.is_file():
        return set(known_digests(path.read_bytes()))
    digest = file_or_digest.lower()
    digits = digest.removeprefix(as_blake3(""))
    if len(digits) != 64 or set(digits) - set("0123456789abcdef"):
        raise QuestionError(
            f"{file_or_digest}: a picture is named by its file, or by its BLAKE3 or SHA-256, 64 hexadecimal digits."
        )
    return {digest} if is_blake3(digest) else {digest, as_blake3(digest)}


def find_subject(editions: Editions, name: str) -> Found:
    """Every edition with a picture that shows a person, whatever dataset it is in.

    Args:
        editions: all.
        name: ``dataset/subject``; the subject alone where only one dataset has one of this name.

    Raises:
        QuestionError: several datasets have such a one, or every edition could be read and none has.
    """
    dataset, subject = subject_of(editions, name)
    own = [edition for edition in editions.readable if edition.dataset == dataset]
    digests = {digest for edition in own for digest in edition.pictures_of(subject)}
    unknown = []
    for edition in own:
        unnamed, bodies = edition.unnamed()
        if unnamed:
            unknown.append(
                f"{edition.label} {edition.split.key[:12]} names nobody for {unnamed} of its {counted(bodies, 'body')}"
            )
    found = _holding(editions, digests, unknown)
    return _or_mistake(found, f"{name}: no edition of any recorded split names this subject.")


def find_video(editions: Editions, name: str) -> Found:
    """Every edition with a frame of a video.

    Args:
        editions: all.
        name: ``dataset/video``.

    Raises:
        QuestionError: every edition of the dataset could be read and none has it.
    """
    dataset, _, video = name.partition("/")
    digests: set[str] = set()
    for edition in editions.readable:
        if edition.dataset == dataset:
            table = edition.images("digest", "source_digest", "video_id")
            digests |= digests_in(table.filter(pc.equal(table["video_id"], video)))
    found = _holding(editions, digests, [])
    return _or_mistake(found, f"{name}: no edition has a video of this name; give it as dataset/video.")


def find_dataset(editions: Editions, name: str) -> Found:
    """Every edition with a picture of a dataset, those of other datasets that have the same picture included.

    Raises:
        QuestionError: every edition could be read and none is of a dataset of this name.
    """
    own = [edition for edition in editions.readable if edition.dataset == name]
    digests = {digest for edition in own for digest in digests_in(edition.pictures)}
    known = ", ".join(sorted({edition.dataset for edition in editions.readable})) or "none"
    found = _holding(editions, digests, [])
    return _or_mistake(found, f"{name}: no edition is of a dataset of this name; there is {known}.")


def subject_of(editions: Editions, name: str) -> tuple[str, str]:
    """Dataset and id of a subject as somebody names it.

    Raises:
        QuestionError: several datasets have a subject of this name.
    """
    datasets = {edition.dataset for edition in editions.readable}
    dataset, _, subject = name.partition("/")
    if subject and dataset in datasets:
        return dataset, subject
    having = sorted({edition.dataset for edition in editions.readable if name in edition.subjects})
    if len(having) > 1:
        raise QuestionError(f"{name}: {' and '.join(having)} each have such a subject; ask for {having[0]}/{name}.")
    return (having[0], name) if having else (dataset, subject or name)


def _holding(editions: Editions, digests: set[str], unknown: list[str]) -> Found:
    every, marks = set(digests), set[int]()
    while True:  # the file behind one edition's picture may be another edition's picture
        found = [(edition, edition.holding(every, marks)) for edition in editions.readable] if every else []
        found = [(edition, pictures) for edition, pictures in found if pictures.num_rows]
        more = {digest for _, pictures in found for digest in digests_in(pictures)} - every
        more_marks = {mark for _, pictures in found for mark in pictures["image_xxh3"].to_pylist()} - marks
        if not more and not more_marks:
            return Found(frozenset(every), found, editions.unread, unknown, frozenset(marks))
        every |= more
        marks |= more_marks


def _or_mistake(found: Found, sentence: str) -> Found:
    if not found.editions and not found.unread and not found.unknown:
        raise QuestionError(sentence)
    return found


def models_that_saw(graph: LineageGraph, found: Found, held: Iterable[str] = ()) -> Answer:
    """Every model that was trained on an edition with certain pictures, itself or through an ancestor.

    Args:
        graph: what is recorded.
        found: where they are.
        held: digests of editions that held them before they were withdrawn.
    """
    starts = dict.fromkeys([edition.split for edition, _ in found.editions] + [Node("split", each) for each in held])
    for split in starts:
        graph.graph.add(split)
    learned = [
        why
        for split, why in found.unread.items()
        if any(edge.relation == "trained on" for edge in graph.graph.targets(split))
    ]
    return graph.answer({split: graph.use(split) for split in starts}, [*learned, *found.unknown])
