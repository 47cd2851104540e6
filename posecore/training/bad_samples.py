"""Samples that loaders found damaged and passed over: counted over ranks and resumes, named, and not without end."""

import sys
from collections.abc import Iterable, Mapping

import torch
import torch.distributed as dist
from tqdm import tqdm

from posecore.counting import counted
from posecore.errors import IntegrityError
from posecore.schema import BadSample

_NAMED = 3  # at once; a lost disk would fill the screen


class BadSamples:
    """What a run has passed over, the same on every rank once they have agreed.

    Args:
        known: rows by dataset, of the run so far.
        device: where ranks exchange numbers.
    """

    def __init__(self, known: Mapping[str, Iterable[int]], device: torch.device) -> None:
        self._known = {dataset: set(rows) for dataset, rows in known.items()}
        self._device = device
        self._met: dict[tuple[str, int], BadSample] = {}

    def add(self, samples: Iterable[BadSample]) -> None:
        """Takes in what a batch of this rank came without."""
        for sample in samples:
            if sample.row not in self._known.get(sample.dataset, ()):
                self._met[sample.dataset, sample.row] = sample

    @property
    def rows(self) -> dict[str, tuple[int, ...]]:
        """By dataset, the rows of ``index.parquet`` that were agreed on."""
        return {dataset: tuple(sorted(rows)) for dataset, rows in sorted(self._known.items())}

    def agree(self) -> int:
        """Tells every rank what each has met, names it on rank 0, and returns the number known. Collective.

        Raises:
            IntegrityError: more of a dataset is damaged than its share allows; on every rank.
        """
        new = self._gathered()
        for sample in new:
            self._known.setdefault(sample.dataset, set()).add(sample.row)
        if new and (not dist.is_initialized() or dist.get_rank() == 0):
            named = " ".join(f"{sample.dataset} row {sample.row}: {sample.reason}" for sample in new[:_NAMED])
            more = f" And {len(new) - _NAMED} more." if len(new) > _NAMED else ""
            tqdm.write(f"damaged samples passed over, {len(new)} more: {named}{more}", file=sys.stderr)
        for sample in new:
            if (count := len(self._known[sample.dataset])) > sample.allowed:
                raise IntegrityError(
                    f"dataset {sample.dataset} has {counted(count, 'damaged sample')}, more than the "
                    f"{sample.allowed} that loading.max_bad_share allows; one of them: {sample.reason}"
                )
        return sum(len(rows) for rows in self._known.values())

    def _gathered(self) -> list[BadSample]:
        """What any rank has met since the last time, in order of dataset and row."""
        met = dict(self._met)
        if dist.is_initialized() and dist.get_world_size() > 1:
            most = torch.tensor(len(met), device=self._device)
            dist.all_reduce(most, op=dist.ReduceOp.MAX)
            if int(most):
                parts: list[dict[tuple[str, int], BadSample]] = [{}] * dist.get_world_size()
                dist.all_gather_object(parts, met)
                met = {key: sample for part in parts for key, sample in part.items()}
        self._met = {}
        return [met[key] for key in sorted(met)]
