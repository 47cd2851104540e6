"""The two tables beside the tars: one row per image, one row per instance, in shard order.

Column types are plain (strings, integers, floats), so that polars, DuckDB and pandas read them without help. Offsets
count from the first byte of the shard's tar; sizes are those of the contents, headers and padding excluded, but
``sample_offset`` and ``sample_size`` cover everything of the sample. Boxes are in 0-based pixels of the stored image.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter

import pyarrow as pa
import pyarrow.parquet as pq

from posecore.schema import Json, Record
from posecore.storage import AnyPath, write_atomically

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
    pa.field("sha256", pa.string(), nullable=False),
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
        pa.field("source_sha256", pa.string()),
    ]
)
"""``images.parquet``. ``image`` is the source path below the dataset's root; ``sha256`` is that of the image bytes.

``source_sha256`` is that of the source file where a stage has changed the bytes, else null.
"""

INSTANCE_SCHEMA = pa.schema(
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
        pa.field("subject_id", pa.string()),
        pa.field("track_id", pa.string()),
        pa.field("video_id", pa.string()),
        *_PLACE,
    ]
)
"""``index.parquet``. ``image_row`` is the row of ``images.parquet``, ``instance_index`` the place within the record."""


@dataclass(slots=True, frozen=True, kw_only=True)
class SamplePlace:
    """Where the members of one sample lie within its shard, and the 64-bit XXH3 of each."""

    shard: int
    sample_offset: int
    sample_size: int
    image_offset: int
    image_size: int
    image_xxh3: int
    json_offset: int
    json_size: int
    json_xxh3: int
    masks_offset: int
    masks_size: int
    masks_xxh3: int


_PLACE_NAMES = [field.name for field in _PLACE if field.name != "sha256"]
_place_values = attrgetter(*_PLACE_NAMES)


class IndexRows:
    """Rows of the images and instances of one shard, in the order the samples are added."""

    def __init__(self) -> None:
        self._images: list[dict[str, Json]] = []
        self._instances: list[dict[str, Json]] = []

    def add(self, key: str, record: Record, place: SamplePlace) -> None:
        """Appends a sample; its ``image_row`` counts from the shard's first sample."""
        where: Mapping[str, Json] = {
            **dict(zip(_PLACE_NAMES, _place_values(place), strict=True)),
            "sha256": record.sha256,
        }
        row = len(self._images)
        self._images.append(
            {
                "key": key,
                "source_id": record.source_id,
                "image": record.image,
                **where,
                "image_xxh3": place.image_xxh3,
                "json_xxh3": place.json_xxh3,
                "masks_xxh3": place.masks_xxh3,
                "width": record.width,
                "height": record.height,
                "num_instances": len(record.instances),
                "license": record.license,
                "video_id": record.video_id,
                "view_id": record.view_id,
                "frame_index": record.frame_index,
                "source_sha256": record.source_sha256,
            }
        )
        for position, instance in enumerate(record.instances):
            x, y, w, h = instance.bbox_xywh
            self._instances.append(
                {
                    "key": key,
                    "image_row": row,
                    "instance_index": position,
                    "instance_id": instance.id,
                    "source_id": record.source_id,
                    "bbox_x": x,
                    "bbox_y": y,
                    "bbox_w": w,
                    "bbox_h": h,
                    "area": instance.area,
                    "category_id": instance.category_id,
                    "is_crowd": instance.is_crowd,
                    "num_labelled": int((instance.keypoints[:, 2] > 0).sum()),
                    "subject_id": instance.subject_id,
                    "track_id": instance.track_id,
                    "video_id": record.video_id,
                    **where,
                }
            )

    def tables(self) -> "IndexTables":
        """The rows so far."""
        return IndexTables(
            images=pa.Table.from_pylist(self._images, IMAGE_SCHEMA),
            instances=pa.Table.from_pylist(self._instances, INSTANCE_SCHEMA),
        )


@dataclass(slots=True, frozen=True, eq=False)
class IndexTables:
    """The two tables, of one shard or of a whole split."""

    images: pa.Table
    instances: pa.Table


def concatenate(parts: Sequence[IndexTables]) -> IndexTables:
    """The tables of a split from those of its shards in order; ``image_row`` now counts through the split."""
    instances = []
    first_row = 0
    for part in parts:
        column = part.instances.schema.get_field_index("image_row")
        rows = pa.array(part.instances["image_row"].to_numpy() + first_row, pa.int64())
        instances.append(part.instances.set_column(column, INSTANCE_SCHEMA.field("image_row"), rows))
        first_row += part.images.num_rows
    return IndexTables(
        images=pa.concat_tables([IMAGE_SCHEMA.empty_table(), *(part.images for part in parts)]),
        instances=pa.concat_tables([INSTANCE_SCHEMA.empty_table(), *instances]),
    )


def write_table(path: AnyPath, table: pa.Table) -> bytes:
    """Writes a Parquet file, whole or not at all, and returns its bytes."""
    buffer = io.BytesIO()
    pq.write_table(table.combine_chunks(), buffer, compression="zstd")
    data = buffer.getvalue()
    write_atomically(path, data)
    return data
