"""Where a training process runs: alone, under torchrun, or under Ray Train, behind one small interface."""

import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Protocol, TypeAlias

import torch
import torch.distributed as dist

from posecore.asides import AsideFolder
from posecore.training.checkpoint import MANIFEST_FILE, step_of

Log: TypeAlias = Callable[[Mapping[str, float], int], None]
"""Takes metrics by name and the step they belong to."""


class TrainContext(Protocol):
    """One rank's view of the run."""

    @property
    def rank(self) -> int:
        """Number of this process among all."""
        ...

    @property
    def world_size(self) -> int:
        """Number of processes."""
        ...

    @property
    def device(self) -> torch.device:
        """Device of this rank."""
        ...

    @property
    def attempt(self) -> str:
        """Another word after every restart, the same on every rank; letters and digits."""
        ...

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Records metrics; called on rank 0 only."""
        ...

    def scratch(self) -> Path:
        """A new folder to write a checkpoint into; called on rank 0 only."""
        ...

    def report(self, metrics: Mapping[str, float], checkpoint: Path | None, name: str) -> None:
        """Hands over a finished checkpoint and returns when it is safe. Called on every rank, the same number of times.

        Args:
            metrics: of this rank.
            checkpoint: the folder from :meth:`scratch` on rank 0, which is consumed; None on the others.
            name: what to call it.
        """
        ...

    def asked_to_stop(self) -> bool:
        """Whether the run should write a checkpoint and end now. Called on every rank after every step but the last.

        The answer is the same on every rank.
        """
        ...

    def latest_checkpoint(self) -> AbstractContextManager[Path | None]:
        """The newest finished checkpoint as a local folder, valid inside the ``with``; None at the first start."""
        ...


class LocalContext:
    """A run without Ray: one process, or as many as torchrun started.

    Args:
        run_dir: checkpoints are kept in ``run_dir/checkpoints``.
        log: receives rank 0's metrics.
        device: default the rank's GPU if there is one.
        num_to_keep: older checkpoints are deleted.
    """

    def __init__(
        self, run_dir: Path, log: Log | None = None, device: torch.device | None = None, num_to_keep: int = 3
    ) -> None:
        self.rank = int(os.environ.get("RANK", "0"))
        self.world_size = int(os.environ.get("WORLD_SIZE", "1"))
        self.device = device or default_device()
        if self.world_size > 1 and not dist.is_initialized():
            dist.init_process_group("nccl" if self.device.type == "cuda" else "gloo", timeout=timedelta(minutes=30))
        self.attempt = agreed_word()
        self._folder = run_dir / "checkpoints"
        self._log = log
        self._num_to_keep = num_to_keep

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """See :meth:`TrainContext.log`."""
        if self._log is not None:
            self._log(metrics, step)

    def scratch(self) -> Path:
        """See :meth:`TrainContext.scratch`."""
        self._aside = AsideFolder(self._folder)
        return self._aside.path

    def report(self, metrics: Mapping[str, float], checkpoint: Path | None, name: str) -> None:
        """See :meth:`TrainContext.report`."""
        if checkpoint is not None:
            checkpoint.replace(self._folder / name)
            self._aside.close()
            for folder in self._finished()[: -self._num_to_keep]:
                shutil.rmtree(folder)
        if self.world_size > 1:
            dist.barrier()

    def asked_to_stop(self) -> bool:
        """See :meth:`TrainContext.asked_to_stop`; Ctrl-C ends these runs at once."""
        return False

    @contextmanager
    def latest_checkpoint(self) -> Iterator[Path | None]:
        """See :meth:`TrainContext.latest_checkpoint`."""
        finished = self._finished()
        yield finished[-1] if finished else None

    def _finished(self) -> list[Path]:
        folders = [folder for folder in self._folder.glob("step_*") if (folder / MANIFEST_FILE).exists()]
        return sorted(
            (f for f in folders if step_of(f.name) is not None), key=lambda f: (step_of(f.name), f.stat().st_mtime)
        )


def default_device() -> torch.device:
    """This rank's GPU, or the CPU where there is none."""
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("cpu")


def agreed_word() -> str:
    """A new random word of letters and digits, the same on every rank."""
    words = [uuid.uuid4().hex[:8]]
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.broadcast_object_list(words, src=0)
    return words[0]
