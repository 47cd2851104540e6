"""What a training step keeps in memory, found by running the real modules on tensors without data.

The modules run forward and backward in a ``FakeTensorMode``: every operator reports the tensors it would have made, and
autograd keeps and frees exactly what it would. So nothing about a backbone is written down twice, and the step of a
model of five billion parameters is followed in seconds on a laptop.

The tensors pretend to be on a CPU, where PyTorch's fused attention keeps what it keeps on a GPU (queries, keys, values,
output and one number per row). Not seen are what a GPU library takes for itself and the allocator's rounding.
"""

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


@dataclass(frozen=True)
class Moment:
    """Bytes alive after one operator.

    Attributes:
        activations: everything but the other two: what autograd keeps, and what operators need in passing.
        weight_copies: lower-precision copies of weights that autocast made.
        gradients: finished gradients of parameters.
    """

    activations: int = 0
    weight_copies: int = 0
    gradients: int = 0


class MemoryTrace(TorchDispatchMode):
    """Follows the storages made inside the ``with``; those that exist before do not count.

    Args:
        parameters: whose gradients and copies are told from the rest.

    Attributes:
        moments: one per operator that made something, oldest first.
    """

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        super().__init__()
        self.moments: list[Moment] = [Moment()]
        self._live = {"activations": 0, "weight_copies": 0, "gradients": 0}
        self._weights = {parameter.untyped_storage()._cdata for parameter in parameters}
        self._kinds: dict[int, str] = {}
        for parameter in parameters:
            if parameter.requires_grad:
                parameter.register_post_accumulate_grad_hook(self._gradient_done)

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Runs the operator and notes what it made."""
        output = func(*args, **(kwargs or {}))
        is_cast = func is torch.ops.aten._to_copy.default and args[0].untyped_storage()._cdata in self._weights
        before = len(self._kinds)
        for tensor in tree_leaves(output):
            if isinstance(tensor, Tensor):
                self._follow(tensor.untyped_storage(), "weight_copies" if is_cast else "activations")
        if len(self._kinds) > before:
            self.moments.append(Moment(**self._live))
        return output

    @property
    def now(self) -> Moment:
        """What is alive at present."""
        return Moment(**self._live)

    def _follow(self, storage: torch.UntypedStorage, kind: str) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._weights or key in self._kinds:
            return
        self._kinds[key] = kind
        self._live[kind] += size
        weakref.finalize(storage, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self._live[self._kinds.pop(key)] -= size

    def _gradient_done(self, parameter: Tensor) -> None:
        assert parameter.grad is not None
        storage = parameter.grad.untyped_storage()
        kind = self._kinds[storage._cdata]
        self._kinds[storage._cdata] = "gradients"
        self._live[kind] -= storage.nbytes()
        self._live["gradients"] += storage.nbytes()
        self.moments.append(self.now)
