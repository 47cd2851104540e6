"""Suspicious labels, whoever found them: a table for people, and corrections that a run can be told of."""

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from posecore.errors import DatasetError
from posecore.schema import Json
from posecore.shards.corrections import CorrectedInstance, Corrections
from posecore.shards.store import ShardStore
from posecore.storage import AnyPath, as_path, write_atomically

TABLE_NAME = "suspicious_labels.csv"
CORRECTIONS_NAME = "corrections.json"
_COLUMNS = ("rank", "image", "source_id", "instance_id", "point", "x", "y", "score", "reason")


@dataclass(frozen=True, slots=True)
class Suspect:
    """One label that looks wrong.

    Attributes:
        row: of ``index.parquet``.
        point: native index.
        score: the larger, the more suspicious; comparable within one check only.
        reason: for a person.
    """

    row: int
    point: int
    score: float
    reason: str


def write_suspects(folder: str | AnyPath, store: ShardStore, suspects: Sequence[Suspect]) -> AnyPath:
    """Writes ``suspicious_labels.csv``, in the order given.

    Args:
        folder: made if missing.
        store: the split that was checked.
        suspects: worst first.
    """
    names = store.manifest.definition.skeleton.names
    rows = np.array([suspect.row for suspect in suspects], np.int64)
    bodies = store.instances.select(["image_row", "source_id", "instance_id"]).take(rows).to_pylist()
    points = store.labels.keypoints(rows)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for rank, (suspect, body, places) in enumerate(zip(suspects, bodies, points, strict=True), start=1):
        x, y = places[suspect.point].tolist()
        writer.writerow(
            (
                rank,
                store.images["image"][body["image_row"]].as_py(),
                body["source_id"],
                body["instance_id"],
                names[suspect.point],
                f"{x:.1f}",
                f"{y:.1f}",
                f"{suspect.score:.4g}",
                suspect.reason,
            )
        )
    path = as_path(folder) / TABLE_NAME
    write_atomically(path, text.getvalue().encode())
    return path


def corrections_of(store: ShardStore, suspects: Iterable[Suspect], made_by: dict[str, Json]) -> Corrections:
    """Corrections that drop all these labels, those the store was opened with included.

    Args:
        store: the split that was checked.
        suspects: labels to drop.
        made_by: what found them, with its settings.

    Raises:
        DatasetError: there is nothing to drop.
    """
    skeleton = store.manifest.definition.skeleton
    points: dict[tuple[str, str], set[str]] = {}
    if store.corrections is not None:
        points = {(entry.image, entry.instance): set(entry.unlabelled) for entry in store.corrections.instances}
    for suspect in suspects:
        key = (store.instances["source_id"][suspect.row].as_py(), store.instances["instance_id"][suspect.row].as_py())
        points.setdefault(key, set()).add(skeleton.names[suspect.point])
    if not points:
        raise DatasetError(f"{store.location}: no label is suspicious, so there is nothing to drop.")
    return Corrections(
        dataset=store.manifest.dataset,
        split=store.manifest.split,
        dataset_digest=store.manifest.digest,
        made_by=made_by,
        instances=tuple(
            CorrectedInstance(image=image, instance=instance, unlabelled=tuple(sorted(found, key=skeleton.names.index)))
            for (image, instance), found in sorted(points.items())
        ),
    )
