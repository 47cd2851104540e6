"""The checkpoints of a run: one folder, or one prefix of an object store, that all ranks write and read."""

from contextlib import suppress
from pathlib import Path

import torch.distributed as dist

from posecore.storage import AnyPath, remove_folder
from posecore.training.checkpoint import MANIFEST_FILE, step_of

_START = "start_"


class CheckpointStore:
    """Where checkpoints lie. Nodes need share nothing but this.

    Args:
        folder: holds a folder per checkpoint.
        num_to_keep: older ones are deleted.
    """

    def __init__(self, folder: AnyPath, num_to_keep: int = 3) -> None:
        self._folder = folder
        self._num_to_keep = num_to_keep
        self._passed_over: set[str] = set()

    def path(self, name: str) -> AnyPath:
        """Folder of a checkpoint, whether it is there or not."""
        return self._folder / name

    @property
    def folder(self) -> AnyPath:
        """Holds the checkpoints."""
        return self._folder

    def names(self) -> list[str]:
        """All that look like checkpoints, newest first, whole or not; the same on every rank. Collective."""
        found = [self._listed()]
        if dist.is_initialized() and dist.get_world_size() > 1:
            dist.broadcast_object_list(found, src=0)
        return found[0]

    def newest(self) -> AnyPath | None:
        """Folder of the newest that was finished, if there is one; looked for by this process alone."""
        return next((self.path(name) for name in self._listed() if self._is_finished(name)), None)

    def start(self, attempt: str) -> AnyPath:
        """Folder of what an attempt at a fresh start begins with, while it is read."""
        return self._folder / f"{_START}{attempt}"

    def starts(self) -> list[AnyPath]:
        """All that lie there, those of attempts that were killed among them; looked for by this process alone."""
        with suppress(FileNotFoundError, NotADirectoryError):
            return [path for path in self._folder.iterdir() if path.name.startswith(_START)]
        return []

    def pass_over(self, name: str) -> None:
        """Says that a checkpoint is of no use."""
        self._passed_over.add(name)

    def of_step(self, step: int) -> AnyPath | None:
        """Folder of the newest finished one of a step, if there is one; looked for by this process alone."""
        names = (name for name in self._listed() if step_of(name) == step and self._is_finished(name))
        return next((self.path(name) for name in names), None)

    def remove_superseded(self, newest: str, best: int | None = None) -> None:
        """Deletes what need not be kept beside a new checkpoint: a damaged one takes no whole one's place.

        Args:
            newest: name of the new one.
            best: step of one that is kept, however old it is.
        """
        names = self._listed()
        kept = None if best is None else self.of_step(best)
        whole = [name for name in names if name not in self._passed_over and self._is_finished(name)]
        reached = step_of(newest) or 0
        useless = [name for name in names if name not in whole and (step_of(name) or 0) <= reached]
        for name in whole[self._num_to_keep :] + useless:
            if kept is not None and name == kept.name:
                continue
            (self.path(name) / MANIFEST_FILE).unlink(missing_ok=True)  # first: half removed, it is no checkpoint
            remove_folder(self.path(name))

    def _listed(self) -> list[str]:
        if not isinstance(self._folder, Path):
            self._folder.fs.invalidate_cache()  # others write, too
        names: list[str] = []
        # In an object store a folder ends with its last file, which another rank may remove at any moment.
        with suppress(FileNotFoundError, NotADirectoryError):
            names = [path.name for path in self._folder.iterdir() if step_of(path.name) is not None]
        return sorted(names, key=lambda name: (step_of(name), self._written_at(name), name), reverse=True)

    def _is_finished(self, name: str) -> bool:
        return bool((self.path(name) / MANIFEST_FILE).exists())

    def _written_at(self, name: str) -> float:
        """When a checkpoint was finished; of two attempts at a step, the later one counts."""
        try:
            return float((self.path(name) / MANIFEST_FILE).stat().st_mtime)
        except OSError:
            return 0.0
