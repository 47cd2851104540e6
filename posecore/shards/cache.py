"""Whole remote shards on local disk, by content, within a bounded amount of space.

Random reads from an object store are slow, and a shard is read many times, so a shard is fetched once. Entries are
named by the shard's digest: several stores, splits and processes may share one folder, and a wrong entry cannot exist,
because the digest is checked before the entry gets its name.
"""

import os
import shutil
import threading
from pathlib import Path

from posecore.asides import aside_file
from posecore.config import Config
from posecore.errors import IntegrityError
from posecore.shards.manifest import ShardEntry
from posecore.shards.tar import tar_digest
from posecore.storage import AnyPath, file_content

_CHUNK_BYTES = 1 << 22


class CacheConfig(Config):
    """Where remote shards are kept.

    Attributes:
        folder: local folder; None takes POSECORE_CACHE, else ``~/.cache/posecore``.
        max_bytes: the least recently opened shards are removed beyond this.
    """

    folder: Path | None = None
    max_bytes: int = 64 << 30


class ShardCache:
    """Fetches shards into a local folder. Safe to use from several threads and processes at a time."""

    def __init__(self, config: CacheConfig) -> None:
        default = os.environ.get("POSECORE_CACHE") or Path.home() / ".cache" / "posecore"
        self.folder = (config.folder or Path(default)) / "shards"
        self._max_bytes = config.max_bytes
        self._guard = threading.Lock()
        self._locks: dict[str, threading.Lock] = {}

    def fetch(self, source: AnyPath, entry: ShardEntry) -> Path:
        """The local copy of a shard, fetched if it is not there.

        Raises:
            IntegrityError: the remote bytes are not those the manifest names.
        """
        target = self.folder / f"{entry.digest}.tar"
        with self._guard:
            lock = self._locks.setdefault(entry.digest, threading.Lock())
        with lock:
            if target.exists():
                os.utime(target)
                return target
            self.folder.mkdir(parents=True, exist_ok=True)
            self._make_room(entry.size_bytes)
            with aside_file(self.folder) as aside:
                _download(source, aside, entry)
                aside.replace(target)
            return target

    def _make_room(self, size_bytes: int) -> None:
        entries = []
        for path in self.folder.glob("*.tar"):
            try:
                entries.append((path.stat(), path))
            except FileNotFoundError:  # another process made room at the same time
                continue
        entries.sort(key=lambda entry: entry[0].st_mtime_ns)
        used = sum(status.st_size for status, _ in entries)
        for status, path in entries:
            if used + size_bytes <= self._max_bytes:
                return
            path.unlink(missing_ok=True)  # who reads it at this moment keeps it open
            used -= status.st_size


def _download(source: AnyPath, target: Path, entry: ShardEntry) -> None:
    with source.open("rb") as remote, target.open("wb") as local:
        shutil.copyfileobj(remote, local, _CHUNK_BYTES)
    with file_content(target) as data:
        intact = tar_digest(data, str(source)) == entry.digest
    if not intact:
        raise IntegrityError(f"{source}: the shard's bytes are not those its manifest names; ingest the split again.")
