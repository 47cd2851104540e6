"""The perceptual hashes of an ingested split, kept beside its index so that every image is hashed once."""

import hashlib
import logging
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa

from posecore.ingest.perceptual import THUMBNAIL_SIDE, PerceptualHash, PerceptualHashes, perceptual_hash
from posecore.shards.index import write_table
from posecore.shards.store import ShardStore
from posecore.storage import AnyPath
from posecore.tables.parquet import read_parquet

_SCHEMA = pa.schema(
    [
        pa.field("bits", pa.uint64(), nullable=False),
        pa.field("thumbnail", pa.binary(THUMBNAIL_SIDE**2), nullable=False),
        pa.field("usable", pa.bool_(), nullable=False),
    ]
)
_BINDING = b"posecore.binding"

_log = logging.getLogger(__name__)


def perceptual_hashes(store: ShardStore) -> PerceptualHashes:
    """The hash of every image, in index order, from the cache beside the index or computed and put there."""
    path = store.location / f"hashes-{store.manifest.digest[:16]}.parquet"
    kept = _kept(path, store)
    if kept is not None:
        return kept
    widths, heights = (store.images[name].to_numpy() for name in ("width", "height"))

    def hash_row(row: int) -> PerceptualHash:
        return perceptual_hash(store.read_image_bytes(row), int(widths[row]), int(heights[row]))

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        hashes = PerceptualHashes.of(list(pool.map(hash_row, range(store.num_images))))
    table = hashes_to_table(hashes).replace_schema_metadata({_BINDING: _binding(store, hashes)})
    try:
        write_table(path, table)
    except OSError as error:  # a read-only set is audited all the same, only not remembered
        _log.info("%s: perceptual hashes not kept (%s)", path, error)
    return hashes


def _kept(path: AnyPath, store: ShardStore) -> PerceptualHashes | None:
    """The cached hashes, unless they are not those of exactly these images: then they are computed again.

    A row that is missing or altered would hide a leak.
    """
    if not path.exists():
        return None
    try:
        table = read_parquet(path.read_bytes())
    except (OSError, pa.ArrowException) as error:
        _log.info("%s: not readable, computed again (%s)", path, error)
        return None
    if table.num_rows != store.num_images or not table.schema.equals(_SCHEMA, check_metadata=False):
        return None
    hashes = hashes_from_table(table)
    return hashes if (table.schema.metadata or {}).get(_BINDING) == _binding(store, hashes) else None


def hashes_to_table(hashes: PerceptualHashes) -> pa.Table:
    """Hashes as they are written down."""
    thumbnails = pa.FixedSizeBinaryArray.from_buffers(
        _SCHEMA.field("thumbnail").type, len(hashes), [None, pa.py_buffer(hashes.thumbnails.tobytes())]
    )
    return pa.Table.from_arrays([pa.array(hashes.bits), thumbnails, pa.array(hashes.usable)], schema=_SCHEMA)


def hashes_from_table(table: pa.Table) -> PerceptualHashes:
    """The inverse of :func:`hashes_to_table`."""
    thumbnails = table["thumbnail"].combine_chunks()
    if isinstance(thumbnails, pa.ChunkedArray):
        thumbnails = pa.concat_arrays([*thumbnails.chunks, pa.array([], thumbnails.type)])
    values = np.frombuffer(thumbnails.buffers()[1] or b"", np.uint8).reshape(-1, THUMBNAIL_SIDE**2)
    return PerceptualHashes(
        table["bits"].to_numpy(),
        values[thumbnails.offset : thumbnails.offset + len(thumbnails)],
        np.asarray(table["usable"].to_numpy(), np.bool_),
    )


def _binding(store: ShardStore, hashes: PerceptualHashes) -> bytes:
    """What ties a cache to a split: SHA-256 over the dataset digest and the columns."""
    digest = hashlib.sha256(store.manifest.digest.encode())
    for column in (hashes.bits, hashes.thumbnails, hashes.usable):
        digest.update(np.ascontiguousarray(column).tobytes())
    return digest.hexdigest().encode()
