"""How a rank comes to its method: built whole, or filled from what rank 0 built, without ever having it whole.

Where weights are sharded every rank makes an outline, whose weights have no memory, and shards that. Its values are
read by range from a checkpoint; for a fresh start rank 0 builds the method, once, and writes what it is worth where
checkpoints lie. So what a fresh start begins with is the same bits, however many ranks there are.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch.distributed as dist
from torch import nn

from posecore.errors import CheckpointError, PoseCoreError
from posecore.storage import AnyPath, remove_folder
from posecore.training.checkpoint import Checkpoint, Counts, Progress, commit_checkpoint
from posecore.training.checkpoint_pieces import Piece, write_pieces
from posecore.training.context import TrainContext, first_said
from posecore.training.engine import Engine, EngineConfig
from posecore.training.torch_engine import buffer_pieces


@dataclass(frozen=True)
class MethodMakers:
    """Two ways to a method.

    Attributes:
        build: with its first weights.
        outline: with the same names and shapes; tensors may be on the meta device. Called on every rank.
    """

    build: Callable[[], nn.Module]
    outline: Callable[[], nn.Module]


class FirstState:
    """The first values of a method of which every rank has an outline.

    Args:
        makers: of the method.
        context: where the run is.
    """

    def __init__(self, makers: MethodMakers, context: TrainContext) -> None:
        self._makers = makers
        self._context = context
        self._folder: AnyPath = context.store.start(context.attempt)
        self._is_written = False

    def write(self) -> None:
        """Has rank 0 build the method and write it, unless it has. Collective.

        Raises:
            PoseCoreError: the method cannot be built, or the store cannot be written.
        """
        if self._is_written:
            return
        fault: PoseCoreError | None = None
        if self._context.rank == 0:
            try:
                self._write()
            except PoseCoreError as error:
                fault = error
            except OSError as error:
                fault = CheckpointError(f"{self._folder} cannot be written ({error.strerror or error}); make room.")
        said = first_said(None if fault is None else str(fault))
        if said is not None:
            raise fault or CheckpointError(said)
        self._is_written = True

    def restore(self, engine: Engine) -> None:
        """Gives an engine what was written. Collective.

        Raises:
            CheckpointError: a weight is not finite.
        """
        self.write()
        checkpoint = Checkpoint(self._folder)
        engine.restore(checkpoint)
        checkpoint.close()

    def remove(self) -> None:
        """Takes away what was written, by attempts that were killed, too. Collective."""
        if self._is_written and dist.is_initialized():
            dist.barrier()
        if self._context.rank == 0:
            for folder in self._context.store.starts():
                remove_folder(folder)

    def _write(self) -> None:
        method = self._makers.build()
        pieces = [Piece.whole(f"weights/{name}", parameter) for name, parameter in method.named_parameters()]
        files = write_pieces(self._folder, "rank_00000", pieces + buffer_pieces(method))  # for now: need not be settled
        progress = Progress(step=0, seed=0, world_size=self._context.world_size, config={})
        commit_checkpoint(self._folder, files, Counts(optimizer_steps=0), progress)


def is_sharded(config: EngineConfig, context: TrainContext) -> bool:
    """Whether the ranks of a run have parts of the weights only."""
    return config.zero_stage == 3 and context.world_size > 1
