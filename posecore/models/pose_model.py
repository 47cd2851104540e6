"""One backbone, one head per dataset: the model every method trains and every tool loads."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Literal, Self, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from posecore.codecs.codec import Codec
from posecore.datasets.definition import Conventions
from posecore.errors import ConfigError
from posecore.models.architecture import ModelCard, ModelConfig
from posecore.models.groups import Group
from posecore.models.prototypes import Prototypes, prototype_heatmaps
from posecore.skeletons.skeleton import Skeleton

HeadStatistics: TypeAlias = Literal["own", "mixed"]
"""What a head's BatchNorm sees in training: the samples of its own dataset, or, as in the released ViTPose++, all."""

HeatmapPath: TypeAlias = Literal["regression", "prototypes", "average"]
"""Where heatmaps come from: the dataset's head, its prototypes, or the mean of both."""


class PoseModel(nn.Module):
    """Crops in, heatmaps per dataset out.

    Parameters are named as in the published files: ``backbone.*`` and, per dataset, ``heads.<dataset>.*``; with an
    embedding also ``embedding_head.*`` and the buffers ``prototypes.<dataset>``.

    Args:
        card: architecture, skeletons and conventions.

    Raises:
        ConfigError: a shared head does not exist or has another number of points.
    """

    def __init__(self, card: ModelCard) -> None:
        super().__init__()
        self.card = card
        architecture = card.architecture
        for dataset, owner in architecture.shared_heads.items():
            if dataset in card.skeletons:
                _check_shared(dataset, owner, card.skeletons, architecture.shared_heads)
        owners = [dataset for dataset in card.skeletons if dataset not in architecture.shared_heads]
        self.backbone = architecture.backbone.build(architecture.input_size, owners)
        self.heads = nn.ModuleDict({dataset: self._fresh_head(dataset) for dataset in owners})
        embedding = architecture.embedding
        if embedding is not None:
            counts = {dataset: card.skeletons[dataset].num_keypoints for dataset in owners}
            self.embedding_head = embedding.build(self.backbone.num_features)
            self.prototypes = Prototypes(counts, embedding.prototypes_per_point, embedding.dim)

    def _fresh_head(self, dataset: str) -> nn.Module:
        architecture = self.card.architecture
        return architecture.head.build(
            num_features=self.backbone.num_features,
            num_keypoints=self.card.skeletons[dataset].num_keypoints,
            feature_size=architecture.feature_size,
            input_size=architecture.input_size,
        )

    def train(self, mode: bool = True) -> Self:
        """As in every module, but what is frozen stays in evaluation mode; see :func:`rest_frozen`."""
        super().train(mode)
        if mode:
            rest_frozen(self)
        return self

    @property
    def config(self) -> ModelConfig:
        """The architecture."""
        return self.card.architecture

    @property
    def skeletons(self) -> Mapping[str, Skeleton]:
        """Skeleton by dataset."""
        return self.card.skeletons

    @property
    def conventions(self) -> Mapping[str, Conventions]:
        """Crop and decoding conventions by dataset."""
        return self.card.conventions

    @property
    def input_size(self) -> tuple[int, int]:
        """(height, width) of the crops in pixels."""
        return self.card.architecture.input_size

    def codec(self, dataset: str) -> Codec:
        """How targets are drawn and outputs decoded for a dataset."""
        return self.config.codec(self.conventions[dataset])

    def owner(self, dataset: str) -> str:
        """The dataset whose head and expert answer for a dataset: itself, unless it shares another's."""
        return self.config.shared_heads.get(dataset, dataset)

    def head(self, dataset: str) -> nn.Module:
        """The decoder of a dataset, possibly another dataset's."""
        return self.heads[self.owner(dataset)]

    def features(self, images: Tensor, groups: Sequence[Group]) -> Tensor:
        """(B, 3, H, W) normalised RGB crops to (B, D, h, w) features, each row through its dataset's expert if any."""
        return self.backbone(images, [(self.owner(dataset), start, stop) for dataset, start, stop in groups])

    def forward(
        self, images: Tensor, groups: Sequence[Group], head_statistics: HeadStatistics = "own"
    ) -> dict[str, Tensor]:
        """Heatmaps of every group, each from its own dataset's head.

        Args:
            images: (B, 3, H, W) float, RGB, normalised.
            groups: which rows belong to which dataset; a dataset without rows still takes part, see below.
            head_statistics: whether a head in training runs on its own rows only, or on all rows.

        Returns:
            Per dataset (n, K, h, w); n may be 0. Even then the result hangs on the head's parameters, with zero
            gradient: under ZeRO-3 every rank must run every head in every step, or the collectives do not match.
        """
        return self.run_heads(self.features(images, groups), groups, head_statistics)

    def run_heads(
        self, features: Tensor, groups: Sequence[Group], head_statistics: HeadStatistics = "own"
    ) -> dict[str, Tensor]:
        """The second half of :meth:`forward`, from (B, D, h, w) features of all rows."""
        if head_statistics == "mixed" and self.training:
            return {dataset: self.head(dataset)(features)[start:stop] for dataset, start, stop in groups}
        return {dataset: self.run_head(dataset, features[start:stop]) for dataset, start, stop in groups}

    def run_head(self, dataset: str, features: Tensor) -> Tensor:
        """A dataset's head on (n, D, h, w) features; n may be 0, and it still runs, see :meth:`forward`."""
        head = self.head(dataset)
        if len(features):
            return head(features)
        with frozen_statistics(head):
            return head(features.new_zeros((1, *features.shape[1:])))[:0]

    def prototype_heatmaps(self, features: Tensor, dataset: str) -> Tensor:
        """Heatmaps of any dataset's points for any image, from prototypes alone.

        Args:
            features: (B, D, h, w), of images of that dataset or of others.
            dataset: whose points.

        Returns:
            (B, K, 4h, 4w) float32 in (0, 1).

        Raises:
            ConfigError: the model has no embedding.
        """
        if self.config.embedding is None:
            raise ConfigError("the model has no prototypes; its configuration says nothing under model.embedding.")
        return prototype_heatmaps(self.embedding_head(features), self.prototypes(self.owner(dataset)))

    def heatmaps(self, features: Tensor, dataset: str, path: HeatmapPath = "regression") -> Tensor:
        """(B, D, h, w) features to what one dataset's codec decodes, by a path.

        Raises:
            ConfigError: prototypes are wanted of a model without an embedding.
        """
        if path == "prototypes":
            return self.prototype_heatmaps(features, dataset)
        outputs = self.head(dataset)(features)
        return outputs if path == "regression" else (outputs + self.prototype_heatmaps(features, dataset)) / 2

    @torch.no_grad()
    def predict(self, images: Tensor, dataset: str, path: HeatmapPath = "regression") -> Tensor:
        """(B, 3, H, W) normalised RGB crops to what one dataset's codec decodes.

        Raises:
            ConfigError: prototypes are wanted of a model without an embedding.
        """
        return self.heatmaps(self.features(images, [(dataset, 0, len(images))]), dataset, path)


def build_model(
    config: ModelConfig,
    skeletons: Mapping[str, Skeleton],
    conventions: Mapping[str, Conventions] | None = None,
    licenses: Mapping[str, str] | None = None,
) -> PoseModel:
    """A freshly initialised model with one head per dataset.

    Args:
        config: the architecture.
        skeletons: by dataset.
        conventions: by dataset; the defaults where left out.
        licenses: licence id by dataset.
    """
    known = conventions or {}
    card = ModelCard(
        architecture=config,
        skeletons=dict(skeletons),
        conventions={dataset: config.conventions(known.get(dataset, Conventions())) for dataset in skeletons},
        licenses=dict(licenses or {}),
    )
    return PoseModel(card)


def _check_shared(dataset: str, owner: str, skeletons: Mapping[str, Skeleton], shared: Mapping[str, str]) -> None:
    if owner not in skeletons or owner in shared:
        raise ConfigError(f"model.shared_heads.{dataset}: {owner!r} has no head of its own to share.")
    if skeletons[dataset].union_names != skeletons[owner].union_names:
        raise ConfigError(f"model.shared_heads.{dataset}: its points are not those of {owner!r}; give it its own head.")


def rest_frozen(module: nn.Module) -> None:
    """Puts what does not learn into evaluation mode: no statistic of it moves, and no path through it is dropped.

    A module without parameters of its own or below it, such as drop path, goes with the one it is part of. BatchNorm
    keeps its statistics unless all its parameters learn: where only the bias does, the rest of it is frozen.
    """
    parameters = list(module.parameters())
    learning = [parameter.requires_grad for parameter in parameters]
    if parameters and not (all(learning) if isinstance(module, _BatchNorm) else any(learning)):
        module.eval()
        return
    for child in module.children():
        rest_frozen(child)


@contextmanager
def frozen_statistics(head: nn.Module) -> Iterator[None]:
    """Lets a head run on input that is not its own, without BatchNorm taking notice of it."""
    training = head.training
    head.eval()
    try:
        yield
    finally:
        head.train(training)
