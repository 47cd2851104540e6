"""One backbone, one head per dataset: the model every method trains and every tool loads."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, Literal, Self, TypeAlias

import torch
from pydantic import BeforeValidator, Field, model_validator
from torch import Tensor, nn

from posecore.codecs.heatmap import HeatmapCodec
from posecore.config import Config
from posecore.datasets.definition import Conventions
from posecore.errors import ConfigError
from posecore.models.heads import UPSAMPLING, ClassicHeadConfig, HeadConfig
from posecore.models.presets import BACKBONES
from posecore.models.vit import VitConfig
from posecore.schema import Json
from posecore.skeletons.skeleton import Skeleton

Group: TypeAlias = tuple[str, int, int]
"""A dataset's rows of a micro-batch: name, first row, one past the last row."""

HeadStatistics: TypeAlias = Literal["own", "mixed"]
"""What a head's BatchNorm sees in training: the samples of its own dataset, or, as in the released ViTPose++, all."""


def _resolve_preset(value: Any) -> Any:
    fields = {"preset": value} if isinstance(value, str) else value
    if not isinstance(fields, Mapping) or "preset" not in fields:
        return value
    name = fields["preset"]
    if name not in BACKBONES:
        raise ValueError(f"no backbone preset is called {name!r}; there are {', '.join(BACKBONES)}.")
    return BACKBONES[name].model_dump() | {key: item for key, item in fields.items() if key != "preset"}


BackboneConfig: TypeAlias = Annotated[VitConfig, BeforeValidator(_resolve_preset)]
"""Every backbone there is: a preset's name, ``{preset: name, field: other value}``, or all fields."""


class ModelConfig(Config):
    """An architecture.

    Attributes:
        backbone: preset or explicit description.
        head: decoder of every dataset.
        input_size: (height, width) of the crops in pixels.
        heatmap_sigma: spread of the target Gaussian in heatmap pixels; 2 belongs to 64×48 maps, 3 to 96×72.
        blur_kernel: side of the blur in UDP decoding, in heatmap pixels; 11 belongs to 64×48 maps, 17 to 96×72.
        shared_heads: dataset to the dataset whose head it uses; both must have the same skeleton points.
    """

    backbone: BackboneConfig
    head: HeadConfig = ClassicHeadConfig()
    input_size: tuple[int, int] = (256, 192)
    heatmap_sigma: float = Field(default=2.0, gt=0)
    blur_kernel: int = Field(default=11, gt=0)
    shared_heads: dict[str, str] = {}

    @model_validator(mode="after")
    def _check(self) -> Self:
        patch = self.backbone.patch_size
        if any(side <= 0 or side % patch for side in self.input_size):
            raise ValueError(f"input_size {self.input_size} must be multiples of the patch size {patch}.")
        return self

    @property
    def heatmap_size(self) -> tuple[int, int]:
        """(height, width) of the heatmaps in pixels."""
        height, width = (side // self.backbone.patch_size * UPSAMPLING for side in self.input_size)
        return height, width


class ModelCard(Config):
    """Everything about a model but its weights; stored beside them as ``model.json``.

    Attributes:
        architecture: what to build.
        skeletons: per dataset, whose points the head of that dataset predicts.
        conventions: per dataset, how crops were cut and how heatmaps must be decoded.
        licenses: per dataset or parent model, its licence id.
        lineage: where the weights come from: run, datasets' digests, parent; filled in by the job that trained them.
    """

    architecture: ModelConfig
    skeletons: dict[str, Skeleton]
    conventions: dict[str, Conventions]
    licenses: dict[str, str] = {}
    lineage: dict[str, Json] = {}


class PoseModel(nn.Module):
    """Crops in, heatmaps per dataset out.

    Parameters are named as in the published files: ``backbone.*`` and, per dataset, ``heads.<dataset>.*``.

    Args:
        card: architecture, skeletons and conventions.

    Raises:
        ConfigError: a shared head does not exist or has another number of points.
    """

    def __init__(self, card: ModelCard) -> None:
        super().__init__()
        self.card = card
        architecture = card.architecture
        self.backbone = architecture.backbone.build(architecture.input_size)
        for dataset, owner in architecture.shared_heads.items():
            if dataset in card.skeletons:
                _check_shared(dataset, owner, card.skeletons, architecture.shared_heads)
        self.heads = nn.ModuleDict(
            {
                dataset: architecture.head.build(self.backbone.num_features, skeleton.num_keypoints)
                for dataset, skeleton in card.skeletons.items()
                if dataset not in architecture.shared_heads
            }
        )

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

    def codec(self, dataset: str) -> HeatmapCodec:
        """How targets are drawn and heatmaps decoded for a dataset."""
        return HeatmapCodec(
            kind=self.conventions[dataset].codec,
            input_size=self.config.input_size,
            heatmap_size=self.config.heatmap_size,
            heatmap_sigma=self.config.heatmap_sigma,
            blur_kernel=self.config.blur_kernel,
        )

    def head(self, dataset: str) -> nn.Module:
        """The decoder of a dataset, possibly another dataset's."""
        return self.heads[self.config.shared_heads.get(dataset, dataset)]

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
        features = self.backbone(images)
        heatmaps = {}
        for dataset, start, stop in groups:
            head = self.head(dataset)
            if head_statistics == "mixed" and self.training:
                heatmaps[dataset] = head(features)[start:stop]
            elif stop > start:
                heatmaps[dataset] = head(features[start:stop])
            else:
                with _frozen_statistics(head):
                    heatmaps[dataset] = head(torch.zeros_like(features[:1]))[:0]
        return heatmaps

    @torch.no_grad()
    def predict(self, images: Tensor, dataset: str) -> Tensor:
        """(B, 3, H, W) normalised RGB crops to (B, K, h, w) heatmaps of one dataset's points."""
        return self.head(dataset)(self.backbone(images))


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
        conventions={dataset: known.get(dataset, Conventions()) for dataset in skeletons},
        licenses=dict(licenses or {}),
    )
    return PoseModel(card)


def _check_shared(dataset: str, owner: str, skeletons: Mapping[str, Skeleton], shared: Mapping[str, str]) -> None:
    if owner not in skeletons or owner in shared:
        raise ConfigError(f"model.shared_heads.{dataset}: {owner!r} has no head of its own to share.")
    if skeletons[dataset].union_names != skeletons[owner].union_names:
        raise ConfigError(f"model.shared_heads.{dataset}: its points are not those of {owner!r}; give it its own head.")


@contextmanager
def _frozen_statistics(head: nn.Module) -> Iterator[None]:
    """Runs a head on made-up input without BatchNorm taking notice of it."""
    training = head.training
    head.eval()
    try:
        yield
    finally:
        head.train(training)
