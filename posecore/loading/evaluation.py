"""Un-augmented crops of a store in a fixed order: around ground-truth boxes, or around boxes of a detector."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from posecore.conventions import Conventions, HeadConventions
from posecore.image_header import MAX_PIXELS
from posecore.loading.augment import Region
from posecore.loading.crop import (
    CropPlan,
    box_region,
    crop_depth,
    crop_images,
    group_crops,
    instance_regions,
    plan_crops,
)
from posecore.loading.samples import SampleCache, UsableInstances
from posecore.schema import CropBatch, KeypointState
from posecore.shards.store import ShardStore

_BYTES_PER_THREAD = 64 << 20


@dataclass(frozen=True, slots=True, eq=False)
class Detections:
    """Boxes of a detector on the images of a store.

    Attributes:
        image_rows: (n,) int64 rows of ``images.parquet``.
        bbox_xywh: (n, 4) float64 in image pixels; cropped as they are, without clipping, as published.
    """

    image_rows: NDArray[np.int64]
    bbox_xywh: NDArray[np.float64]


class EvalCrops:
    """Iterable over batches of un-augmented crops; every batch has one group, named ``name``.

    Sets OpenCV's own thread count of this process to 1: the threads here are the parallelism.

    Args:
        store: the split.
        name: of the group, that is, of the head to ask.
        input_size: (height, width) of the crops.
        batch_size: crops per batch; the last batch may be smaller.
        rows: rows of ``index.parquet`` to crop around their ground truth, None for those of
            :class:`~posecore.loading.samples.UsableInstances`; or, with ``detections``, rows of those.
            ``CropGroup.rows`` holds them again.
        detections: boxes to crop instead; their points are 0, 0 and UNKNOWN.
        conventions: of the head; None for the usual ones, on the dataset's labels.
        num_threads: decoding threads.
        max_pixels: a larger image is refused.
        depth: cut depth too, where images have it.
    """

    def __init__(
        self,
        store: ShardStore,
        name: str,
        input_size: tuple[int, int],
        *,
        batch_size: int = 64,
        rows: NDArray[np.int64] | None = None,
        detections: Detections | None = None,
        conventions: Conventions | None = None,
        num_threads: int = 2,
        max_pixels: int = MAX_PIXELS,
        depth: bool = False,
    ) -> None:
        cv2.setNumThreads(1)
        self._store = store
        self._name = name
        self._input_size = input_size
        self._batch_size = batch_size
        self._detections = detections
        self._conventions = conventions or HeadConventions().on(store.manifest.definition.conventions)
        self._num_threads = num_threads
        self._max_pixels = max_pixels
        self._depth = depth
        if rows is None:
            rows = (
                UsableInstances.of(store).rows.astype(np.int64)
                if detections is None
                else np.arange(len(detections.image_rows))
            )
        self.rows = rows
        self._image_rows = store.instances["image_row"].to_numpy() if detections is None else detections.image_rows
        aspect_ratio, conventions = input_size[1] / input_size[0], self._conventions
        if detections is None:
            self._regions = instance_regions(store, rows, aspect_ratio, conventions)
        else:
            self._regions = box_region(detections.bbox_xywh[rows], aspect_ratio, conventions.padding)

    def __len__(self) -> int:
        """Number of batches."""
        return -(-len(self.rows) // self._batch_size)

    def __iter__(self) -> Iterator[CropBatch]:
        # A thread takes whole batches: rows of one image are neighbours, so it decodes the image once.
        caches = [
            SampleCache({self._name: self._store}, _BYTES_PER_THREAD, self._max_pixels, self._depth)
            for _ in range(self._num_threads)
        ]
        workers = [ThreadPoolExecutor(1, thread_name_prefix=f"eval-crops-{index}") for index in range(len(caches))]
        pending: deque[Future[CropBatch]] = deque()
        try:
            for number in range(len(self)):
                lane = number % len(workers)
                pending.append(workers[lane].submit(self._batch, number, caches[lane]))
                if len(pending) > len(workers):
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for worker in workers:
                worker.shutdown(cancel_futures=True)

    def _batch(self, number: int, cache: SampleCache) -> CropBatch:
        places = slice(number * self._batch_size, (number + 1) * self._batch_size)
        rows = self.rows[places]
        plan = self._plan(rows, Region(self._regions.center[places], self._regions.scale[places]))
        images = np.empty((len(rows), *self._input_size, 3), np.uint8)
        depth = np.empty((len(rows), *self._input_size), np.float32) if self._depth else None
        for place, image_row in enumerate(self._image_rows[rows].tolist()):
            sample = cache.get((self._name, image_row))
            crop_images(sample.image, plan.matrix[place : place + 1], images[place : place + 1])
            if depth is not None:
                crop_depth(sample.depth, plan.matrix[place], depth[place])
        return CropBatch(images=images, groups=(group_crops(self._name, 0, plan),), step=number, epoch=0, depth=depth)

    def _plan(self, rows: NDArray[np.int64], region: Region) -> CropPlan:
        skeleton = self._store.manifest.definition.skeleton
        if self._detections is None:
            keypoints, state = self._store.labels.keypoints(rows), self._store.labels.state(rows)
        else:
            keypoints = np.zeros((len(rows), skeleton.num_keypoints, 2), np.float32)
            state = np.full(keypoints.shape[:2], KeypointState.UNKNOWN, np.uint8)
        return plan_crops(
            rows,
            np.zeros(len(rows), np.int64),
            region,
            self._store.images["width"].to_numpy()[self._image_rows[rows]],
            keypoints,
            state,
            skeleton,
            self._conventions.codec,
            self._input_size,
        )
