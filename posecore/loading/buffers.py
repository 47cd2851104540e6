"""Memory that is used again once nobody refers to it: fresh pages cost a third of a warp, warm ones next to nothing."""

import math
import weakref
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

_MOST_FREE = 4
_Memory = TypeVar("_Memory", bytearray, memoryview)


class ImageBuffers:
    """Hands out uint8 arrays of one shape and takes their memory back by itself.

    An array's memory returns when the array and everything made from it without copying (slices, tensors of
    ``torch.from_numpy``) is gone, so whoever holds a batch may hold it for ever. May be used from several threads.

    Args:
        shape: of every array.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._shape = shape
        self._free: list[bytearray] = []

    def take(self) -> NDArray[np.uint8]:
        """An array of the shape; its content is whatever was there before."""
        try:
            memory = self._free.pop()
        except IndexError:
            memory = bytearray(math.prod(self._shape))
        return _lent(memory, self._free).reshape(self._shape)


class ByteBuffers:
    """Hands out memory for images of any size, that of images which are gone first. For one thread.

    The C library's own memory would do as well, but for trainings in which it gives freed blocks back at once
    (:mod:`posecore.training.host_memory`): pages taken anew for every image make decoding 27 % dearer.
    """

    def __init__(self) -> None:
        self._free: list[memoryview] = []

    def take(self, num_bytes: int) -> NDArray[np.uint8]:
        """So many bytes, or up to half as many more, of any content."""
        for place in reversed(range(len(self._free))):  # the latest is still in the processor's cache
            if num_bytes <= len(self._free[place]) <= 1.5 * num_bytes:
                return _lent(self._free.pop(place), self._free)
        del self._free[:-_MOST_FREE]
        # A bytearray would be filled with zeros while no other thread can go on.
        return _lent(np.empty(num_bytes, np.uint8).data, self._free)


def _lent(memory: _Memory, free: list[_Memory]) -> NDArray[np.uint8]:
    """The memory as an array, which returns among what is free when it is gone."""
    # Numpy makes every view refer to the innermost array, which is this one, because what it is made of is none.
    array = np.frombuffer(memory, np.uint8)
    weakref.finalize(array, free.append, memory).atexit = False
    return array
