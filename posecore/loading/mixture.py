"""Which instances are in which batch: a pure function of the seed, the sizes of the datasets and the step.

An epoch is a table of S steps by G slots, G being the global batch. A *slot* is one place in every batch. The images
of all datasets are shuffled, the instances of one image stay together, and the resulting sequence is cut into G equal
pieces, one per slot: so the instances of an image come one after the other in one slot, in neighbouring steps, hardly
ever twice in one batch, and whoever owns the slot decodes the image once. A second shuffle within windows of
``shuffle_window`` steps of a slot moves them apart. Rank r of R owns the slots from r·G/R to (r+1)·G/R; the table does
not know R, which is why another number of ranks sees the same batches.

Each dataset is an endless sequence of *passes*, every pass a new permutation of all its instances. An epoch takes its
share of every sequence and the next epoch continues where it ended. Nothing is dropped and nothing is padded: epochs
are whole batches, the surplus of the last batch belongs to the next pass, and at any time the numbers of times two
instances of one dataset have been drawn differ by at most one.

Where an entry is read in blocks (:mod:`posecore.loading.blocks`), slots cannot walk through pieces of the whole epoch.
The samples of all entries, each entry's spread evenly over the epoch, are then cut into stretches of some windows, a
quarter of a block at most, and those of a stretch, sorted by lane, into a piece for each slot.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from posecore.config import Config
from posecore.counting import counted
from posecore.errors import ConfigError
from posecore.loading.augment import AugmentConfig
from posecore.loading.blocks import BlockStarts, ShardBlocks
from posecore.loading.epochs import LEAST_SAMPLES, DrawnFiles, Epochs, EpochTable, read_arrays
from posecore.loading.randomness import Purpose, generator

_MOST_WINDOWS = 8

Unlabelled: TypeAlias = Literal["boxes", "images"]
"""What is cropped of pictures whose labels, if any, must not be seen: every box, or every image as one body."""


Shuffle: TypeAlias = Literal["auto", "full", "blocks"]


class MixtureEntry(Config):
    """One dataset of the mixture.

    Attributes:
        name: names its store and its head.
        weight: share of the samples relative to the other entries, for ``sampling: explicit``.
        augment: other augmentation than the mixture's, for example full-circle rotation for infants.
        unlabelled: crop every box, or every whole image, and hide what labels there may be: all points come as not
            labelled. None delivers labels.
    """

    name: str
    weight: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    augment: AugmentConfig | None = None
    unlabelled: Unlabelled | None = None


class MixtureConfig(Config):
    """How often each dataset is seen.

    Attributes:
        entries: the datasets, in the order of the groups of a batch.
        sampling: ``natural`` draws by instance count, as a shuffled concatenation would; ``temperature`` by the count
            to the power of 1 / temperature; ``explicit`` by the entries' weights.
        temperature: 1 is natural, larger values approach equal shares.
        samples_per_epoch: None takes the number of instances of all datasets.
        shuffle_window: steps within which the instances of one slot are shuffled once more; 1 switches it off.
        shuffle: ``full`` shuffles all images of a pass, ``blocks`` those of a block of shards among each other, block
            after block. ``auto`` takes blocks for the sets behind URLs if they have more than twice ``block_bytes``
            together, else and for all others ``full``.
        block_bytes: size of the shards of a block, over all sets that are read in blocks; the cache of a node must
            hold twice as much.
    """

    entries: tuple[MixtureEntry, ...] = Field(min_length=1)
    sampling: Literal["natural", "temperature", "explicit"] = "natural"
    temperature: float = Field(default=1.0, ge=1.0)
    samples_per_epoch: int | None = Field(default=None, gt=0)
    shuffle_window: int = Field(default=8, ge=1)
    shuffle: Shuffle = "auto"
    block_bytes: int = Field(default=30 << 30, gt=0)

    @model_validator(mode="after")
    def _check(self) -> Self:
        names = [entry.name for entry in self.entries]
        doubled = sorted({name for name in names if names.count(name) > 1})
        if doubled:
            raise ValueError(f"entries: named twice: {', '.join(doubled)}.")
        weighted = [entry.name for entry in self.entries if entry.weight is not None]
        if self.sampling == "explicit" and len(weighted) < len(names):
            missing = ", ".join(name for name in names if name not in weighted)
            raise ValueError(f"entries: sampling is explicit, so each needs a weight; missing for {missing}.")
        if self.sampling != "explicit" and weighted:
            raise ValueError(f"entries: the weight of {', '.join(weighted)} needs sampling: explicit.")
        if self.sampling != "temperature" and self.temperature != 1.0:
            raise ValueError("temperature: needs sampling: temperature.")
        return self

    def shares(self, sizes: Sequence[int]) -> NDArray[np.float64]:
        """Share of each dataset in the samples, adding up to 1 unless there is no sample.

        Args:
            sizes: number of instances per entry.
        """
        counts = np.asarray(sizes, np.float64)
        if self.sampling == "explicit":
            counts = np.array([entry.weight for entry in self.entries], np.float64)
        elif self.sampling == "temperature":
            counts = counts ** (1.0 / self.temperature)
        total = counts.sum()
        return counts / total if total else counts


@dataclass(frozen=True, slots=True, eq=False)
class _Draws:
    """What one entry gives to an epoch, in order.

    Attributes:
        instance: (n,) int64.
        number_of_pass: (n,) int64.
        lane: (n,) float64, and
        block: (n,) int64 where it is read in blocks, else both None.
    """

    instance: NDArray[np.int64]
    number_of_pass: NDArray[np.int64]
    lane: NDArray[np.float64] | None = None
    block: NDArray[np.int64] | None = None


class MixtureSampler:
    """Names the instances of every step.

    Args:
        config: the mixture.
        images: per entry name, (n,) image of each of its instances; instances of one image share a number.
        seed: of the run.
        global_batch: instances per step over all ranks.
        blocks: of the entries that are read in blocks, by name.
        scratch: local folder in which large epochs are drawn once for all processes; None draws all in this process.

    Raises:
        ConfigError: an entry has no instances, or a share too small for one of them in a whole epoch.
    """

    def __init__(
        self,
        config: MixtureConfig,
        images: Mapping[str, NDArray[np.integer]],
        seed: int,
        global_batch: int,
        blocks: Mapping[str, ShardBlocks] | None = None,
        scratch: Path | None = None,
    ) -> None:
        self.config = config
        self.seed = seed
        self.global_batch = global_batch
        names = [entry.name for entry in config.entries]
        empty = [name for name in names if not len(images[name])]
        if empty:
            raise ConfigError(
                f"mixture entry {', '.join(empty)}: nothing in it can be cropped (no body with a box, or, for training "
                "on points, none with a labelled one); take it out of the mixture or ingest another split."
            )
        self._images = [_numbered(images[name]) for name in names]
        self._blocks = [(blocks or {}).get(name) for name in names]
        sizes = [len(image) for image in self._images]
        samples = config.samples_per_epoch or sum(sizes)
        self.steps_per_epoch = -(-samples // global_batch)
        self.shares = config.shares(sizes)
        self.draws = _apportion(self.shares, self.steps_per_epoch * global_batch)
        """Samples per epoch of each entry."""
        undrawn = [
            f"{name} ({share:.1e})" for name, share, n in zip(names, self.shares, self.draws, strict=True) if not n
        ]
        if undrawn:
            raise ConfigError(
                f"mixture entry {', '.join(undrawn)}: so small a share of an epoch of "
                f"{counted(self.draws.sum(), 'sample')} is none, and the dataset would not be seen; raise its weight "
                "or samples_per_epoch, or take it out."
            )
        self._epochs = Epochs(self.draw)
        if scratch is not None and self.steps_per_epoch * global_batch >= LEAST_SAMPLES:
            files = DrawnFiles(scratch / "orders", *self._description(), "posecore.loading.draw_order")
            self._images = [files.arrays()[f"image-{entry}"] for entry in range(len(names))]
            self._epochs = Epochs(files.table)

    @cached_property
    def stretch(self) -> int:
        """Steps that are laid out at a time where entries are read in blocks; so long, a block overlaps the next."""
        window = self.config.shuffle_window
        passes = self.draws / [len(image) for image in self._images]
        shortest = min(
            self.steps_per_epoch / (share * blocks.num_blocks)
            for share, blocks in zip(passes.tolist(), self._blocks, strict=True)
            if blocks is not None
        )
        return window * int(np.clip(shortest // (4 * window), 1, _MOST_WINDOWS))

    def epoch_of(self, step: int) -> int:
        """Epoch that a global step belongs to."""
        return step // self.steps_per_epoch

    def table(self, epoch: int) -> EpochTable:
        """All steps of one epoch; the next is drawn meanwhile, and those before and after are kept."""
        return self._epochs[epoch]

    def _description(self) -> tuple[dict[str, object], dict[str, NDArray[Any]]]:
        """What :meth:`described` makes the same sampler from."""
        blocked = [(entry, blocks) for entry, blocks in enumerate(self._blocks) if blocks is not None]
        arrays: dict[str, NDArray[Any]] = {f"image-{entry}": image for entry, image in enumerate(self._images)}
        for entry, blocks in blocked:
            arrays |= {f"shard-{entry}": blocks.shard, f"bytes-{entry}": blocks.shard_bytes}
        settings: dict[str, object] = {
            "mixture": self.config.model_dump(mode="json"),
            "seed": self.seed,
            "global_batch": self.global_batch,
            "block_bytes": {str(entry): blocks.block_bytes for entry, blocks in blocked},
        }
        return settings, arrays

    @classmethod
    def described(cls, folder: Path) -> "MixtureSampler":
        """The sampler of a folder of :class:`~posecore.loading.epochs.DrawnFiles`."""
        settings, arrays = json.loads((folder / "settings.json").read_text()), read_arrays(folder)
        config = MixtureConfig.model_validate(settings["mixture"])
        names = [entry.name for entry in config.entries]
        blocks = {
            names[int(entry)]: ShardBlocks(arrays[f"shard-{entry}"], arrays[f"bytes-{entry}"], block_bytes)
            for entry, block_bytes in settings["block_bytes"].items()
        }
        images = {name: arrays[f"image-{entry}"] for entry, name in enumerate(names)}
        return cls(config, images, settings["seed"], settings["global_batch"], blocks)

    def draw(self, epoch: int) -> EpochTable:
        """Draws all steps of one epoch."""
        parts = [self._draws_of(entry, epoch) for entry in range(len(self._images))]
        dataset = np.repeat(np.arange(len(parts), dtype=np.int16), [len(part.instance) for part in parts])
        instance = np.concatenate([part.instance.astype(np.uint32) for part in parts])
        number_of_pass = np.concatenate([part.number_of_pass.astype(np.uint32) for part in parts])
        image = np.concatenate([self._images[entry][part.instance] for entry, part in enumerate(parts)])

        random = generator(Purpose.EPOCH_ORDER, self.seed, major=epoch)
        starts = np.ones(len(image), bool)
        starts[1:] = (image[1:] != image[:-1]) | (dataset[1:] != dataset[:-1])
        unit = np.cumsum(starts) - 1
        if not any(self._blocks):
            order = np.argsort(random.permutation(int(unit[-1]) + 1)[unit], kind="stable")
            slots = order.reshape(self.global_batch, self.steps_per_epoch)
            window = np.arange(self.steps_per_epoch) // self.config.shuffle_window
            within = np.argsort(window + random.random(slots.shape), axis=1, kind="stable")
            chosen = np.take_along_axis(slots, within, axis=1).T
            return EpochTable(dataset[chosen], instance[chosen], number_of_pass[chosen], {})

        lane = random.random(int(unit[-1]) + 1)[unit]
        ends = np.cumsum([len(part.instance) for part in parts])
        for part, end in zip(parts, ends.tolist(), strict=True):
            if part.lane is not None:
                lane[end - len(part.lane) : end] = part.lane
        time = np.concatenate([(np.arange(len(part.instance)) + 0.5) / len(part.instance) for part in parts])
        in_time = np.argsort(time, kind="stable")
        length = self.stretch
        stretch = np.arange(len(in_time)) // (length * self.global_batch)
        order = in_time[np.lexsort((lane[in_time], stretch))]
        whole = len(order) - len(order) % (length * self.global_batch)
        chosen = np.concatenate([self._in_steps(piece, length, random) for piece in (order[:whole], order[whole:])])
        place = np.empty(len(order), np.int64)
        place[in_time] = stretch * length
        blocks = {
            entry: _starts(part.block, place[end - len(part.block) : end])
            for entry, (part, end) in enumerate(zip(parts, ends.tolist(), strict=True))
            if part.block is not None
        }
        return EpochTable(dataset[chosen], instance[chosen], number_of_pass[chosen], blocks)

    def _in_steps(self, samples: NDArray[np.int64], length: int, random: np.random.Generator) -> NDArray[np.int64]:
        """(steps, G) samples of whole stretches, or of one that is shorter; each slot's of a window are shuffled."""
        length = max(min(length, len(samples) // self.global_batch), 1)
        slots = samples.reshape(-1, self.global_batch, length)
        window = np.arange(length) // self.config.shuffle_window
        within = np.argsort(window + random.random(slots.shape), axis=2, kind="stable")
        return np.take_along_axis(slots, within, axis=2).transpose(0, 2, 1).reshape(-1, self.global_batch)

    def _draws_of(self, entry: int, epoch: int) -> _Draws:
        """What one entry gives to an epoch, instances of one image adjacent."""
        image, blocks = self._images[entry], self._blocks[entry]
        first, last = epoch * int(self.draws[entry]), (epoch + 1) * int(self.draws[entry])
        instances, numbers, lanes, of_block = [], [], [], []
        for number in range(first // len(image), -(-last // len(image))):
            random = generator(Purpose.PASS_ORDER, self.seed, self.config.entries[entry].name, major=number)
            start = number * len(image)
            part = slice(max(first - start, 0), last - start)
            if blocks is None:
                rank_of_image = random.permutation(int(image.max()) + 1)
                instances.append(np.lexsort((random.random(len(image)), rank_of_image[image]))[part])
            else:
                order = blocks.order(image, number, random)
                instances.append(order.instance[part])
                lanes.append(order.lane[part])
                of_block.append(order.block[part])
            numbers.append(np.full(len(instances[-1]), number))
        if blocks is None:
            return _Draws(np.concatenate(instances), np.concatenate(numbers))
        return _Draws(*(np.concatenate(column) for column in (instances, numbers, lanes, of_block)))


def _numbered(image: NDArray[np.integer]) -> NDArray[np.uint32]:
    """(n,) the images numbered in rising order, without a gap."""
    begins = image[1:] > image[:-1]
    if (begins | (image[1:] == image[:-1])).all():  # which spares sorting them
        numbers = np.zeros(len(image), np.uint32)
        np.cumsum(begins, dtype=np.uint32, out=numbers[1:])
        return numbers
    return np.unique(image, return_inverse=True)[1].astype(np.uint32)


def _starts(block: NDArray[np.int64], step: NDArray[np.int64]) -> BlockStarts:
    """Where each of the blocks begins; their samples come in order of time."""
    begins = np.flatnonzero(np.diff(block, prepend=-1))
    return BlockStarts(block[begins], step[begins])


def _apportion(shares: NDArray[np.float64], total: int) -> NDArray[np.int64]:
    """Whole numbers that add up to ``total``, by the largest remainders (Hamilton's method)."""
    exact = shares * total
    counts = np.floor(exact + 1e-9).astype(np.int64)
    behind = np.argsort(counts - exact, kind="stable")
    counts[behind[: total - int(counts.sum())]] += 1
    return counts
