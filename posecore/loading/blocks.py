"""An order that needs few shards at a time: those of a block together, one block after the other.

A remote set that does not fit the cache cannot be shuffled as a whole: every picture would fetch a shard. So the shards
of a pass are shuffled and cut into *blocks*, and the images of a block are shuffled among each other. Within a block
each shard's images are spread evenly over the time the block takes, so every batch sees every shard of it, and every
shard keeps to a strip of neighbouring slots, so that of several nodes few need the same shard.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_BLOCKS_PER_PASS = 1 << 32
_KEPT_SHARE = 0.5


class BlockedOrder(NamedTuple):
    """The instances of a pass, or of a part of one, in order.

    Attributes:
        instance: (n,) int64.
        lane: (n,) float64 in [0, 1): where among the slots; instances of one image have the same.
        block: (n,) int64, which never falls.
    """

    instance: NDArray[np.int64]
    lane: NDArray[np.float64]
    block: NDArray[np.int64]


class ShardBlocks:
    """The shards of one mixture entry, to be gone through in blocks.

    Args:
        shard: (n,) shard of each instance; instances of one image are in one shard.
        shard_bytes: (m,) size of each shard.
        block_bytes: what the shards of a block may have together. A block is at least one shard.

    Attributes:
        shard: see above, and
        shard_bytes, block_bytes: likewise.
        num_blocks: of a pass, at most.
    """

    def __init__(self, shard: NDArray[np.int64], shard_bytes: NDArray[np.int64], block_bytes: int) -> None:
        self.shard = shard.astype(np.int32, copy=False)
        self.shard_bytes = shard_bytes
        self.block_bytes = block_bytes
        used = shard_bytes[np.bincount(self.shard, minlength=len(shard_bytes)) > 0]
        total, largest = int(used.sum()), int(used.max(initial=0))
        if total <= block_bytes:
            self.num_blocks = 1
        elif block_bytes <= largest:
            self.num_blocks = len(used)
        else:
            # A block is of those that begin within the same part of the whole: at most that part and one shard.
            self.num_blocks = -(-total // (block_bytes - largest))

    def order(self, image: NDArray[np.integer], number_of_pass: int, random: np.random.Generator) -> BlockedOrder:
        """The order of one pass.

        Args:
            image: (n,) image of each instance, numbered from 0 without a gap.
            number_of_pass: counts the blocks on from those of earlier passes.
            random: of the pass.
        """
        used, shard = np.unique(self.shard, return_inverse=True)
        num_images, shard_of_image = int(image.max()) + 1, shard[np.unique(image, return_index=True)[1]]
        permuted = random.permutation(len(used))
        block_of_shard = np.empty(len(permuted), np.int64)
        block_of_shard[permuted] = self._cut(self.shard_bytes[used][permuted])

        by_shard = np.lexsort((random.random(num_images), shard_of_image))
        count = np.bincount(shard_of_image, minlength=len(permuted))
        place = np.empty(num_images)
        place[by_shard] = np.arange(num_images) - np.repeat(np.cumsum(count) - count, count)
        time = (place + random.random(num_images)) / count[shard_of_image]
        rank = np.empty(num_images, np.int64)
        rank[np.lexsort((time, block_of_shard[shard_of_image]))] = np.arange(num_images)
        instance = np.lexsort((random.random(len(image)), rank[image]))

        width = np.bincount(shard, minlength=len(permuted)).astype(np.float64)
        start = np.empty(len(permuted))
        start[permuted] = np.cumsum(width[permuted]) - width[permuted]
        of_block = np.bincount(block_of_shard, width, self.num_blocks)
        begin = np.cumsum(of_block) - of_block
        within = start - begin[block_of_shard]
        lane = (within[shard_of_image] + random.random(num_images) * width[shard_of_image]) / of_block[
            block_of_shard[shard_of_image]
        ]
        block = block_of_shard[shard[instance]] + number_of_pass * _BLOCKS_PER_PASS
        return BlockedOrder(instance, lane[image[instance]], block)

    def _cut(self, sizes: NDArray[np.int64]) -> NDArray[np.int64]:
        """(m,) block of each of the shards in their order."""
        if self.num_blocks >= len(sizes):
            return np.arange(len(sizes))
        return (np.cumsum(sizes) - sizes) * self.num_blocks // int(sizes.sum())


@dataclass(frozen=True, slots=True, eq=False)
class BlockStarts:
    """Where blocks begin within an epoch.

    Attributes:
        block: (b,) int64, rising; the first may have begun in the epoch before.
        step: (b,) first step of the epoch that may draw from it.
    """

    block: NDArray[np.int64]
    step: NDArray[np.int64]


def divided(sizes: Mapping[str, int], block_bytes: int) -> dict[str, int]:
    """How large the blocks of each of several sets may be, if all of them are read at the same time.

    Small sets stay whole: in rising order of size, as long as they have half of ``block_bytes`` together. They get no
    blocks. What these leave of twice ``block_bytes``, which is one block and the next of each of the others, is divided
    among those in proportion to their sizes.

    Args:
        sizes: bytes of all shards of each set.
        block_bytes: of the blocks of all sets together.
    """
    blocked, kept = dict(sizes), 0
    for name, size in sorted(sizes.items(), key=lambda item: (item[1], item[0])):
        if kept + size > _KEPT_SHARE * block_bytes:
            break
        kept += blocked.pop(name)
    total = sum(blocked.values())
    return {name: (block_bytes - kept // 2) * size // total for name, size in blocked.items()}
