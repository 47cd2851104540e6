"""Where a training process runs: alone, under torchrun, or under Ray Train, behind one small interface."""

import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
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

    def checkpoints(self) -> Iterator[AbstractContextManager[Path]]:
        """The finished checkpoints, newest first, each as a local folder that is valid inside its ``with``.

        Every rank asks for equally many. To ask for another one says that those before are of no use.
        """
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
        self._passed_over: list[Path] = []

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
            for folder in self._superseded(name):
                shutil.rmtree(folder)
        if self.world_size > 1:
            dist.barrier()

    def asked_to_stop(self) -> bool:
        """See :meth:`TrainContext.asked_to_stop`; Ctrl-C ends these runs at once."""
        return False

    def checkpoints(self) -> Iterator[AbstractContextManager[Path]]:
        """See :meth:`TrainContext.checkpoints`."""
        for folder in reversed(self._finished()):
            yield nullcontext(folder)
            self._passed_over.append(folder)

    def _superseded(self, newest: str) -> list[Path]:
        """What need not be kept beside a new checkpoint: a damaged one takes no whole one's place."""
        finished = self._finished()
        whole = [f for f in finished if f not in self._passed_over and (f / MANIFEST_FILE).exists()]
        reached = step_of(newest) or 0
        damaged = [f for f in finished if f not in whole and (step_of(f.name) or 0) <= reached]
        return whole[: -self._num_to_keep] + damaged

    def _finished(self) -> list[Path]:
        folders = [folder for folder in self._folder.glob("step_*") if step_of(folder.name) is not None]
        return sorted(folders, key=lambda folder: (step_of(folder.name), folder.stat().st_mtime))


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


def first_said(sentence: str | None) -> str | None:
    """What the lowest rank that says anything says, on every rank; None if all are silent. Collective."""
    said = [sentence]
    if dist.is_initialized() and dist.get_world_size() > 1:
        said = [None] * dist.get_world_size()
        dist.all_gather_object(said, sentence)
    return next((sentence for sentence in said if sentence is not None), None)
