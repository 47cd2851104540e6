"""Whole remote shards on local disk, by content, within a bounded amount of space.

Random reads from an object store are slow, and a shard is read many times, so a shard is fetched once. Entries are
named by the shard's digest: several stores, splits and processes may share one folder, and a wrong entry cannot exist,
because the digest is checked before the entry gets its name.

The bound holds at any time for what the folder takes of the disk, over all processes. Room is made, and reserved by a
file of the full size, under a lock on the folder. Whoever reads an entry holds a lock on it and keeps no file open
afterwards; a locked entry is not removed, so nothing that was unlinked still takes room. A shard that another process
is fetching is waited for; if that process dies, its lock is gone and the next one fetches.
"""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pydantic import Field

from posecore.asides import alone_in
from posecore.config import Config
from posecore.errors import ConfigError, IntegrityError, StorageError
from posecore.shards.manifest import ShardEntry
from posecore.shards.remote import asked_again
from posecore.shards.tar import has_tar_digest
from posecore.storage import AnyPath, file_content

_CHUNK_BYTES = 1 << 22
_PATIENCE_S = 600.0
_POLL_S = 0.02
_DEFAULT_BYTES = 64 << 30


def _bytes_of_machine() -> int:
    text = os.environ.get("POSECORE_CACHE_BYTES", "")
    try:
        return int(float(text)) if text else _DEFAULT_BYTES
    except (ValueError, OverflowError):
        raise ConfigError(f"POSECORE_CACHE_BYTES: {text!r} is no number of bytes; give one such as 64e9.") from None


class CacheConfig(Config):
    """Where remote shards are kept, and tables that are mapped.

    Attributes:
        folder: local folder; None takes POSECORE_CACHE, else ``~/.cache/posecore``.
        max_bytes: of shards; the least recently read are removed, so that never more is taken; None takes
            POSECORE_CACHE_BYTES, else 64 GiB.
    """

    folder: Path | None = None
    max_bytes: int | None = Field(default=None, gt=0)

    @property
    def scratch(self) -> Path:
        """The folder."""
        return self.folder or Path(os.environ.get("POSECORE_CACHE") or Path.home() / ".cache" / "posecore")


class ShardCache:
    """Fetches shards into a local folder. Safe to use from several threads and processes at a time.

    Attributes:
        folder: where they are.
        max_bytes: see :class:`CacheConfig`.
        num_fetched: shards that this object has fetched.
    """

    def __init__(self, config: CacheConfig) -> None:
        self.folder = config.scratch / "shards"
        self.max_bytes = config.max_bytes or _bytes_of_machine()
        self.num_fetched = 0

    def read(self, source: AnyPath, entry: ShardEntry, offset: int, size: int) -> bytes:
        """``size`` bytes of a shard from ``offset`` on, fewer where it ends; fetched if it is not there.

        Raises:
            FileNotFoundError: the store has no such shard.
            IntegrityError: the remote bytes are not those the manifest names.
            StorageError: the store does not answer, or there is no room for the shard.
        """
        with self._held(source, entry) as descriptor:
            return os.pread(descriptor, size, offset)

    def fetch(self, source: AnyPath, entry: ShardEntry) -> None:
        """Makes a shard the latest of the cache.

        Raises:
            FileNotFoundError: and others as :meth:`read`.
        """
        with self._held(source, entry):
            pass

    @contextmanager
    def _held(self, source: AnyPath, entry: ShardEntry) -> Iterator[int]:
        """A descriptor of an entry that is not removed within the block."""
        while (descriptor := self._opened(entry)) is None:
            self._make(source, entry)
        try:
            with suppress(PermissionError):  # another user fetched it
                os.utime(descriptor)
            yield descriptor
        finally:
            os.close(descriptor)

    def _opened(self, entry: ShardEntry) -> int | None:
        try:
            descriptor = os.open(self._path(entry), os.O_RDONLY)
        except FileNotFoundError:
            return None
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        if os.fstat(descriptor).st_nlink:
            return descriptor
        os.close(descriptor)  # removed before it was locked
        return None

    def _path(self, entry: ShardEntry) -> Path:
        return self.folder / f"{entry.digest}.tar"

    def _make(self, source: AnyPath, entry: ShardEntry) -> None:
        """Fetches a shard, or waits until another thread or process has."""
        target, aside = self._path(entry), self.folder / f"{entry.digest}.part"
        patience = time.monotonic() + _PATIENCE_S
        while True:
            with self._alone():
                if target.exists():
                    return
                descriptor = os.open(aside, os.O_RDWR | os.O_CREAT, 0o666)
                mine = _locks(descriptor)
                if mine:
                    os.ftruncate(descriptor, 0)  # what a killed process had
                if mine and self._has_room(entry.size_bytes):
                    os.ftruncate(descriptor, entry.size_bytes)  # counted from now on
                    break
                if mine:
                    aside.unlink()
            try:
                if not mine:
                    fcntl.flock(descriptor, fcntl.LOCK_SH)
                    return
            finally:
                os.close(descriptor)
            if time.monotonic() > patience:
                raise StorageError(
                    f"{self.folder}: no room for a shard of {entry.size_bytes} bytes within the {self.max_bytes} of "
                    "the cache, as everything in it is being read; allow it more (POSECORE_CACHE_BYTES)."
                )
            time.sleep(_POLL_S)
        try:
            asked_again(source, lambda: _download(source, descriptor, entry))
            _check(source, aside, entry)
            with self._alone():
                aside.rename(target)
            self.num_fetched += 1
        except BaseException:
            aside.unlink()
            raise
        finally:
            os.close(descriptor)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Within the block nobody else makes room."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with alone_in(self.folder):
            yield

    def _has_room(self, size_bytes: int) -> bool:
        """Removes what was read longest ago until so much fits, if it can."""
        found = []
        for path in self.folder.iterdir():
            with suppress(FileNotFoundError):  # a fetch that failed has just removed what it had
                found.append((path.stat(), path))
        found.sort(key=lambda item: (item[1].suffix != ".part", item[0].st_mtime_ns))  # those without a writer first
        free = self.max_bytes - sum(status.st_size for status, _ in found)
        for status, path in found:
            if free >= size_bytes:
                break
            if _removed(path):
                free += status.st_size
        return free >= size_bytes


def _locks(descriptor: int) -> bool:
    """Whether a file is nobody else's; it is this one's then."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _removed(path: Path) -> bool:
    """Removes a file unless somebody reads or writes it at this moment."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return True
    try:
        if _locks(descriptor):
            path.unlink(missing_ok=True)
            return True
        return False
    finally:
        os.close(descriptor)


def _download(source: AnyPath, descriptor: int, entry: ShardEntry) -> None:
    with source.open("rb") as remote, os.fdopen(os.dup(descriptor), "wb") as local:
        local.seek(0)
        while chunk := remote.read(_CHUNK_BYTES):
            if local.tell() + len(chunk) > entry.size_bytes:
                raise _not_it(source)
            local.write(chunk)
        local.truncate()


def _check(source: AnyPath, fetched: Path, entry: ShardEntry) -> None:
    with file_content(fetched) as data:
        intact = has_tar_digest(data, entry.digest, str(source))
    if not intact:
        raise _not_it(source)


def _not_it(source: AnyPath) -> IntegrityError:
    return IntegrityError(f"{source}: the shard's bytes are not those its manifest names; ingest the split again.")
