"""Published training written down a second time, from papers and configurations: optimiser, schedule, average, losses.

Nothing here is posecore's. The network is the one that is trained, copied before its first step: that its layers are
the published ones is the matter of the other tests of this folder's parent. Arithmetic of the optimiser, of targets and
of losses is in float64, so that what differs is the rounding of float32 in the run that is judged.

Shapes: B crops, K points, h w map, N samples of one dataset.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

Decay: TypeAlias = Callable[[int, int], float]
"""Factor of the rate in a 0-based step of so many, without the warm-up."""


@dataclass(frozen=True, kw_only=True)
class Published:
    """The numbers of one published training.

    Attributes:
        lr: peak rate of the heads.
        weight_decay: AdamW's.
        layer_decay: rate of a layer relative to the next one.
        clip_norm: of the whole gradient.
        warmup_steps: length of the warm-up.
        warmup_start: its first factor.
        decay: the rate after it.
        undecayed: ``vectors`` as ViTPose and Sapiens, ``norms_and_biases`` as mmengine's paramwise_cfg.
        averages: whether ExpMomentumEMA follows.
    """

    lr: float
    weight_decay: float
    layer_decay: float = 1.0
    clip_norm: float | None
    warmup_steps: int
    warmup_start: float
    decay: Decay
    undecayed: Literal["vectors", "norms_and_biases"] = "vectors"
    averages: bool = False

    def factor(self, step: int, steps: int) -> float:
        """What the peak rate is multiplied by."""
        warmth = min(1.0, step / self.warmup_steps)
        return self.decay(step, steps) * (self.warmup_start + (1 - self.warmup_start) * warmth)


def in_steps(*milestones: float) -> Decay:
    """A tenth of the rate from each share of the run on."""
    return lambda step, steps: 0.1 ** sum(step >= share * steps for share in milestones)


def cosine_of_second_half(step: int, steps: int) -> float:
    """RTMPose: constant to the middle, then half a cosine down to a twentieth."""
    done = max(0.0, (step - steps / 2) / (steps / 2))
    return 0.05 + 0.95 * (1 + math.cos(math.pi * done)) / 2


def straight_to_zero_after(warmup_steps: int) -> Decay:
    """Sapiens2: ``PolynomialLR`` of power 1 over what follows the warm-up."""
    return lambda step, steps: 1 - max(0, step - warmup_steps) / max(1, steps - warmup_steps)


class Trainer:
    """AdamW by groups of layers, clipping, and a moving average, on a network whose float32 weights it overwrites."""

    def __init__(self, network: nn.Module, published: Published, steps: int) -> None:
        self.published, self.steps, self.step = published, steps, 0
        self.parameters = {name: p for name, p in network.named_parameters() if p.requires_grad}
        self.statistics = {n: b for n, b in network.named_buffers() if n.rpartition(".")[2].startswith("running_")}
        self.weights = {name: p.detach().double().clone() for name, p in self.parameters.items()}
        self.first = {name: torch.zeros_like(w) for name, w in self.weights.items()}
        self.second = {name: torch.zeros_like(w) for name, w in self.weights.items()}
        self.updates = dict.fromkeys(self.weights, 0)
        self.average: dict[str, Tensor] = {}
        norms = (nn.BatchNorm2d, nn.LayerNorm)
        self.of_norms = {id(p) for m in network.modules() if isinstance(m, norms) for p in m.parameters(recurse=False)}
        self.depth = 1 + max(block_of(name) for name in self.parameters) if self.parameters else 0

    def scale(self, name: str) -> float:
        """Layer decay: embeddings 0, block i i + 1, everything else one above the last block."""
        block = block_of(name)
        layer = block + 1 if block >= 0 else self.depth + 1
        inside = name.partition("backbone.")[2]
        if inside.startswith(("pos_embed", "patch_embed", "cls_token", "storage_tokens")):
            layer = 0
        return self.published.layer_decay ** (self.depth + 1 - layer)

    def decays(self, name: str) -> bool:
        """Whether AdamW decays a tensor."""
        tensor = self.parameters[name]
        if self.published.undecayed == "norms_and_biases":
            return id(tensor) not in self.of_norms and not name.endswith(".bias")
        return tensor.ndim > 1 and not name.endswith(".bias") and "pos_embed" not in name

    def update(self, loss: Tensor, frozen: tuple[str, ...] = ()) -> None:
        """One step down the gradient of a loss."""
        for parameter in self.parameters.values():
            parameter.grad = None
        loss.backward()
        gradients = {name: p.grad.double() for name, p in self.parameters.items() if p.grad is not None}
        if self.published.clip_norm is not None:
            norm = math.sqrt(sum(float(g.square().sum()) for g in gradients.values()))
            shrink = min(1.0, self.published.clip_norm / (norm + 1e-6))
            gradients = {name: gradient * shrink for name, gradient in gradients.items()}
        rate = self.published.lr * self.published.factor(self.step, self.steps)
        for name, gradient in gradients.items():
            if not name.startswith(frozen or ("-",)):
                self._adamw(name, gradient, rate * self.scale(name))
        self._follow()
        self.step += 1

    @torch.no_grad()
    def _adamw(self, name: str, gradient: Tensor, rate: float) -> None:
        self.updates[name] += 1
        weight, first, second, made = self.weights[name], self.first[name], self.second[name], self.updates[name]
        if self.decays(name):
            weight *= 1 - rate * self.published.weight_decay
        first += 0.1 * (gradient - first)
        second += 0.001 * (gradient**2 - second)
        weight -= rate * (first / (1 - 0.9**made)) / ((second / (1 - 0.999**made)).sqrt() + 1e-8)
        self.parameters[name].copy_(weight)

    def _follow(self) -> None:
        """mmdetection's ``ExpMomentumEMA`` with ``update_buffers``: momentum 2e-4, gamma 2000, first a copy."""
        momentum = 1.0 if self.step == 0 else 2e-4 + (1 - 2e-4) * math.exp(-(1 + self.step) / 2000)
        for name, tensor in {**self.weights, **self.statistics}.items():
            old = self.average.get(name, torch.zeros_like(tensor, dtype=torch.float64))
            self.average[name] = (1 - momentum) * old + momentum * tensor.double()


def block_of(name: str) -> int:
    """The 0-based block of a vision transformer that a parameter belongs to, or -1."""
    parts = name.split(".")
    return int(parts[parts.index("blocks") + 1]) if "backbone" in parts and "blocks" in parts else -1


# -- targets -----------------------------------------------------------------------------------------------------------


def heatmap_targets(
    points: NDArray[np.float32],
    counts: NDArray[np.bool_],
    kind: Literal["udp", "msra"],
    input_size: tuple[int, int],
    heatmap_size: tuple[int, int],
    sigma: float,
) -> tuple[Tensor, Tensor]:
    """(N, K, h, w) Gaussians on windows of three sigmas, and (N, K) weights; points are x, y in crop pixels."""
    height, width = heatmap_size
    maps = np.zeros((*counts.shape, height, width))
    weights = counts.astype(np.float64)
    reach = int(3 * sigma)
    for place in zip(*np.nonzero(counts), strict=True):
        if kind == "udp":
            stride = [(input_size[1 - axis] - 1) / (heatmap_size[1 - axis] - 1) for axis in (0, 1)]
        else:
            stride = [input_size[1 - axis] / heatmap_size[1 - axis] for axis in (0, 1)]
        exact = [float(points[place][axis]) / stride[axis] for axis in (0, 1)]
        column, row = (int(value + 0.5) for value in exact)
        left, top, right, bottom = column - reach, row - reach, column + reach + 1, row + reach + 1
        if left >= width or top >= height or right < 0 or bottom < 0:
            weights[place] = 0
            continue
        x, y = exact if kind == "udp" else (column, row)
        columns, rows = np.arange(max(0, left), min(width, right)), np.arange(max(0, top), min(height, bottom))
        if columns.size and rows.size:
            drawn = np.exp(-((columns - x) ** 2 + (rows[:, None] - y) ** 2) / (2 * sigma**2))
            maps[place][rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = drawn
    return torch.from_numpy(maps), torch.from_numpy(weights)


def simcc_targets(
    points: NDArray[np.float32], counts: NDArray[np.bool_], input_size: tuple[int, int], sigmas: tuple[float, float]
) -> tuple[Tensor, Tensor, Tensor]:
    """(N, K, 2W) and (N, K, 2H) Gaussians with peak 1 on half pixels, and (N, K) weights; sigmas along x and y."""
    weights = counts.astype(np.float64)
    lines = [np.zeros((*counts.shape, 2 * input_size[1 - axis])) for axis in (0, 1)]
    for place in zip(*np.nonzero(counts), strict=True):
        centers = [float(np.around(points[place][axis] * 2)) for axis in (0, 1)]
        outside = [
            center - 3 * sigma >= line.shape[-1] or center + 3 * sigma + 1 < 0
            for center, sigma, line in zip(centers, sigmas, lines, strict=True)
        ]
        if any(outside):
            weights[place] = 0
            continue
        for center, sigma, line in zip(centers, sigmas, lines, strict=True):
            line[place] = np.exp(-((np.arange(line.shape[-1]) - center) ** 2) / (2 * sigma**2))
    return torch.from_numpy(lines[0]), torch.from_numpy(lines[1]), torch.from_numpy(weights)


# -- losses ------------------------------------------------------------------------------------------------------------


def joints_mse(maps: Tensor, targets: Tensor, weights: Tensor, batch_size: int) -> Tensor:
    """ViTPose's: per point the mean over all crops and pixels of what the weight leaves; then the mean over points."""
    by_point = []
    for point in range(maps.shape[1]):
        weight = weights[:, point, None, None]
        error = ((weight * maps[:, point].double() - weight * targets[:, point]) ** 2).sum()
        by_point.append(error / (batch_size * maps.shape[2] * maps.shape[3]))
    return torch.stack(by_point).mean()


def weighted_mse(maps: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """Sapiens' ``KeypointMSELoss``: the mean over everything, invisible points included."""
    return (weights[..., None, None] * (maps.double() - targets) ** 2).mean()


def hardest_mse(maps: Tensor, targets: Tensor, weights: Tensor, hardest: int) -> Tensor:
    """Sapiens' ``KeypointOHKMMSELoss``: of every crop the points with the largest error alone."""
    errors = (weights[..., None, None] * (maps.double() - targets) ** 2).mean((2, 3))
    return errors.sort(dim=1, descending=True).values[:, :hardest].sum(dim=1).div(hardest).mean()


def simcc_divergence(logits: Tensor, line: Tensor) -> Tensor:
    """(N, K) mean over bins of q (ln q - ln p), both sharpened tenfold: one axis of ``KLDiscretLoss``."""
    q = torch.softmax(10 * line, -1)
    return (q * (q.log() - torch.log_softmax(10 * logits.double(), -1))).mean(-1)


def taught_divergence(logits: Tensor, taught: Tensor) -> Tensor:
    """DWPose's ``KDLoss`` of one axis: sum over bins and points, mean over crops."""
    own, its = torch.log_softmax(10 * logits.double(), -1), torch.log_softmax(10 * taught.double(), -1)
    return (its.exp() * (its - own)).sum() / len(logits)
