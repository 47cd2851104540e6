"""Models without memory: names, shapes and types of whatever size, and no values."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

_DRAWS = (Tensor.normal_, nn.init.normal_)


class _NothingDrawn(TorchFunctionMode):
    """Leaves normal first values out, for which torch on the meta device imports its compiler: a second and 150 MB."""

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        if func in _DRAWS:
            tensor = args[0] if args else given["tensor"]
            if tensor.is_meta:
                return tensor
        return func(*args, **given)


@contextmanager
def without_memory() -> Iterator[None]:
    """Modules and tensors that are made in here are on PyTorch's ``meta`` device."""
    with torch.device("meta"), _NothingDrawn():
        yield
