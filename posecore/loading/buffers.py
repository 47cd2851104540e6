"""Memory that is used again once nobody refers to it: fresh pages cost a third of a warp, warm ones next to nothing."""

import math
import weakref

import numpy as np
from numpy.typing import NDArray


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
        # Numpy makes every view refer to the innermost array, which is this one, because a bytearray is none.
        array = np.frombuffer(memory, np.uint8)
        weakref.finalize(array, self._free.append, memory).atexit = False
        return array.reshape(self._shape)
