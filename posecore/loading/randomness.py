"""Counter-based random generators: every draw is named by what it is for, not by who draws it or when.

Philox (Salmon et al., SC 2011) turns a key and a counter into random bits, so the generator of any purpose can be
made at any place without drawing the numbers before it. Making one takes 8 µs, most of it for a seed that is not used;
setting the state of one that exists takes 2 µs.
"""

import hashlib
from collections.abc import Iterator
from enum import IntEnum
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

_NOT_BUFFERED = np.zeros(4, np.uint64)


class Purpose(IntEnum):
    """What a generator is for; two purposes never share numbers."""

    PASS_ORDER = 0
    EPOCH_ORDER = 1
    AUGMENTATION = 2
    CENTER_JITTER = 3
    METHOD = 4
    APPEARANCE = 5
    BLANKET = 6
    CAMERA = 7
    DEPTH = 8
    FURTHER = 9


def generator(purpose: Purpose, seed: int, name: str = "", major: int = 0, minor: int = 0) -> np.random.Generator:
    """The generator of one purpose.

    Args:
        purpose: what is drawn.
        seed: of the run, 0 <= seed < 2^64.
        name: name of the dataset, so that adding a dataset leaves the draws of the others as they were.
        major: epoch or pass.
        minor: row of the instance.
    """
    # The first counter word is the generator's own; it counts the blocks drawn.
    counter = np.array([0, minor, major, 0], np.uint64)
    return np.random.Generator(np.random.Philox(counter=counter, key=np.array([seed, _word(purpose, name)], np.uint64)))


class Redrawn:
    """One generator, set to one purpose after the other; for a single thread."""

    def __init__(self) -> None:
        self._bits = np.random.Philox(key=0)
        self._generator = np.random.Generator(self._bits)

    def generator(
        self, purpose: Purpose, seed: int, name: str = "", major: int = 0, minor: int = 0
    ) -> np.random.Generator:
        """Draws what :func:`generator` of the same arguments draws; usable until the next call."""
        return next(self.each(purpose, seed, name, np.array([major]), np.array([minor])))

    def each(
        self, purpose: Purpose, seed: int, name: str, majors: NDArray[np.int64], minors: NDArray[np.int64]
    ) -> Iterator[np.random.Generator]:
        """:meth:`generator` for one crop after the other; each may be used until the next is asked for.

        Args:
            purpose: what is drawn.
            seed: of the run.
            name: of the dataset.
            majors: (n,) epochs or passes.
            minors: (n,) rows of the instances.
        """
        counter = np.zeros(4, np.uint64)
        state: Any = {
            "bit_generator": "Philox",
            "state": {"counter": counter, "key": np.array([seed, _word(purpose, name)], np.uint64)},
            "buffer": _NOT_BUFFERED,
            "buffer_pos": len(_NOT_BUFFERED),
            "has_uint32": 0,
            "uinteger": 0,
        }
        for major, minor in zip(majors.tolist(), minors.tolist(), strict=True):
            counter[1], counter[2] = minor, major
            self._bits.state = state
            yield self._generator


def crop_seeds(seed: int, name: str, number_of_pass: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """One random word per crop, for what a method draws on the training device.

    The finaliser of SplitMix64 (Steele et al., OOPSLA 2014) over seed, name, pass and row: whole batches in one go.

    Args:
        seed: of the run, 0 <= seed < 2^64.
        name: of the dataset.
        number_of_pass: (n,) pass of each crop.
        rows: (n,) row of each crop's instance.
    """
    words = np.full(len(rows), _word(Purpose.METHOD, name), np.uint64)
    for part in (np.full(len(rows), seed, np.uint64), number_of_pass.astype(np.uint64), rows.astype(np.uint64)):
        words = (words ^ part) + np.uint64(0x9E3779B97F4A7C15)
        words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        words ^= words >> np.uint64(31)
    return words.view(np.int64)


@cache
def _word(purpose: Purpose, name: str) -> int:
    """64 bits of a purpose and a dataset, the same on every machine and in every process."""
    return int.from_bytes(hashlib.blake2b(f"{purpose.value}/{name}".encode(), digest_size=8).digest(), "little")
