"""Prototypical training on many datasets (PoseBH, arXiv 2505.17475): one space of embeddings for all skeletons' points.

Beside the heads, an embedding head maps every pixel to a vector, and every keypoint of every dataset has a few
prototypes in that space. Labelled pixels are drawn to their keypoint's prototypes and away from the others'; the
prototypes follow as moving averages; and where head and prototypes agree on points of another dataset's image, they
teach each other. This is what the paper means, not what the released code (uyoung-jeong/PoseBH @ 8f03438) computes:
see :mod:`posecore.methods.prototype_terms` and :mod:`posecore.methods.self_supervision` for its errors.

Left out on purpose: the supervision by *clusters* of prototypes, which the released configurations switch on and the
paper's abstract does not name. Their number is chosen by differences of 1e-9 between reconstruction errors, the
clusters are the first keypoints' prototypes whatever the clustering says, and their targets are matched with other
images' predictions. There is no intent to recover that a measurement could confirm.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Annotated, Any, Literal, NamedTuple, Self, TypeAlias

import torch
import torch.distributed as dist
from pydantic import BeforeValidator, Field
from torch import Tensor

from posecore.codecs.heatmap import HeatmapCodec
from posecore.config import Config, parse_config
from posecore.methods.batch import DeviceBatch, DeviceGroup
from posecore.methods.heatmap_loss import heatmap_loss
from posecore.methods.prototype_terms import (
    Assigned,
    PixelWeighting,
    assign,
    contrast,
    distance,
    labelled_pixels,
    moved,
    pulls,
)
from posecore.methods.self_supervision import AgreementConfig, agreed_points, confident
from posecore.methods.supervised import SupervisedConfig, SupervisedHeads
from posecore.models.architecture import ModelConfig
from posecore.models.heads.embedding import EmbeddingConfig
from posecore.models.pose_model import PoseModel, frozen_statistics
from posecore.models.prototypes import prototype_heatmaps
from posecore.nearest import did_you_mean

_HEADS, _BACKBONE = "model.heads.", "model.backbone."


class Stage(NamedTuple):
    """What happens in a step.

    Attributes:
        heads_learn: the heads are trained.
        backbone_learns: the backbone is trained.
        prototypes_move: the prototypes follow the embeddings.
        self_supervision: agreed points of other datasets' images count.
    """

    heads_learn: bool = True
    backbone_learns: bool = True
    prototypes_move: bool = True
    self_supervision: bool = True


class StagesConfig(Config):
    """When what happens, as shares of the run: a function of the step alone, so a resumed run is in the right stage.

    The embedding head learns throughout.

    Attributes:
        heads_from: the heads are frozen before.
        backbone_from: the backbone is frozen before; 1 for throughout.
        prototypes_until: the prototypes are frozen from then on.
        self_supervision_from: cross-type self-supervision begins.
    """

    heads_from: float = Field(ge=0, le=1)
    backbone_from: float = Field(ge=0, le=1)
    prototypes_until: float = Field(ge=0, le=1)
    self_supervision_from: float = Field(ge=0, le=1)

    def at(self, step: int, total_steps: int) -> Stage:
        """The stage of the 0-based ``step`` of ``total_steps``."""
        return Stage(
            heads_learn=step >= self.heads_from * total_steps,
            backbone_learns=step >= self.backbone_from * total_steps,
            prototypes_move=step < self.prototypes_until * total_steps,
            self_supervision=step >= self.self_supervision_from * total_steps,
        )


STAGES = {
    "published": StagesConfig(heads_from=0.5, backbone_from=0.9, prototypes_until=0.5, self_supervision_from=0.5),
    "published-base": StagesConfig(heads_from=0.5, backbone_from=1.0, prototypes_until=0.5, self_supervision_from=0.5),
    "joint": StagesConfig(heads_from=0.0, backbone_from=0.0, prototypes_until=1.0, self_supervision_from=0.5),
}
"""Named stages. ``published`` starts from a trained model: 50 epochs of the embedding head alone, 40 with the heads, 10
with the backbone. In the released configuration of ViT-B an error keeps the backbone frozen to the end:
``published-base``. ``joint`` trains everything from the first step, for models that are not trained yet."""


class Agreed(NamedTuple):
    """The images of other datasets on which a head and prototypes agree on a point at least.

    Attributes:
        heatmaps: (n, K, h, w) of the head.
        embeddings: (n, C, h, w).
        targets: (n, K, h, w) see :func:`~posecore.methods.self_supervision.agreed_points`.
        agreed: (n, K) likewise.
    """

    heatmaps: Tensor
    embeddings: Tensor
    targets: Tensor
    agreed: Tensor


class PrototypeWeights(Config):
    """What the terms beside the heads' own losses count.

    Attributes:
        contrast: pixel-prototype contrast (PPC).
        distance: pixel-prototype distance (PPD).
        heatmap: squared error of prototype heatmaps.
        self_supervision: agreed points; within it the terms above keep their weights and the head's error counts 1.
    """

    contrast: float = Field(ge=0)
    distance: float = Field(ge=0)
    heatmap: float = Field(ge=0)
    self_supervision: float = Field(ge=0)


WEIGHTS = {
    "published": PrototypeWeights(contrast=1.25e-7, distance=1.25e-8, heatmap=3.33e-6, self_supervision=1e-3),
    "published-transfer": PrototypeWeights(contrast=1.25e-7, distance=1.25e-8, heatmap=1.25e-5, self_supervision=0.0),
    "balanced": PrototypeWeights(contrast=1e-4, distance=1e-5, heatmap=1e-3, self_supervision=0.1),
}
"""Named weights. With the ``published`` ones nearly all gradients of a fresh embedding head of published size are below
AdamW's eps of 1e-8, the median by a factor of 45, so that it takes steps of a fiftieth of the learning rate.
``published-transfer`` are those of the transfer to hands and 3DPW, whose embedding head is trained already and stays.
``balanced`` keeps contrast and distance in proportion and makes the terms large enough to learn from, yet so small that
they pull about as much at a fresh backbone as the labels do (six synthetic sets: 1.6 times, either term). Ten times the
contrast and a hundred times the heatmaps pulled 160 times as much, and the heads of models that were trained from the
start learned next to nothing: docs/benchmarks/many_skeletons_2cpu_2026-11-26.md."""


def _named(known: dict[str, Any]) -> BeforeValidator:
    def resolve(value: Any) -> Any:
        if not isinstance(value, str):
            return value
        if value not in known:
            raise ValueError(
                f"{value!r} is none of {', '.join(known)}; name one or give all fields.{did_you_mean(value, known)}"
            )
        return known[value]

    return BeforeValidator(resolve)


PrototypeWeighting: TypeAlias = Annotated[PrototypeWeights, _named(WEIGHTS)]
"""Weights by their name, or all fields."""


class PrototypeSettings(Config):
    """How prototypes learn beside backbone and heads.

    Attributes:
        stages: ``published``, ``published-base``, ``joint`` or all fields.
        weights: ``published``, ``published-transfer``, ``balanced`` or all fields.
        frozen: ``whole`` freezes BatchNorm's statistics and drop path with the weights; ``weights`` leaves both at work
            in frozen parts, as in the released code.
        momentum: share of the old prototype in an update.
        pixel_threshold: height of a target above which a pixel is sampled; published: 0 for many datasets, 0.2 for
            the transfer to one.
        pixel_weighting: ``confidence`` lets a pixel pull at its prototype by its target's height; ``equal`` all the
            same, as published for the transfer to one dataset.
        agreement: when head and prototypes teach each other.
    """

    stages: Annotated[StagesConfig, _named(STAGES)] = STAGES["published"]
    weights: PrototypeWeighting = WEIGHTS["published"]
    frozen: Literal["whole", "weights"] = "whole"
    momentum: float = Field(default=0.999, ge=0, lt=1)
    pixel_threshold: float = Field(default=0.0, ge=0, lt=1)
    pixel_weighting: PixelWeighting = "confidence"
    agreement: AgreementConfig = AgreementConfig()


class PrototypesConfig(PrototypeSettings, SupervisedConfig):
    """PoseBH: embedding head and prototypes beside backbone and heads.

    Attributes:
        kind: names this method in the closed union.
        embedding: embedding head and prototypes, for a model that has none.
    """

    kind: Literal["prototypes"] = "prototypes"
    embedding: EmbeddingConfig = EmbeddingConfig()

    @property
    def rests_first(self) -> bool:
        """See :class:`~posecore.methods.supervised.SupervisedConfig`."""
        return self.stages.heads_from > 0

    def architecture(self, model: ModelConfig) -> ModelConfig:
        """The model with an embedding; a backbone with experts keeps them.

        Raises:
            ConfigError: the head gives no heatmaps of the embedding's size.
        """
        if model.embedding is not None:
            return model
        values = model.model_dump() | {"embedding": self.embedding.model_dump()}
        return parse_config(values, ModelConfig, origin="method: prototypes")

    def build(self, model: PoseModel) -> "PrototypeLearning":
        """The method that trains the model."""
        return PrototypeLearning(model, self, self)


class PrototypeLearning(SupervisedHeads):
    """Losses of heads, embeddings and prototypes, and the prototypes' update.

    Every rank adds its pixels' pulls before the update, so prototypes stay identical on all ranks, whatever is
    sharded. They are updated in every forward pass in training, after the losses were computed with the old ones.

    Args:
        model: with an embedding.
        config: how datasets share a step.
        prototypes: how prototypes learn.
    """

    parts = (_HEADS, _BACKBONE)

    def __init__(self, model: PoseModel, config: SupervisedConfig, prototypes: PrototypeSettings) -> None:
        super().__init__(model, config)
        self.settings = prototypes
        assert model.config.embedding is not None, "PrototypesConfig.architecture gives a model its embedding"
        self._stage = Stage()

    def begin_step(self, step: int, total_steps: int) -> frozenset[str]:
        """Enters the stage of a step; see :class:`~posecore.methods.staged.StagedMethod`."""
        self._stage = self.settings.stages.at(step, total_steps)
        self.train(self.training)
        return frozenset(part for part, learns in self._learning() if not learns)

    def train(self, mode: bool = True) -> Self:
        """As in every module, but what is frozen as a whole stays in evaluation mode."""
        super().train(mode)
        if self.settings.frozen == "whole":
            for part, learns in self._learning():
                if not learns:
                    self.get_submodule(part.removesuffix(".")).eval()
        return self

    def _learning(self) -> tuple[tuple[str, bool], ...]:
        return (_HEADS, self._stage.heads_learn), (_BACKBONE, self._stage.backbone_learns)

    def features(self, batch: DeviceBatch) -> Tensor:
        """As of heads alone, without gradients where the backbone is frozen."""
        with _gradients(self._stage.backbone_learns):
            return super().features(batch)

    def terms(self, batch: DeviceBatch, features: Tensor) -> dict[str, Tensor]:
        """Scalars per dataset; what is switched off or has no samples contributes an exact zero.

        Args:
            batch: the micro-batch.
            features: of all its crops.

        Returns:
            ``loss/<dataset>`` of the head, ``prototypes/<dataset>`` (contrast and distance),
            ``prototype_heatmap/<dataset>`` and ``self_supervision/<dataset>``; with depth as a second task ``depth``.
        """
        embeddings = self.model.embedding_head(features)
        outputs = {group.dataset: self._run_head(features, embeddings, batch, group) for group in batch.groups}
        with torch.autocast(batch.images.device.type, enabled=False):
            return self._terms(batch, embeddings, outputs) | self._depth_loss(features, batch)

    def _run_head(
        self, features: Tensor, embeddings: Tensor, batch: DeviceBatch, group: DeviceGroup
    ) -> tuple[Tensor, Agreed | None]:
        """Heatmaps of the dataset's points on its own images, and what it agrees on with prototypes on all others."""
        name = group.dataset
        with _gradients(self._stage.heads_learn):
            if self.config.head_statistics == "mixed" and self.training:
                outputs = self.model.head(name)(features)
                own, others = outputs[group.start : group.stop], self._of_others(outputs, batch, name)
                return own, self._agreement(name, others, others, embeddings, batch)
            own = self.model.run_head(name, features[group.start : group.stop])
            if not self._self_supervises:
                return own, None
            others = self._of_others(features, batch, name)
            with frozen_statistics(self.model.head(name)):
                with torch.no_grad():
                    heatmaps = self.model.run_head(name, others)
                found = self._agreement(name, heatmaps, others, embeddings, batch)
                # Only images with an agreed point have a loss, so that only these are worth a backward pass.
                return own, found and found._replace(heatmaps=self.model.run_head(name, found.heatmaps))

    def _agreement(
        self, name: str, heatmaps: Tensor, rows: Tensor, embeddings: Tensor, batch: DeviceBatch
    ) -> Agreed | None:
        """The points of other datasets' images that a head and prototypes agree on; ``rows`` become ``heatmaps``."""
        if not self._self_supervises:
            return None
        of_others, prototypes = self._of_others(embeddings, batch, name), self.model.prototypes(self.model.owner(name))
        with torch.no_grad(), torch.autocast(heatmaps.device.type, enabled=False):
            # Prototypes are asked only of images on which the head is sure of a point: of most it is of none.
            likely = confident(heatmaps, self.settings.agreement).any(dim=1).nonzero()[:, 0]
            from_prototypes = prototype_heatmaps(of_others[likely], prototypes)
            targets, agreed = agreed_points(
                heatmaps[likely], from_prototypes, self._codec(name), self.settings.agreement
            )
        with_point = agreed.any(dim=1)
        chosen = likely[with_point]
        return Agreed(rows[chosen], of_others[chosen], targets[with_point], agreed[with_point])

    def _terms(
        self, batch: DeviceBatch, embeddings: Tensor, heatmaps: Mapping[str, tuple[Tensor, Agreed | None]]
    ) -> dict[str, Tensor]:
        terms: dict[str, Tensor] = {}
        moves = self.training and self._stage.prototypes_move
        pulled: dict[str, Tensor] = {}
        for group in batch.groups:
            name, owner = group.dataset, self.model.owner(group.dataset)
            factor = self.config.factor(name)
            own_heatmaps, agreed = heatmaps[name]
            own_embeddings = embeddings[group.start : group.stop]
            prototypes = self.model.prototypes(owner)
            targets, weights = self._codec(name).encode(group.keypoints_crop, group.weights)
            weights = self._weighed(name, weights)
            assigned = assign(labelled_pixels(own_embeddings, targets, self.settings.pixel_threshold), prototypes)
            terms[f"loss/{name}"] = factor * self._error(group, own_heatmaps, targets, weights, len(batch))
            terms |= self._prior_term(own_heatmaps, group, len(batch))
            terms[f"prototypes/{name}"] = factor * self._prototype_loss(assigned)
            from_prototypes = prototype_heatmaps(own_embeddings, prototypes)
            error = heatmap_loss(from_prototypes, targets, weights, max(1, len(targets)))
            terms[f"prototype_heatmap/{name}"] = factor * self.settings.weights.heatmap * error
            terms[f"self_supervision/{name}"] = (
                embeddings.new_zeros((), dtype=torch.float32)
                if agreed is None
                else factor * self._self_supervision(agreed, prototypes)
            )
            if moves:
                sums, pull_weights = pulls(assigned, prototypes, self.settings.pixel_weighting)
                pull = torch.cat([sums, pull_weights[..., None]], dim=2)
                pulled[owner] = pulled[owner] + pull if owner in pulled else pull
        if moves:
            self._move_prototypes(pulled)
        return terms

    def _of_others(self, rows: Tensor, batch: DeviceBatch, dataset: str) -> Tensor:
        """Rows on which nothing is known of a dataset's points: all but its own and those of datasets with its head."""
        owner = self.model.owner(dataset)
        others = [group for group in batch.groups if self.model.owner(group.dataset) != owner]
        return torch.cat([rows[:0], *(rows[group.start : group.stop] for group in others)])

    @property
    def _self_supervises(self) -> bool:
        return self._stage.self_supervision and self.settings.weights.self_supervision > 0

    def _codec(self, dataset: str) -> HeatmapCodec:
        codec = self.codecs[dataset]
        assert isinstance(codec, HeatmapCodec), "a model without heatmaps cannot have an embedding"
        return codec

    def _prototype_loss(self, assigned: Assigned) -> Tensor:
        weights = self.settings.weights
        return weights.contrast * contrast(assigned) + weights.distance * distance(assigned)

    def _self_supervision(self, found: Agreed, prototypes: Tensor) -> Tensor:
        """Loss of one dataset's points on other datasets' images, over the images with an agreed point."""
        weights = self.settings.weights
        heatmaps, embeddings, targets, agreed = found
        num_images = max(1, len(agreed))
        pixels = labelled_pixels(embeddings, targets * agreed[:, :, None, None], self.settings.pixel_threshold)
        return weights.self_supervision * (
            heatmap_loss(heatmaps, targets, agreed, num_images)
            + weights.heatmap * heatmap_loss(prototype_heatmaps(embeddings, prototypes), targets, agreed, num_images)
            + self._prototype_loss(assign(pixels, prototypes))
        )

    @torch.no_grad()
    def _move_prototypes(self, pulled: Mapping[str, Tensor]) -> None:
        """One update of all prototypes by the pulls of all ranks, which are the same everywhere once added up."""
        total = torch.cat([pull.flatten() for pull in pulled.values()])
        if dist.is_initialized() and dist.get_world_size() > 1:
            dist.all_reduce(total)
        parts = total.split([pull.numel() for pull in pulled.values()])
        for (owner, pull), part in zip(pulled.items(), parts, strict=True):
            sums, weights = part.view_as(pull).split([pull.shape[2] - 1, 1], dim=2)
            prototypes = self.model.prototypes.get_buffer(owner)
            prototypes.copy_(moved(prototypes, sums, weights[..., 0], self.settings.momentum))


def _gradients(wanted: bool) -> AbstractContextManager[object]:
    return nullcontext() if wanted else torch.no_grad()
