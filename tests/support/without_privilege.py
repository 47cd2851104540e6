"""Root as anybody else: what files and folders do not permit is refused here, too."""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager

_VERSION = 0x20080522
_PASSES_OVER = 1 << 1 | 1 << 2
"""CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH of capabilities(7): modes of files and folders do not count."""


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Data(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


@contextmanager
def without_privilege() -> Iterator[None]:
    """Has this thread, and what it starts, obey the modes of files until the block ends."""
    libc = ctypes.CDLL(None, use_errno=True)
    header, before, now = _Header(_VERSION, 0), (_Data * 2)(), (_Data * 2)()

    def call(name: str, data: "ctypes.Array[_Data]") -> None:
        if getattr(libc, name)(ctypes.byref(header), ctypes.byref(data)):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

    call("capget", before)
    call("capget", now)
    now[0].effective &= ~_PASSES_OVER
    call("capset", now)
    try:
        yield
    finally:
        call("capset", before)
