"""Whether what a model learned from shares anything with what it is judged on, over its whole ancestry.

Audits of jobs have compared what was theirs, and their clean results are believed; what an ancestor learned from, or
what was judged later, is compared here, from the tables of the splits as they lie now.
"""

from collections.abc import Mapping, Sequence

from posecore.errors import ConfigError, IntegrityError, LineageError, StorageError
from posecore.ingest.audit import compare
from posecore.lineage.ancestry.graph import Node
from posecore.lineage.ancestry.measurements import result_of
from posecore.lineage.ancestry.query import LineageGraph
from posecore.lineage.store.tracking import Tracking
from posecore.shards.store import ShardStore, open_store


def leaks_between(
    tracking: Tracking, graph: LineageGraph, trained: Sequence[str], judged: Mapping[str, str]
) -> list[str]:
    """What is shared, or cannot be compared, a sentence each; none if nothing is shared.

    Args:
        tracking: the store.
        graph: what it records.
        trained: digests of the splits that were learned from.
        judged: digest of each split that is judged on to its name in the evaluation.
    """
    pairs = [(training, digest) for training in trained for digest in judged]
    for audited in _clean_audits(tracking, graph, pairs):
        pairs = [pair for pair in pairs if not audited.issuperset(pair)]
    opened: dict[str, ShardStore] = {}
    found = []
    for training, digest in pairs:
        try:
            for each in (training, digest):
                if each not in opened:
                    opened[each] = _open(graph, each)
        except LineageError as error:
            found.append(f"{judged[digest]} was not compared with what the model learned from: {error}")
            continue
        report = compare(opened[training], opened[digest])
        found += [f"{report}."] if report.leaks else []
    return list(dict.fromkeys(found))


def _clean_audits(tracking: Tracking, graph: LineageGraph, pairs: Sequence[tuple[str, str]]) -> list[frozenset[str]]:
    """What each audit has read that found nothing shared; only audits that say something of the pairs are read."""
    clean = []
    for run in graph.runs.values():
        read = frozenset(run.reads)
        if run.step == "audit" and run.status == "FINISHED" and any(read.issuperset(pair) for pair in pairs):
            try:
                if result_of(tracking, run).values.get("shared") == 0:
                    clean.append(read)
            except LineageError:
                continue  # what cannot be believed is compared again
    return clean


def _open(graph: LineageGraph, digest: str) -> ShardStore:
    """The split with this digest, wherever a use of it says that it lay.

    Raises:
        LineageError: it is nowhere.
    """
    split = Node("split", digest)
    for place in graph.places.get(split, ()):
        try:
            store = open_store(place)
        except (IntegrityError, StorageError, ConfigError, OSError):
            continue
        if store.manifest.digest == digest:
            return store
    raise LineageError(f"{graph.name(split)} is not where the record says that it lay.")
