"""Reading from a remote store that may lose the connection: asked again, a few times, then given up in one sentence."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from posecore.errors import PoseCoreError, StorageError
from posecore.storage import AnyPath

T = TypeVar("T")

WAITS_S = (0.5, 1.0, 2.0, 4.0)
"""Before each further try."""

_FINAL = (FileNotFoundError, IsADirectoryError, PermissionError, PoseCoreError)


def asked_again(path: AnyPath, read: Callable[[], T]) -> T:
    """What ``read`` returns, tried again where the store fails.

    Args:
        path: what is read, for the message.
        read: may be called several times; what it raises of its own, a missing file and a refused access are final.

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
            f"{path}: cannot be read, tried {len(WAITS_S) + 1} times ({reason}); see whether the store can be reached "
            "from here, and run the command again."
        ) from None


def read_whole(path: AnyPath) -> bytes:
    """The content of a file of a store, tried again where a remote one fails.

    Raises:
        OSError: it cannot be read; of a remote store as :func:`asked_again` says.
    """
    return path.read_bytes() if isinstance(path, Path) else asked_again(path, path.read_bytes)
