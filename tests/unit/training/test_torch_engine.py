"""What reaches AdamW: the mean over micro-batches, clipped by the norm of everything together.

AdamW hides a gradient's scale, so its first moment is read: after one step, 1 - beta times the gradient.
"""

import pytest
import torch
from torch import Tensor, nn

from posecore.errors import ConfigError
from posecore.training.engine import DeepSpeedEngineConfig, EngineSettings, TorchEngineConfig, build_engine
from posecore.training.optimizer import OptimizerConfig

ROWS = torch.tensor([[1.0, 5.0], [2.0, -6.0], [3.0, 7.0], [6.0, 10.0]])


class _Slopes(nn.Module):
    """Two losses whose gradients are the means of the columns of the batch, of which the second counts 2."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = (nn.Parameter(torch.zeros(2)) for _ in range(2))

    def forward(self, rows: Tensor) -> dict[str, Tensor]:
        first, second = rows.mean(dim=0)
        return {"first": 3 + first * self.first[0], "second": 2 * second * self.second[1]}


def _step(clip_norm: float | None, *batches: Tensor) -> tuple[dict[str, list[float]], dict[str, Tensor]]:
    """The gradients of one step as AdamW saw them, and the losses."""
    config = OptimizerConfig(clip_norm=clip_norm, betas=(0.75, 0.999))
    settings = EngineSettings(
        optimizer=config, micro_batch=len(batches[0]), accumulation=len(batches), device=torch.device("cpu")
    )
    engine = build_engine(TorchEngineConfig(), _Slopes(), settings)
    losses = engine.step(list(batches), 1.0).losses
    moments = {p.key.removeprefix("exp_avg/"): p.values for p in engine.pieces() if p.key.startswith("exp_avg/")}
    return {name: (moment / 0.25).tolist() for name, moment in moments.items()}, losses


@pytest.mark.parametrize("parts", [1, 2, 4])
def test_micro_batches_are_averaged(parts: int) -> None:
    gradients, losses = _step(None, *ROWS.chunk(parts))
    assert gradients == {"first": [3.0, 0.0], "second": [0.0, 8.0]}
    assert {name: loss.item() for name, loss in losses.items()} == {"first": 3.0, "second": 0.0}


def test_the_norm_of_all_gradients_together_is_clipped() -> None:
    gradients, _ = _step(2.0, ROWS)
    norm = (3.0**2 + 8.0**2) ** 0.5
    assert gradients["first"] == pytest.approx([2 * 3 / norm, 0], rel=1e-5)
    assert gradients["second"] == pytest.approx([0, 2 * 8 / norm], rel=1e-5)


def test_a_small_gradient_is_not_clipped() -> None:
    assert _step(9.0, ROWS)[0] == {"first": [3.0, 0.0], "second": [0.0, 8.0]}


def test_a_step_is_as_large_as_its_rate() -> None:
    """AdamW's first step is the rate itself, whatever the gradient."""
    for factor in (1.0, 0.25):
        model = _Slopes()
        config = OptimizerConfig(lr=0.1, weight_decay=0, clip_norm=None)
        settings = EngineSettings(optimizer=config, micro_batch=4, accumulation=1, device=torch.device("cpu"))
        build_engine(TorchEngineConfig(), model, settings).step([ROWS], factor)
        assert model.first.tolist() == pytest.approx([-0.1 * factor, 0])


def test_weights_that_do_not_learn_are_not_rounded_for_good() -> None:
    method = _Slopes()
    method.first.requires_grad = False
    settings = EngineSettings(optimizer=OptimizerConfig(), micro_batch=1, accumulation=1, device=torch.device("cpu"))
    with pytest.raises(ConfigError, match="bf16-weights keeps float32 values of weights that learn only, and first"):
        build_engine(DeepSpeedEngineConfig(zero_stage=3, precision="bf16-weights"), method, settings)
