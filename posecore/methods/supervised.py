"""Supervised training of every head on its own dataset's points."""

from collections.abc import Collection
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from posecore.codecs.codec import Codec
from posecore.config import Config
from posecore.errors import ConfigError
from posecore.methods.batch import DeviceBatch, DeviceGroup
from posecore.methods.depth_task import DepthTask, DepthTaskConfig
from posecore.methods.heatmap_loss import SquaredError
from posecore.methods.loss import Loss
from posecore.methods.losses import LossConfig, usual_loss
from posecore.methods.pose_prior import PosePrior, PosePriorConfig
from posecore.models.pose_model import HeadStatistics, PoseModel


class SupervisedConfig(Config):
    """How several datasets share one step.

    Attributes:
        denominator: ``batch`` divides every dataset's loss by the whole micro-batch, as published: a sample's gradient
            does not depend on how many others of its dataset are present, and datasets weigh in by their frequency.
            ``group`` divides by the dataset's own samples: every dataset present has an equal say.
        head_statistics: ``own`` runs a head on its own dataset's rows only, which costs what a single-dataset step
            costs. ``mixed`` runs every head on all rows, so that its BatchNorm sees all datasets as in the released
            ViTPose++, and costs one decoder pass per dataset.
        simcc_reduction: ``mean`` divides the loss of SimCC heads by ``denominator`` too. ``sum`` leaves that out, as
            published: the loss then grows with the number of crops per forward pass, which changes its balance against
            other terms and against the clipping of gradients.
        loss_weight: factor before every term. The steps of AdamW do not feel it, the clipping of gradients does:
            Sapiens2 was published with 10 and a clip norm of 2 or 4.
        loss_weights: factor before every term of one dataset, by its name; 1 where none is given. Unlike the mixture's
            weights, it changes how much a dataset counts and not how often it is seen.
        hardest_points: so many points per crop count, those with the largest error (``KeypointOHKMMSELoss``); two of
            Sapiens' four 308-point models were published with 128. None counts all.
        group_weights: what the points of a group of the skeleton (``body``, ``foot``, ``face``, ``left_hand``,
            ``right_hand``) count in the loss of labels; 1 where left out. RTMW was published with ``{face: 0.5}``, so
            that 68 face points do not drown the rest; DWPose with none.
        loss: how wrong outputs are; None takes what the head's outputs are usually trained with: ``squared_error`` of
            heatmaps, ``simcc_divergence`` of SimCC, ``associative_embedding`` or ``set_prediction`` of whole
            pictures.
        prior: what a population's labels say about its bodies, as a further term; None for none.
        depth: depth of the crops as a second task; None for none.
    """

    denominator: Literal["batch", "group"] = "batch"
    head_statistics: HeadStatistics = "own"
    simcc_reduction: Literal["mean", "sum"] = "mean"
    loss_weight: float = Field(default=1.0, gt=0)
    loss_weights: dict[str, Annotated[float, Field(gt=0, allow_inf_nan=False)]] = {}
    hardest_points: int | None = Field(default=None, gt=0)
    group_weights: dict[str, Annotated[float, Field(ge=0)]] = {}
    loss: LossConfig | None = None
    prior: PosePriorConfig | None = None
    depth: DepthTaskConfig | None = None

    def factor(self, dataset: str) -> float:
        """What every term of a dataset is multiplied by."""
        return self.loss_weight * self.loss_weights.get(dataset, 1.0)

    @property
    def rests_first(self) -> bool:
        """Whether heads and backbone do not learn at first, and so must have been trained before."""
        return False

    def loss_of(self, codec: Codec) -> Loss:
        """How wrong outputs of a codec are."""
        if self.loss is not None:
            return self.loss
        return usual_loss(codec, hardest_points=self.hardest_points, reduction=self.simcc_reduction)

    def check_loss_weights(self, datasets: Collection[str]) -> None:
        """Refuses a weight that would never be used.

        Args:
            datasets: names of all that are trained on.

        Raises:
            ConfigError: a weight is given to another.
        """
        unknown = [name for name in self.loss_weights if name not in datasets]
        if unknown:
            raise ConfigError(
                f"method.loss_weights names {', '.join(unknown)}, which this run does not train on; "
                f"it trains on {', '.join(datasets)}."
            )


class SupervisedHeads(nn.Module):
    """One loss per dataset: the squared error of its heatmaps, or the divergence of its SimCC distributions.

    Source: ViTAE-Transformer/ViTPose @ c050ed2, ``mmpose/models/losses/mse_loss.py`` and
    ``mmpose/models/detectors/top_down_moe.py``; for SimCC see :mod:`posecore.methods.simcc_loss`.

    Args:
        model: backbone and heads.
        config: how datasets share a step.

    Raises:
        ConfigError: a dataset has fewer points than the hardest that count, or no heatmaps to measure them by; no
            dataset has points of a group that is to be weighed; a loss weight is given to a dataset that the model
            does not have; or the prior says too little about a skeleton.
    """

    def __init__(self, model: PoseModel, config: SupervisedConfig | None = None) -> None:
        super().__init__()
        self.model = model
        self.config = config or SupervisedConfig()
        self.codecs = {dataset: model.codec(dataset) for dataset in model.skeletons}
        self.config.check_loss_weights(model.skeletons)
        self._losses = {dataset: self.config.loss_of(codec) for dataset, codec in self.codecs.items()}
        self._check_losses()
        self._point_factors = self._factors() if self.config.group_weights else {}
        if self.config.prior is not None:
            model.refuse_scenes("method.prior")
        if self.config.depth is not None:
            model.refuse_scenes("method.depth")
        wanted = self.config.prior
        self.prior = None if wanted is None else PosePrior(wanted, model.skeletons)
        self.depth_task = None if self.config.depth is None else DepthTask(model, self.config.depth)

    def forward(self, batch: DeviceBatch) -> dict[str, Tensor]:
        """The loss terms; a method's forward is :meth:`losses`, so that sharding hooks see every call."""
        return self.losses(batch)

    def losses(self, batch: DeviceBatch) -> dict[str, Tensor]:
        """One scalar per dataset, named ``loss/<dataset>``; a dataset without samples contributes an exact zero.

        With a prior also ``prior/<dataset>`` for every head it draws; with depth as a second task also ``depth``.

        Args:
            batch: the micro-batch.
        """
        return self.terms(batch, self.features(batch))

    def features(self, batch: DeviceBatch) -> Tensor:
        """(B, D, h, w) features of all crops, each through its own dataset's expert if any."""
        return self.model.features(batch.images, batch.rows, batch.depth if self.model.takes_depth else None)

    def terms(self, batch: DeviceBatch, features: Tensor) -> dict[str, Tensor]:
        """The second half of :meth:`losses`, for methods that want the features for more than this."""
        hints = self._hints(batch)
        outputs = self.model.run_heads(features, batch.rows, self.config.head_statistics, hints)
        terms = {
            f"loss/{group.dataset}": self.label_loss(
                outputs[group.dataset], group, len(batch), hints.get(group.dataset)
            )
            for group in batch.groups
        }
        for group in batch.groups:
            terms |= self._prior_term(outputs[group.dataset], group, len(batch))
        return terms | self._depth_loss(features, batch)

    def _depth_loss(self, features: Tensor, batch: DeviceBatch) -> dict[str, Tensor]:
        return {} if self.depth_task is None else {"depth": self.depth_task(features, batch.depth)}

    def _hints(self, batch: DeviceBatch) -> dict[str, Tensor]:
        """What heads in training are given besides features, by dataset."""
        if not self.training:
            return {}
        found = {
            group.dataset: self._losses[group.dataset].hints(self.codecs[group.dataset], group)
            for group in batch.groups
            if group.stop > group.start
        }
        return {dataset: hints for dataset, hints in found.items() if hints is not None}

    def label_loss(self, outputs: Tensor, group: DeviceGroup, batch_size: int, hints: Tensor | None = None) -> Tensor:
        """What is minimised of one dataset's labels.

        Args:
            outputs: (n, …) of the group's head.
            group: with the labels.
            batch_size: crops of the whole micro-batch.
            hints: that the head was given.
        """
        if self._losses[group.dataset].of_scenes:
            return self.config.factor(group.dataset) * self._scene_error(group, outputs, batch_size, hints)
        targets, weights = self.codecs[group.dataset].encode(group.keypoints_crop, group.weights)
        weights = self._weighed(group.dataset, weights)
        return self.config.factor(group.dataset) * self._error(group, outputs, targets, weights, batch_size)

    def _error(self, group: DeviceGroup, outputs: Tensor, targets: Tensor, weights: Tensor, batch_size: int) -> Tensor:
        name, samples = group.dataset, self._num_samples(group, batch_size)
        return self._losses[name](self.codecs[name], outputs, targets, weights, samples)

    def _scene_error(self, group: DeviceGroup, outputs: Tensor, batch_size: int, hints: Tensor | None) -> Tensor:
        name, samples = group.dataset, self._num_samples(group, batch_size)
        skeleton, factors = self.model.skeletons[name], self._point_factors.get(name)
        return self._losses[name].scene(self.codecs[name], outputs, group, samples, skeleton, factors, hints)

    def _prior_term(self, outputs: Tensor, group: DeviceGroup, batch_size: int) -> dict[str, Tensor]:
        name = group.dataset
        if self.prior is None or name not in self.prior.energies:
            return {}
        samples = self._num_samples(group, batch_size)
        term = self.prior.term(name, self.codecs[name], outputs, group.scale, samples)
        return {f"prior/{name}": self.config.factor(name) * term}

    def _weighed(self, dataset: str, weights: Tensor) -> Tensor:
        """(n, K) weights of labels times what their points' groups count."""
        factors = self._point_factors.get(dataset)
        return weights if factors is None else weights * factors.to(weights)

    def _factors(self) -> dict[str, Tensor]:
        known = {point.group for skeleton in self.model.skeletons.values() for point in skeleton.keypoints}
        if stray := sorted(self.config.group_weights.keys() - known):
            raise ConfigError(
                f"group_weights: no dataset has points of a group {stray[0]!r}; there are {', '.join(sorted(known))}."
            )
        factors = {}
        for dataset, skeleton in self.model.skeletons.items():
            factor = torch.tensor([self.config.group_weights.get(point.group, 1.0) for point in skeleton.keypoints])
            # The weight of a map acts squared, and it is the loss that is to be multiplied.
            factors[dataset] = factor.sqrt() if self._losses[dataset].weight_power == 2 else factor
        return factors

    def _num_samples(self, group: DeviceGroup, batch_size: int) -> int:
        return batch_size if self.config.denominator == "batch" else max(1, group.stop - group.start)

    def _check_losses(self) -> None:
        wanted = self.config.hardest_points
        for dataset, skeleton in self.model.skeletons.items():
            codec = self.codecs[dataset]
            if wanted is not None and self.config.loss is not None:
                raise ConfigError(f"hardest_points {wanted} is of the usual loss, and loss names another; drop one.")
            if wanted is not None and codec.loss != SquaredError().kind:
                raise ConfigError(f"hardest_points {wanted} counts heatmaps, and {dataset} has a SimCC head; drop it.")
            problem = self._losses[dataset].problem(codec, skeleton)
            if problem is not None:
                raise ConfigError(f"method.loss, for {dataset}: {problem}")
