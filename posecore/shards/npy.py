"""NumPy's file format by hand: the same bytes from every version of NumPy, and a header whose length is known."""

import struct
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray


def npy_bytes(array: NDArray[np.generic]) -> bytes:
    """An array as a ``.npy`` file: :func:`npy_header`, then its values in C order."""
    return npy_header(array.dtype.str, array.shape) + array.tobytes()


@lru_cache(maxsize=1024)
def npy_header(dtype: str, shape: tuple[int, ...]) -> bytes:
    """NPY format version 1.0: magic, header length, and a Python literal padded to 64 bytes; C order follows."""
    literal = f"{{'descr': {dtype!r}, 'fortran_order': False, 'shape': {shape}, }}"
    padded = literal.ljust(-(-(len(literal) + 11) // 64) * 64 - 11) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(padded)) + padded.encode("latin-1")
