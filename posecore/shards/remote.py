"""Using a remote store that may lose the connection: asked again, a few times, then given up in one sentence."""

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import TypeVar

from upath import UPath

from posecore.counting import counted
from posecore.errors import PoseCoreError, StorageError
from posecore.storage import AnyPath, TooLarge

T = TypeVar("T")

WAITS_S = (0.5, 1.0, 2.0, 4.0)
"""Before each further try."""

_FINAL = (FileNotFoundError, IsADirectoryError, PermissionError, TooLarge, PoseCoreError)
_CLIENTS = frozenset(
    ("adlfs", "aiobotocore", "aiohttp", "azure", "botocore", "fsspec", "gcsfs", "google", "requests", "s3fs", "urllib3")
)
"""Packages whose exceptions mean that a store was not reached; an error of ours keeps its traceback."""


def asked_again(path: AnyPath, read: Callable[[], T], done: str = "read") -> T:
    """What ``read`` returns, tried again where the store fails.

    Args:
        path: what is read, for the message.
        read: may be called several times; what it raises of its own, a missing file and a refused access are final.
        done: what cannot be done with the path, if reading is not it.

    Raises:
        StorageError: every try failed.
    """
    for wait in WAITS_S:
        try:
            return read()
        except _FINAL:
            raise
        except Exception:  # every store has exceptions of its own for a connection that is gone
            time.sleep(wait)
    try:
        return read()
    except _FINAL:
        raise
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise StorageError(
            f"{path}: cannot be {done}, tried {counted(len(WAITS_S) + 1, 'time')} ({reason}); see whether the store "
            "can be reached from here, and run the command again."
        ) from None


@contextmanager
def put_whole(path: UPath) -> Iterator[FileIO]:
    """A local file that is stored when the block ends, in one put: it is there whole or not at all.

    Raises:
        StorageError: every try failed.
    """
    with tempfile.TemporaryDirectory(prefix="posecore-") as scratch:
        local = Path(scratch) / path.name
        with FileIO(local, "wb") as file:
            yield file
        asked_again(path, lambda: path.fs.put_file(str(local), path.path), "written")


def read_whole(path: AnyPath) -> bytes:
    """The content of a file of a store, tried again where a remote one fails.

    Raises:
        OSError: it cannot be read; of a remote store as :func:`asked_again` says.
    """
    return path.read_bytes() if isinstance(path, Path) else asked_again(path, path.read_bytes)


def is_of_a_store(error: BaseException) -> bool:
    """Whether an error is what a store's client raises, or the system: no fault of a program."""
    return isinstance(error, OSError) or type(error).__module__.partition(".")[0] in _CLIENTS


@contextmanager
def outage_in_a_sentence(*places: AnyPath) -> Iterator[None]:
    """Turns what a store's client raises after all its own tries into one sentence.

    Args:
        places: what is read and written in the block; where all of them are mounted, nothing is changed.

    Raises:
        StorageError: a store cannot be reached.
    """
    remote = [str(place) for place in places if not isinstance(place, Path)]
    try:
        yield
    except PoseCoreError:
        raise
    except Exception as error:
        if not remote or not is_of_a_store(error):
            raise
        reason = " ".join(str(error).split()).removesuffix(".") or type(error).__name__
        raise StorageError(
            f"{' and '.join(remote)}: the store does not do what it is asked ({reason}); see whether it can be reached "
            "from here, and run the command again. What is whole is kept."
        ) from None
