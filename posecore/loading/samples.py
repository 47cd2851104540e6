"""Decoded images of a store, kept while their crops are being cut, and which instances there are to crop."""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from posecore.geometry import clip_bbox_xywh
from posecore.loading.crop import DepthMap, decode_depth, decode_image
from posecore.shards.store import ShardStore

ImageKey: TypeAlias = tuple[str, int]
"""An image: the name of its store, and its row of ``images.parquet``."""


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
    """

    def __init__(self, stores: Mapping[str, ShardStore], max_bytes: int, max_pixels: int, depth: bool = False) -> None:
        self._stores = stores
        self._max_bytes = max_bytes
        self._max_pixels = max_pixels
        self._wants_depth = depth
        self._kept: OrderedDict[ImageKey, DecodedSample] = OrderedDict()
        self._bytes = 0
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
        store = self._stores[name]
        where = f"{store.location}: sample {store.key(image_row)}"
        if not self._wants_depth:  # then nothing but the picture is read
            return DecodedSample(decode_image(store.read_image_bytes(image_row), self._max_pixels, where))
        stored = store.read_sample(image_row)
        depth = None
        if stored.depth_bytes is not None and stored.record.depth is not None:
            depth = DepthMap(decode_depth(stored.depth_bytes, where), stored.record.depth.metres_per_unit)
        return DecodedSample(decode_image(stored.image_bytes, self._max_pixels, where), depth)

    def release(self, key: ImageKey) -> None:
        """Forgets an image, if it is kept."""
        sample = self._kept.pop(key, None)
        if sample is not None:
            self._bytes -= sample.nbytes


@dataclass(frozen=True, slots=True, eq=False)
class UsableInstances:
    """The instances of a store to crop.

    Attributes:
        rows: (n,) rows of ``index.parquet``; of ``images.parquet`` where whole images are taken.
        image_rows: (n,) rows of ``images.parquet``.
        bbox_xywh: (n, 4) boxes in image pixels, clipped if the dataset's conventions say so.
        image_bytes: size of all their images together, decoded.
    """

    rows: NDArray[np.int64]
    image_rows: NDArray[np.int64]
    bbox_xywh: NDArray[np.float64]
    image_bytes: int

    def on_another_image(self, instance: int) -> int:
        """The next instance that is on another image, after the last the first; the same one if there is no other."""
        others = np.flatnonzero(np.roll(self.image_rows != self.image_rows[instance], -instance))
        return instance if not len(others) else (instance + int(others[0])) % len(self.image_rows)

    @classmethod
    def of(cls, store: ShardStore) -> "UsableInstances":
        """Chooses the instances as the published loaders do: no crowd, at least one labelled point, a usable box."""
        return cls._with_boxes(store, store.instances["num_labelled"].to_numpy() > 0)

    @classmethod
    def bodies(cls, store: ShardStore) -> "UsableInstances":
        """Chooses every body with a usable box, labelled or not."""
        return cls._with_boxes(store, np.ones(len(store), bool))

    @classmethod
    def whole_images(cls, store: ShardStore) -> "UsableInstances":
        """Takes every image as one instance, those without a body as well."""
        heights, widths = (store.images[side].to_numpy().astype(np.int64) for side in ("height", "width"))
        rows = np.arange(store.num_images)
        corners = np.zeros((store.num_images, 2))
        return cls(
            rows=rows,
            image_rows=rows,
            bbox_xywh=np.concatenate([corners, np.stack([widths, heights], axis=-1)], axis=1),
            image_bytes=3 * int((heights * widths).sum()),
        )

    @classmethod
    def _with_boxes(cls, store: ShardStore, wanted: NDArray[np.bool_]) -> "UsableInstances":
        table = store.instances
        image_rows = table["image_row"].to_numpy()
        heights, widths = (store.images[side].to_numpy() for side in ("height", "width"))
        chosen = wanted & ~table["is_crowd"].to_numpy()
        conventions = store.manifest.definition.conventions
        boxes = np.stack([table[f"bbox_{side}"].to_numpy() for side in "xywh"], axis=-1)
        if conventions.clip_boxes:
            boxes = clip_bbox_xywh(boxes, (heights[image_rows], widths[image_rows]))
        if conventions.box_source == "bbox":
            chosen &= (boxes[:, 2:] > 0).all(axis=1)
        rows = np.flatnonzero(chosen)
        images = np.unique(image_rows[rows])
        return cls(
            rows=rows,
            image_rows=image_rows[rows],
            bbox_xywh=boxes[rows],
            image_bytes=3 * int((heights[images].astype(np.int64) * widths[images]).sum()),
        )
