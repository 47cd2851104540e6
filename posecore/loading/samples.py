"""Decoded images of a store, kept while their crops are being cut, and which instances there are to crop."""

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from posecore.geometry import clip_bbox_xywh
from posecore.loading.buffers import ByteBuffers
from posecore.loading.crop import DepthMap, decode_depth, decode_image
from posecore.shards.answers import Bodies
from posecore.shards.precut import PrecutStore
from posecore.shards.store import ShardStore

_ROWS_AT_A_TIME = 1 << 17

ImageKey: TypeAlias = tuple[str, int]
"""An image: the name of its store, and its row of ``images.parquet``; of a body's own picture, the body's row."""


@dataclass(frozen=True, slots=True, eq=False)
class DecodedSample:
    """One image, ready to be cropped.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        depth: of the image; None where there is none, or none is wanted.
    """

    image: NDArray[np.uint8]
    depth: DepthMap | None = None

    @property
    def nbytes(self) -> int:
        """Of the decoded pixels."""
        return self.image.nbytes + (0 if self.depth is None else self.depth.pixels.nbytes)


class SampleCache:
    """Decoded images of several stores, within a bound on their bytes. For one thread.

    An image stays until it is released or, beyond the bound, until it is the one that was not asked for longest. Who
    knows what comes next should release: the next image then takes memory that is still in the processor's cache.

    Args:
        stores: by entry name.
        max_bytes: of decoded pixels; the latest image is kept even if it alone is larger.
        max_pixels: a larger image is refused.
        depth: decode depth pictures too.
        precut: by entry name, the bodies' own pictures, where these are read instead of images.
    """

    def __init__(
        self,
        stores: Mapping[str, ShardStore],
        max_bytes: int,
        max_pixels: int,
        depth: bool = False,
        precut: Mapping[str, PrecutStore] | None = None,
    ) -> None:
        self._stores = stores
        self._precut = precut or {}
        self._max_bytes = max_bytes
        self._max_pixels = max_pixels
        self._wants_depth = depth
        self._kept: OrderedDict[ImageKey, DecodedSample] = OrderedDict()
        self._bytes = 0
        self._buffers = ByteBuffers()
        self.num_decoded = 0

    def get(self, key: ImageKey) -> DecodedSample:
        """One image of a store, decoded now or lately.

        Raises:
            IntegrityError: the stored bytes are damaged or not an image; names store and sample.
        """
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        sample = self._decoded(*key)
        self.num_decoded += 1
        self._kept[key] = sample
        self._bytes += sample.nbytes
        while self._bytes > self._max_bytes and len(self._kept) > 1:
            self._bytes -= self._kept.popitem(last=False)[1].nbytes
        return sample

    def _decoded(self, name: str, image_row: int) -> DecodedSample:
        if name in self._precut:
            return DecodedSample(self._precut[name].read(image_row))
        store = self._stores[name]
        size = store.image_size(image_row)

        def where() -> str:
            return f"{store.location}: sample {store.key(image_row)}"

        if not self._wants_depth:  # then nothing but the picture is read
            return DecodedSample(
                decode_image(store.read_image_bytes(image_row), self._max_pixels, where, size, self._buffers.take)
            )
        stored = store.read_sample(image_row)
        depth = None
        if stored.depth_bytes is not None and stored.record.depth is not None:
            depth = DepthMap(decode_depth(stored.depth_bytes, where()), stored.record.depth.metres_per_unit)
        return DecodedSample(decode_image(stored.image_bytes, self._max_pixels, where, size, self._buffers.take), depth)

    def release(self, key: ImageKey) -> None:
        """Forgets an image, if it is kept."""
        sample = self._kept.pop(key, None)
        if sample is not None:
            self._bytes -= sample.nbytes


class UsableInstances:
    """The instances of a store to crop; where they are is looked up when it is asked, as of millions it is gigabytes.

    Attributes:
        rows: (n,) uint32 rows of ``index.parquet``; of ``images.parquet`` where whole images are taken.
        image_bytes: size of all their images together, decoded.
    """

    def __init__(self, store: ShardStore, rows: NDArray[np.integer], *, are_images: bool = False) -> None:
        self.rows = rows.astype(np.uint32, copy=False)
        self._height, self._width = (store.images[side].to_numpy() for side in ("height", "width"))
        self._boxes = None if are_images else [store.instances[f"bbox_{side}"].to_numpy() for side in "xywh"]
        self._image_row = None if are_images else store.instances["image_row"].to_numpy()
        self._clips = store.manifest.definition.conventions.clip_boxes
        is_used = np.zeros(store.num_images, np.bool_)
        for part in _parts(len(self.rows)):
            is_used[self.image_rows_of(part)] = True
        self.image_bytes = 3 * sum(
            int((self._height[part].astype(np.int64) * self._width[part])[is_used[part]].sum())
            for part in _parts(store.num_images)
        )

    @property
    def image_rows(self) -> NDArray[np.uint32]:
        """(n,) rows of ``images.parquet``."""
        rows = np.empty(len(self.rows), np.uint32)
        for part in _parts(len(rows)):
            rows[part] = self.image_rows_of(part)
        return rows

    def image_rows_of(self, instances: NDArray[np.int64] | slice) -> NDArray[np.int64]:
        """Of some of them.

        Args:
            instances: (m,) indices into :attr:`rows`.
        """
        rows = self.rows[instances]
        return rows.astype(np.int64) if self._image_row is None else self._image_row[rows]

    @property
    def bbox_xywh(self) -> NDArray[np.float64]:
        """(n, 4) boxes in image pixels, clipped if the dataset's conventions say so."""
        return self.bbox_xywh_of(slice(None))

    def bbox_xywh_of(self, instances: NDArray[np.int64] | slice) -> NDArray[np.float64]:
        """(m, 4) :attr:`bbox_xywh` of some of them.

        Args:
            instances: (m,) indices into :attr:`rows`.
        """
        image_rows = self.image_rows_of(instances)
        height, width = self._height[image_rows], self._width[image_rows]
        if self._boxes is None:
            sides = np.stack([width, height], axis=-1).astype(np.float64)
            return np.concatenate([np.zeros_like(sides), sides], axis=1)
        rows = self.rows[instances]
        boxes = np.stack([side[rows] for side in self._boxes], axis=-1)
        return clip_bbox_xywh(boxes, (height, width)) if self._clips else boxes

    def on_another_image(self, instance: int) -> int:
        """The next instance that is on another image, after the last the first; the same one if there is no other."""
        others = np.flatnonzero(np.roll(self.image_rows != self.image_rows[instance], -instance))
        return instance if not len(others) else (instance + int(others[0])) % len(self.rows)

    @classmethod
    def chosen(cls, store: ShardStore, bodies: Bodies) -> "UsableInstances":
        """Chooses what a training of that kind crops."""
        choose = {"labelled": cls.of, "all": cls.bodies, "images": cls.whole_images}
        return choose[bodies](store)

    @classmethod
    def of(cls, store: ShardStore) -> "UsableInstances":
        """Chooses the instances as the published loaders do: no crowd, at least one labelled point, a usable box."""
        return cls._with_boxes(store, store.instances["num_labelled"].to_numpy() > 0)

    @classmethod
    def bodies(cls, store: ShardStore) -> "UsableInstances":
        """Chooses every body with a usable box, labelled or not."""
        return cls._with_boxes(store, np.ones(len(store), np.bool_))

    @classmethod
    def whole_images(cls, store: ShardStore) -> "UsableInstances":
        """Takes every image as one instance, those without a body as well."""
        return cls(store, np.arange(store.num_images), are_images=True)

    @classmethod
    def _with_boxes(cls, store: ShardStore, wanted: NDArray[np.bool_]) -> "UsableInstances":
        wanted = wanted & ~store.instances["is_crowd"].to_numpy()
        rows = np.empty(np.count_nonzero(wanted), np.uint32)
        end = 0
        for part in _parts(len(wanted)):
            found = np.flatnonzero(wanted[part])
            rows[end : end + len(found)] = found + part.start
            end += len(found)
        chosen = cls(store, rows)
        if store.manifest.definition.conventions.box_source != "bbox":
            return chosen
        has_extent = np.empty(len(chosen.rows), np.bool_)
        for part in _parts(len(has_extent)):
            has_extent[part] = (chosen.bbox_xywh_of(part)[:, 2:] > 0).all(axis=1)
        return chosen if has_extent.all() else cls(store, chosen.rows[has_extent])


def _parts(count: int) -> Iterator[slice]:
    """So many rows, some at a time: of millions, what is calculated from them would be hundreds of megabytes."""
    for start in range(0, count, _ROWS_AT_A_TIME):
        yield slice(start, start + _ROWS_AT_A_TIME)
