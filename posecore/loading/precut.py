"""Cuts the picture of every body of an ingested split beforehand: what its augmented crops can show, at their scale."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field
from xxhash import xxh3_64_intdigest

from posecore.config import Config
from posecore.conventions import Conventions, HeadConventions
from posecore.errors import ConfigError, IntegrityError
from posecore.geometry import fix_aspect_ratio
from posecore.image_header import MAX_PIXELS
from posecore.loading.augment import AugmentConfig, LateAugmentConfig, Region, half_body_extents
from posecore.loading.crop import decode_image, instance_regions, is_labelled
from posecore.loading.samples import UsableInstances
from posecore.shards.answers import Bodies
from posecore.shards.index import write_table
from posecore.shards.manifest import INSTANCES_NAME, MANIFEST_NAME, ShardEntry
from posecore.shards.precut import (
    FOLDER_NAME,
    INDEX_SCHEMA,
    PrecutManifest,
    PrecutStore,
    PrecutTerms,
    Reach,
    manifest_text,
    picture_header,
)
from posecore.shards.remote import outage_in_a_sentence, put_whole
from posecore.shards.store import ShardStore, open_store
from posecore.shards.tar import TarWriter
from posecore.storage import AnyPath, write_atomically, written_aside

_RIM_PX = 2.0
"""Beyond what a crop shows: bilinear interpolation looks at the next pixel."""


def reach_of(augment: AugmentConfig, late: LateAugmentConfig | None = None) -> Reach:
    """How far an augmentation may take a crop from its box, that of late passes included."""
    if late is not None:
        first, last = reach_of(augment), reach_of(late.augment)
        rules = {reach.half_bodies for reach in (first, last)} - {None}
        if len(rules) > 1:
            raise ConfigError("late.augment: another half_body_rule than before; pictures are cut for one.")
        return Reach(
            half_bodies=rules.pop() if rules else None,
            **{
                name: max(getattr(first, name), getattr(last, name))
                for name in ("scale", "turns", "half_body_padding", "jitter", "padded_jitter")
            },
        )
    halves = augment.half_body_probability > 0
    moves = augment.center_jitter != "off" and augment.center_jitter_probability > 0
    extent = augment.center_jitter_extent if moves else 0.0
    truncated = augment.center_jitter_distribution == "truncated"
    return Reach(
        scale=1.0 + augment.scale_factor,
        turns=augment.rotation_probability > 0 and augment.rotation_degrees > 0,
        half_bodies=augment.half_body_rule if halves else None,
        half_body_padding=augment.half_body_padding if halves else 1.0,
        jitter=0.0 if truncated else extent / 2,
        padded_jitter=extent if truncated else 0.0,
    )


def refuse_beyond(
    precut: PrecutStore,
    store: ShardStore,
    augment: AugmentConfig,
    late: LateAugmentConfig | None,
    input_size: tuple[int, int],
    conventions: Conventions,
    bodies: Bodies,
) -> None:
    """Refuses crops that the pictures were not cut for.

    Args:
        precut: the pictures.
        store: their split.
        augment: of the crops.
        late: of later passes.
        input_size: (height, width) of the crops.
        conventions: the crops are cut by.
        bodies: what is cropped.

    Raises:
        ConfigError: names what differs.
    """
    terms = precut.manifest.terms
    found = terms.reach.lacks(reach_of(augment, late))
    if bodies == "images":
        found.append("bodies images (cut for boxes)")
    if store.corrections is not None:
        found.append("corrections (cut for all labels)")
    if input_size != terms.input_size:
        found.append(f"input_size {input_size} (cut for {terms.input_size})")
    found += [
        f"conventions.{name} {getattr(conventions, name)} (cut for {getattr(terms.conventions, name)})"
        for name in Conventions.model_fields
        if getattr(conventions, name) != getattr(terms.conventions, name)
    ]
    if found:
        raise ConfigError(
            f"{precut.location}: the crops that are wanted are beyond what its pictures were cut for: "
            f"{', '.join(found)}; change that, cut them anew, or set pictures to whole."
        )


class PrecutSettings(Config):
    """Which crops the pictures of bodies are cut for, by the usual conventions of heads.

    Attributes:
        input_size: (height, width) of the crops in pixels.
        augment: how far they may go from their boxes; training may go as far, or less.
        resolution: pixels of a picture per pixel of an un-augmented crop, at most; the image's own are never enlarged.
    """

    input_size: tuple[int, int]
    augment: AugmentConfig = AugmentConfig()
    resolution: float = Field(default=1.0, gt=0)

    def terms(self, store: ShardStore) -> PrecutTerms:
        """For a split."""
        return PrecutTerms(
            input_size=self.input_size,
            conventions=HeadConventions().on(store.manifest.definition.conventions),
            reach=reach_of(self.augment),
            resolution=self.resolution,
        )


def bounds(store: ShardStore, rows: NDArray[np.int64], terms: PrecutTerms) -> NDArray[np.int64]:
    """(n, 4) left, top, right, bottom of the part of the image that crops of each body may show; empty where none may.

    Args:
        store: the split.
        rows: (n,) of ``index.parquet``.
        terms: for which crops.
    """
    height, width = terms.input_size
    conventions, reach, labels = terms.conventions, terms.reach, store.labels
    region = instance_regions(store, rows, width / height, conventions)
    boxes = np.stack([store.instances[f"bbox_{side}"].to_numpy()[rows] for side in "wh"], axis=-1)
    padded = boxes * conventions.padding
    if conventions.box_source == "center_scale":
        padded = labels.center_scale(rows)[1] * conventions.padding
    elif not conventions.center_jitter:
        boxes, padded = boxes * 0, padded * 0
    shift = reach.jitter * boxes + reach.padded_jitter * padded
    shown = [_around(region, shift, reach)]
    if reach.half_bodies is not None and conventions.half_body_min_keypoints is not None:
        points, labelled = labels.keypoints(rows), is_labelled(labels.state(rows))
        enough = np.count_nonzero(labelled, axis=1) > conventions.half_body_min_keypoints
        skeleton = store.manifest.definition.skeleton
        for middle, extent in half_body_extents(points, labelled, skeleton, reach.half_bodies):
            size = fix_aspect_ratio(np.maximum(extent, 1e-6), width / height) * reach.half_body_padding
            shift = reach.padded_jitter * extent * reach.half_body_padding + reach.jitter * boxes
            half = _around(Region(middle, size), shift, reach)
            there = enough & extent.any(axis=1)
            shown.append(np.where(there[:, None], half, shown[0]))
    low, high = (np.stack(shown)[..., :2].min(axis=0), np.stack(shown)[..., 2:].max(axis=0))
    image_rows = store.instances["image_row"].to_numpy()[rows]
    size = np.stack([store.images[side].to_numpy()[image_rows] for side in ("width", "height")], axis=-1)
    low = np.clip(np.floor(low - _RIM_PX), 0, size)
    high = np.clip(np.ceil(high + _RIM_PX) + 1, 0, size)
    return np.concatenate([low, high], axis=1).astype(np.int64)


def _around(region: Region, shift: NDArray[np.float64], reach: Reach) -> NDArray[np.float64]:
    """(n, 4) ends of all regions of a size up to the largest, turned and moved as may be."""
    half = region.scale * reach.scale / 2
    if reach.turns:
        half = np.broadcast_to(np.hypot(half[:, :1], half[:, 1:]), half.shape)
    return np.concatenate([region.center - shift - half, region.center + shift + half], axis=1)


def cut_picture(
    image: NDArray[np.uint8], part: NDArray[np.int64], scale: NDArray[np.float64], terms: PrecutTerms
) -> NDArray[np.uint8]:
    """A part of an image, made smaller by averaging where the crops would be.

    Args:
        image: (H, W, 3).
        part: (4,) of :func:`bounds`.
        scale: (2,) w, h of the body's un-augmented region in image pixels.
        terms: for which crops.
    """
    left, top, right, bottom = part.tolist()
    pixels = image[top:bottom, left:right]
    height, width = terms.input_size
    factor = min(1.0, terms.resolution * max(width / scale[0], height / scale[1]))
    size = max(round((right - left) * factor), 1), max(round((bottom - top) * factor), 1)
    if size == (right - left, bottom - top):
        return np.ascontiguousarray(pixels)
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)


@dataclass(frozen=True, slots=True, eq=False)
class CutShard:
    """A tar that was written.

    Attributes:
        entry: of the manifest.
        rows: (n,) of the index, all bodies of the shard.
        table: a row for each.
    """

    entry: ShardEntry
    rows: NDArray[np.int64]
    table: pa.Table


def cut_shard(number: int, folder: AnyPath, terms: PrecutTerms) -> CutShard:
    """Writes the pictures of one shard's bodies; equal shards give equal bytes.

    Args:
        number: of the shard.
        folder: of the split.
        terms: for which crops.

    Raises:
        IntegrityError: a stored image is damaged.
        StorageError: a remote store does not answer, however often it is asked.
    """
    store = open_store(folder)
    image_rows = store.instances["image_row"].to_numpy()
    rows = np.flatnonzero(store.shard_of_image[image_rows] == number)
    usable = np.isin(rows, UsableInstances.bodies(store).rows)
    parts = np.zeros((len(rows), 4), np.int64)
    parts[usable] = bounds(store, rows[usable], terms)
    scales = np.ones((len(rows), 2))
    height, width = terms.input_size
    scales[usable] = instance_regions(store, rows[usable], width / height, terms.conventions).scale
    columns = {name: np.zeros(len(rows), np.int64) for name in ("offset", "width", "height")}
    columns["xxh3"] = np.zeros(len(rows), np.uint64)
    name = f"crops-{number:06d}.tar"
    image_row, image = -1, np.empty((0, 0, 3), np.uint8)
    with _whole(folder / FOLDER_NAME / name) as file:
        tar = TarWriter(file)
        for place, row in enumerate(rows.tolist()):
            if not (parts[place, 2:] > parts[place, :2]).all():
                continue
            if image_rows[row] != image_row:
                image_row = int(image_rows[row])
                image = decode_image(store.read_image_bytes(image_row), MAX_PIXELS, f"{folder}: {store.key(image_row)}")
            picture = cut_picture(image, parts[place], scales[place], terms)
            header, pixels = picture_header(picture.shape[1], picture.shape[0]), picture.tobytes()
            columns["offset"][place] = tar.add(f"{row}.npy", header + pixels).offset + len(header)
            columns["width"][place], columns["height"][place] = picture.shape[1], picture.shape[0]
            columns["xxh3"][place] = xxh3_64_intdigest(pixels)
        digest, size = tar.finish(), tar.position
    entry = ShardEntry(
        name=name,
        digest=digest,
        size_bytes=size,
        num_images=int((columns["width"] > 0).sum()),
        num_instances=int((columns["width"] > 0).sum()),
    )
    ends = dict(zip(("left", "top", "right", "bottom"), parts.T, strict=True))
    table = pa.table({"shard": np.full(len(rows), number), **columns, **ends}).select(INDEX_SCHEMA.names)
    return CutShard(entry, rows, table.cast(INDEX_SCHEMA))


@contextmanager
def _whole(path: AnyPath) -> Iterator[FileIO]:
    """A file that gets its name when it is complete; in an object store by one put of a local copy."""
    if isinstance(path, Path):
        path.parent.mkdir(exist_ok=True)
        with written_aside(path) as aside, FileIO(aside, "wb") as file:
            yield file
        return
    with put_whole(path) as file:
        yield file


def _one_by_one(
    cut: Callable[[int, AnyPath, PrecutTerms], CutShard], numbers: Iterable[int], folder: AnyPath, terms: PrecutTerms
) -> list[CutShard]:
    return [cut(number, folder, terms) for number in numbers]


def write_precut(
    folder: AnyPath,
    terms: PrecutTerms,
    each: Callable[
        [Callable[[int, AnyPath, PrecutTerms], CutShard], Iterable[int], AnyPath, PrecutTerms], Sequence[CutShard]
    ] = _one_by_one,
) -> PrecutManifest:
    """Cuts the pictures of all bodies of an ingested split, beside its shards; those that are whole stay.

    Args:
        folder: of the split, local or remote; all workers must reach it.
        terms: for which crops.
        each: calls a function for each number with the other arguments; answers in the order of the numbers.

    Raises:
        IntegrityError: a stored image is damaged.
        StorageError: a remote store does not answer, however often it is asked.
    """
    with outage_in_a_sentence(folder):
        store = open_store(folder)
        with suppress(IntegrityError):  # then they are cut, again
            if store.precut.manifest.terms == terms:
                store.precut.verify()
                return store.precut.manifest
        target = folder / FOLDER_NAME
        target.mkdir(parents=True, exist_ok=True)
        (target / MANIFEST_NAME).unlink(missing_ok=True)  # not finished from now on
        shards = each(cut_shard, range(len(store.manifest.shards)), folder, terms)
        order = np.argsort(np.concatenate([np.empty(0, np.int64), *(shard.rows for shard in shards)]))
        table = pa.concat_tables([INDEX_SCHEMA.empty_table(), *(shard.table for shard in shards)]).take(order)
        data = write_table(target / INSTANCES_NAME, table)
        manifest = PrecutManifest(
            dataset=store.manifest.digest,
            terms=terms,
            shards=tuple(shard.entry for shard in shards),
            index=hashlib.sha256(data).hexdigest(),
        )
        names = {entry.name for entry in manifest.shards} | {INSTANCES_NAME}
        for path in target.iterdir():
            if path.name not in names and path.name.startswith("crops-"):
                path.unlink()
        write_atomically(target / MANIFEST_NAME, manifest_text(manifest))
        return manifest
