"""Where a training process runs: alone, under torchrun, or under Ray Train, behind one small interface."""

import os
import uuid
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Protocol, TypeAlias, TypeVar

import torch
import torch.distributed as dist

from posecore.storage import AnyPath
from posecore.training.checkpoint_store import CheckpointStore

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

    @property
    def store(self) -> CheckpointStore:
        """The run's checkpoints, which all ranks write and read."""
        ...

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Records metrics; called on rank 0 only."""
        ...

    def asked_to_stop(self) -> bool:
        """Whether the run should write a checkpoint and end now. Called on every rank after every step but the last.

        The answer is the same on every rank.
        """
        ...


class LocalContext:
    """A run without Ray: one process, or as many as torchrun started.

    Args:
        run_dir: local or remote; checkpoints are kept in ``run_dir/checkpoints``.
        log: receives rank 0's metrics.
        device: default the rank's GPU if there is one.
        num_to_keep: older checkpoints are deleted.
    """

    def __init__(
        self, run_dir: AnyPath, log: Log | None = None, device: torch.device | None = None, num_to_keep: int = 3
    ) -> None:
        self.rank = int(os.environ.get("RANK", "0"))
        self.world_size = int(os.environ.get("WORLD_SIZE", "1"))
        self.device = device or default_device()
        if self.world_size > 1 and not dist.is_initialized():
            dist.init_process_group("nccl" if self.device.type == "cuda" else "gloo", timeout=timedelta(minutes=30))
        self.attempt = agreed_word()
        self.store = CheckpointStore(run_dir / "checkpoints", num_to_keep)
        self._log = log

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """See :meth:`TrainContext.log`."""
        if self._log is not None:
            self._log(metrics, step)

    def asked_to_stop(self) -> bool:
        """See :meth:`TrainContext.asked_to_stop`; Ctrl-C ends these runs at once."""
        return False


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


_SaidT = TypeVar("_SaidT")


def first_said(word: _SaidT | None) -> _SaidT | None:
    """What the lowest rank that says anything says, on every rank; None if all are silent. Collective."""
    said = [word]
    if dist.is_initialized() and dist.get_world_size() > 1:
        said = [None] * dist.get_world_size()
        dist.all_gather_object(said, word)
    return next((word for word in said if word is not None), None)
