"""Whether two ingested sets share images, subjects or videos, so that no model is tested on what it was trained on."""

import hashlib
import io
import logging
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import Field

from posecore.config import Config
from posecore.errors import LeakageError
from posecore.ingest.perceptual import PerceptualHash, near_pairs, perceptual_hash, thumbnail_correlation
from posecore.shards.index import write_table
from posecore.shards.store import ShardStore
from posecore.storage import AnyPath

Reason: TypeAlias = Literal["exact", "perceptual", "subject", "video"]

_HASH_SCHEMA = pa.schema(
    [
        pa.field("bits", pa.uint64(), nullable=False),
        pa.field("thumbnail", pa.binary(), nullable=False),
        pa.field("usable", pa.bool_(), nullable=False),
    ]
)
_BINDING = b"posecore.binding"
_PAIRS_IN_MESSAGE = 5

_log = logging.getLogger(__name__)


class AuditConfig(Config):
    """How alike two images must be to count as one.

    The defaults find every one of 795 re-encoded or resized copies of 159 COCO photos (distance at most 8, correlation
    at least 0.987) and none of their 12,561 pairs of different photos (at least 18; at most 0.80).

    Attributes:
        max_distance: hash bits that may differ, of 64.
        min_correlation: least correlation of the 16x16 thumbnails.
    """

    max_distance: int = Field(8, ge=0, le=11)
    min_correlation: float = Field(0.97, ge=-1, le=1)


@dataclass(frozen=True, slots=True)
class Place:
    """An image of an ingested split."""

    dataset: str
    split: str
    key: str

    def __str__(self) -> str:
        return f"{self.dataset}/{self.split}/{self.key}"


@dataclass(frozen=True, slots=True)
class SharedPair:
    """Two images that should not be on both sides.

    Attributes:
        reason: the same bytes; the same picture; the same subject; the same video.
        a: image of the first set. For subjects and videos, the first of them there.
        b: image of the second set, likewise.
        detail: hash distance in bits for ``perceptual``; the shared id for ``subject`` and ``video``.
    """

    reason: Reason
    a: Place
    b: Place
    detail: str

    def __str__(self) -> str:
        return f"{self.a} and {self.b} ({self.reason}{f', {self.detail}' if self.detail else ''})"


@dataclass(frozen=True, slots=True)
class AuditReport:
    """What two sets share.

    Attributes:
        a: dataset and split of the first set.
        b: dataset and split of the second set.
        digests: dataset digests of both.
        pairs: exact pairs first, then perceptual, subject and video ones, each in index order.
    """

    a: str
    b: str
    digests: tuple[str, str]
    pairs: tuple[SharedPair, ...]

    @property
    def leaks(self) -> bool:
        """Whether anything is shared."""
        return bool(self.pairs)

    def counts(self) -> dict[Reason, int]:
        """Pairs by reason."""
        totals: dict[Reason, int] = {}
        for pair in self.pairs:
            totals[pair.reason] = totals.get(pair.reason, 0) + 1
        return totals


def compare(a: ShardStore, b: ShardStore, config: AuditConfig | None = None) -> AuditReport:
    """Looks for images, subjects and videos that two splits share.

    Subject and video ids are compared only within one dataset: elsewhere equal ids are chance. The perceptual hashes
    are kept beside each index, named by its digest and bound to it, so that every image is hashed once.

    Args:
        a: one split.
        b: the other; the same split on both sides finds nothing but itself.
        config: when two images count as one.
    """
    config = config or AuditConfig()
    exact = list(_exact(a, b))
    pairs = [
        *exact,
        *_perceptual(a, b, config, known={(pair.a, pair.b) for pair in exact}),
        *_shared_ids(a, b, "subject", a.instances, b.instances),
        *_shared_ids(a, b, "video", a.images, b.images),
    ]
    return AuditReport(_name(a), _name(b), (a.manifest.digest, b.manifest.digest), tuple(pairs))


def refuse_leakage(reports: Iterable[AuditReport], allow: bool = False) -> None:
    """Stops if any report names a shared pair.

    Args:
        reports: of every pair of a training and an evaluation set.
        allow: go on all the same; the caller records that.

    Raises:
        LeakageError: names the sets, the counts and the first pairs.
    """
    leaking = [report for report in reports if report.leaks]
    if not leaking or allow:
        return
    sentences = []
    for report in leaking:
        counts = ", ".join(f"{count} {reason}" for reason, count in report.counts().items())
        named = "; ".join(str(pair) for pair in report.pairs[:_PAIRS_IN_MESSAGE])
        more = len(report.pairs) - _PAIRS_IN_MESSAGE
        sentences.append(f"{report.a} and {report.b} share {counts}: {named}{f'; and {more} more' if more > 0 else ''}")
    divide = any(pair.reason in ("subject", "video") for report in leaking for pair in report.pairs)
    advice = "divide the pool by a `partition` in dataset.yaml, " if divide else ""
    raise LeakageError(
        f"training and evaluation data overlap: {'; '.join(sentences)}; {advice}take one of the sets out, or allow it "
        "explicitly (--allow-leakage), which is recorded."
    )


def perceptual_hashes(store: ShardStore) -> list[PerceptualHash]:
    """The hash of every image, in index order, from the cache beside the index or computed and put there."""
    path = store.location / f"hashes-{store.manifest.digest[:16]}.parquet"
    kept = _kept_hashes(path, store)
    if kept is not None:
        return kept
    widths, heights = (store.images[name].to_pylist() for name in ("width", "height"))

    def hash_row(row: int) -> PerceptualHash:
        return perceptual_hash(store.read_image_bytes(row), widths[row], heights[row])

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        hashes = list(pool.map(hash_row, range(store.num_images)))
    table = pa.Table.from_pylist([item._asdict() for item in hashes], _HASH_SCHEMA)
    table = table.replace_schema_metadata({_BINDING: _binding(store, hashes)})
    try:
        write_table(path, table)
    except OSError as error:  # a read-only set is audited all the same, only not remembered
        _log.info("%s: perceptual hashes not kept (%s)", path, error)
    return hashes


def _kept_hashes(path: AnyPath, store: ShardStore) -> list[PerceptualHash] | None:
    """The cached hashes, unless they are not those of exactly these images: then they are computed again.

    A row that is missing or altered would hide a leak.
    """
    if not path.exists():
        return None
    try:
        table = pq.read_table(io.BytesIO(path.read_bytes()))
    except (OSError, pa.ArrowException) as error:
        _log.info("%s: not readable, computed again (%s)", path, error)
        return None
    if table.num_rows != store.num_images or not table.schema.equals(_HASH_SCHEMA, check_metadata=False):
        return None
    hashes = [PerceptualHash(**row) for row in table.to_pylist()]
    return hashes if (table.schema.metadata or {}).get(_BINDING) == _binding(store, hashes) else None


def _binding(store: ShardStore, hashes: Sequence[PerceptualHash]) -> bytes:
    """What ties a cache to a split: SHA-256 over the dataset digest and every row, in order."""
    digest = hashlib.sha256(store.manifest.digest.encode())
    for item in hashes:
        digest.update(b"%016x%d%08x" % (item.bits, item.usable, len(item.thumbnail)) + item.thumbnail)
    return digest.hexdigest().encode()


def _exact(a: ShardStore, b: ShardStore) -> Iterable[SharedPair]:
    rows_of: dict[str, list[int]] = {}
    for row, digest in enumerate(b.images["sha256"].to_pylist()):
        rows_of.setdefault(digest, []).append(row)
    places_a, places_b = _Places(a), _Places(b)
    for row_a, digest in enumerate(a.images["sha256"].to_pylist()):
        for row_b in rows_of.get(digest, ()):
            yield SharedPair("exact", places_a[row_a], places_b[row_b], "")


def _perceptual(
    a: ShardStore, b: ShardStore, config: AuditConfig, known: set[tuple[Place, Place]]
) -> Iterable[SharedPair]:
    hashes_a, hashes_b = perceptual_hashes(a), perceptual_hashes(b)
    usable_a, usable_b = _usable(hashes_a), _usable(hashes_b)
    bits_a, bits_b = _bits(hashes_a)[usable_a], _bits(hashes_b)[usable_b]
    places_a, places_b = _Places(a), _Places(b)
    for i, j, distance in zip(*near_pairs(bits_a, bits_b, config.max_distance), strict=True):
        row_a, row_b = int(usable_a[i]), int(usable_b[j])
        if (places_a[row_a], places_b[row_b]) in known:
            continue
        if thumbnail_correlation(hashes_a[row_a].thumbnail, hashes_b[row_b].thumbnail) >= config.min_correlation:
            yield SharedPair("perceptual", places_a[row_a], places_b[row_b], f"{distance} of 64 bits differ")


def _shared_ids(
    a: ShardStore, b: ShardStore, reason: Literal["subject", "video"], rows_a: pa.Table, rows_b: pa.Table
) -> Iterable[SharedPair]:
    if a.manifest.dataset != b.manifest.dataset:
        return
    first_a, first_b = (_first_key_by_id(rows, f"{reason}_id") for rows in (rows_a, rows_b))
    for identity in sorted(first_a.keys() & first_b.keys()):
        place_a, place_b = (
            Place(store.manifest.dataset, store.manifest.split, first[identity])
            for store, first in ((a, first_a), (b, first_b))
        )
        yield SharedPair(reason, place_a, place_b, f"{reason} {identity}")


def _first_key_by_id(rows: pa.Table, column: str) -> dict[str, str]:
    first: dict[str, str] = {}
    for identity, key in zip(rows[column].to_pylist(), rows["key"].to_pylist(), strict=True):
        if identity is not None:
            first.setdefault(identity, key)
    return first


class _Places:
    def __init__(self, store: ShardStore) -> None:
        self._keys: list[str] = store.images["key"].to_pylist()
        self._manifest = store.manifest

    def __getitem__(self, row: int) -> Place:
        return Place(self._manifest.dataset, self._manifest.split, self._keys[row])


def _usable(hashes: Sequence[PerceptualHash]) -> NDArray[np.int64]:
    return np.flatnonzero([item.usable for item in hashes])


def _bits(hashes: Sequence[PerceptualHash]) -> NDArray[np.uint64]:
    return np.array([item.bits for item in hashes], np.uint64)


def _name(store: ShardStore) -> str:
    return f"{store.manifest.dataset}/{store.manifest.split}"
