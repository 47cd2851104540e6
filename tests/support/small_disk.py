"""A disk that is soon full."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# Another process holds it until this one closes the pipe between them, or is killed: nothing stays mounted.
_HOLD = 'mount -t tmpfs -o "size=$2" tmpfs "$1" && echo mounted && { read _; umount -l "$1"; }'


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[bool]:
    """A file system of its own at a folder, made for the block; says whether there is one, as it takes root.

    Args:
        folder: is made.
        size: as tmpfs has it, such as 64k.
    """
    folder.mkdir()
    command = ["sh", "-c", _HOLD, "sh", str(folder), size]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
    ) as holder:
        assert holder.stdout is not None
        yield holder.stdout.readline() == b"mounted\n"
