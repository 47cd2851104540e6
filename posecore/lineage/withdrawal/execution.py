"""Carrying a withdrawal out: aliases move, versions are marked, splits are ingested anew, files go, all of it recorded.

The order is such that an interruption leaves nothing worse than it was: first it is recorded who may not be ingested,
then no alias leads to an affected version any more, then pictures go, and the record is sealed last. Weights are not
made to forget: a model that has learned from a picture descends from it until it is trained again, and says so.
"""

import hashlib
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from posecore.config import Config
from posecore.datasets.definition import DatasetDefinition
from posecore.datasets.discovery import load_dataset
from posecore.errors import DatasetError, IngestError, LineageError, PoseCoreError
from posecore.ingest.job import IngestSettings, ingest_job
from posecore.ingest.run import ingest
from posecore.ingest.withdrawn import WITHDRAWN_NAME, Withdrawn, write_withdrawn
from posecore.ingest.write import commit_name
from posecore.lineage.ancestry.graph import Node
from posecore.lineage.ancestry.pictures import Edition, digests_in
from posecore.lineage.ancestry.query import LineageGraph
from posecore.lineage.jobs.contents import WITHDRAWN
from posecore.lineage.jobs.steps import OUTPUTS_FILE
from posecore.lineage.registry.promotion import move_off
from posecore.lineage.store.stored_artifacts import remove_artifacts
from posecore.lineage.store.tracking import Tracking
from posecore.lineage.versions.tags import WITHDRAWN_TAG, RegisteredVersion
from posecore.lineage.withdrawal.plan import Item, ItemKind, WithdrawalPlan
from posecore.lineage.withdrawal.record import KIND, RECORD_FILE, sealed, withdrawal_records
from posecore.shards.editions import EDITIONS_NAME
from posecore.shards.index import write_table
from posecore.shards.manifest import (
    IMAGES_NAME,
    INSTANCES_NAME,
    MANIFEST_NAME,
    QUARANTINE_NAME,
    Manifest,
    read_manifest,
)
from posecore.shards.precut import FOLDER_NAME as PRECUT_FOLDER
from posecore.storage import AnyPath, as_path, remove_folder
from posecore.tables.parquet import read_parquet


class WithdrawalPolicy(Config):
    """What goes beside shards and tables, which are always made anew without the pictures.

    Attributes:
        delete_holding: kinds of files that go if they hold pictures, names or annotations.
        delete_descending: kinds that go although they only descend from them; models are kept and marked by default.
    """

    delete_holding: tuple[ItemKind, ...] = ("answers", "report", "artifact", "checkpoint")
    delete_descending: tuple[ItemKind, ...] = ("checkpoint", "working copy", "answers")

    def deletes(self, item: Item) -> bool:
        """Whether a file or folder goes."""
        return item.kind in (self.delete_holding if item.holds else self.delete_descending)


@dataclass
class Done:
    """What a withdrawal did.

    Attributes:
        run_id: its record.
        deleted: places that are gone.
        kept: places that the policy keeps.
        moved: aliases, with where they lead now.
        marked: versions.
        ingested: folder of each split to its new digest.
        failed: what could not be done, a sentence each; it must be done by hand.
    """

    run_id: str
    deleted: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    moved: list[str] = field(default_factory=list)
    marked: list[str] = field(default_factory=list)
    ingested: dict[str, str] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)

    def attempt(self, what: str, act: Callable[[], None]) -> None:
        """Does something, or notes why it could not be done: the rest is done all the same."""
        try:
            act()
        except (PoseCoreError, OSError) as error:
            self.failed.append(f"{what}: {' '.join(str(error).split())}")


def apply_withdrawal(
    tracking: Tracking,
    graph: LineageGraph,
    plan: WithdrawalPlan,
    reason: str,
    policy: WithdrawalPolicy,
    key: bytes | None = None,
) -> Done:
    """Does what a plan says.

    Args:
        tracking: the store, in the experiment of the records.
        graph: what it recorded when the plan was made.
        plan: what is concerned.
        reason: why; it stands in the record, in manifests and in quarantines.
        policy: what goes.
        key: signs the record.

    Raises:
        LineageError: no reason is given, or the store refused; nothing was changed then.
    """
    if not reason.strip():
        raise LineageError("a withdrawal needs a reason; say who asked for it and when.")
    previous = withdrawal_records(tracking)
    withdrawn = _withdrawn(plan, reason)
    # Of a whole dataset pictures may be in others, too, so every later ingestion has to know.
    concerns = plan.dataset if plan.subject else ""
    log = tracking.start_run(
        f"withdraw {plan.name}", {"posecore.kind": KIND, "posecore.dataset": concerns, "posecore.reason": reason}
    )
    log.log_dict(withdrawn.model_dump(mode="json"), WITHDRAWN_NAME)
    done = Done(log.run_id)
    try:
        for (model, alias), holder in plan.aliases.items():
            done.attempt(f"{model}@{alias}", partial(_move, tracking, graph, plan, model, alias, holder, done))
        for node in plan.versions:
            done.attempt(graph.name(node), partial(_mark, tracking, graph, node, log.run_id, done))
        redacted: dict[str, str] = {}
        for edition, pictures in plan.found.editions:
            done.attempt(edition.label, partial(_redact, graph, edition, pictures, redacted))
        for edition, _, place in plan.present:
            act = partial(_remove, as_path(place), withdrawn, done)
            if not plan.is_whole(edition):
                act = partial(_ingest, graph, edition, as_path(place), withdrawn, done)
            done.attempt(place, act)
        for item in plan.items:
            if item.kind in ("shard", "table"):
                continue  # made anew
            if policy.deletes(item):
                done.attempt(item.place, partial(_delete, tracking, item, done))
            else:
                done.kept.append(item.place)
        content = _content(graph, plan, reason, withdrawn, done, redacted, tracking.user)
        record = sealed(content, previous[-1].digest if previous else "", key)
        log.log_dict(record, RECORD_FILE)
    except BaseException as error:
        log.end_failed(error)
        raise
    log.set_tags({"posecore.digest": record["digest"]})
    log.end()
    return done


def _withdrawn(plan: WithdrawalPlan, reason: str) -> Withdrawn:
    if plan.subject:
        return Withdrawn(subjects={plan.subject: reason})
    if plan.dataset:  # of others only what they share: a list of all pictures would make all of them anew
        elsewhere = [pictures for edition, pictures in plan.found.editions if not plan.is_whole(edition)]
        shared = sorted({digest for pictures in elsewhere for digest in digests_in(pictures)})
        return Withdrawn(datasets={plan.dataset: reason}, pictures=dict.fromkeys(shared, reason))
    return Withdrawn(pictures=dict.fromkeys(sorted(plan.found.digests), reason))


def _content(
    graph: LineageGraph,
    plan: WithdrawalPlan,
    reason: str,
    withdrawn: Withdrawn,
    done: Done,
    redacted: dict[str, str],
    user: str,
) -> dict[str, Any]:
    return {
        "format": 1,
        "asked": plan.name,
        "dataset": plan.dataset,
        "subject": plan.subject,
        "reason": reason,
        "user": user,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "pictures": sorted(plan.found.digests),
        "marks": sorted(plan.found.marks),
        "editions": [
            {"digest": edition.split.key, "split": edition.label, "pictures": pictures.num_rows}
            for edition, pictures in plan.found.editions
        ],
        "withdrawn": withdrawn.model_dump(mode="json"),
        "items": [item.as_json() for item in plan.items],
        "versions": [graph.name(node) for node in plan.versions],
        "again": [{"step": step.step, "run_id": step.run_id, "seconds": step.seconds} for step in plan.again],
        "unknown": plan.unknown,
        "deleted": done.deleted,
        "kept": done.kept,
        "moved": done.moved,
        "marked": done.marked,
        "ingested": done.ingested,
        "redacted": redacted,
        "failed": done.failed,
    }


def _move(
    tracking: Tracking, graph: LineageGraph, plan: WithdrawalPlan, model: str, alias: str, holder: Node, done: Done
) -> None:
    """To the last version that held the alias, still lives, and has not seen the pictures; else to none."""
    affected = {graph.versions[node].version for node in plan.versions}
    living = {record.version for record in graph.versions.values() if not record.deleted} - affected
    holding = graph.versions[holder].version
    target = move_off(tracking, holding, alias, living.__contains__, f"withdrawal of {plan.name}")
    done.moved.append(f"{model}@{alias} -> {'no version' if target is None else target.version}")


def _mark(tracking: Tracking, graph: LineageGraph, node: Node, run_id: str, done: Done) -> None:
    record = graph.versions[node]
    if not record.deleted:
        version: RegisteredVersion = record.version
        number = str(version.version)
        tracking.ask(lambda client: client.set_model_version_tag(version.name, number, WITHDRAWN_TAG, run_id))
    if record.model_id:
        tracking.ask(lambda client: client.set_logged_model_tags(record.model_id, {WITHDRAWN_TAG: run_id}))
    done.marked.append(graph.name(node))


def _redact(graph: LineageGraph, edition: Edition, pictures: pa.Table, redacted: dict[str, str]) -> None:
    """Takes the rows out of the kept tables of an edition, wherever they are kept; its manifest stays."""
    stated = read_manifest(edition.folder).files
    names = edition.images("key", "source_id")
    names = names.filter(pc.is_in(names["key"], pictures["key"].combine_chunks()))
    keys = ("key", names["key"])
    rows = {IMAGES_NAME: keys, INSTANCES_NAME: keys, QUARANTINE_NAME: ("source_id", names["source_id"])}
    places = {*graph.places.get(edition.split, ()), str(edition.folder)}
    for folder in {as_path(place) / EDITIONS_NAME / edition.split.key[:32] for place in places} | {edition.folder}:
        for name, (column, values) in rows.items():
            path = folder / name
            if path.exists():
                redacted[_without(path, column, values)] = stated[name]


def _without(path: AnyPath, column: str, values: pa.ChunkedArray) -> str:
    """Rewrites a table without some rows, and returns its SHA-256; the numbers in ``image_row`` stay as they were."""
    table = read_parquet(path.read_bytes())
    shown = pc.is_in(table[column], values.combine_chunks())
    return hashlib.sha256(write_table(path, table.filter(pc.invert(shown)))).hexdigest()


def _ingest(graph: LineageGraph, edition: Edition, place: AnyPath, withdrawn: Withdrawn, done: Done) -> None:
    """The split again from its source without the pictures; if that cannot be, its shards are gone all the same."""
    manifest = read_manifest(place) if (place / MANIFEST_NAME).exists() else read_manifest(edition.folder)
    write_withdrawn(place, withdrawn)
    remove_folder(place / PRECUT_FOLDER)  # a job that wants pictures of bodies cut beforehand cuts them again
    try:
        source = _source(graph, edition, place)
        definition = _with_folder(manifest.definition)
        settings = IngestSettings.model_validate(manifest.settings)
        job = ingest_job(definition, manifest.split, source, place.parent.parent, settings)
        if job.folder != place:
            raise IngestError(f"{place} is not named as ingestion names it, {job.folder}.")
        done.ingested[str(place)] = ingest(job).digest
    except (PoseCoreError, OSError) as error:
        _remove_shards(place, manifest)
        raise IngestError(
            f"the split could not be ingested again ({' '.join(str(error).split())}), so its shards were removed; "
            "ingest it when its source is there: it will be without what was withdrawn."
        ) from error


def _remove(place: AnyPath, withdrawn: Withdrawn, done: Done) -> None:
    """The shards and tables of a split of which nothing may be ingested again; manifests of its editions stay."""
    manifest = read_manifest(place)
    write_withdrawn(place, withdrawn)
    remove_folder(place / PRECUT_FOLDER)
    for name in manifest.files:
        (place / name).unlink(missing_ok=True)
    _remove_shards(place, manifest)
    done.deleted.append(str(place))


def _remove_shards(place: AnyPath, manifest: Manifest) -> None:
    (place / MANIFEST_NAME).unlink(missing_ok=True)
    for entry in manifest.shards:
        (place / entry.name).unlink(missing_ok=True)
        (place / commit_name(entry.name)).unlink(missing_ok=True)


def _source(graph: LineageGraph, edition: Edition, place: AnyPath) -> AnyPath:
    """The root that the split was ingested from, by the run that did it."""
    for edge in graph.graph.sources(edition.split):
        if edge.relation == "made" and "source" in graph.runs[edge.source].params:
            return as_path(graph.runs[edge.source].params["source"])
    raise IngestError(f"no run says what {place} was ingested from.")


def _with_folder(definition: DatasetDefinition) -> DatasetDefinition:
    with suppress(DatasetError, PoseCoreError):
        return definition.model_copy(update={"folder": load_dataset(definition.name).folder})
    return definition


def _delete(tracking: Tracking, item: Item, done: Done) -> None:
    if item.artifact:
        run = item.node.key
        if item.artifact == OUTPUTS_FILE:
            tracking.ask(lambda client: client.set_tag(run, WITHDRAWN, done.run_id))
        remove_artifacts(tracking, item.place.removesuffix(f"/{item.artifact}"), item.artifact)
    elif "://" in item.place:
        path = as_path(item.place)
        assert not isinstance(path, Path), path
        path.fs.rm(path.path, recursive=True)
    else:
        local = Path(item.place)
        if local.is_dir():
            shutil.rmtree(local)
        else:
            local.unlink(missing_ok=True)
    done.deleted.append(item.place)
