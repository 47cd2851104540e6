"""Memory of the host that is given back when it is freed."""

import ctypes
import gc

_M_MMAP_THRESHOLD = -3
_LEAST_BYTES = 128 << 10


def give_back_freed() -> None:
    """Has the C library give back every block of 128 KiB and more as soon as it is freed; glibc's alone can do so.

    It begins like that, but keeps larger and larger blocks, up to 32 MiB, for itself once some were freed, in pieces of
    which few fit the next tensor: two processes that trained 63 million parameters held 40 % more in the end. What it
    costs is that memory taken anew is zeroed by the kernel.
    """
    change = getattr(ctypes.CDLL(None), "mallopt", None)
    if change is not None:
        change(_M_MMAP_THRESHOLD, _LEAST_BYTES)


def give_back_unused() -> None:
    """Frees what nothing refers to any more, in circles too, and gives back what the C library keeps of it."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
