"""Training that has gone wrong: which loss terms are not finite, whether that is to be borne, and what is put back.

An engine makes no update of a gradient that is not finite and says so on every rank alike
(:func:`~posecore.training.engine.checked_total`). Everything here happens after that, so a good step pays for nothing.
"""

import sys
from collections.abc import Iterable, Mapping, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn
from tqdm import tqdm

from posecore.counting import counted
from posecore.errors import CheckpointError, DivergenceError
from posecore.models.finite import refuse_nonfinite
from posecore.training.context import first_said
from posecore.training.engine import Update


class SkippedSteps:
    """Bears with some steps that are not finite, and puts back what their forward passes have changed.

    A skipped step leaves weights, moments, their counts and the moving average alone, because no update is made, and
    buffers (statistics, prototypes, a mean teacher) as they were before its forward passes. It uses up its number: the
    order of samples and the schedule go on, and a mean teacher takes in the unchanged student once more.

    Args:
        method: whose buffers are put back.
        limit: so many steps are skipped.
        count: of those that have been, in the run so far.
    """

    def __init__(self, method: nn.Module, limit: int, count: int) -> None:
        self.count = count
        self._limit = limit
        self._buffers = list(method.buffers()) if limit else []
        self._kept = [torch.empty_like(buffer) for buffer in self._buffers]

    @torch.no_grad()
    def prepare(self) -> None:
        """Remembers the buffers, if a step may be skipped."""
        if self._buffers:
            torch._foreach_copy_(self._kept, self._buffers)

    @torch.no_grad()
    def take(self, update: Update, step: int) -> bool:
        """Skips a step for which no update was made, or ends the run. Collective: every rank calls it.

        Args:
            update: what became of the step.
            step: its number, the first being 1.

        Returns:
            Whether the step's losses are finite and only its loss scale was too large, which is now halved. That is no
            skipped step; it happens now and then in ``fp16``.

        Raises:
            DivergenceError: names the step, and the terms and datasets that are not finite.
        """
        terms = _nonfinite(update.losses)
        if update.rescaled and not terms:
            return True
        what = f"step {step}: {_sentence(terms, update.losses)}"
        if self.count >= self._limit:
            already = f" after {self.count} that were skipped" if self.count else ""
            raise DivergenceError(
                f"training diverged in {what}{already}. No update was made of it, nothing is registered, and the last "
                "checkpoint is one from before; lower optimizer.lr or optimizer.clip_norm, warm up longer, or let "
                "skip_nonfinite_steps pass over a few such steps."
            )
        self.count += 1
        if self._buffers:
            torch._foreach_copy_(self._buffers, self._kept)
        if not dist.is_initialized() or dist.get_rank() == 0:
            tqdm.write(f"skipped {what} ({self.count} of at most {counted(self._limit, 'step')})", file=sys.stderr)
        return False


def refuse_diverged(tensors: Iterable[tuple[str, Tensor]], step: int) -> None:
    """Returns if what a checkpoint would hold is finite. Collective, so that no rank waits for one that gave up.

    Args:
        tensors: this rank's pieces, by name.
        step: number of steps done.

    Raises:
        DivergenceError: names tensors that are not; on every rank.
    """
    found = None
    try:
        refuse_nonfinite(
            tensors, f"training diverged by step {step}", "it is not saved, and the last checkpoint is one from before."
        )
    except CheckpointError as error:
        found = str(error)
    found = first_said(found)
    if found is not None:
        raise DivergenceError(found)


def _nonfinite(losses: Mapping[str, Tensor]) -> list[str]:
    """Names of the terms that are not finite on any rank."""
    bad = torch.stack([(~loss.isfinite()).float().mean() for loss in losses.values()])
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(bad, op=dist.ReduceOp.MAX)
    return [name for name, share in zip(losses, bad.tolist(), strict=True) if share]


def _sentence(terms: Sequence[str], losses: Mapping[str, Tensor]) -> str:
    if not terms:
        return f"the gradient has no finite norm, although every loss is finite ({', '.join(losses)})"
    named = (
        f"the loss term {term}" + (f" of dataset {term.partition('/')[2]}" if "/" in term else "") for term in terms
    )
    return f"not finite is {' and '.join(named)}"
