"""Checkpoints written while training goes on.

Weights and moments change in one place of a step only, the optimiser's update. So what lies in this machine's memory is
not copied: a thread writes it from where it is, during the passes of the next step, and the update waits for the rest
of the writing, though not for the disk. What lies on a GPU is copied to host memory first and may be written for many
steps; buffers, which forward passes change, are copied always.

Every rank writes its own pieces and then, as ``rank_00000.json``, what it wrote. Rank 0 waits for those of all ranks
and writes the manifest. The ranks exchange nothing but these files, so a checkpoint is finished although one of them
meets an error in the meantime, as long as its process lives.
"""

import threading
import time
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

import torch.distributed as dist
from pydantic import RootModel

from posecore.errors import CheckpointError
from posecore.shards.remote import is_of_a_store
from posecore.storage import AnyPath, write_atomically
from posecore.training.checkpoint import Counts, Progress, checkpoint_name, commit_checkpoint
from posecore.training.checkpoint_files import FileEntry, settle
from posecore.training.checkpoint_pieces import Piece, write_pieces
from posecore.training.context import TrainContext
from posecore.training.divergence import refuse_diverged

_LOOK_S = 0.05  # between two looks for what the other ranks wrote
_PATIENCE_S = 30.0  # with the other ranks, once this one has met an error


class _Written(RootModel[dict[str, FileEntry]]):
    """``rank_….json``."""


class CheckpointSaver:
    """Writes one checkpoint at a time; every rank has one. Leaving its ``with`` finishes what is being written.

    Args:
        context: where the run is, and its checkpoints.
    """

    def __init__(self, context: TrainContext) -> None:
        self._context = context
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: Future[None] | None = None
        self._written = threading.Event()
        self._written.set()
        self._abandoned = threading.Event()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.finish()
        else:
            self._abandoned.set()
        self._thread.shutdown()

    def save(self, pieces: Iterable[Piece], counts: Counts, progress: Progress) -> None:
        """Begins to write a checkpoint, once the one before is written. Collective.

        Args:
            pieces: of this rank; those of all ranks together are the whole state.
            counts: of the state.
            progress: of the run.

        Raises:
            DivergenceError: a tensor of any rank is not finite; nothing is written.
            CheckpointError: the one before could not be written.
        """
        self._join()
        own = [_kept(piece) for piece in pieces]
        refuse_diverged(((piece.key, piece.values) for piece in own), progress.step)
        name = checkpoint_name(progress.step, self._context.world_size, self._context.attempt)
        self._written.clear()
        self._pending = self._thread.submit(self._write, name, own, counts, progress)

    def before_update(self) -> None:
        """Returns when weights and moments may be changed.

        Raises:
            CheckpointError: what was being written cannot be written.
        """
        self._written.wait()
        if self._pending is not None and self._pending.done():
            self._join()

    def finish(self) -> None:
        """Returns on every rank when the last checkpoint is whole. Collective.

        Raises:
            CheckpointError: it cannot be written.
        """
        self._join()
        if dist.is_initialized() and dist.get_world_size() > 1:
            dist.barrier()

    def _join(self) -> None:
        if self._pending is None:
            return
        pending, self._pending = self._pending, None
        pending.result()

    def _write(self, name: str, pieces: list[Piece], counts: Counts, progress: Progress) -> None:
        store, rank = self._context.store, self._context.rank
        folder = store.path(name)
        try:
            files = write_pieces(folder, f"rank_{rank:05d}", pieces)
            pieces.clear()
            self._written.set()
            settle(folder, files)
            if rank > 0:
                write_atomically(_note(folder, rank), _Written(files).model_dump_json().encode())
            if rank == 0:
                files |= self._others(folder)
                commit_checkpoint(folder, files, counts, progress)
                for other in range(1, self._context.world_size):
                    _note(folder, other).unlink(missing_ok=True)
                store.remove_superseded(name, None if progress.best is None else progress.best[1])
        except Exception as error:  # every store has errors of its own
            if not is_of_a_store(error):
                raise
            reason = " ".join(str(getattr(error, "strerror", None) or error).split()).rstrip(".")
            raise CheckpointError(
                f"{folder}: the checkpoint cannot be written ({reason}); the one before is whole. "
                "Make room, or see to it that the store can be written, and start the run again."
            ) from error
        finally:
            self._written.set()

    def _others(self, folder: AnyPath) -> dict[str, FileEntry]:
        """What the other ranks wrote, as soon as all have."""
        files: dict[str, FileEntry] = {}
        given_up_at = None
        for rank in range(1, self._context.world_size):
            note = _note(folder, rank)
            while not note.exists():
                if self._abandoned.is_set():
                    given_up_at = given_up_at or time.monotonic() + _PATIENCE_S
                    if time.monotonic() > given_up_at:
                        raise CheckpointError(
                            f"{folder}: rank {rank} did not write its pieces; the checkpoint is left."
                        )
                time.sleep(_LOOK_S)
                if not isinstance(folder, Path):
                    folder.fs.invalidate_cache()
            files |= _Written.model_validate_json(note.read_bytes()).root
        return files


def _kept(piece: Piece) -> Piece:
    """A piece that no forward pass changes."""
    in_place = piece.values.device.type == "cpu" and not piece.key.startswith("buffers/")
    return piece if in_place else replace(piece, values=piece.values.to("cpu", copy=True))


def _note(folder: AnyPath, rank: int) -> AnyPath:
    return folder / f"rank_{rank:05d}.json"
