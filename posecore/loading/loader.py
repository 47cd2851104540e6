"""Batches for one rank, prepared ahead by threads, resumable at any step on any number of ranks.

The order is :class:`~posecore.loading.mixture.MixtureSampler`'s; this module only carries it out. Every thread owns
some of the rank's slots for the whole run, so it meets the instances of an image one after the other and decodes the
image once. OpenCV releases the interpreter lock while it decodes and warps, so threads suffice.
"""

from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from posecore.config import Config
from posecore.errors import ConfigError
from posecore.loading.augment import AugmentConfig
from posecore.loading.crop import Crop, group_crops
from posecore.loading.mixture import MixtureConfig, MixtureSampler
from posecore.loading.samples import SampleCache
from posecore.loading.training_crops import TrainingCrops
from posecore.schema import CropBatch
from posecore.shards.store import ShardStore


class LoadingConfig(Config):
    """How batches are made.

    Attributes:
        mixture: which datasets, how often.
        augment: of every entry that has none of its own.
        num_threads: decoding threads per rank; one per core the rank may use.
        prefetch: batches prepared ahead.
        cache_bytes: bound on the decoded images a rank keeps; too small a bound costs decoding, never correctness.
        max_pixels: a larger image is refused.
    """

    mixture: MixtureConfig
    augment: AugmentConfig = AugmentConfig()
    num_threads: int = Field(default=2, ge=1)
    prefetch: int = Field(default=2, ge=1)
    cache_bytes: int = Field(default=1 << 30, gt=0)
    max_pixels: int = Field(default=100_000_000, gt=0)


@dataclass(frozen=True, slots=True, eq=False)
class _Layout:
    """The crops of one step on this rank, sorted by dataset: for each, its slot, entry, instance and pass."""

    slots: NDArray[np.int64]
    dataset: NDArray[np.int16]
    instance: NDArray[np.int64]
    number_of_pass: NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class _Pending:
    """A batch in the making: each part is some places of the batch and the crops that will fill them."""

    step: int
    layout: _Layout
    images: NDArray[np.uint8]
    parts: list[tuple[NDArray[np.int64], Future[list[Crop]]]]


class Loader:
    """Endless iterator over one rank's micro-batches, from ``start_step`` on.

    Sets OpenCV's own thread count of this process to 1: the loader's threads are the parallelism.

    Args:
        stores: by mixture entry name.
        config: the mixture and its augmentation.
        input_size: (height, width) of the crops.
        seed: of the run; with the step it is the whole state.
        global_batch: crops per step over all ranks.
        rank: of this process.
        world_size: number of ranks; must divide ``global_batch``.
        start_step: first step to deliver.

    Raises:
        ConfigError: an entry has no store or nothing to train on, or the batch cannot be divided evenly.
    """

    def __init__(
        self,
        stores: Mapping[str, ShardStore],
        config: LoadingConfig,
        *,
        input_size: tuple[int, int],
        seed: int,
        global_batch: int,
        rank: int = 0,
        world_size: int = 1,
        start_step: int = 0,
    ) -> None:
        if global_batch % world_size:
            raise ConfigError(
                f"global_batch: {global_batch} crops cannot be divided evenly among {world_size} ranks; "
                f"choose a multiple of {world_size}."
            )
        missing = [entry.name for entry in config.mixture.entries if entry.name not in stores]
        if missing:
            raise ConfigError(f"mixture entry {', '.join(missing)}: no store of that name; ingest it or remove it.")
        cv2.setNumThreads(1)
        self.config = config
        self.input_size = input_size
        self.seed = seed
        self._next_step = start_step
        self._entries = [
            TrainingCrops(entry.name, stores[entry.name], entry.augment or config.augment, seed)
            for entry in config.mixture.entries
        ]
        self.sampler = MixtureSampler(
            config.mixture, {entry.name: entry.instances.image_rows for entry in self._entries}, seed, global_batch
        )
        per_rank = global_batch // world_size
        self._slots = np.arange(rank * per_rank, (rank + 1) * per_rank)
        num_threads = min(config.num_threads, per_rank)
        self._caches = [
            SampleCache(stores, config.cache_bytes // num_threads, config.max_pixels) for _ in range(num_threads)
        ]

    def state(self) -> dict[str, int]:
        """Everything needed to continue: the seed, and the step that comes next."""
        return {"seed": self.seed, "step": self._next_step}

    @property
    def num_decoded(self) -> int:
        """Images decoded so far, to compare with the number of crops."""
        return sum(cache.num_decoded for cache in self._caches)

    def __iter__(self) -> Iterator[CropBatch]:
        workers = [ThreadPoolExecutor(1, thread_name_prefix=f"loader-{index}") for index in range(len(self._caches))]
        pending: deque[_Pending] = deque()
        try:
            for step in count(self._next_step):
                pending.append(self._start(step, workers))
                if len(pending) > self.config.prefetch:
                    batch = self._finish(pending.popleft())
                    self._next_step = batch.step + 1
                    yield batch
        finally:
            for worker in workers:
                worker.shutdown(cancel_futures=True)

    def _start(self, step: int, workers: list[ThreadPoolExecutor]) -> _Pending:
        layout = self._layout(step)
        images = np.empty((len(layout.slots), *self.input_size, 3), np.uint8)
        parts = []
        for index, (worker, cache) in enumerate(zip(workers, self._caches, strict=True)):
            # A worker takes its jobs in order, so it alone sees the steps of its slots, one after the other.
            places = np.flatnonzero(layout.slots % len(workers) == index)
            parts.append((places, worker.submit(self._cut, layout, places, images, cache)))
        return _Pending(step, layout, images, parts)

    def _layout(self, step: int) -> _Layout:
        table = self.sampler.table(self.sampler.epoch_of(step))
        row = step % self.sampler.steps_per_epoch
        slots = self._slots[np.argsort(table.dataset[row, self._slots], kind="stable")]
        return _Layout(slots, table.dataset[row, slots], table.instance[row, slots], table.number_of_pass[row, slots])

    def _cut(
        self, layout: _Layout, places: NDArray[np.int64], images: NDArray[np.uint8], cache: SampleCache
    ) -> list[Crop]:
        return [
            self._entries[layout.dataset[place]].crop(
                int(layout.instance[place]), int(layout.number_of_pass[place]), cache, images[place]
            )
            for place in places
        ]

    def _finish(self, pending: _Pending) -> CropBatch:
        layout = pending.layout
        crops: dict[int, Crop] = {}
        for places, part in pending.parts:
            crops.update(zip(places.tolist(), part.result(), strict=True))
        edges = np.searchsorted(layout.dataset, np.arange(len(self._entries) + 1)).tolist()
        groups = tuple(
            group_crops(
                entry.name,
                start,
                [crops[place] for place in range(start, stop)],
                entry.instances.rows[layout.instance[start:stop]],
                entry.definition.skeleton.num_keypoints,
            )
            for entry, start, stop in zip(self._entries, edges[:-1], edges[1:], strict=True)
        )
        return CropBatch(
            images=pending.images, groups=groups, step=pending.step, epoch=self.sampler.epoch_of(pending.step)
        )
