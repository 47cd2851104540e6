"""Files of a download, always below its root, local or remote.

A file that cannot be had raises :class:`~posecore.formats.values.Refusal`: a reader of a file per image rejects that
image, a reader of one large file lets it pass as the :class:`~posecore.errors.DatasetError` it is.
"""

import json
import re
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import orjson

from posecore.formats.reader import Source
from posecore.formats.values import Refusal, integer
from posecore.nearest import LIKE_FILES, nearest
from posecore.schema import Json
from posecore.storage import AnyPath, open_regular, read_at_most

MAX_FILE_BYTES = 8 << 30
"""A file of annotations beyond this is a mistake or a sparse giant; the largest known, a split of UBody, has 3 GB."""

_DRIVE = re.compile(r"^[A-Za-z]:")


def relative_path(*parts: str) -> str:
    """Joins path parts into a path relative to the download's root, with forward slashes.

    Empty parts and ``.`` vanish; a leading slash of a later part does not make the path absolute, because several
    datasets write their relative names like that.

    Raises:
        Refusal: the path leaves the root (``..``, a drive letter) or is not a path at all.
    """
    cleaned: list[str] = []
    for part in parts:
        if "\0" in part or "\\" in part or "://" in part or _DRIVE.match(part) or ".." in PurePosixPath(part).parts:
            raise Refusal("path-escape", f"the path {part!r} is not a plain relative path below the dataset's root.")
        cleaned += [piece for piece in part.split("/") if piece not in ("", ".")]
    if not cleaned:
        raise Refusal("path-escape", f"the path parts {parts!r} name no file.")
    return "/".join(cleaned)


def source_file(source: Source, relative: str) -> AnyPath:
    """A file or folder of the download; "" is its root.

    Raises:
        Refusal: it does not exist, or lies outside the root.
    """
    path = source.root / relative_path(relative) if relative else source.root
    try:
        there = path.exists()
    except PermissionError as error:
        raise _unreadable(source, relative, error) from None
    if not there:
        raise Refusal(
            "missing-file",
            f"{source.dataset} {source.split}: {relative or 'everything'} is missing below {source.root}; "
            f"give the folder that the download was unpacked into.{_near_root(source)}",
        )
    return path


def check_annotations(source: Source) -> None:
    """Refuses a download whose annotations are not there, or may not be read; nothing of them is looked at.

    Raises:
        Refusal: says which.
    """
    path = source_file(source, source.annotations)
    if isinstance(path, Path) and path.is_file():
        try:
            path.open("rb").close()
        except OSError as error:
            raise _unreadable(source, source.annotations, error) from None


def _near_root(source: Source) -> str:
    """The folder that may have been meant, where there is none of that name."""
    root = source.root
    if not isinstance(root, Path) or root.exists() or not root.parent.is_dir():
        return ""
    near = nearest(root.name, (each.name for each in root.parent.iterdir()), likeness=LIKE_FILES)
    return f" Did you mean {root.parent / near[0]}?" if near else ""


def read_bytes(source: Source, relative: str) -> bytes:
    """Content of a file of the download.

    Raises:
        Refusal: it is missing, no plain file, larger than the reader option ``max_file_bytes`` (default
            :data:`MAX_FILE_BYTES`), or cannot be read.
    """
    path = source_file(source, relative)
    try:
        return read_at_most(path, _most_bytes(source))
    except OSError as error:
        raise _unreadable(source, relative, error) from None


def open_file(source: Source, relative: str) -> BinaryIO:
    """A local file of the download, opened, for what is too large to be read at once.

    Raises:
        Refusal: as :func:`read_bytes`.
    """
    path = source_file(source, relative)
    try:
        return open_regular(path, _most_bytes(source))
    except OSError as error:
        raise _unreadable(source, relative, error) from None


def read_text(source: Source, relative: str) -> str:
    """Text of a UTF-8 file of the download, a byte order mark taken off.

    Raises:
        Refusal: it is missing, unreadable or not text.
    """
    try:
        return read_bytes(source, relative).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise Refusal("unreadable-file", f"{source.dataset} {source.split}: {relative} is not UTF-8 text.") from None


def read_json(source: Source, relative: str) -> Json:
    """Parsed JSON of a file of the download; ``NaN`` and ``Infinity``, which some datasets write, are accepted.

    Raises:
        Refusal: it is missing or not JSON.
    """
    return parse_json(source, relative, read_bytes(source, relative))


def parse_json(source: Source, relative: str, data: bytes) -> Json:
    """The same of bytes that were read already.

    Raises:
        Refusal: they are not JSON.
    """
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        try:
            return storable_json(data)
        except (ValueError, TypeError, RecursionError) as error:
            raise Refusal(
                "unreadable-file",
                f"{source.dataset} {source.split}: {relative} is not valid JSON ({error}); download it again.",
            ) from None


def storable_json(data: bytes) -> Json:
    """JSON with ``NaN`` and ``Infinity``.

    Raises:
        ValueError: it is not JSON.
        TypeError: it could not be stored: half a surrogate pair, a number beyond 64 bits, or nested without end.
        RecursionError: nested without end.
    """
    value = json.loads(data)
    orjson.dumps(value)
    return value


def _most_bytes(source: Source) -> int:
    return integer(source.options.get("max_file_bytes", MAX_FILE_BYTES), "max_file_bytes")


def _unreadable(source: Source, relative: str, error: OSError) -> Refusal:
    where = f"{source.dataset} {source.split}"
    said = f"{where}: {source.root / relative} cannot be read ({error.strerror or error})."
    return Refusal("unreadable-file", said)
