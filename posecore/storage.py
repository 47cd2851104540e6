"""Paths that may be local or remote, and writes that are whole or absent.

Every path the library takes from a user is a local path or any fsspec URL (``s3://``, ``gs://``, ``memory://`` …);
:func:`as_path` turns both into an object with pathlib's interface.
"""

import errno
import hashlib
import mmap
import os
import shutil
import stat
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, TypeAlias

from upath import UPath

from posecore.asides import aside_file
from posecore.errors import ConfigError, PreflightError

AnyPath: TypeAlias = Path | UPath
TAKEN_NAME = ".taken"
"""Object that stands for a folder in an object store."""
_OBJECT_STORES = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss"})


def as_path(location: str | os.PathLike[str] | AnyPath) -> AnyPath:
    """A path object for a local path or an fsspec URL; local paths come back as plain :class:`pathlib.Path`.

    Raises:
        ConfigError: fsspec does not know the URL's protocol, or its package is not installed.
    """
    if isinstance(location, Path):
        return location
    if isinstance(location, UPath):
        return location
    text = os.fspath(location)
    if "://" not in text:
        return Path(text)
    if text.startswith("file://"):
        return Path(text.removeprefix("file://"))
    try:
        # A listing that one process remembers would hide what another has written since.
        return UPath(text, use_listings_cache=False)
    except (ValueError, ImportError) as error:
        raise ConfigError(f"{text}: {error}; give a local path or a URL that fsspec can open.") from None


def for_all_nodes(location: str | AnyPath) -> AnyPath:
    """The location in a form that means the same in every process: local paths become absolute.

    Raises:
        ConfigError: the location exists in this process only.
    """
    path = as_path(location)
    if isinstance(path, Path):
        return path.resolve()
    if path.protocol == "memory":
        raise ConfigError(f"{path}: memory:// exists in one process only; give a folder or URL every node can reach.")
    return path


def folder_of_machine(location: str | AnyPath) -> Path:
    """A local folder for what belongs to a place and stays on this machine, such as locks: the place itself if local.

    For a remote one it lies below ``POSECORE_CACHE``, else ``~/.cache/posecore``; it need not be there.
    """
    path = as_path(location)
    if isinstance(path, Path):
        return path.resolve()
    own = os.environ.get("POSECORE_CACHE") or Path.home() / ".cache" / "posecore"
    return Path(own) / "runs" / hashlib.sha256(str(path).encode()).hexdigest()[:16]


@contextmanager
def local_copy(path: AnyPath) -> Iterator[Path]:
    """A file or a folder as it is on this machine: itself if local, else a copy that lasts as long as the block."""
    if isinstance(path, Path):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="posecore-") as scratch:
        target = Path(scratch) / path.name
        path.fs.get(path.path, str(target), recursive=bool(path.is_dir()))
        yield target


def make_folder(folder: AnyPath) -> bool:
    """Makes a folder that was not there; of several processes that try at a time, one is told that it did.

    In an object store, which has no folders, it is an empty object in it.
    """
    if not isinstance(folder, Path):
        return make_object(folder / TAKEN_NAME, b"taken\n")
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        return False
    return True


def make_object(path: UPath, data: bytes) -> bool:
    """Writes an object that was not there; of several processes that try at a time, one is told that it did."""
    try:
        path.fs.pipe_file(path.path, data, mode="create")
    except FileExistsError:
        return False
    except OSError as error:
        if getattr(error, "errno", None) == errno.EEXIST or "PreconditionFailed" in repr(error.__cause__):
            return False
        raise
    return True


class TooLarge(OSError):
    """A file has more bytes than the reader allows."""


def read_at_most(path: AnyPath, max_bytes: int) -> bytes:
    """The content of a regular file of a stated size at most; nothing else is waited for or read.

    Args:
        path: local or remote.
        max_bytes: what is acceptable. A local file's size is looked at first, so that a sparse giant costs nothing.

    Raises:
        TooLarge: the file is larger.
        OSError: there is none, it is no regular file (a folder, a pipe, a socket, a device), or it cannot be read.
    """
    if not isinstance(path, Path):
        data = _beginning(path, max_bytes + 1)
        if len(data) > max_bytes:
            raise _too_large(path, max_bytes)
        return data
    return ExpectedFile(path).read(max_bytes)


def _beginning(path: UPath, size: int) -> bytes:
    """The first bytes of a remote file, from an object store by one request: opening would ask for its size before."""
    if path.protocol not in _OBJECT_STORES:
        with path.open("rb") as file:
            return bytes(file.read(size))
    try:
        return bytes(path.fs.cat_file(path.path, start=0, end=size))
    except Exception as error:  # of a file of 0 bytes there is no range; each store has an error of its own for it
        if "range" not in str(error).lower() or path.fs.info(path.path)["size"]:
            raise
        return b""


class ExpectedFile:
    """A local file that is opened now and read once, later; what is wrong with it is said then.

    Args:
        path: of a regular file.
        soon: have the system bring it to memory while something else is done.
    """

    def __init__(self, path: str | Path, soon: bool = False) -> None:
        self._path = path
        self._descriptor: int | None = None
        self._error: OSError | None = None
        try:
            self._descriptor, self._size = _open_regular(path)
        except OSError as error:
            self._error = error
        except ValueError as error:  # a name that no file can have
            self._error = OSError(errno.EINVAL, str(error), str(path))
        if soon and self._descriptor is not None and hasattr(os, "posix_fadvise"):  # macOS has none
            os.posix_fadvise(self._descriptor, 0, 0, os.POSIX_FADV_WILLNEED)

    def __str__(self) -> str:
        return str(self._path)

    def read(self, max_bytes: int) -> bytes:
        """The content; the file is closed then. Raises as :func:`read_at_most`."""
        if self._descriptor is None:
            raise self._error or ValueError(f"{self} has been read")
        descriptor, size = self._descriptor, self._size
        try:
            if size > max_bytes:
                raise _too_large(self._path, max_bytes)
            content = os.read(descriptor, size)  # a buffered file would cost as much as hashing the content
            # Linux gives 2 GiB at most.
            while len(content) < size and (more := os.read(descriptor, size - len(content))):
                content += more
            return content
        finally:
            self.close()

    def close(self) -> None:
        """Closes the file, read or not."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def open_regular(path: AnyPath, max_bytes: int | None = None) -> BinaryIO:
    """A regular file, opened for reading; nothing else is waited for. A local one may be of a stated size at most.

    Raises:
        OSError: as :func:`read_at_most`.
    """
    if not isinstance(path, Path):
        file: BinaryIO = path.open("rb")
        return file
    descriptor, size = _open_regular(path)
    if max_bytes is not None and size > max_bytes:
        os.close(descriptor)
        raise _too_large(path, max_bytes)
    return os.fdopen(descriptor, "rb")


def write_atomically(path: AnyPath, data: bytes) -> None:
    """Writes a file that is either whole under its final name or not there at all.

    Local: written aside, flushed to disk, renamed. Object stores: one put, which is atomic there.
    """
    if not isinstance(path, Path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return
    with written_aside(path) as aside, aside.open("wb") as file:
        file.write(data)


@contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """A path beside ``path``, with the same suffix, whose file takes its name if the block ends well, else vanishes.

    For files that are written in pieces. The folder is made if missing.
    """
    with aside_file(path.parent, path.suffix) as aside:
        yield aside
        with aside.open("rb") as file:
            os.fsync(file.fileno())
        aside.replace(path)


def read_list(path: AnyPath, max_bytes: int) -> tuple[str, ...]:
    """Lines of a text file without what surrounds them, empty ones and those that begin with ``#`` left out.

    Raises:
        OSError: as :func:`read_at_most`, or it is not UTF-8 text.
    """
    try:
        text = read_at_most(path, max_bytes).decode("utf_8_sig")
    except UnicodeDecodeError as error:
        raise OSError(f"not UTF-8 text ({error.reason} at byte {error.start})") from None
    stripped = (line.strip() for line in text.splitlines())
    return tuple(line for line in stripped if line and not line.startswith("#"))


def make_writable(folder: AnyPath, name: str) -> None:
    """Makes a folder, if it is not there, for what is written after hours of work.

    Args:
        folder: where it is remote, something is written and removed again.
        name: what the message calls it.

    Raises:
        PreflightError: it cannot be made, or not be written.
    """
    if not isinstance(folder, Path):
        probe = folder / f".probe-{uuid.uuid4().hex}"
        try:
            probe.write_bytes(b"")
            probe.unlink()
        except Exception as error:  # every store has errors of its own
            folder.fs.clear_instance_cache()  # fsspec would go on without credentials that are given now
            detail = " ".join(str(error).split())[:200]
            raise PreflightError(
                f"{name} {folder} cannot be written ({type(error).__name__}: {detail}); check the address, the "
                "credentials, and who may write."
            ) from None
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PreflightError(f"{name} {folder} cannot be made: {error.strerror}.") from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PreflightError(f"{name} {folder} cannot be written; choose another, or change who may write.")


def remove_folder(folder: AnyPath) -> None:
    """Removes a folder with all that is in it, if it is there."""
    if not folder.exists():
        return
    if isinstance(folder, Path):
        shutil.rmtree(folder)
    else:
        folder.fs.rm(folder.path, recursive=True)


@contextmanager
def file_content(path: AnyPath) -> Iterator[bytes | memoryview]:
    """The content of a file: mapped where it is local, read into memory where it is remote."""
    if not isinstance(path, Path):
        yield path.read_bytes()
        return
    with path.open("rb") as file:
        if not os.fstat(file.fileno()).st_size:
            yield b""  # nothing to map
            return
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped, memoryview(mapped) as view:
            yield view


def sha256_of(path: AnyPath, chunk_bytes: int = 1 << 22) -> str:
    """SHA-256 of a file's content, read in chunks, as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(chunk_bytes):
            digest.update(chunk)
    return digest.hexdigest()


def _open_regular(path: str | Path) -> tuple[int, int]:
    """A descriptor and the size of a regular file."""
    # A pipe without a writer would be waited for.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, f"it is {_kind(status.st_mode)}, not a file", str(path))
    return descriptor, status.st_size


def _too_large(path: str | AnyPath, max_bytes: int) -> TooLarge:
    return TooLarge(errno.EFBIG, f"it has more than the {max_bytes} bytes allowed", str(path))


def _kind(mode: int) -> str:
    kinds = {stat.S_ISDIR: "a folder", stat.S_ISFIFO: "a pipe", stat.S_ISSOCK: "a socket"}
    return next((name for is_kind, name in kinds.items() if is_kind(mode)), "a device")
