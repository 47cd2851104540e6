"""Remote shards brought to the machine while those before them are being read, as far ahead as the cache allows."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from posecore.loading.mixture import MixtureSampler
from posecore.loading.samples import UsableInstances
from posecore.shards.store import ShardStore

_NUM_THREADS = 4


@dataclass(frozen=True, slots=True, eq=False)
class RemoteEntry:
    """An entry that is read in blocks.

    Attributes:
        index: within the mixture.
        store: remote.
        instances: what is cropped of it.
        precut: whether its bodies' own pictures are read.
    """

    index: int
    store: ShardStore
    instances: UsableInstances
    precut: bool


class ShardPrefetch:
    """Fetches what one rank's slots need of the block in progress and of the next one.

    The cache holds two blocks. So the one after the next is begun only when no rank of the machine reads from the one
    in progress any more: when this rank is ``lag`` steps beyond its last.

    Args:
        entries: those that are read in blocks.
        sampler: their order.
        slots: (n,) of this rank.
        lag: steps that ranks may be apart.
    """

    def __init__(
        self, entries: Sequence[RemoteEntry], sampler: MixtureSampler, slots: NDArray[np.int64], lag: int
    ) -> None:
        self._entries = entries
        self._sampler = sampler
        self._slots = slots
        self._lag = lag
        self._pool = ThreadPoolExecutor(_NUM_THREADS, thread_name_prefix="fetch")
        self._fetched = [-1] * len(entries)  # steps before which everything was asked for

    def advance(self, step: int) -> None:
        """Begins to fetch what may be fetched, now that the batch of a global step is being made."""
        for place, entry in enumerate(self._entries):
            start, stop = max(self._fetched[place], step), self._horizon(entry.index, step)
            for shard in self._shards(entry, start, stop):
                self._pool.submit(
                    entry.store.fetch, shard, entry.precut
                )  # whoever reads the shard hears what is wrong with it
            self._fetched[place] = max(start, stop)

    def close(self) -> None:
        """Waits for what is being fetched, and leaves the rest."""
        self._pool.shutdown(cancel_futures=True)

    def _horizon(self, entry: int, step: int) -> int:
        """The step before which shards may be fetched."""
        length = self._sampler.steps_per_epoch
        seen = max(step - self._lag - self._sampler.stretch, 0)
        epoch = seen // length
        here, after = (self._sampler.table(number).blocks[entry] for number in (epoch, epoch + 1))
        again = int(after.block[0] == here.block[-1])  # a block that goes on in the next epoch
        starts = np.concatenate([here.step, after.step[again:] + length])
        in_progress = int(np.searchsorted(starts, seen - epoch * length, side="right")) - 1
        later = starts[max(in_progress, 0) + 2 :]
        return epoch * length + (int(later[0]) if len(later) else 2 * length)

    def _shards(self, entry: RemoteEntry, start: int, stop: int) -> list[int]:
        """The shards that this rank's slots read in the steps from ``start`` to ``stop`` - 1, in order of first use."""
        length, of_image = self._sampler.steps_per_epoch, entry.store.shard_of_image
        found = []
        while start < stop:
            epoch = start // length
            table = self._sampler.table(epoch)
            end = min(stop, (epoch + 1) * length)
            rows = slice(start - epoch * length, end - epoch * length)
            instance = table.instance[rows, self._slots][table.dataset[rows, self._slots] == entry.index]
            found.append(of_image[entry.instances.image_rows_of(instance)])
            start = end
        shards, first = np.unique(np.concatenate([np.empty(0, np.int64), *found]), return_index=True)
        return shards[np.argsort(first)].tolist()
