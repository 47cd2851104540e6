"""An exponential moving average of the weights: what is evaluated and kept, beside what is trained."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from posecore.models.moving_average import follow


class WeightAverage:
    """Follows a method's parameters: ``average = decay · average + (1 − decay) · weights`` after every step.

    Needs whole parameters on every rank, so ZeRO-3 is refused by the configuration.

    Args:
        method: whose parameters are followed.
        decay: share of the old average.
        average: where to continue, or None to start from the present weights.
    """

    def __init__(self, method: nn.Module, decay: float, average: dict[str, Tensor] | None = None) -> None:
        self._decay = decay
        self._average = {
            name: (parameter if not average else average[name]).detach().to(parameter.device, copy=True)
            for name, parameter in method.named_parameters()
        }

    def update(self, method: nn.Module) -> None:
        """Takes in the weights after a step."""
        follow(self._average, method.named_parameters(), self._decay)

    def tensors(self) -> dict[str, Tensor]:
        """Copies on the CPU, by parameter name."""
        return {name: tensor.to("cpu", copy=True) for name, tensor in self._average.items()}

    @contextmanager
    def applied(self, method: nn.Module) -> Iterator[None]:
        """Lets the method compute with the average inside the ``with``."""
        self._swap(method)
        try:
            yield
        finally:
            self._swap(method)

    @torch.no_grad()
    def _swap(self, method: nn.Module) -> None:
        for name, parameter in method.named_parameters():
            weights = parameter.clone()
            parameter.copy_(self._average[name])
            self._average[name] = weights
