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
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from posecore.config import Config
from posecore.errors import ConfigError
from posecore.loading.augment import AugmentConfig
from posecore.loading.randomness import Purpose, generator

Unlabelled: TypeAlias = Literal["boxes", "images"]
"""What is cropped of pictures whose labels, if any, must not be seen: every box, or every image as one body."""


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
    """

    entries: tuple[MixtureEntry, ...] = Field(min_length=1)
    sampling: Literal["natural", "temperature", "explicit"] = "natural"
    temperature: float = Field(default=1.0, ge=1.0)
    samples_per_epoch: int | None = Field(default=None, gt=0)
    shuffle_window: int = Field(default=8, ge=1)

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
        """Share of each dataset in the samples, adding up to 1.

        Args:
            sizes: number of instances per entry.
        """
        counts = np.asarray(sizes, np.float64)
        if self.sampling == "explicit":
            counts = np.array([entry.weight for entry in self.entries], np.float64)
        elif self.sampling == "temperature":
            counts = counts ** (1.0 / self.temperature)
        return counts / counts.sum()


@dataclass(frozen=True, slots=True, eq=False)
class EpochTable:
    """The instances of one epoch, S steps by G slots.

    Attributes:
        dataset: (S, G) int16, index of the mixture entry.
        instance: (S, G) int64, index into the entry's instances.
        number_of_pass: (S, G) int64, how many times the entry's instances had been gone through before.
    """

    dataset: NDArray[np.int16]
    instance: NDArray[np.int64]
    number_of_pass: NDArray[np.int64]


class MixtureSampler:
    """Names the instances of every step.

    Args:
        config: the mixture.
        images: per entry name, (n,) image of each of its instances; instances of one image share a number.
        seed: of the run.
        global_batch: instances per step over all ranks.

    Raises:
        ConfigError: an entry has no instances, or a share too small for one of them in a whole epoch.
    """

    def __init__(
        self, config: MixtureConfig, images: Mapping[str, NDArray[np.int64]], seed: int, global_batch: int
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
        self._images = [np.unique(images[name], return_inverse=True)[1].astype(np.int64) for name in names]
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
                f"mixture entry {', '.join(undrawn)}: so small a share of an epoch of {self.draws.sum()} samples is "
                "none, and the dataset would not be seen; raise its weight or samples_per_epoch, or take it out."
            )
        self._epoch = -1
        self._table: EpochTable | None = None

    def epoch_of(self, step: int) -> int:
        """Epoch that a global step belongs to."""
        return step // self.steps_per_epoch

    def table(self, epoch: int) -> EpochTable:
        """All steps of one epoch; the latest is kept."""
        if self._table is None or self._epoch != epoch:
            self._table, self._epoch = self._draw(epoch), epoch
        return self._table

    def _draw(self, epoch: int) -> EpochTable:
        parts = [self._draws_of(entry, epoch) for entry in range(len(self._images))]
        dataset = np.repeat(np.arange(len(parts), dtype=np.int16), [len(instance) for instance, _ in parts])
        instance = np.concatenate([instance for instance, _ in parts])
        number_of_pass = np.concatenate([number for _, number in parts])
        image = np.concatenate([self._images[entry][instance] for entry, (instance, _) in enumerate(parts)])

        random = generator(Purpose.EPOCH_ORDER, self.seed, major=epoch)
        starts = np.ones(len(image), bool)
        starts[1:] = (image[1:] != image[:-1]) | (dataset[1:] != dataset[:-1])
        unit = np.cumsum(starts) - 1
        order = np.argsort(random.permutation(int(unit[-1]) + 1)[unit], kind="stable")
        slots = order.reshape(self.global_batch, self.steps_per_epoch)
        window = np.arange(self.steps_per_epoch) // self.config.shuffle_window
        within = np.argsort(window + random.random(slots.shape), axis=1, kind="stable")
        chosen = np.take_along_axis(slots, within, axis=1).T
        return EpochTable(dataset[chosen], instance[chosen], number_of_pass[chosen])

    def _draws_of(self, entry: int, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Instances one entry gives to an epoch, those of one image adjacent, and the pass each belongs to."""
        image = self._images[entry]
        first, last = epoch * int(self.draws[entry]), (epoch + 1) * int(self.draws[entry])
        instances, numbers = [], []
        for number in range(first // len(image), -(-last // len(image))):
            random = generator(Purpose.PASS_ORDER, self.seed, self.config.entries[entry].name, major=number)
            rank_of_image = random.permutation(int(image.max()) + 1)
            order = np.lexsort((random.random(len(image)), rank_of_image[image]))
            start = number * len(image)
            piece = order[max(first - start, 0) : last - start]
            instances.append(piece)
            numbers.append(np.full(len(piece), number))
        if not instances:
            return np.empty(0, np.int64), np.empty(0, np.int64)
        return np.concatenate(instances), np.concatenate(numbers)


def _apportion(shares: NDArray[np.float64], total: int) -> NDArray[np.int64]:
    """Whole numbers that add up to ``total``, by the largest remainders (Hamilton's method)."""
    exact = shares * total
    counts = np.floor(exact + 1e-9).astype(np.int64)
    behind = np.argsort(counts - exact, kind="stable")
    counts[behind[: total - int(counts.sum())]] += 1
    return counts
