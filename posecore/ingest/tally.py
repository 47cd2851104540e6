"""Counts of what every stage was given and took out, and the rejects themselves: nothing is lost without a reason."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from itertools import groupby

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from posecore.schema import Json, Record, Reject
from posecore.shards.manifest import StageCounts
from posecore.tables.columns import REJECT_COLUMNS

QUARANTINE_SCHEMA = pa.schema(
    [pa.field(name, pa.string(), nullable=False) for name in ("stage", *REJECT_COLUMNS.names)]
)
"""``quarantine.parquet``: a row per image or instance that was not taken over as it stands."""


@dataclass(slots=True)
class _Count:
    images_in: int = 0
    images_rejected: int = 0
    instances_in: int = 0
    instances_rejected: int = 0
    reasons: dict[str, int] = field(default_factory=dict)

    def add(self, other: "_Count | StageCounts") -> None:
        self.images_in += other.images_in
        self.images_rejected += other.images_rejected
        self.instances_in += other.instances_in
        self.instances_rejected += other.instances_rejected
        for reason, count in other.reasons.items():
            self.reasons[reason] = self.reasons.get(reason, 0) + count


class Tally:
    """Accumulates over records, and over shards in plan order."""

    def __init__(self, stages: Sequence[str]) -> None:
        self._counts = {stage: _Count() for stage in stages}
        self._rejects: list[dict[str, Json] | pa.Table] = []  # tables where there may be many

    def enter(self, stage: str, record: Record) -> None:
        """Counts a record that reached a stage."""
        count = self._counts[stage]
        count.images_in += 1
        count.instances_in += len(record.instances)

    def enter_many(self, stage: str, num_images: int, num_instances: int) -> None:
        """Counts what reached a stage."""
        self._counts[stage].add(_Count(images_in=num_images, instances_in=num_instances))

    def reject_rows(self, stage: str, rejects: pa.Table, unread: bool = False) -> None:
        """Counts rejects of :data:`~posecore.tables.columns.REJECT_COLUMNS`.

        Args:
            stage: what took them out.
            rejects: a row per image or instance; instances of an image that is taken out are counted elsewhere.
            unread: a reader gave up on them before it had a record: they came in here and go no further.
        """
        if not rejects.num_rows:
            return
        named = np.asarray(pc.not_equal(rejects["instance_id"], "").to_numpy())
        lost = np.asarray(pc.equal(rejects["outcome"], "lost").to_numpy())
        instances, images = int((named & lost).sum()), int((~named & lost).sum())
        reasons = {item["values"]: item["counts"] for item in pc.value_counts(rejects["reason"]).to_pylist()}
        came_in = (images, instances) if unread else (0, 0)
        self._counts[stage].add(_Count(came_in[0], images, came_in[1], instances, reasons))
        named_stage = pa.array([stage] * rejects.num_rows, pa.string())
        self._rejects.append(rejects.add_column(0, QUARANTINE_SCHEMA.field("stage"), named_stage))

    def lose_instances(self, stage: str, number: int) -> None:
        """Counts instances that went with their images."""
        self._counts[stage].add(_Count(instances_rejected=number))

    def reject_image(self, stage: str, reject: Reject, record: Record) -> None:
        """Counts an image that a stage took out, with all its instances."""
        self._reject(stage, reject, _Count(0, 1, 0, len(record.instances), {reject.reason: 1}))

    def reject_instance(self, stage: str, reject: Reject) -> None:
        """Counts one instance that a stage took out."""
        self._reject(stage, reject, _Count(0, 0, 0, 1, {reject.reason: 1}))

    def add(self, counts: Iterable[StageCounts], rejects: Iterable[dict[str, Json]]) -> None:
        """Takes over the tally of a part."""
        for item in counts:
            self._counts[item.stage].add(item)
        self._rejects += ({"outcome": "lost", **reject} for reject in rejects)

    def counts(self) -> tuple[StageCounts, ...]:
        """Counts per stage, in order."""
        return tuple(
            StageCounts(stage=stage, **{**asdict(count), "reasons": dict(sorted(count.reasons.items()))})
            for stage, count in self._counts.items()
        )

    def rejects(self) -> tuple[dict[str, Json], ...]:
        """Rows of the quarantine, stage after stage: the same whether images or stages come one after the other."""
        place = {stage: number for number, stage in enumerate(self._counts)}
        return tuple(sorted(self.quarantine().to_pylist(), key=lambda row: place[row["stage"]]))

    def quarantine(self) -> pa.Table:
        """The rejects as a table of :data:`QUARANTINE_SCHEMA`."""
        tables = [QUARANTINE_SCHEMA.empty_table()]
        for of_tables, run in groupby(self._rejects, key=lambda item: isinstance(item, pa.Table)):
            rows = list(run)
            tables += rows if of_tables else [pa.Table.from_pylist(rows, QUARANTINE_SCHEMA)]
        return pa.concat_tables(tables)

    def _reject(self, stage: str, reject: Reject, count: _Count) -> None:
        self._counts[stage].add(count)
        self._rejects.append({"stage": stage, **asdict(reject)})
