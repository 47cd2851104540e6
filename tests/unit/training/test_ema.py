"""The moving average against torch's own, against closed forms, and on two ranks."""

import math
from collections.abc import Iterator
from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from posecore.errors import ConfigError
from posecore.training.ema import AverageConfig, WeightAverage
from tests.support.checkpoints import averaged


def _model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def _after_each_step(model: nn.Module, steps: int) -> Iterator[int]:
    """A run whose weights and statistics move far in every step."""
    generator = torch.Generator().manual_seed(1)
    for step in range(steps):
        model.train()(torch.randn(8, 3, generator=generator) * (step + 1))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += torch.randn(parameter.shape, generator=generator)
        yield step


@pytest.mark.parametrize(("momentum", "warmup"), [(2e-4, 2000), (2e-4, 3), (0.3, 0)])
def test_it_is_the_published_rule_as_torch_averages(momentum: float, warmup: int) -> None:
    """mmdetection's ExpMomentumEMA, written as the function that torch asks for; buffers included."""

    def published(averages: list[Tensor], presents: list[Tensor], updates: Tensor | int) -> None:
        share = momentum
        if warmup:
            share += (1 - momentum) * math.exp(-(1 + int(updates)) / warmup)
        for average, present in zip(averages, presents, strict=True):
            if average.is_floating_point():
                average.mul_(1 - share).add_(present, alpha=share)
            else:
                average.copy_(present)

    model = _model()
    theirs = AveragedModel(model, multi_avg_fn=published, use_buffers=True)
    ours = WeightAverage(model, AverageConfig(momentum=momentum, warmup=warmup))
    for _ in _after_each_step(model, 25):
        theirs.update_parameters(model)
        ours.update(model)
    expected = theirs.module.state_dict()
    assert averaged(ours).keys() == expected.keys()
    for name, tensor in averaged(ours).items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-5, atol=1e-6, msg=name)
    assert int(averaged(ours)["1.num_batches_tracked"]) == 25
    assert not torch.allclose(averaged(ours)["1.running_var"], model[1].running_var, rtol=1e-4)


@pytest.mark.parametrize(("momentum", "warmup"), [(0.01, 7), (0.2, 30), (0.05, 0)])
def test_the_share_of_the_start_is_what_an_average_of_a_step_function_keeps(momentum: float, warmup: int) -> None:
    """What was 1 at the first update and 0 ever since."""
    config = AverageConfig(momentum=momentum, warmup=warmup)
    weight = nn.Linear(1, 1, bias=False).double()
    nn.init.ones_(weight.weight)
    average = WeightAverage(weight, config)
    average.update(weight)
    assert config.share_of_start(0) == config.share_of_start(1) == 1.0
    nn.init.zeros_(weight.weight)
    for updates in range(2, 13):
        average.update(weight)
        assert averaged(average)["weight"].item() == pytest.approx(config.share_of_start(updates), rel=1e-9)


@pytest.mark.parametrize(("steps", "percent"), [(300, 94), (2000, 67), (4400, 41)])
def test_without_a_warm_up_most_of_the_average_is_the_start(steps: int, percent: int) -> None:
    assert round(100 * AverageConfig(warmup=0).share_of_start(steps)) == percent
    with pytest.raises(ConfigError, match=f"^average: {percent} % of what is kept after its {steps:,} steps"):
        AverageConfig(warmup=0).check_length(steps)
    assert AverageConfig().share_of_start(steps) < 1e-12
    AverageConfig().check_length(steps)


def test_the_published_average_is_as_old_as_its_closed_form_says() -> None:
    """Long after the warm-up 1 / momentum updates; in a run of 300 next to none."""
    shares = [AverageConfig().share(update) for update in range(60_000)]
    for updates, oldest in ((300, 0.16), (60_000, 5000)):
        age = 0.0
        for share in shares[:updates]:
            age = (1 - share) * (age + 1)
        assert age == pytest.approx(oldest, rel=0.05)


def test_statistics_of_the_average_are_the_mean_over_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two ranks, weighted by the batches that each has seen, and none of the present statistics."""
    from posecore.training.loop import _synchronise

    ranks = [_model(), _model()]
    averages = []
    for rank, model in enumerate(ranks):
        average = WeightAverage(model, AverageConfig(momentum=0.3, warmup=0))
        with torch.no_grad():
            model[1].running_mean += rank
        for _ in _after_each_step(model, (4, 12)[rank]):
            average.update(model)
        averages.append(average)
    before = [(deepcopy(model.state_dict()), averaged(average)) for model, average in zip(ranks, averages, strict=True)]

    sums: list[Tensor] = []
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    monkeypatch.setattr("torch.distributed.get_world_size", lambda: 2)
    monkeypatch.setattr("torch.distributed.all_reduce", lambda tensor, op=None: sums.append(tensor.clone()))
    _synchronise(ranks[1], averages[1])
    others = iter(sums)

    def reduce(tensor: Tensor, op: object = None) -> None:
        other = next(others)
        tensor.copy_(tensor + other if op is None else torch.maximum(tensor, other))

    monkeypatch.setattr("torch.distributed.all_reduce", reduce)
    _synchronise(ranks[0], averages[0])
    monkeypatch.undo()
    for kind, now in enumerate((ranks[0].state_dict(), averaged(averages[0]))):
        for name in ("1.running_mean", "1.running_var"):
            expected = 0.25 * before[0][kind][name] + 0.75 * before[1][kind][name]
            torch.testing.assert_close(now[name], expected)
        assert int(now["1.num_batches_tracked"]) == 12
        assert torch.equal(now["0.weight"], before[0][kind]["0.weight"])
