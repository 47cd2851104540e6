"""What the operating system refused, as a sentence for a person: what, where, and what to do."""

import errno
import os
from pathlib import Path

from posecore.asides import is_aside
from posecore.nearest import LIKE_FILES, nearest

_FULL = (errno.ENOSPC, errno.EDQUOT)


def is_full(error: BaseException) -> bool:
    """Whether an error says that no room is left on a disk; writers in C++ and Rust put the system's text in theirs."""
    if isinstance(error, OSError) and error.errno in _FULL:
        return True
    said = str(error)
    if "database or disk is full" in said:  # SQLite's words
        return True
    return any(f"os error {number}" in said or os.strerror(number) in said for number in _FULL)


def said_of_system(error: OSError, written: str | None = None) -> str:
    """What the system said no to.

    Args:
        error: whose words are the system's.
        written: what was being written, for an error that does not say so; None if that is unknown.
    """
    place = _place(error) or written
    if error.errno is None or (place is None and error.errno not in _FULL):
        return str(error)
    match error.errno:
        case errno.ENOENT:
            if Path(str(place)).exists():  # of the system's own, such as /proc
                return f"{place}: nothing can be made there; name another place."
            return f"{place}: there is no such file or folder{_near(str(place))}"
        case errno.EACCES | errno.EPERM:
            return f"{place}: you may not read or write there; ask whoever owns it, or name another place."
        case errno.EROFS:
            return f"{place} is on a disk that can only be read; name another place."
        case errno.ENOTDIR | errno.EEXIST:
            return f"{place}: a file is where a folder must be; name another place."
        case errno.EISDIR | errno.EBUSY if Path(str(place)).is_dir():  # busy: where somebody is, such as "."
            return f"{place} is a folder; name a file, such as one in it."
        case number if number in _FULL:
            where = "" if place is None else f" for {place}"
            return f"no space is left on the disk{where}; free some, or name another place."
    return f"{place}: {error.strerror}."


def _place(error: OSError) -> str | None:
    """The file or folder that is meant, not the one beside it that is renamed when it is whole."""
    given = [name for name in (error.filename2, error.filename) if isinstance(name, str | bytes | os.PathLike)]
    paths = [Path(os.fsdecode(name)) for name in given]
    named = [*(path for path in paths if not is_aside(path)), *(path.parent for path in paths if is_aside(path))]
    return str(named[0]) if named else None


def _near(place: str) -> str:
    """The nearest name beside the first part of a path that does not exist."""
    path = Path(place)
    while not path.parent.is_dir() and path.parent != path:
        path = path.parent
    try:
        close = nearest(path.name, (each.name for each in path.parent.iterdir()), likeness=LIKE_FILES)
    except OSError:
        return "."
    return f"; did you mean {path.parent / close[0]}?" if close else "."
