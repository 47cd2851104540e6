"""What the stage ``deduplicate`` takes out of a split: pictures are hashed part by part, and looked at together.

Hashes of a part are written beside it, 344 bytes a picture; only the plan holds those of a split.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from posecore.formats.files import relative_path
from posecore.formats.values import Refusal
from posecore.ingest.audit import first_in
from posecore.ingest.fetch import divided_stages, fetched
from posecore.ingest.job import IMAGE_STAGE, IngestJob
from posecore.ingest.kept_hashes import hashes_from_table, hashes_to_table
from posecore.ingest.perceptual import UNUSABLE, Likeness, PerceptualHashes, perceptual_hash
from posecore.ingest.tally import Tally
from posecore.ingest.twins import kept_of_twins
from posecore.schema import Record
from posecore.stages.duplicates import Deduplicate
from posecore.stages.load import LoadedStage, load_stages
from posecore.storage import AnyPath
from posecore.tables.columns import Annotations, instance_columns
from posecore.tables.parts import PartEntry, read_table, write_table
from posecore.tables.records import to_records

_HASHES, _DIGEST = "hashes", "digest"
DUPLICATE = "duplicate-picture"


def deduplicate_stage(job: IngestJob) -> LoadedStage | None:
    """The stage, if the definition lists it."""
    return next((stage for stage in load_stages(job.definition) if isinstance(stage.work, Deduplicate)), None)


def hash_part(entry: PartEntry, job: IngestJob, scratch: AnyPath) -> None:
    """Writes down the hashes of the pictures of a part; those that cannot be read are like none."""
    images = read_table(scratch, entry.number, "images")
    bodies = instance_columns(job.definition.skeleton.num_keypoints).empty_table()
    records = to_records(Annotations(images, bodies), job.definition.name, job.split)
    write_table(scratch, entry.number, _HASHES, _to_table(hashed(job, records)))


@dataclass(frozen=True, slots=True, eq=False)
class Hashed:
    """N pictures, as far as it takes to know which are the same.

    Attributes:
        perceptual: their perceptual hashes.
        digests: of their bytes; null of one that cannot be read.
    """

    perceptual: PerceptualHashes
    digests: pl.Series

    def take(self, rows: NDArray[np.int64]) -> "Hashed":
        """Those of some rows, in that order."""
        return Hashed(self.perceptual.take(rows), self.digests.gather(rows))


def hashed(job: IngestJob, records: Sequence[Record]) -> Hashed:
    """The hashes of the pictures of some records, whatever their ids."""
    _, source, _ = divided_stages(load_stages(job.definition))
    hashes = [UNUSABLE] * len(records)
    digests: list[str | None] = [None] * len(records)
    numbered = [
        replace(record, source_id=str(row), instances=[]) for row, record in enumerate(records) if _is_inside(record)
    ]
    names = [IMAGE_STAGE] if source is None else [IMAGE_STAGE, source.label]
    for sample in fetched(job, numbered, Tally(names), source):
        size = sample.image.width, sample.image.height
        hashes[int(sample.record.source_id)] = perceptual_hash(sample.image.data, *size)
        digests[int(sample.record.source_id)] = sample.image.digest
    return Hashed(PerceptualHashes.of(hashes), pl.Series(digests, dtype=pl.String))


def read_hashes(scratch: AnyPath, entries: Sequence[PartEntry]) -> Hashed:
    """The hashes of all parts, a row per image of them, in order."""
    hashes, digests = [PerceptualHashes.of([])], [pl.Series([], dtype=pl.String)]
    for entry in entries:
        table = read_table(scratch, entry.number, _HASHES)
        hashes.append(hashes_from_table(table))
        digests.append(pl.Series(table[_DIGEST]))
    return Hashed(PerceptualHashes.joined(hashes), pl.concat(digests))


def twins_of(stage: LoadedStage, pictures: Hashed) -> NDArray[np.int64]:
    """(N,) the row of a kept picture that each one shows the same as, or -1 for one that is kept."""
    assert isinstance(stage.work, Deduplicate), stage
    likeness = Likeness(max_distance=stage.work.max_distance, min_correlation=stage.work.min_correlation)
    digests, rows = pictures.digests, np.arange(len(pictures.digests))
    first = np.where(digests.is_null().to_numpy(), rows, first_in(digests, digests))
    own = np.flatnonzero(first == rows)  # what follows with the same bytes, be they of one colour, is its copy
    twin = np.full(len(rows), -1, np.int64)
    found = kept_of_twins(pictures.perceptual.take(own), likeness)
    twin[own[found >= 0]] = own[found[found >= 0]]
    return np.where(first == rows, twin, np.where(twin[first] >= 0, twin[first], first))


def _to_table(pictures: Hashed) -> pa.Table:
    table = hashes_to_table(pictures.perceptual)
    return table.append_column(_DIGEST, pa.array(pictures.digests.to_list(), pa.string()))


def _is_inside(record: Record) -> bool:
    """Whether an image lies below the download, as the plan will ask."""
    try:
        relative_path(record.image)
        if record.depth is not None:
            relative_path(record.depth.image)
    except Refusal:
        return False
    return True
