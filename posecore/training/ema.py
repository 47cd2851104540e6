"""An exponential moving average of the weights: what is evaluated and kept, beside what is trained.

The rule is the one that RTMPose and DWPose were trained with, mmdetection's ``ExpMomentumEMA`` with its buffers
averaged, too: after its 0-based update ``t`` the average takes in ``momentum + (1 - momentum) exp(-(1 + t) / warmup)``
of the weights, and the first update copies them. Without the warm-up an average of 2e-4 needs 23,000 steps to forget
99 % of what it started from.

torch's :class:`~torch.optim.swa_utils.AveragedModel` is not used, only its multi-tensor arithmetic: it deep-copies the
whole method, which under DeepSpeed carries hooks of the original and in a mean teacher's case another average, averages
constants and prototypes with the weights, and truncates BatchNorm's count of batches.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import torch
from pydantic import Field
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from posecore.config import Config
from posecore.counting import counted
from posecore.errors import ConfigError
from posecore.models.moving_average import follow
from posecore.models.sharded import is_sharded, shape_of, take_over, weight_run
from posecore.training.checkpoint import Checkpoint
from posecore.training.checkpoint_pieces import Piece
from posecore.training.torch_engine import own_share

_MOST_OF_START = 0.01


class AverageConfig(Config):
    """How the moving average follows the weights; the published rule by default.

    Attributes:
        momentum: share of the weights that every update takes in, late in a run.
        warmup: updates in which that share falls from 1, to 1/e of the way after so many; 0 for a constant share.
    """

    momentum: float = Field(default=2e-4, gt=0, lt=1)
    warmup: int = Field(default=2000, ge=0)

    def share(self, update: int) -> float:
        """Of the weights in the average after the 0-based ``update``; 1, which is a copy, after the first."""
        if update == 0:
            return 1.0
        return self.momentum + (1 - self.momentum) * (math.exp(-(1 + update) / self.warmup) if self.warmup else 0.0)

    def share_of_start(self, updates: int) -> float:
        """Of the weights that the first update copied, in the average after so many: the product of ``1 - share``."""
        if updates <= 1:
            return 1.0
        late = (updates - 1) * math.log1p(-self.momentum)
        if not self.warmup:
            return math.exp(late)
        warm = np.exp(-np.arange(2, updates + 1, dtype=np.float64) / self.warmup)
        return math.exp(late + float(np.log1p(-warm).sum()))

    def check_length(self, updates: int) -> None:
        """Refuses an average that would still remember its start when the run ends.

        Raises:
            ConfigError: more than 1 % of it is the first weights, and a model nobody wants would be judged and kept.
        """
        share = self.share_of_start(updates)
        if share > _MOST_OF_START:
            raise ConfigError(
                f"average: {100 * share:.2g} % of what is kept after its {counted(updates, 'step')} would be the "
                "weights it started from, and at most 1 % may be: train longer, raise average.momentum, or let it "
                "begin faster by average.warmup (published: 2000)."
            )


class WeightAverage:
    """Follows a method's parameters that learn, and the statistics of its BatchNorm layers.

    What is averaged with the weights are the statistics that the layers had with these weights; their counts of batches
    are copied. Other buffers are constants, or averages already (prototypes, a mean teacher), and are left as they are.

    Where weights are sharded, every rank averages the runs that it keeps.

    Args:
        method: what is followed.
        config: the rule.
    """

    def __init__(self, method: nn.Module, config: AverageConfig) -> None:
        self._config = config
        self._updates = 0
        self._average = {piece.key: piece.values.clone() for piece in _followed(method)}
        self._method = method

    @property
    def updates(self) -> int:
        """How often :meth:`update` has been called, in earlier parts of the run, too."""
        return self._updates

    def update(self, method: nn.Module) -> None:
        """Takes in the weights after a step."""
        present = ((piece.key, piece.values) for piece in _followed(method))
        if self._updates == 0:  # a copy, whatever was there: sharded weights may have had no values yet
            for name, tensor in present:
                self._average[name].copy_(tensor)
        else:
            follow(self._average, present, 1 - self._config.share(self._updates))
        self._updates += 1

    def pieces(self) -> list[Piece]:
        """What this rank writes of the average."""
        followed = _followed(self._method)
        pieces = [replace(p, key=f"average/{p.key}", values=self._average[p.key]) for p in followed]
        divided = {f"average/{name}" for name, p in self._method.named_parameters() if is_sharded(p)}
        runs = [piece for piece in pieces if piece.key in divided]
        return runs + own_share([piece for piece in pieces if piece.key not in divided])

    def restore(self, method: nn.Module, checkpoint: Checkpoint) -> None:
        """Takes over an average, where the checkpoint has one; otherwise it starts at the next update. Not collective.

        Statistics may be missing from that of an older checkpoint, and start from the method's, which are restored.

        Raises:
            CheckpointError: numbers are not finite.
            IntegrityError: a file is missing, truncated or changed.
        """
        self._updates = checkpoint.counts.average_updates if checkpoint.shapes("average") else 0
        for piece in _followed(method):
            average = self._average[piece.key]
            if checkpoint.has("average", piece.key):
                checkpoint.read_into("average", piece.key, average, piece.start)
            else:
                average.copy_(piece.values)

    @contextmanager
    def applied(self, method: nn.Module) -> Iterator[None]:
        """Lets the method compute with the average inside the ``with``; what changes there is kept by the average."""
        self._swap(method)
        try:
            yield
        finally:
            self._swap(method)

    @torch.no_grad()
    def _swap(self, method: nn.Module) -> None:
        for piece in _followed(method):
            weights = piece.values.clone()
            piece.values.copy_(self._average[piece.key])
            self._average[piece.key] = weights
        take_over(method)


def _followed(method: nn.Module) -> Iterator[Piece]:
    """What this rank keeps of what learns, and the statistics, by their names in the method; in their own memory."""
    for name, parameter in method.named_parameters():
        run = weight_run(parameter) if parameter.requires_grad else None
        if run is not None:
            yield Piece(name, shape_of(parameter), run.start, run.values)
    for prefix, module in method.named_modules():
        if isinstance(module, _BatchNorm):
            for name, buffer in module.named_buffers(prefix, recurse=False):
                if name.rpartition(".")[2] in ("running_mean", "running_var", "num_batches_tracked"):
                    yield Piece(name, tuple(buffer.shape), 0, buffer.view(-1))
