"""Whether two ingested sets share images, subjects or videos, so that no model is tested on what it was trained on."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from posecore.errors import LeakageError
from posecore.ingest.kept_hashes import perceptual_hashes
from posecore.ingest.perceptual import HASH_BITS, Likeness
from posecore.ingest.twins import first_twins
from posecore.shards.store import ShardStore

Reason: TypeAlias = Literal["exact", "perceptual", "subject", "video"]

MOST_NAMED = 1000
"""Pairs of each reason that a report names one by one; all are counted, and in its table."""

_PAIRS_IN_MESSAGE = 5


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
        reason: the same file, before any stage; the same picture; the same subject; the same video.
        a: image of the first set, the first there.
        b: image of the second set. For subjects and videos, the first of them there.
        detail: hash distance in bits for ``perceptual``; the shared id for ``subject`` and ``video``.
    """

    reason: Reason
    a: Place
    b: Place
    detail: str

    def __str__(self) -> str:
        return f"{self.a} and {self.b} ({self.reason}{f', {self.detail}' if self.detail else ''})"


@dataclass(frozen=True, slots=True, eq=False)
class AuditReport:
    """What two sets share.

    Attributes:
        a: dataset and split of the first set.
        b: dataset and split of the second set.
        digests: dataset digests of both.
        shared: a row per image of the second set that is in the first one, however often it is there, then one per
            subject and video: ``reason``, ``a`` and ``b`` (keys within the sets) and ``detail`` as of
            :class:`SharedPair`. Images with the same bytes come first, then those that show the same, subjects and
            videos, each in the order of the second set or of the ids.
    """

    a: str
    b: str
    digests: tuple[str, str]
    shared: pl.DataFrame

    @property
    def leaks(self) -> bool:
        """Whether anything is shared."""
        return not self.shared.is_empty()

    @property
    def pairs(self) -> tuple[SharedPair, ...]:
        """The first :data:`MOST_NAMED` of each reason."""
        named = self.shared.group_by("reason", maintain_order=True).head(MOST_NAMED)
        (dataset_a, _, split_a), (dataset_b, _, split_b) = self.a.partition("/"), self.b.partition("/")
        return tuple(
            SharedPair(reason, Place(dataset_a, split_a, a), Place(dataset_b, split_b, b), detail)
            for reason, a, b, detail in named.select(_SHARED.names()).iter_rows()
        )

    def counts(self) -> Mapping[Reason, int]:
        """Rows by reason."""
        return dict(self.shared.group_by("reason", maintain_order=True).len().iter_rows())

    def __str__(self) -> str:
        said = ", ".join(f"{count} {reason}" for reason, count in self.counts().items())
        return f"{self.a} and {self.b} share {said or 'nothing'}"


_SHARED = pl.Schema({"reason": pl.String(), "a": pl.String(), "b": pl.String(), "detail": pl.String()})


def compare(a: ShardStore, b: ShardStore, likeness: Likeness | None = None) -> AuditReport:
    """Looks for images, subjects and videos that two splits share.

    Subject and video ids are compared only within one dataset: elsewhere equal ids are chance. The perceptual hashes
    are kept beside each index, named by its digest and bound to it, so that every image is hashed once.

    Args:
        a: one split, such as to train on.
        b: the other, such as to judge on; the same split on both sides finds nothing but itself.
        likeness: when two images count as one.
    """
    exact = _exact(a, b)
    shared = [_shared("exact", a, b, exact, np.full(len(exact), ""))]
    first, distance = _perceptual(a, b, likeness or Likeness(), known=exact >= 0)
    shared.append(_shared("perceptual", a, b, first, distance))
    if a.manifest.dataset == b.manifest.dataset:
        bodies_a, bodies_b = (_frame(store.instances, "subject_id", "key") for store in (a, b))
        images_a, images_b = (_frame(store.images, "video_id", "key") for store in (a, b))
        shared.append(shared_ids(bodies_a, bodies_b, "subject"))
        shared.append(shared_ids(images_a, images_b, "video"))
    digests = (a.manifest.digest, b.manifest.digest)
    return AuditReport(_name(a), _name(b), digests, pl.concat(shared))


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
        pairs = report.pairs[:_PAIRS_IN_MESSAGE]
        named = "; ".join(map(str, pairs))
        more = report.shared.height - len(pairs)
        sentences.append(f"{report}: {named}{f'; and {more} more' if more > 0 else ''}")
    divide = any(report.counts().keys() & {"subject", "video"} for report in leaking)
    advice = "divide the pool by a `partition` in dataset.yaml, " if divide else ""
    raise LeakageError(
        f"training and evaluation data overlap: {'; '.join(sentences)}; {advice}take one of the sets out, or allow it "
        "explicitly (--allow-leakage), which is recorded."
    )


def first_in(a: pl.Series, b: pl.Series) -> NDArray[np.int64]:
    """(B,) the first row of ``a`` with the value of each row of ``b``, or -1."""
    rows = pl.DataFrame({"value": a}).with_row_index("row").unique("value", keep="first")
    found = pl.DataFrame({"value": b}).join(rows, "value", how="left", maintain_order="left")
    return found["row"].cast(pl.Int64).fill_null(-1).to_numpy()


def _perceptual(
    a: ShardStore, b: ShardStore, likeness: Likeness, known: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.str_]]:
    """(B,) the first row of ``a`` that shows the same, or -1, and how far the hashes are apart."""
    of_a, of_b = perceptual_hashes(a), perceptual_hashes(b)
    first = first_twins(of_a, replace(of_b, usable=of_b.usable & ~known), likeness)
    distance = np.bitwise_count(of_a.bits[first] ^ of_b.bits)
    return first, np.array([f"{bits} of {HASH_BITS} bits differ" for bits in range(HASH_BITS + 1)])[distance]


def _shared(
    reason: Reason, a: ShardStore, b: ShardStore, first: NDArray[np.int64], detail: NDArray[np.str_]
) -> pl.DataFrame:
    rows = np.flatnonzero(first >= 0)
    keys_a, keys_b = _frame(a.images, "key")["key"][first[rows]], _frame(b.images, "key")["key"][rows]
    values = {"reason": [reason] * len(rows), "a": keys_a, "b": keys_b, "detail": detail[rows].tolist()}
    return pl.DataFrame(values, schema=_SHARED)


def shared_ids(a: pl.DataFrame, b: pl.DataFrame, reason: Literal["subject", "video"]) -> pl.DataFrame:
    """Every ``subject_id`` or ``video_id`` that both have, with the first ``key`` of either."""
    column = f"{reason}_id"
    first_a, first_b = (
        rows.select(column, pl.col("key").alias(name)).drop_nulls(column).unique(column, keep="first")
        for rows, name in ((a, "a"), (b, "b"))
    )
    detail = pl.format(f"{reason} {{}}", pl.col(column))
    return first_a.join(first_b, column).sort(column).select(reason=pl.lit(reason), a="a", b="b", detail=detail)


def _exact(a: ShardStore, b: ShardStore) -> NDArray[np.int64]:
    """As :func:`first_in`, of equal source files; where the digests of one only are SHA-256, of equal bytes."""
    if (a.manifest.format_version == 3) == (b.manifest.format_version == 3):
        return first_in(_origins(a), _origins(b))
    key = pl.concat_str("image_xxh3", "image_size", separator=" ")
    alike = first_in(*(_frame(store.images, "image_xxh3", "image_size").select(key).to_series() for store in (a, b)))
    for row in np.flatnonzero(alike >= 0).tolist():
        if a.read_image_bytes(int(alike[row])) != b.read_image_bytes(row):
            alike[row] = -1
    return alike


def _origins(store: ShardStore) -> pl.Series:
    """What tells a picture's source: its file's digest, before stages; a frame's own, as its video has other frames."""
    is_frame = pl.col("image").str.contains("#")
    origin = pl.when(~is_frame).then("source_digest").fill_null(pl.col("digest"))
    return _frame(store.images, "image", "digest", "source_digest").select(origin.alias("origin"))["origin"]


def _frame(table: pa.Table, *columns: str) -> pl.DataFrame:
    frame = pl.from_arrow(table.select(columns))
    assert isinstance(frame, pl.DataFrame)
    return frame


def _name(store: ShardStore) -> str:
    return f"{store.manifest.dataset}/{store.manifest.split}"
