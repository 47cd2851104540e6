"""The two tables beside the tars: one row per image, one row per instance, in shard order.

Column types are plain (strings, integers, floats), so that polars, DuckDB and pandas read them without help. Offsets
count from the first byte of the shard's tar; sizes are those of the contents, headers and padding excluded, but
``sample_offset`` and ``sample_size`` cover everything of the sample. Boxes, points, centres and scales are in 0-based
pixels of the stored image: whoever cuts labelled crops needs these tables and the pictures, no record and no masks.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from posecore.storage import AnyPath, write_atomically
from posecore.tables.columns import Annotations, keypoints_field, keypoints_of, renumbered
from posecore.tables.extras import crowd_index, extras_of, posture

_PLACE = [
    pa.field("shard", pa.int32(), nullable=False),
    pa.field("sample_offset", pa.int64(), nullable=False),
    pa.field("sample_size", pa.int64(), nullable=False),
    pa.field("image_offset", pa.int64(), nullable=False),
    pa.field("image_size", pa.int64(), nullable=False),
    pa.field("json_offset", pa.int64(), nullable=False),
    pa.field("json_size", pa.int64(), nullable=False),
    pa.field("masks_offset", pa.int64(), nullable=False),
    pa.field("masks_size", pa.int64(), nullable=False),
    pa.field("digest", pa.string(), nullable=False),
]

IMAGE_SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("source_id", pa.string(), nullable=False),
        pa.field("image", pa.string(), nullable=False),
        *_PLACE,
        pa.field("image_xxh3", pa.uint64(), nullable=False),
        pa.field("json_xxh3", pa.uint64(), nullable=False),
        pa.field("masks_xxh3", pa.uint64(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("num_instances", pa.int32(), nullable=False),
        pa.field("license", pa.string()),
        pa.field("video_id", pa.string()),
        pa.field("view_id", pa.string()),
        pa.field("frame_index", pa.int64()),
        pa.field("source_digest", pa.string()),
        pa.field("crowd_index", pa.float64()),
    ]
)
"""``images.parquet``. ``image`` is the source path below the dataset's root; ``digest`` is that of the image bytes
(:mod:`posecore.shards.digests`), ``source_digest`` that of the source file where a stage has changed them, else null.
``crowd_index`` is CrowdPose's ``crowdIndex``.
"""

_FORMER_NAMES = {"sha256": "digest", "source_sha256": "source_digest"}
"""Columns of format 3, and what they are called now."""


def instance_schema(num_keypoints: int) -> pa.Schema:
    """``index.parquet`` of a skeleton of K points.

    ``image_row`` is the row of ``images.parquet``, ``instance_index`` the place within the record. ``keypoints`` are K
    times x, y, flag in the dataset's own order, ``absent`` the points that do not exist on this body; ``center`` x, y
    and ``scale`` w, h are there where the dataset gives them, as are ``head_bbox_xyxy``, ``num_keypoints`` (the
    source's own count, which some protocols read) and ``posture`` (:func:`~posecore.tables.extras.posture`).
    """
    return pa.schema(
        [
            pa.field("key", pa.string(), nullable=False),
            pa.field("image_row", pa.int64(), nullable=False),
            pa.field("instance_index", pa.int32(), nullable=False),
            pa.field("instance_id", pa.string(), nullable=False),
            pa.field("source_id", pa.string(), nullable=False),
            pa.field("bbox_x", pa.float64(), nullable=False),
            pa.field("bbox_y", pa.float64(), nullable=False),
            pa.field("bbox_w", pa.float64(), nullable=False),
            pa.field("bbox_h", pa.float64(), nullable=False),
            pa.field("area", pa.float64(), nullable=False),
            pa.field("category_id", pa.int64(), nullable=False),
            pa.field("is_crowd", pa.bool_(), nullable=False),
            pa.field("num_labelled", pa.int32(), nullable=False),
            keypoints_field(num_keypoints),
            pa.field("absent", pa.list_(pa.int32()), nullable=False),
            pa.field("center", pa.list_(pa.float64())),
            pa.field("scale", pa.list_(pa.float64())),
            pa.field("subject_id", pa.string()),
            pa.field("track_id", pa.string()),
            pa.field("video_id", pa.string()),
            pa.field("num_keypoints", pa.int32()),
            pa.field("head_bbox_xyxy", pa.list_(pa.float64())),
            pa.field("posture", pa.string()),
            *_PLACE,
        ]
    )


class SamplePlace(NamedTuple):
    """Where the members of one sample lie within its shard, the 64-bit XXH3 of each, and what its picture's file says.

    In the order and by the names of the columns.
    """

    shard: int
    sample_offset: int
    sample_size: int
    image_offset: int
    image_size: int
    json_offset: int
    json_size: int
    masks_offset: int
    masks_size: int
    digest: str
    image_xxh3: int
    json_xxh3: int
    masks_xxh3: int
    width: int
    height: int


class IndexRows:
    """Rows of some images and their instances, in the order the samples are added.

    Args:
        annotations: of the images, of which some may be left out.
    """

    def __init__(self, annotations: Annotations) -> None:
        self._annotations = annotations
        self._keys: list[str] = []
        self._rows: list[int] = []
        self._bodies: list[int] = []
        self._counts: list[int] = []
        self._places: list[SamplePlace] = []

    def add(self, key: str, row: int, bodies: Sequence[int], place: SamplePlace) -> None:
        """Appends a sample.

        Args:
            key: of the sample.
            row: of the images.
            bodies: rows of those of its instances that are left.
            place: what only the shard and the file say.
        """
        self._keys.append(key)
        self._rows.append(row)
        self._bodies += bodies
        self._counts.append(len(bodies))
        self._places.append(place)

    def tables(self) -> "IndexTables":
        """The rows so far; ``image_row`` counts from the first sample."""
        columns = zip(*self._places, strict=True) if self._places else ([] for _ in SamplePlace._fields)
        of_images: dict[str, Any] = {"key": self._keys, "num_instances": self._counts}
        of_images |= zip(SamplePlace._fields, columns, strict=True)
        taken = self._annotations.images.take(np.array(self._rows, np.int64))
        extras = extras_of(taken)
        of_images["crowd_index"] = [crowd_index(of_image) for of_image in extras]
        images = _table(IMAGE_SCHEMA, of_images, taken)
        bodies = self._annotations.instances.take(np.array(self._bodies, np.int64))
        counts = np.array(self._counts, np.int64)
        rows = np.repeat(np.arange(len(counts)), counts)
        schema = instance_schema(keypoints_of(bodies).shape[1])
        of_bodies: dict[str, Any] = {
            "image_row": rows,
            "instance_index": np.arange(len(rows)) - np.repeat(counts.cumsum() - counts, counts),
            "instance_id": bodies["id"],
            "num_labelled": (keypoints_of(bodies)[..., 2] > 0).sum(axis=1),
            "posture": [
                posture(own, extras[row], alone)
                for own, row, alone in zip(extras_of(bodies), rows.tolist(), (counts[rows] == 1).tolist(), strict=True)
            ],
        }
        of_image = images.select([name for name in schema.names if name in IMAGE_SCHEMA.names]).take(rows)
        of_bodies |= zip(of_image.column_names, of_image.columns, strict=True)
        return IndexTables(images=images, instances=_table(schema, of_bodies, bodies))


def _table(schema: pa.Schema, columns: Mapping[str, Any], others: pa.Table) -> pa.Table:
    """A table of given columns and, for what is not given, the column of that name of another table."""
    return pa.Table.from_pydict(
        {name: columns[name] if name in columns else others[name] for name in schema.names}, schema
    )


@dataclass(slots=True, frozen=True, eq=False)
class IndexTables:
    """The two tables, of one shard or of a whole split."""

    images: pa.Table
    instances: pa.Table

    @classmethod
    def joined(cls, parts: Sequence["IndexTables"]) -> "IndexTables":
        """One after the other; ``image_row`` counts through all."""
        firsts = np.cumsum([0, *(part.images.num_rows for part in parts[:-1])]).tolist()
        instances = [renumbered(part.instances, first) for part, first in zip(parts, firsts, strict=True)]
        return cls(pa.concat_tables([part.images for part in parts]), pa.concat_tables(instances))


def says_what_protocols_ask(instances: pa.Table) -> bool:
    """Whether no record need be read to evaluate a split; those of formats 3 and 4 lack columns for it."""
    return "posture" in instances.column_names


def with_present_names(table: pa.Table) -> pa.Table:
    """A table of a split of any format, its columns called as they are now."""
    return table.rename_columns([_FORMER_NAMES.get(name, name) for name in table.column_names])


def read_columns(path: AnyPath, columns: Sequence[str]) -> pa.Table:
    """Columns, by their present names, of a table of a split of any format."""
    with path.open("rb") as opened, pq.ParquetFile(opened) as file:
        wanted = [name for name in file.schema_arrow.names if _FORMER_NAMES.get(name, name) in columns]
        return with_present_names(file.read(wanted, use_threads=False)).select(list(columns))


def write_table(path: AnyPath, table: pa.Table) -> bytes:
    """Writes a Parquet file, whole or not at all, and returns its bytes."""
    buffer = io.BytesIO()
    pq.write_table(table.combine_chunks(), buffer, compression="zstd")
    data = buffer.getvalue()
    write_atomically(path, data)
    return data
