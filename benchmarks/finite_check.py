"""What it costs to ask in every step whether loss and gradient are finite, as a share of a training step.

Optimiser steps of the plain engine on made-up crops, with the question, without it and with it once more, turn by turn,
in processor time of one thread: medians of the ratios within a round, and the middle half of them. The ratio of the two
that are alike is the noise. Then, on the gradients of the last step, what the question consists of, by itself: the
factor on the total with its backward, the reading of the norm, and the norm where no ``clip_norm`` asks for it.

    python -m benchmarks.finite_check --preset vitpose-small --batch 4 --rounds 15
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor, nn

from posecore.config import parse_config
from posecore.methods.batch import DeviceBatch, DeviceGroup
from posecore.methods.supervised import SupervisedHeads
from posecore.models.architecture import ModelConfig
from posecore.models.pose_model import build_model
from posecore.skeletons.library import load_skeleton
from posecore.training import torch_engine
from posecore.training.engine import EngineSettings, TorchEngineConfig, build_engine, checked_total
from posecore.training.optimizer import OptimizerConfig

SIZE = (256, 192)


def made_up_batch(count: int) -> DeviceBatch:
    """Crops of noise with points on them."""
    group = DeviceGroup(
        dataset="coco",
        start=0,
        stop=count,
        keypoints_crop=torch.rand(count, 17, 2) * torch.tensor([SIZE[1] - 1.0, SIZE[0] - 1.0]),
        weights=torch.ones(count, 17),
        scale=torch.ones(count, 2),
        seeds=torch.arange(count),
    )
    return DeviceBatch(images=torch.randn(count, 3, *SIZE), groups=(group,))


@contextmanager
def nothing_asked() -> Iterator[None]:
    """The engine as it would be without the question; gradients are clipped all the same."""

    def plain_total(losses: Mapping[str, Tensor]) -> Tensor:
        return sum(losses.values(), start=torch.zeros(()))

    def clipped(parameters: list[nn.Parameter], clip_norm: float | None) -> bool:
        if clip_norm is not None:
            nn.utils.clip_grad_norm_(parameters, clip_norm)
        return True

    with (
        patch.object(torch_engine, "checked_total", plain_total),
        patch.object(torch_engine, "clip_gradients", clipped),
    ):
        yield


def cpu_s(action: Callable[[], object]) -> float:
    """Processor time of this process."""
    began = time.process_time()
    action()
    return time.process_time() - began


def rounds(step: Callable[[], object], count: int) -> list[dict[str, float]]:
    """Seconds of a step with the question, of another one with it, and of one without; the order goes round."""

    def without() -> float:
        with nothing_asked():
            return cpu_s(step)

    ways = {"with": lambda: cpu_s(step), "without": without, "again": lambda: cpu_s(step)}
    found = []
    for number in range(count):
        names = list(ways)
        first = number % len(names)
        found.append({name: ways[name]() for name in names[first:] + names[:first]})
    return found


def ratios(found: list[dict[str, float]], one: str, other: str) -> str:
    """Median and middle half of one over other within a round."""
    low, middle, high = np.percentile([seconds[one] / seconds[other] for seconds in found], [25, 50, 75])
    return f"median {middle:.4f}, middle half {low:.4f}-{high:.4f}"


def median_ms(action: Callable[[], object], repeats: int) -> float:
    """Of several calls after one that does not count."""
    return 1000 * statistics.median(islice((cpu_s(action) for _ in range(repeats + 1)), 1, None))


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="vitpose-small")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    values = {"backbone": {"preset": options.preset}, "head": {"kind": "classic"}, "input_size": list(SIZE)}
    model = build_model(parse_config(values, ModelConfig, "benchmark"), {"coco": load_skeleton("coco17")})
    settings = EngineSettings(
        optimizer=OptimizerConfig(), micro_batch=options.batch, accumulation=1, device=torch.device("cpu")
    )
    engine = build_engine(TorchEngineConfig(), SupervisedHeads(model), settings)
    batch = made_up_batch(options.batch)

    def step() -> None:
        assert engine.step([batch], 1.0).made

    for _ in range(2):
        step()
    found = rounds(step, options.rounds)
    whole = 1000 * statistics.median(seconds["without"] for seconds in found)
    print(f"{options.preset}, {options.batch} crops of {SIZE[0]}x{SIZE[1]}, one thread: a step takes {whole:.0f} ms")
    print(f"with the question / without, {options.rounds} rounds: {ratios(found, 'with', 'without')}")
    print(f"with the question / with it (noise):     {ratios(found, 'with', 'again')}")

    sum(engine.method(batch).values(), start=torch.zeros(())).backward()
    gradients = [parameter.grad for parameter in engine.method.parameters() if parameter.grad is not None]
    norm = nn.utils.get_total_norm(gradients)
    term = torch.ones((), requires_grad=True)
    costs = {
        "the factor on the total, with backward": median_ms(lambda: checked_total({"a": term}).backward(), 500)
        - median_ms(lambda: sum([term], start=torch.zeros(())).backward(), 500),
        "reading whether the norm is finite": median_ms(lambda: bool(norm.isfinite()), 500),
        "the norm, where nothing is clipped": median_ms(lambda: nn.utils.get_total_norm(gradients), 30),
    }
    for what, cost in costs.items():
        print(f"{what:40s} {cost:8.3f} ms  {100 * cost / whole:7.4f} % of the step")


if __name__ == "__main__":
    main()
