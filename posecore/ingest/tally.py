"""Counts of what every stage was given and took out, and the rejects themselves: nothing is lost without a reason."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field

import pyarrow as pa

from posecore.schema import Json, Record, Reject
from posecore.shards.manifest import StageCounts

QUARANTINE_SCHEMA = pa.schema(
    [
        pa.field(name, pa.string(), nullable=False)
        for name in ("stage", "reason", "detail", "dataset", "split", "source", "source_id", "instance_id")
    ]
)
"""``quarantine.parquet``: a row per rejected image or instance."""


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
        self._rejects: list[dict[str, Json]] = []

    def enter(self, stage: str, record: Record) -> None:
        """Counts a record that reached a stage."""
        count = self._counts[stage]
        count.images_in += 1
        count.instances_in += len(record.instances)

    def reject_image(self, stage: str, reject: Reject, record: Record) -> None:
        """Counts an image that a stage took out, with all its instances."""
        self._reject(stage, reject, _Count(0, 1, 0, len(record.instances), {reject.reason: 1}))

    def reject_instance(self, stage: str, reject: Reject) -> None:
        """Counts one instance that a stage took out."""
        self._reject(stage, reject, _Count(0, 0, 0, 1, {reject.reason: 1}))

    def reject_unread(self, stage: str, reject: Reject) -> None:
        """Counts what a reader gave up on before it had a record: it came in here and goes no further."""
        count = _Count(0, 0, 1, 1) if reject.instance_id else _Count(1, 1, 0, 0)
        count.reasons[reject.reason] = 1
        self._reject(stage, reject, count)

    def add(self, counts: Iterable[StageCounts], rejects: Iterable[dict[str, Json]]) -> None:
        """Takes over the tally of a part."""
        for item in counts:
            self._counts[item.stage].add(item)
        self._rejects += rejects

    def counts(self) -> tuple[StageCounts, ...]:
        """Counts per stage, in order."""
        return tuple(
            StageCounts(stage=stage, **{**asdict(count), "reasons": dict(sorted(count.reasons.items()))})
            for stage, count in self._counts.items()
        )

    def rejects(self) -> tuple[dict[str, Json], ...]:
        """Rows of the quarantine, in the order they were rejected."""
        return tuple(self._rejects)

    def quarantine(self) -> pa.Table:
        """The rejects as a table of :data:`QUARANTINE_SCHEMA`."""
        return pa.Table.from_pylist(self._rejects, QUARANTINE_SCHEMA)

    def _reject(self, stage: str, reject: Reject, count: _Count) -> None:
        self._counts[stage].add(count)
        self._rejects.append({"stage": stage, **asdict(reject)})
