"""Batches for one rank, prepared ahead by threads, resumable at any step on any number of ranks.

The order is :class:`~posecore.loading.mixture.MixtureSampler`'s; this module only carries it out. Every thread owns
some of the rank's slots for the whole run and fills them for a block of steps at a time, so it meets the instances of
an image one after the other, decodes the image once, and forgets it unless the next block goes on with it. OpenCV
releases the interpreter lock while it decodes and warps, so threads suffice.
"""

from collections import deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import groupby
from math import ceil
from typing import Literal, Self, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from posecore.config import Config, parse_config
from posecore.conventions import Conventions
from posecore.counting import counted
from posecore.errors import ConfigError, IntegrityError
from posecore.image_header import MAX_PIXELS
from posecore.loading.augment import AugmentConfig, LateAugmentConfig
from posecore.loading.blocks import ShardBlocks, divided
from posecore.loading.buffers import ImageBuffers
from posecore.loading.crop import CropPlan, group_crops
from posecore.loading.mixture import MixtureConfig, MixtureEntry, MixtureSampler
from posecore.loading.prefetch import RemoteEntry, ShardPrefetch
from posecore.loading.randomness import Redrawn
from posecore.loading.samples import ImageKey, SampleCache, UsableInstances
from posecore.loading.scene import SceneConfig, TrainingScenes
from posecore.loading.training_crops import TrainingCrops
from posecore.loading.unlabelled_crops import UnlabelledConfig, UnlabelledCrops
from posecore.schema import BadSample, CropBatch, CropGroup
from posecore.shards.answers import AnswerStore, Bodies
from posecore.shards.cache import CacheConfig
from posecore.shards.store import ShardStore

_TRIES = 8
"""Images that are looked at for one crop; that so many in a row are damaged is a lost shard."""

_Entry: TypeAlias = TrainingCrops | TrainingScenes | UnlabelledCrops
OnBadSample: TypeAlias = Literal["stop", "skip"]
Pictures: TypeAlias = Literal["whole", "precut"]


class LoadingConfig(Config):
    """How batches are made.

    Attributes:
        mixture: which datasets, how often.
        augment: of every entry that has none of its own.
        late: augmentation of the last passes, of every entry.
        unlabelled: crops for pre-training, which needs no label; ``augment`` then has no part in it. None cuts crops
            of labelled bodies.
        scenes: whole pictures with all their bodies, for heads that find these without boxes; of ``augment``, what
            changes no place then counts. None cuts a crop per body.
        depth: cut depth too, where images have it.
        pictures: ``whole`` decodes images; ``precut`` reads the pictures of single bodies that were cut when the sets
            were ingested (``--precut``), whose crops are the same but for their resampling.
        bodies: ``all`` crops bodies without a labelled point as well, ``images`` every whole image as if it were one
            body, for images of which nothing is known; only a teacher can say something about either.
        num_threads: decoding threads per rank; one per core the rank may use.
        prefetch: blocks of ``mixture.shuffle_window`` batches prepared ahead.
        cache_bytes: bound on the decoded images a rank keeps. Where every thread's share of it holds all images of the
            mixture, they are decoded once and kept; else an image is kept only while its crops are due. Too small a
            bound costs decoding, never correctness.
        max_pixels: a larger image is refused.
        on_bad_sample: what to do about a sample whose stored bytes are damaged: ``stop``, or ``skip`` it and take the
            next instance of the same entry that is on another image.
        max_bad_share: ``skip`` stops at more damaged samples than this share of an entry's, rounded up.
    """

    mixture: MixtureConfig
    augment: AugmentConfig = AugmentConfig()
    late: LateAugmentConfig | None = None
    unlabelled: UnlabelledConfig | None = None
    scenes: SceneConfig | None = None
    depth: bool = False
    pictures: Pictures = "whole"
    bodies: Bodies = "labelled"
    num_threads: int = Field(default=2, ge=1)
    prefetch: int = Field(default=1, ge=1)
    cache_bytes: int = Field(default=512 << 20, gt=0)
    max_pixels: int = Field(default=MAX_PIXELS, gt=0)
    on_bad_sample: OnBadSample = "stop"
    max_bad_share: float = Field(default=0.01, ge=0, le=1)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.depth and self.unlabelled is not None:
            raise ValueError("depth is cut for crops of labelled bodies only; leave out depth, or unlabelled.")
        if self.scenes is not None:
            self._check_scenes()
        if self.pictures == "precut" and (self.depth or self.unlabelled is not None):
            raise ValueError("pictures: precut ones are of labelled bodies and have no depth; take whole ones.")
        return self

    def of_heads(self, *, whole_scenes: bool) -> Self:
        """The same for heads that find bodies in whole pictures, or for those that read crops.

        Raises:
            ConfigError: they are told how to do what the others do.
        """
        if not whole_scenes and self.scenes is not None:
            raise ConfigError(
                "loading.scenes: the model's head reads crops of bodies; leave it out, or take one of whole pictures "
                "(model.head: associative)."
            )
        if not whole_scenes or self.scenes is not None:
            return self
        return parse_config({**self.model_dump(), "scenes": {}}, type(self), origin="loading")

    def _check_scenes(self) -> None:
        if self.depth or self.pictures == "precut" or self.unlabelled is not None or self.bodies != "labelled":
            raise ValueError(
                "scenes are whole pictures with their labels, without depth; leave out depth, precut pictures, "
                "unlabelled and bodies, or the head that finds bodies in whole pictures."
            )
        if hidden := [entry.name for entry in self.mixture.entries if entry.unlabelled is not None]:
            raise ValueError(f"entries: {hidden[0]} hides its labels, and whole pictures are trained on labels alone.")
        augments = [self.augment, *(entry.augment for entry in self.mixture.entries if entry.augment is not None)]
        if self.late is not None:
            augments.append(self.late.augment)
        if any(augment.blanket_probability for augment in augments):
            raise ValueError("augment.blanket_probability: a blanket lies on one body; set it to 0 for whole pictures.")


@dataclass(frozen=True, slots=True, eq=False)
class _Part:
    """What one thread has cut of one entry for a block.

    Attributes:
        places: (n,) step of the block times B, plus row of the batch.
        plan: of the n crops.
        bad: samples that are damaged, each with the step of the block it was due in.
    """

    places: NDArray[np.int64]
    plan: CropPlan
    bad: list[tuple[int, BadSample]] = field(default_factory=list)


@dataclass(frozen=True, slots=True, eq=False)
class _Block:
    """T batches of B crops in the making, each batch sorted by dataset.

    Attributes:
        steps: T global steps.
        dataset: (T, B) mixture entry of each crop.
        instance: (T, B) index into the entry's instances.
        number_of_pass: (T, B) pass of the entry.
        row_of_slot: (T, B) row of the batch that each of the rank's slots fills.
        images: T times (B, H, W, 3) uint8, filled by the threads.
        depth: T times (B, H, W) float32, likewise; None where it is not wanted.
        parts: what each thread contributes, by entry.
    """

    steps: range
    dataset: NDArray[np.int16]
    instance: NDArray[np.int64]
    number_of_pass: NDArray[np.int64]
    row_of_slot: NDArray[np.int64]
    images: list[NDArray[np.uint8]]
    depth: list[NDArray[np.float32]] | None
    parts: list[Future[list[_Part]]] = field(default_factory=list)


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
        conventions: by mixture entry, those of the heads to be trained; None for the usual ones.
        answers: by mixture entry, a teacher's stored answers, to be delivered with the crops; None for none.

    Raises:
        ConfigError: an entry has no store or nothing to train on, the batch cannot be divided evenly, the answers are
            to other crops, depth is wanted and no store begins with an image that has it, or the cache of remote
            shards cannot hold two blocks.
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
        conventions: Mapping[str, Conventions] | None = None,
        answers: Mapping[str, AnswerStore] | None = None,
    ) -> None:
        if global_batch % world_size:
            raise ConfigError(
                f"global_batch: {counted(global_batch, 'crop')} cannot be divided evenly among "
                f"{counted(world_size, 'rank')}; choose a multiple of {world_size}."
            )
        missing = [entry.name for entry in config.mixture.entries if entry.name not in stores]
        if missing:
            raise ConfigError(f"mixture entry {', '.join(missing)}: no store of that name; ingest it or remove it.")
        if config.depth:
            _check_depth({entry.name: stores[entry.name] for entry in config.mixture.entries})
        cv2.setNumThreads(1)
        self.config = config
        self.input_size = input_size
        self.seed = seed
        self._next_step = start_step
        self._conventions = conventions
        self._answers = answers or {}
        self._entries = [self._crops(entry, stores[entry.name]) for entry in config.mixture.entries]
        block_bytes = blocks_of(config.mixture, stores, config.pictures)
        check_cache(config.mixture, [stores[name] for name in block_bytes])
        self.sampler = MixtureSampler(
            config.mixture,
            {entry.name: entry.instances.image_rows for entry in self._entries},
            seed,
            global_batch,
            {
                entry.name: _shard_blocks(stores[entry.name], entry.instances, block_bytes[entry.name], config.pictures)
                for entry in self._entries
                if entry.name in block_bytes
            },
            CacheConfig().scratch,
        )
        self._remote = [
            RemoteEntry(number, stores[entry.name], entry.instances, config.pictures == "precut")
            for number, entry in enumerate(self._entries)
            if entry.name in block_bytes and stores[entry.name].cache is not None
        ]
        per_rank = global_batch // world_size
        self._buffers = ImageBuffers((per_rank, *input_size, 3))
        self._depth_shape = (per_rank, *input_size) if config.depth else None
        self._slots = np.arange(rank * per_rank, (rank + 1) * per_rank)
        num_threads = min(config.num_threads, per_rank)
        bytes_per_thread = config.cache_bytes // num_threads
        precut = {entry.name: stores[entry.name].precut for entry in self._entries if config.pictures == "precut"}
        self._caches = [
            SampleCache(stores, bytes_per_thread, config.max_pixels, config.depth, precut) for _ in range(num_threads)
        ]
        # Pictures of single bodies need no decoding, so keeping them spares next to nothing.
        self._fits = not precut and sum(entry.instances.image_bytes for entry in self._entries) <= bytes_per_thread

    def _crops(self, entry: MixtureEntry, store: ShardStore) -> _Entry:
        if self.config.unlabelled is not None:
            return UnlabelledCrops(entry.name, store, self.config.unlabelled, self.input_size, self.seed)
        augment = entry.augment or self.config.augment
        conventions = None if self._conventions is None else self._conventions[entry.name]
        answers = self._answers.get(entry.name)
        if self.config.scenes is not None:
            changes = augment, self.config.late
            return TrainingScenes(entry.name, store, self.config.scenes, *changes, self.input_size, self.seed)
        late, bodies, labels = self.config.late, _bodies(self.config, entry), entry.unlabelled is None
        precut = store.precut if self.config.pictures == "precut" else None
        return TrainingCrops(
            entry.name, store, augment, self.input_size, self.seed, conventions, bodies, late, answers, labels, precut
        )

    def state(self) -> dict[str, int]:
        """Everything needed to continue: the seed, and the step that comes next."""
        return {"seed": self.seed, "step": self._next_step}

    @property
    def num_decoded(self) -> int:
        """Images decoded so far, to compare with the number of crops."""
        return sum(cache.num_decoded for cache in self._caches)

    def __iter__(self) -> Generator[CropBatch, None, None]:
        workers = [ThreadPoolExecutor(1, thread_name_prefix=f"loader-{index}") for index in range(len(self._caches))]
        # Steps that other ranks may be behind, which deliver the same step but may not have begun as many ahead.
        lag = (self.config.prefetch + 1) * self.config.mixture.shuffle_window + 1
        fetching = ShardPrefetch(self._remote, self.sampler, self._slots, lag)
        ahead: deque[_Block] = deque()
        try:
            for steps in self._blocks():
                fetching.advance(steps.start)
                ahead.append(self._start(steps, workers))
                if len(ahead) > self.config.prefetch:
                    for batch in self._finish(ahead.popleft()):
                        self._next_step = batch.step + 1
                        yield batch
        finally:
            for worker in workers:
                worker.shutdown(cancel_futures=True)
            fetching.close()

    def _blocks(self) -> Iterator[range]:
        """The steps from the next one on, cut where a shuffle window or an epoch ends."""
        length, window = self.sampler.steps_per_epoch, self.config.mixture.shuffle_window
        step = self._next_step
        while True:
            row = step % length
            end = step - row + min(row - row % window + window, length)
            yield range(step, end)
            step = end

    def _start(self, steps: range, workers: list[ThreadPoolExecutor]) -> _Block:
        block = self._laid_out(steps)
        needed = self._images_after(steps)
        for first, (worker, cache) in enumerate(zip(workers, self._caches, strict=True)):
            slots = range(first, len(self._slots), len(workers))
            block.parts.append(worker.submit(self._cut, block, needed, slots, cache))
        return block

    def _laid_out(self, steps: range) -> _Block:
        table = self.sampler.table(self.sampler.epoch_of(steps.start))
        first = steps.start % self.sampler.steps_per_epoch
        rows = slice(first, first + len(steps))
        order = np.argsort(table.dataset[rows, self._slots], axis=1, kind="stable")
        return _Block(
            steps=steps,
            dataset=np.take_along_axis(table.dataset[rows, self._slots], order, axis=1),
            instance=np.take_along_axis(table.instance[rows, self._slots], order, axis=1).astype(np.int64),
            number_of_pass=np.take_along_axis(table.number_of_pass[rows, self._slots], order, axis=1).astype(np.int64),
            row_of_slot=np.argsort(order, axis=1),
            images=[self._buffers.take() for _ in steps],
            depth=None if self._depth_shape is None else [np.empty(self._depth_shape, np.float32) for _ in steps],
        )

    def _images_after(self, steps: range) -> list[set[ImageKey]]:
        """Of each slot, the images its crops are cut from in the block after these steps, if it is of the same epoch.

        An image whose instances are divided between two blocks is in both.
        """
        if self._fits:  # and nothing is ever released
            return []
        table = self.sampler.table(self.sampler.epoch_of(steps.start))
        first = steps[-1] % self.sampler.steps_per_epoch + 1
        rows = slice(first, first + self.config.mixture.shuffle_window)
        dataset, instance = table.dataset[rows, self._slots].T, table.instance[rows, self._slots].T
        images = self._images(dataset.ravel(), instance.ravel().astype(np.int64))
        length = dataset.shape[1]
        return [set(images[slot * length : (slot + 1) * length]) for slot in range(len(self._slots))]

    def _images(self, dataset: NDArray[np.int16], instance: NDArray[np.int64]) -> list[ImageKey]:
        """The pictures n crops are cut from."""
        rows = np.empty(len(instance), np.int64)
        for number, entry in enumerate(self._entries):
            rows[dataset == number] = self._picture_rows(entry, instance[dataset == number])
        names = [entry.name for entry in self._entries]
        return [(names[number], row) for number, row in zip(dataset.tolist(), rows.tolist(), strict=True)]

    def _picture_rows(self, entry: _Entry, instance: NDArray[np.int64]) -> NDArray[np.int64]:
        if self.config.pictures == "precut":
            return entry.instances.rows[instance].astype(np.int64)
        return entry.instances.image_rows_of(instance)

    def _cut(self, block: _Block, needed: list[set[ImageKey]], slots: range, cache: SampleCache) -> list[_Part]:
        # Slot by slot through all steps of the block, sorted by image: an image is cropped while it is fresh in the
        # processor's cache, which makes warping twice as fast.
        num_steps, num_rows = block.dataset.shape
        places = (block.row_of_slot[:, slots] + num_rows * np.arange(num_steps)[:, None]).T
        order = np.lexsort((block.instance.ravel()[places], block.dataset.ravel()[places]))
        places = np.take_along_axis(places, order, axis=1).ravel()
        dataset, instance, number_of_pass = (
            column.ravel()[places] for column in (block.dataset, block.instance, block.number_of_pass)
        )
        redrawn = Redrawn()
        parts = []
        index = np.empty(len(places), np.int64)  # within its entry's plan
        for number, entry in enumerate(self._entries):
            chosen = np.flatnonzero(dataset == number)
            index[chosen] = np.arange(len(chosen))
            parts.append(_Part(places[chosen], entry.plan(instance[chosen], number_of_pass[chosen], redrawn)))
        # All that is not pixels is done before them: between two images nothing of the interpreter is left in the
        # processor's cache, and what takes one microsecond here takes ten there.
        numbers, crops, images = dataset.tolist(), index.tolist(), self._images(dataset, instance)
        steps_and_rows = list(zip(*(part.tolist() for part in np.divmod(places, num_rows)), strict=True))
        outs = [block.images[step][row] for step, row in steps_and_rows]
        depths = None if block.depth is None else [block.depth[step][row] for step, row in steps_and_rows]
        runs_of_slot = [
            [(image, [*run]) for image, run in groupby(range(first, first + num_steps), images.__getitem__)]
            for first in range(0, len(images), num_steps)
        ]
        for slot, runs in zip(slots, runs_of_slot, strict=True):
            for image, run in runs:
                entry, part, same = self._entries[numbers[run[0]]], parts[numbers[run[0]]], slice(run[0], run[-1] + 1)
                depth = None if depths is None else depths[same]
                try:
                    entry.cut(part.plan, crops[same], cache.get(image), redrawn, outs[same], depth)
                except IntegrityError:
                    if self.config.on_bad_sample == "stop":
                        raise
                    for place in run:
                        depth = None if depths is None else [depths[place]]
                        due = image, crops[place], int(instance[place])
                        bad = self._cut_or_stand_in(entry, part.plan, due, cache, redrawn, outs[place], depth)
                        part.bad.extend((steps_and_rows[place][0], sample) for sample in bad)
                if not self._fits and image not in needed[slot]:
                    cache.release(image)  # now, so that the next one takes its memory, which is at hand
        return parts

    def _cut_or_stand_in(
        self,
        entry: _Entry,
        plan: CropPlan,
        due: tuple[ImageKey, int, int],
        cache: SampleCache,
        redrawn: Redrawn,
        out: NDArray[np.uint8],
        depth: list[NDArray[np.float32]] | None,
    ) -> list[BadSample]:
        """Cuts a crop or, where its image is damaged, plans and cuts that of the next one that is whole.

        Which one that is depends on what is stored and nothing else.

        Args:
            entry: whose crop it is.
            plan: of the entry's crops.
            due: the image, the crop's index within the plan, and its instance.
            cache: of images.
            redrawn: of the calling thread.
            out: receives the pixels.
            depth: its only array receives the depth.

        Returns:
            What is damaged: the instance that was due, and any between.

        Raises:
            IntegrityError: so many in a row are damaged that nothing is near to take its place.
        """
        image, crop, instance = due
        instances, tried, bad = entry.instances, plan, []
        index, allowed = crop, ceil(self.config.max_bad_share * len(instances.rows))
        for _ in range(_TRIES):
            try:
                entry.cut(tried, [index], cache.get(image), redrawn, [out], depth)
            except IntegrityError as error:
                row = int(instances.rows[instance])
                bad.append(BadSample(dataset=entry.name, row=row, reason=str(error), allowed=allowed))
            else:
                if tried is not plan:
                    plan.put(crop, tried)
                return bad
            instance = instances.on_another_image(instance)
            tried, index = entry.plan(np.array([instance]), plan.number_of_pass[crop : crop + 1], redrawn), 0
            image = entry.name, int(self._picture_rows(entry, np.array([instance]))[0])
        raise IntegrityError(
            f"mixture entry {entry.name}: {_TRIES} images in a row are damaged; the last: {bad[-1].reason}"
        )

    def _finish(self, block: _Block) -> Iterator[CropBatch]:
        parts = [part.result() for part in block.parts]
        plans = []
        for of_entry in zip(*parts, strict=True):
            order = np.argsort(np.concatenate([part.places for part in of_entry]))
            plans.append(CropPlan.joined([part.plan for part in of_entry], order))
        counts = np.stack([(block.dataset == number).sum(axis=1) for number in range(len(self._entries))], axis=1)
        ends = np.cumsum(counts, axis=0)
        for number, step in enumerate(block.steps):
            groups = []
            start = 0
            for entry, plan, count, end in zip(self._entries, plans, counts[number], ends[number], strict=True):
                groups.append(self._group(entry, plan, start, slice(int(end - count), int(end))))
                start += int(count)
            depth = None if block.depth is None else block.depth[number]
            epoch = self.sampler.epoch_of(step)
            bad = [sample for of_thread in parts for part in of_thread for due, sample in part.bad if due == number]
            yield CropBatch(
                images=block.images[number],
                groups=tuple(groups),
                step=step,
                epoch=epoch,
                depth=depth,
                bad=tuple(sorted(bad, key=lambda sample: (sample.dataset, sample.row))),
            )

    def _group(self, entry: _Entry, plan: CropPlan, start: int, crops: slice) -> CropGroup:
        group = group_crops(entry.name, start, plan, crops, self.seed)
        if isinstance(entry, TrainingCrops) and entry.answers is not None:
            taught = entry.answers.stack([answer for answer in plan.answers[crops] if answer is not None])
            group.taught_outputs, group.taught_features = taught
        return group


def drawn_shares(config: LoadingConfig, stores: Mapping[str, ShardStore]) -> dict[str, float]:
    """Share of each entry in the crops of a training, adding up to 1.

    Args:
        config: of the loader.
        stores: by entry name, with the corrections that training reads them with.
    """
    entries = config.mixture.entries
    sizes = [1] * len(entries)
    if config.mixture.sampling != "explicit":
        sizes = [len(UsableInstances.chosen(stores[each.name], _bodies(config, each)).rows) for each in entries]
    shares = config.mixture.shares(sizes).tolist()
    return {entry.name: share for entry, share in zip(entries, shares, strict=True)}


def _bodies(config: LoadingConfig, entry: MixtureEntry) -> Bodies:
    """What of an entry is cropped."""
    if config.scenes is not None:
        return "images"
    if config.unlabelled is not None:
        return "all" if config.unlabelled.unit == "bodies" else "images"
    if entry.unlabelled is not None:
        return "images" if entry.unlabelled == "images" else "all"
    return config.bodies


def blocks_of(mixture: MixtureConfig, stores: Mapping[str, ShardStore], pictures: Pictures = "whole") -> dict[str, int]:
    """Which entries are read in blocks, and how many bytes of each make a block.

    Args:
        mixture: says how.
        stores: by entry name.
        pictures: of which shards.
    """
    sizes = {
        entry.name: sum(_shard_bytes(stores[entry.name], pictures))
        for entry in mixture.entries
        if mixture.shuffle == "blocks" or stores[entry.name].cache is not None
    }
    if mixture.shuffle == "full" or (mixture.shuffle == "auto" and sum(sizes.values()) <= 2 * mixture.block_bytes):
        return {}
    return divided(sizes, mixture.block_bytes)


def check_cache(mixture: MixtureConfig, blocked: Sequence[ShardStore]) -> None:
    """Refuses a cache of remote shards that cannot hold the block in use and the next one.

    Raises:
        ConfigError: says what block would fit.
    """
    smallest = min((store.cache.max_bytes for store in blocked if store.cache is not None), default=None)
    if smallest is not None and smallest < 2 * mixture.block_bytes:
        raise ConfigError(
            f"block_bytes: the cache of remote shards is to hold two blocks of {mixture.block_bytes} bytes, and has "
            f"{smallest}; set block_bytes to {smallest // 2} or less, or allow the cache more (POSECORE_CACHE_BYTES)."
        )


def _shard_bytes(store: ShardStore, pictures: Pictures) -> list[int]:
    shards = store.precut.manifest.shards if pictures == "precut" else store.manifest.shards
    return [shard.size_bytes for shard in shards]


def _shard_blocks(store: ShardStore, instances: UsableInstances, block_bytes: int, pictures: Pictures) -> ShardBlocks:
    sizes = np.array(_shard_bytes(store, pictures))
    return ShardBlocks(store.shard_of_image[instances.image_rows], sizes, block_bytes)


def _check_depth(stores: Mapping[str, ShardStore]) -> None:
    if not any(store.num_images and store.read_record(0).depth is not None for store in stores.values()):
        raise ConfigError(
            f"depth is wanted, but the images of {', '.join(stores)} have none; ingest a dataset whose reader finds "
            "depth pictures (minirgbd), or train without depth."
        )
