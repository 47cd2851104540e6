"""The columns of annotations: two tables, one row per image and one row per instance, in the dataset's own terms.

They say what :class:`~posecore.schema.Record` and :class:`~posecore.schema.Instance` say, field by field and in the
same units and frames. What has no fixed shape (segmentations, extras) is JSON text. An instance names its image by
``image_row``, the row of the images table beside it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from posecore.schema import Reject

IMAGE_COLUMNS = pa.schema(
    [
        pa.field("source_id", pa.string(), nullable=False),
        pa.field("image", pa.string(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("license", pa.string()),
        pa.field("video_id", pa.string()),
        pa.field("view_id", pa.string()),
        pa.field("frame_index", pa.int64()),
        pa.field("source_digest", pa.string()),
        pa.field("depth_image", pa.string()),
        pa.field("metres_per_unit", pa.float64()),
        pa.field("extras", pa.binary()),
    ]
)
"""``images``: a row per picture; ``width`` and ``height`` are 0 where the annotation does not say."""


_INSTANCE_FIELDS = [
    pa.field("image_row", pa.int64(), nullable=False),
    pa.field("id", pa.string(), nullable=False),
    pa.field("bbox_x", pa.float64(), nullable=False),
    pa.field("bbox_y", pa.float64(), nullable=False),
    pa.field("bbox_w", pa.float64(), nullable=False),
    pa.field("bbox_h", pa.float64(), nullable=False),
    pa.field("keypoints", pa.null()),  # whose length is the skeleton's
    pa.field("area", pa.float64(), nullable=False),
    pa.field("area_rule", pa.string(), nullable=False),
    pa.field("category", pa.string(), nullable=False),
    pa.field("category_id", pa.int64(), nullable=False),
    pa.field("is_crowd", pa.bool_(), nullable=False),
    pa.field("absent", pa.list_(pa.int32()), nullable=False),
    pa.field("num_keypoints", pa.int32()),
    pa.field("segmentation", pa.binary()),
    pa.field("head_bbox_xyxy", pa.list_(pa.float64())),
    pa.field("center", pa.list_(pa.float64())),
    pa.field("scale", pa.list_(pa.float64())),
    pa.field("keypoints_3d", pa.list_(pa.float32())),
    pa.field("subject_id", pa.string()),
    pa.field("track_id", pa.string()),
    pa.field("extras", pa.binary()),
]


def instance_columns(num_keypoints: int) -> pa.Schema:
    """``instances`` of a skeleton of K points: a row per body.

    ``keypoints`` are K times x, y, flag in the dataset's own order, ``keypoints_3d`` K times x, y, z.
    """
    keypoints = keypoints_field(num_keypoints)
    return pa.schema([keypoints if field.name == "keypoints" else field for field in _INSTANCE_FIELDS])


def keypoints_field(num_keypoints: int) -> pa.Field:
    """``keypoints``: K times x, y, flag. Of 0 points, lists of any length: Parquet loses fixed lengths of 0."""
    item = pa.field("item", pa.float32(), nullable=False)
    points = pa.list_(item, 3 * num_keypoints) if num_keypoints else pa.list_(item)
    return pa.field("keypoints", points, nullable=False)


def keypoints_array(points: Sequence[NDArray[np.float32]], num_keypoints: int) -> pa.Array:
    """The column of n arrays of (K, 3)."""
    kind = keypoints_field(num_keypoints).type
    if not num_keypoints:
        return pa.array([[]] * len(points), kind)
    flat = np.concatenate([np.zeros(0, np.float32), *(item.ravel() for item in points)])
    return pa.FixedSizeListArray.from_arrays(pa.array(flat, pa.float32()), type=kind)


def keypoints_of(instances: pa.Table) -> NDArray[np.float32]:
    """(n, K, 3) x, y, flag of every instance; not a copy where the column is in one piece."""
    column = instances["keypoints"]
    num_keypoints = column.type.list_size // 3 if pa.types.is_fixed_size_list(column.type) else 0
    chunks = [chunk.flatten() for chunk in column.chunks]
    flat = chunks[0] if len(chunks) == 1 else pa.concat_arrays([pa.array([], pa.float32()), *chunks])
    return flat.to_numpy().reshape(len(column), num_keypoints, 3)


def arrays_of(column: pa.ChunkedArray) -> Iterator[NDArray[np.float32] | None]:
    """The lists of a column as views of one array each chunk."""
    for chunk in column.chunks:
        values, offsets = chunk.values.to_numpy(), chunk.offsets.to_numpy()
        missing = chunk.is_null().to_numpy(zero_copy_only=False)
        for index in range(len(chunk)):
            yield None if missing[index] else values[offsets[index] : offsets[index + 1]]


REJECT_COLUMNS = pa.schema(
    [
        pa.field(name, pa.string(), nullable=False)
        for name in ("reason", "detail", "dataset", "split", "source", "source_id", "instance_id", "outcome")
    ]
)
"""``rejects``: a row per image or body that was not taken over as it stands."""


@dataclass(frozen=True, slots=True, eq=False)
class Annotations:
    """The annotations of some images.

    Attributes:
        images: of :data:`IMAGE_COLUMNS`.
        instances: of :func:`instance_columns`, those of an image together, in the order of the images.
    """

    images: pa.Table
    instances: pa.Table

    def slice(self, start: int, stop: int) -> "Annotations":
        """The images from one row up to another, with their instances; nothing is copied but the row numbers."""
        first, last = np.searchsorted(self.image_rows, [start, stop])
        instances = self.instances.slice(first, last - first)
        return Annotations(self.images.slice(start, stop - start), renumbered(instances, -start))

    def left(self, rows: Sequence[int], bodies: Sequence[int]) -> "Annotations":
        """Some of the images, with some of their instances.

        Args:
            rows: of the images, rising.
            bodies: of the instances that are left of these images, rising.
        """
        instances = self.instances.take(np.array(bodies, np.int64))
        places = np.searchsorted(np.array(rows, np.int64), instances["image_row"].to_numpy())
        return Annotations(self.images.take(np.array(rows, np.int64)), with_image_rows(instances, places))

    @classmethod
    def joined(cls, parts: "Sequence[Annotations]") -> "Annotations":
        """One after the other; there is at least one."""
        firsts = np.cumsum([0, *(part.images.num_rows for part in parts[:-1])]).tolist()
        instances = [renumbered(part.instances, first) for part, first in zip(parts, firsts, strict=True)]
        return cls(pa.concat_tables([part.images for part in parts]), pa.concat_tables(instances))

    @property
    def image_rows(self) -> NDArray[np.int64]:
        """(n,) the row of each instance's image."""
        return self.instances["image_row"].to_numpy()

    def bodies(self) -> list[range]:
        """Rows of the instances of each image."""
        edges = np.searchsorted(self.image_rows, np.arange(self.images.num_rows + 1)).tolist()
        return [range(*ends) for ends in pairwise(edges)]


def with_image_rows(instances: pa.Table, rows: NDArray[np.int64]) -> pa.Table:
    """Instances of other rows of an images table."""
    column = instances.schema.get_field_index("image_row")
    return instances.set_column(column, instances.schema.field(column), pa.array(rows, pa.int64()))


def renumbered(instances: pa.Table, shift: int) -> pa.Table:
    """Instances whose ``image_row`` counts from another image."""
    return with_image_rows(instances, instances["image_row"].to_numpy() + shift)


def rejects_table(rejects: "list[Reject]") -> pa.Table:
    """Rejects as a table of :data:`REJECT_COLUMNS`."""
    columns = {name: [getattr(item, name) for item in rejects] for name in REJECT_COLUMNS.names}
    return pa.Table.from_pydict(columns, REJECT_COLUMNS)
