"""Random numbers of a crop, drawn on the training device: the same on any rank, in any batch, on any hardware."""

import torch
from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)
_FIRST = 0xBF58476D1CE4E5B9 - (1 << 64)
_SECOND = 0x94D049BB133111EB - (1 << 64)


def random_words(seeds: Tensor, count: int) -> Tensor:
    """The first outputs of SplitMix64 (Steele et al., OOPSLA 2014) for every seed.

    Integers only, so no device rounds differently; torch's int64 wraps around as the generator wants.

    Args:
        seeds: (n,) int64, see :class:`~posecore.schema.CropGroup`.
        count: words per seed.

    Returns:
        (n, count) int64, uniform over all 64-bit values.
    """
    words = seeds[:, None] + torch.arange(1, count + 1, device=seeds.device) * _GOLDEN
    words = (words ^ _shifted(words, 30)) * _FIRST
    words = (words ^ _shifted(words, 27)) * _SECOND
    return words ^ _shifted(words, 31)


def random_shares(seeds: Tensor, count: int) -> Tensor:
    """(n,) int64 seeds to (n, count) float32, uniform in [0, 1)."""
    return _shifted(random_words(seeds, count), 40).float() / 2**24


def random_orders(seeds: Tensor, count: int) -> Tensor:
    """(n,) int64 seeds to (n, count) int64, a random permutation of ``count`` things for every seed."""
    return random_words(seeds, count).argsort(dim=1, stable=True)


def _shifted(words: Tensor, bits: int) -> Tensor:
    """Shifts right and fills with zeros, where torch fills with the sign."""
    return (words >> bits) & ((1 << (64 - bits)) - 1)
