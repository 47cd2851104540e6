"""Whether a model has never seen a picture or a person, answered from digests: yes with the proof, no, or not provable.

The proof is a list: every edition that the model or an ancestor was trained on, by digest, with the hash of its table
of pictures as it was compared with the manifest, and that none of the pictures asked about is in it. Where pictures
were withdrawn, their digests and the editions that held them stand in the withdrawal's record.
"""

from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from posecore.counting import counted
from posecore.errors import QuestionError
from posecore.lineage.ancestry.graph import Edge, Node, path_to
from posecore.lineage.ancestry.pictures import (
    Edition,
    Editions,
    Found,
    find_dataset,
    find_picture,
    find_subject,
    picture_digests,
    subject_of,
)
from posecore.lineage.ancestry.query import LineageGraph
from posecore.lineage.versions.tags import RegisteredVersion
from posecore.lineage.withdrawal.record import WithdrawalRecord, check_chain
from posecore.shards.manifest import IMAGES_NAME, INSTANCES_NAME, read_manifest
from posecore.storage import sha256_of

Verdict: TypeAlias = Literal["never saw", "saw", "not provable"]


@dataclass
class Certificate:
    """The answer for one model.

    Attributes:
        model: the version.
        asked: what it is to have never seen.
        verdict: the answer.
        weights: SHA-256 of the model's weights, "" if the record does not say.
        path: of a ``saw``: how what was asked about came into the model.
        proof: of each edition the model comes from: digest, name, pictures, SHA-256 of its table.
        missing: why it cannot be proven, a sentence each.
        trusted: what was taken on trust because it was asked to be.
    """

    model: str
    asked: str
    verdict: Verdict
    weights: str
    path: list[str] = field(default_factory=list)
    proof: list[dict[str, Any]] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    trusted: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Asked:
    """What a certificate is about.

    Attributes:
        name: as somebody named it.
        dataset: of a subject, else "".
        subject: id of the subject, else "".
        digests: of the pictures, withdrawn ones included.
        marks: 64-bit XXH3 of the pictures.
        held: digest of an edition that held them before they were withdrawn, to how many.
        found: where they are now.
    """

    name: str
    dataset: str
    subject: str
    digests: frozenset[str]
    marks: frozenset[int]
    held: dict[str, int]
    found: Found


def asked_about(editions: Editions, records: list[WithdrawalRecord], name: str, *, picture: bool) -> Asked:
    """Who or what is meant, by what lies in editions now and by what was withdrawn.

    Args:
        editions: of all splits.
        records: of withdrawals.
        name: a subject; or a picture, as its file or digest.
        picture: whether it is a picture.

    Raises:
        QuestionError: neither knows it.
    """
    dataset, subject = ("", "") if picture else subject_of(editions, name)
    own = picture_digests(name) if picture else set()
    of_it = [
        record
        for record in records
        if (not own.isdisjoint(record.pictures) if picture else _is_subject(record, name, dataset, subject))
    ]
    try:
        found = find_picture(editions, name) if picture else find_subject(editions, name)
    except QuestionError:
        if not of_it:
            raise
        found = Found(frozenset(), [], {}, [])
    if of_it and not picture:
        dataset, subject = of_it[0].dataset, of_it[0].subject
    digests = own or {digest for record in of_it for digest in record.pictures}
    marks = found.marks if picture else found.marks.union(*(record.marks for record in of_it))
    held = {digest: count for record in of_it for digest, count in record.editions.items()}
    return Asked(name, dataset, subject, found.digests | digests, marks, held, found)


def asked_about_dataset(editions: Editions, records: list[WithdrawalRecord], name: str) -> Asked:
    """All of a dataset, as it lies in editions now and as it was withdrawn.

    Raises:
        QuestionError: neither knows it.
    """
    of_it = [record for record in records if record.dataset == name and not record.subject]
    try:
        found = find_dataset(editions, name)
    except QuestionError:
        if not of_it:
            raise
        found = Found(frozenset(), [], {}, [])
    return Asked(
        name=name,
        dataset=name,
        subject="",
        digests=found.digests.union(*(record.pictures for record in of_it)),
        marks=found.marks.union(*(record.marks for record in of_it)),
        held={digest: count for record in of_it for digest, count in record.editions.items()},
        found=found,
    )


def _is_subject(record: WithdrawalRecord, name: str, dataset: str, subject: str) -> bool:
    own = (record.dataset, record.subject)
    return bool(record.subject) and (own == (dataset, subject) or name in (record.subject, "/".join(own)))


def certify(
    graph: LineageGraph,
    editions: Editions,
    records: list[WithdrawalRecord],
    model: RegisteredVersion,
    asked: Asked,
    *,
    trust_publishers: bool = False,
    key: bytes | None = None,
) -> Certificate:
    """Looks at every edition behind a model.

    Args:
        graph: what is recorded.
        editions: of all splits.
        records: of withdrawals.
        model: the version.
        asked: what it is to have never seen.
        trust_publishers: take for granted that published weights were not trained on it.
        key: that withdrawals were signed with.

    Raises:
        QuestionError: there is no such version.
    """
    weights = graph.weights_node(model)
    behind = graph.behind(model)
    splits = [node for node in behind if node.kind == "split"]
    tables = {edition.split: edition for edition in editions.readable}
    redacted = {now: stated for record in records for now, stated in record.redacted.items()}
    answer = Certificate(
        model=model.uri, asked=asked.name, verdict="never saw", weights="" if "/" in weights.key else weights.key
    )
    for split in splits:
        pictures = _seen(tables.get(split), split, asked)
        if pictures:
            answer.verdict = "saw"
            answer.path = [f"in {graph.name(split)}: {pictures} of its pictures", *_way(graph, path_to(split, behind))]
            return answer
        edition = tables.get(split)
        if edition is None:
            answer.missing.append(editions.unread.get(split, f"{graph.name(split)} is not there"))
        else:
            answer.proof.append(_evidence(edition))
            answer.missing += _doubts(edition, asked, redacted)
    answer.missing += check_chain(records, key)
    answer.missing += [why for node, why in graph.unknown_origins().items() if node in behind]
    answer.missing += [line for line in graph.unreadable if model.name in line]
    for node in behind:
        if graph.is_published(node):
            use = graph.origins[node]
            said = f"{use.source} ({use.digest[:12]}): what it was trained on is known to its publisher"
            (answer.trusted if trust_publishers else answer.missing).append(said)
    if not splits and not answer.missing:
        answer.missing.append("the record names no training data at all")
    if answer.missing:
        answer.verdict = "not provable"
    return answer


def _seen(edition: Edition | None, split: Node, asked: Asked) -> int:
    if split.key in asked.held:
        return asked.held[split.key]
    if edition is None:
        return 0
    found = edition.holding(asked.digests, asked.marks).num_rows
    named = asked.subject and edition.dataset == asked.dataset and asked.subject in edition.subjects
    return found or (1 if named else 0)


def _way(graph: LineageGraph, path: list[Edge]) -> list[str]:
    return [f"{edge.relation} {graph.name(edge.target)}" for edge in path]


def _evidence(edition: Edition) -> dict[str, Any]:
    return {
        "edition": edition.split.key,
        "split": edition.label,
        "pictures": edition.pictures.num_rows,
        IMAGES_NAME: sha256_of(edition.folder / IMAGES_NAME),
        INSTANCES_NAME: sha256_of(edition.folder / INSTANCES_NAME),
    }


def _doubts(edition: Edition, asked: Asked, redacted: dict[str, str]) -> list[str]:
    """Why an edition in which nothing was found may have held it all the same."""
    found = []
    stated = read_manifest(edition.folder).files
    for name in (IMAGES_NAME, INSTANCES_NAME):
        now = sha256_of(edition.folder / name)
        # A later withdrawal of somebody else took rows out of it; the record says from which table.
        if now != stated[name] and redacted.get(now) != stated[name]:
            found.append(f"{edition.folder / name} is not the table that its manifest names")
    if asked.subject and edition.dataset == asked.dataset:
        unnamed, bodies = edition.unnamed()
        if unnamed:
            found.append(f"{edition.label} names nobody for {unnamed} of its {counted(bodies, 'body')}")
    return found
