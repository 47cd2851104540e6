"""A term that draws predicted bodies towards what a population's labels say about proportions and poses.

The term is the mean energy of the predicted bodies, divided by the number of outputs a head has per point, as the label
loss is, so that one weight means the same for small and large maps. A point counts as far as the head is sure of it, so
that the term is silent while a new head knows nothing.

A weight means nothing by itself: :func:`gradient_ratio` measures it. The published 2-D prior (SHIFT, arXiv 2504.05789)
multiplies by 1e-6; ``docs/benchmarks/pose_prior_2cpu_2026-11-26.md`` holds what that and the default here amount to.
"""

from collections.abc import Callable, Mapping
from typing import TypeAlias

import torch
from pydantic import Field
from torch import Tensor, nn

from posecore.codecs.codec import Codec
from posecore.config import Config
from posecore.errors import ConfigError
from posecore.labels.plausibility import Features
from posecore.labels.proportions import (
    DEGREES_OF_FREEDOM,
    LEAST_BONES,
    NO_DIRECTION,
    NO_LENGTH,
    BodyStatistics,
)
from posecore.methods.batch import DeviceBatch
from posecore.methods.expectation import LEAST_CONFIDENCE, expected_points, extent
from posecore.methods.pose_manifold import ManifoldEnergy, load_manifold
from posecore.skeletons.skeleton import Skeleton
from posecore.storage import AnyPath, as_path, sha256_of

_TINY = 1e-12

BodyEnergy: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""(n, K, 2) points and (n, K) confidences to (n,) energies, differentiable in the points."""


class PosePriorConfig(Config):
    """Where the knowledge comes from, and how much it counts.

    Attributes:
        source: statistics of ``posecore labels learn`` (.json), or a learned distance to plausible poses of
            ``posecore labels prior`` (.safetensors).
        weight: see the module's description; 0 switches the term off.
        datasets: whose heads are drawn; None means all. Statistics of infants have no say about adults.
        digest: SHA-256 of the file, filled in by a job so that a changed file is a changed run.
    """

    source: str
    weight: float = Field(default=0.02, ge=0)
    datasets: tuple[str, ...] | None = None
    digest: str | None = None

    def pinned(self) -> "PosePriorConfig":
        """With an absolute path and the file's digest.

        Raises:
            ConfigError: there is no such file.
        """
        path = self._path()
        return self.model_copy(update={"source": str(path.resolve()), "digest": sha256_of(path)})

    def energy(self, skeleton: Skeleton) -> BodyEnergy:
        """The energy of bodies with a skeleton.

        Raises:
            ConfigError: the file is missing, was changed, or says too little about this skeleton.
        """
        path = self._path()
        if self.digest is not None and sha256_of(path) != self.digest:
            raise ConfigError(f"{path}: is no longer the file the run began with; put it back or start a new run.")
        if path.suffix == ".safetensors":
            return ManifoldEnergy(load_manifold(path), skeleton)
        return ProportionEnergy(BodyStatistics.load(path), skeleton)

    def _path(self) -> AnyPath:
        path = as_path(self.source)
        if path.suffix not in (".json", ".safetensors") or not path.is_file():
            raise ConfigError(
                f"prior.source: {self.source} is no file of `posecore labels learn` (.json) or `posecore labels prior` "
                "(.safetensors); make one, or correct the path."
            )
        return path


class ProportionEnergy:
    """Mean penalty of a body's bones and angles, in nats: :class:`~posecore.labels.plausibility.BodyScorer` in torch.

    The scale of a body is estimated and then held: its gradient would move every bone a little to excuse one.

    Args:
        statistics: of the population.
        skeleton: names the K points.

    Raises:
        ConfigError: the statistics say too little about this skeleton.
    """

    def __init__(self, statistics: BodyStatistics, skeleton: Skeleton) -> None:
        features = Features.of(statistics, skeleton)
        self._tensors = {
            name: torch.from_numpy(getattr(features, name))
            for name in (
                "bones",
                "log_length",
                "shorter",
                "longer",
                "angles",
                "cosines",
                "sines",
                "uniform",
                "log_mode",
            )
        }
        for name, tensor in self._tensors.items():
            self._tensors[name] = tensor.float() if tensor.is_floating_point() else tensor

    def __call__(self, points: Tensor, confidence: Tensor) -> Tensor:
        """See :data:`BodyEnergy`; 0 for a body that shows too little."""
        values = {name: tensor.to(points.device) for name, tensor in self._tensors.items()}
        known = confidence >= LEAST_CONFIDENCE
        size = extent(points, known)[:, None]
        bones, bone_weights = self._bones(points, confidence, known, size, values)
        angles, angle_weights = self._angles(points, confidence, known, size, values)
        penalties = torch.cat([bones, angles], dim=1)
        weights = torch.cat([bone_weights, angle_weights], dim=1)
        return (penalties * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1.0)

    def _bones(
        self, points: Tensor, confidence: Tensor, known: Tensor, size: Tensor, values: dict[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        ends = points[:, values["bones"]]
        squared = (ends[:, :, 1] - ends[:, :, 0]).square().sum(dim=-1)
        seen = known[:, values["bones"]].all(dim=2) & (squared > (NO_LENGTH * size).square())
        relative = 0.5 * torch.where(seen, squared, 1.0).log() - values["log_length"]
        scale = torch.where(seen, relative.detach(), torch.nan).nanquantile(0.5, dim=1, keepdim=True)
        seen = seen & (seen.sum(dim=1, keepdim=True) >= LEAST_BONES)
        residual = torch.where(seen, relative - scale, 0.0)
        z = residual / torch.where(residual > 0, values["longer"], values["shorter"])
        penalty = 0.5 * (DEGREES_OF_FREEDOM + 1) * (z.square() / DEGREES_OF_FREEDOM).log1p()
        return penalty, seen * confidence[:, values["bones"]].amin(dim=2)

    def _angles(
        self, points: Tensor, confidence: Tensor, known: Tensor, size: Tensor, values: dict[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        corners = points[:, values["angles"]]
        first, second = corners[:, :, 0] - corners[:, :, 1], corners[:, :, 2] - corners[:, :, 1]
        least = (NO_DIRECTION * size).square()
        seen = (first.square().sum(dim=-1) > least) & (second.square().sum(dim=-1) > least)
        seen = seen & known[:, values["angles"]].all(dim=2)
        cross = first[..., 0] * second[..., 1] - first[..., 1] * second[..., 0]
        angle = torch.atan2(torch.where(seen, cross, 0.0), torch.where(seen, (first * second).sum(dim=-1), 1.0))
        phases = angle[..., None] * torch.arange(1, values["cosines"].shape[1] + 1, device=points.device)
        series = 1 + 2 * (values["cosines"] * phases.cos() + values["sines"] * phases.sin()).sum(dim=-1)
        mixed = (1 - values["uniform"]) * series.clamp(min=0) + values["uniform"]
        penalty = (values["log_mode"] - (mixed / (2 * torch.pi)).log()).clamp(min=0)
        return penalty, seen * confidence[:, values["angles"]].amin(dim=2)


class PosePrior:
    """The term for every head that is drawn.

    No ``nn.Module``: what a method registers is optimised, sharded and written to checkpoints, and this is read again
    from where it came from.

    Args:
        config: where from, and how much.
        skeletons: by head.

    Raises:
        ConfigError: a dataset is none of the model's, or the file says too little about its skeleton.
    """

    def __init__(self, config: PosePriorConfig, skeletons: Mapping[str, Skeleton]) -> None:
        self.weight = config.weight
        chosen = skeletons if config.datasets is None else config.datasets
        stray = [name for name in chosen if name not in skeletons]
        if stray:
            raise ConfigError(f"prior.datasets: {stray[0]!r} is no dataset of the model: {', '.join(skeletons)}.")
        self.energies = {name: config.energy(skeletons[name]) for name in chosen}

    def term(self, dataset: str, codec: Codec, outputs: Tensor, scale: Tensor, num_samples: int) -> Tensor:
        """The weighted term of one head's rows; an exact zero without rows.

        Args:
            dataset: one of :attr:`energies`.
            codec: of the head.
            outputs: (n, K, …) of the head.
            scale: (n, 2) width and height of the crops in image pixels.
            num_samples: B, which may exceed n.
        """
        if not len(outputs):
            return outputs.float().sum()
        points, confidence = expected_points(codec, outputs, scale)
        energy = self.energies[dataset](points, confidence).sum()
        return self.weight * energy / (num_samples * codec.outputs_per_point)


def gradient_ratio(method: nn.Module, batch: DeviceBatch, dataset: str) -> float:
    """How hard the prior pulls at a head's parameters for every unit that the labels pull.

    Args:
        method: with a prior.
        batch: with rows of the dataset.
        dataset: whose head.

    Returns:
        Norm of the gradient of ``prior/<dataset>`` divided by that of ``loss/<dataset>``, over all parameters of the
        head.
    """
    losses = method(batch)
    parameters = [value for name, value in method.named_parameters() if f"heads.{dataset}." in name]
    norms = []
    for term in (f"prior/{dataset}", f"loss/{dataset}"):
        gradients = torch.autograd.grad(losses[term], parameters, retain_graph=True, allow_unused=True)
        norms.append(torch.stack([g.square().sum() for g in gradients if g is not None]).sum().sqrt())
    return float(norms[0] / norms[1].clamp(min=_TINY))
