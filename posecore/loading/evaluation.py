"""Un-augmented crops of a store in a fixed order: around ground-truth boxes, or around boxes of a detector."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from posecore.conventions import Conventions, HeadConventions
from posecore.loading.crop import Crop, box_region, crop_depth, crop_instance, group_crops, instance_region
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
        max_pixels: int = 100_000_000,
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
            rows = UsableInstances.of(store).rows if detections is None else np.arange(len(detections.image_rows))
        self.rows = rows
        if detections is None:
            self._image_rows = store.instances["image_row"].to_numpy()
            self._places = store.instances["instance_index"].to_numpy()
        else:
            self._image_rows = detections.image_rows

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
        rows = self.rows[number * self._batch_size : (number + 1) * self._batch_size]
        images = np.empty((len(rows), *self._input_size, 3), np.uint8)
        depth = np.empty((len(rows), *self._input_size), np.float32) if self._depth else None
        crops = [
            self._crop(int(row), cache, images[place], None if depth is None else depth[place])
            for place, row in enumerate(rows)
        ]
        num_keypoints = self._store.manifest.definition.skeleton.num_keypoints
        group = group_crops(self._name, 0, crops, rows, num_keypoints)
        return CropBatch(images=images, groups=(group,), step=number, epoch=0, depth=depth)

    def _crop(
        self, row: int, cache: SampleCache, out: NDArray[np.uint8], depth_out: NDArray[np.float32] | None
    ) -> Crop:
        sample = cache.get((self._name, int(self._image_rows[row])))
        skeleton = self._store.manifest.definition.skeleton
        height, width = sample.image.shape[:2]
        aspect_ratio = out.shape[1] / out.shape[0]
        if self._detections is not None:
            region = box_region(self._detections.bbox_xywh[row], aspect_ratio, self._conventions.padding)
            keypoints = np.zeros((skeleton.num_keypoints, 2), np.float32)
            state = np.full(skeleton.num_keypoints, KeypointState.UNKNOWN, np.uint8)
        else:
            index = int(self._places[row])
            region = instance_region(sample.instances[index], (height, width), aspect_ratio, self._conventions)
            keypoints, state = sample.instances[index].keypoints[:, :2], sample.state[index]
        if depth_out is not None:
            crop_depth(sample.depth, region, self._conventions.codec, depth_out)
        return crop_instance(sample.image, keypoints, state, region, skeleton, self._conventions.codec, out)
