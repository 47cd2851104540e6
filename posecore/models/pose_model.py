"""One backbone, one head per dataset: the model every method trains and every tool loads."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Literal, Self, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from posecore.codecs.codec import Codec
from posecore.conventions import Conventions, LabelConventions
from posecore.datasets.definition import DatasetDefinition
from posecore.errors import ConfigError
from posecore.models.architecture import ModelCard, ModelConfig
from posecore.models.depth import depth_channels
from posecore.models.groups import Group
from posecore.models.outline import without_memory
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
        ConfigError: a shared head does not exist or has another number of points, or a dataset's name cannot be a
            head's.
    """

    def __init__(self, card: ModelCard) -> None:
        super().__init__()
        self.card = card
        architecture = card.architecture
        check_heads(card.skeletons)
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

    @property
    def device(self) -> torch.device:
        """Where it is."""
        return next(chain(self.parameters(), self.buffers())).device

    def codec(self, dataset: str) -> Codec:
        """How targets are drawn and outputs decoded for a dataset."""
        return self.config.codec(self.conventions[dataset])

    def owner(self, dataset: str) -> str:
        """The dataset whose head and expert answer for a dataset: itself, unless it shares another's."""
        return self.config.shared_heads.get(dataset, dataset)

    def head(self, dataset: str) -> nn.Module:
        """The decoder of a dataset, possibly another dataset's.

        Raises:
            ConfigError: the model does not know the dataset.
        """
        self._check_known(dataset)
        return self.heads[self.owner(dataset)]

    def _check_known(self, dataset: str) -> None:
        if dataset not in self.skeletons:
            raise ConfigError(
                f"the model knows no dataset {dataset!r}, so it has neither head nor expert for it; it knows "
                f"{', '.join(self.skeletons)}."
            )

    def check_path(self, path: HeatmapPath) -> None:
        """Refuses a way to heatmaps that the model does not have.

        Raises:
            ConfigError: prototypes are wanted of a model without an embedding.
        """
        if path != "regression" and self.config.embedding is None:
            raise ConfigError(
                f"the model has no prototypes, which path {path} needs; its configuration says nothing under "
                "model.embedding. Use path regression, or a model trained with method: prototypes."
            )

    @property
    def takes_depth(self) -> bool:
        """Whether depth may be given besides the picture."""
        return self.config.takes_depth

    def refuse_depth(self, method: str) -> None:
        """For methods that train on pictures alone.

        Raises:
            ConfigError: the model takes depth, which it would never see.
        """
        if self.takes_depth:
            raise ConfigError(
                f"model.backbone.depth_input: {method} trains on pictures alone; leave it out, or train with method "
                "heads, experts or prototypes."
            )

    def refuse_scenes(self, what: str) -> None:
        """For what is of crops of single bodies.

        Raises:
            ConfigError: the model finds bodies in whole pictures.
        """
        if self.config.whole_scenes:
            raise ConfigError(
                f"{what} is of crops of single bodies, and a {self.config.head.kind} head finds all bodies of a whole "
                "picture; leave it out, or take a head of crops (model.head: classic)."
            )

    def features(self, images: Tensor, groups: Sequence[Group], depth: Tensor | None = None) -> Tensor:
        """Crops to (B, D, h, w) features, each row through its dataset's expert if any.

        Args:
            images: (B, 3, H, W) normalised RGB.
            groups: which rows belong to which dataset.
            depth: (B, H, W) metres, 0 where not known; for a model that takes depth, which answers without it as well.

        Raises:
            ConfigError: the model does not know a group's dataset.
        """
        for dataset, _, _ in groups:
            self._check_known(dataset)
        rows = [(self.owner(dataset), start, stop) for dataset, start, stop in groups]
        if depth is None:
            return self.backbone(images, rows)
        return self.backbone(images, rows, depth_channels(depth))

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
        self,
        features: Tensor,
        groups: Sequence[Group],
        head_statistics: HeadStatistics = "own",
        hints: Mapping[str, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """The second half of :meth:`forward`, from (B, D, h, w) features of all rows.

        Args:
            features: of all rows.
            groups: as there.
            head_statistics: as there; heads that take hints have no statistics.
            hints: by dataset, what its head is given besides features, of the dataset's own rows.
        """
        if head_statistics == "mixed" and self.training and not hints:
            return {dataset: self.head(dataset)(features)[start:stop] for dataset, start, stop in groups}
        given = hints or {}
        return {
            dataset: self.run_head(dataset, features[start:stop], given.get(dataset)) for dataset, start, stop in groups
        }

    def run_head(self, dataset: str, features: Tensor, hints: Tensor | None = None) -> Tensor:
        """A dataset's head on (n, D, h, w) features; n may be 0, and it still runs, see :meth:`forward`."""
        head = self.head(dataset)
        if len(features):
            return head(features) if hints is None else head(features, hints)
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
            ConfigError: the model has no embedding, or does not know the dataset.
        """
        self.check_path("prototypes")
        self._check_known(dataset)
        return prototype_heatmaps(self.embedding_head(features), self.prototypes(self.owner(dataset)))

    def heatmaps(self, features: Tensor, dataset: str, path: HeatmapPath = "regression") -> Tensor:
        """(B, D, h, w) features to what one dataset's codec decodes, by a path.

        Raises:
            ConfigError: prototypes are wanted of a model without an embedding, or the model does not know the dataset.
        """
        self.check_path(path)
        if path == "prototypes":
            return self.prototype_heatmaps(features, dataset)
        outputs = self.head(dataset)(features)
        return outputs if path == "regression" else (outputs + self.prototype_heatmaps(features, dataset)) / 2

    @torch.no_grad()
    def predict(
        self, images: Tensor, dataset: str, path: HeatmapPath = "regression", depth: Tensor | None = None
    ) -> Tensor:
        """(B, 3, H, W) normalised RGB crops, and (B, H, W) depth if the model takes it, to what a codec decodes.

        Raises:
            ConfigError: prototypes are wanted of a model without an embedding.
        """
        return self.heatmaps(self.features(images, [(dataset, 0, len(images))], depth), dataset, path)


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
        conventions: by dataset; the architecture's, on labels that mean what they mostly do, where left out.
        licenses: licence id by dataset.

    Raises:
        ConfigError: it is to be an ONNX graph, which somebody else has trained.
    """
    if not config.backbone.learns:
        raise ConfigError(
            "model.backbone: an ONNX file cannot be trained; it predicts, is judged and teaches: name another backbone."
        )
    known = conventions or {}
    card = ModelCard(
        architecture=config,
        skeletons=dict(skeletons),
        conventions={
            dataset: known[dataset] if dataset in known else config.of_head(dataset).on(LabelConventions())
            for dataset in skeletons
        },
        licenses=dict(licenses or {}),
    )
    return PoseModel(card)


def conventions_of(config: ModelConfig, head: str, definitions: Mapping[str, DatasetDefinition]) -> Conventions:
    """How crops of a head's dataset are cut and its outputs read; a shared head has those of its owner.

    Args:
        config: the architecture.
        head: one of the definitions' names.
        definitions: by name of the head.
    """
    owner = config.shared_heads.get(head, head)
    dataset = definitions[owner].name if owner in definitions else owner
    return config.of_head(owner, dataset).on(definitions[head].conventions)


def model_for(config: ModelConfig, definitions: Mapping[str, DatasetDefinition]) -> PoseModel:
    """A freshly initialised model with a head for each dataset, each under the conventions the architecture has for it.

    Args:
        config: the architecture.
        definitions: by name of the head.
    """
    return build_model(
        config,
        {head: definition.skeleton for head, definition in definitions.items()},
        {head: conventions_of(config, head, definitions) for head in definitions},
        {head: definition.license.id for head, definition in definitions.items()},
    )


def build_from(card: ModelCard, tensors: Mapping[str, Tensor]) -> PoseModel:
    """A model with these weights, in evaluation mode, never initialised otherwise: 2B parameters take a while to draw.

    Args:
        card: what to build.
        tensors: exactly the model's, by our names; copied, so that nothing hangs on the file they were mapped from.
    """
    with without_memory():
        model = PoseModel(card)
    own = {
        name: tensors[name].to(expected.dtype, copy=True).contiguous() for name, expected in model.state_dict().items()
    }
    model.load_state_dict(own, assign=True)
    assert not any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers())), "a buffer is not saved"
    return model.eval()


def check_heads(datasets: Collection[str], shared_heads: Collection[str] = ()) -> None:
    """Refuses datasets that cannot have heads of their names.

    Args:
        datasets: of the model.
        shared_heads: those of which another's head is to be used.

    Raises:
        ConfigError: a name has a dot or is one that every ``torch.nn.ModuleDict`` has already, or a shared head is of a
            dataset that is none of these.
    """
    taken = [name for name in datasets if not name or "." in name or hasattr(nn.ModuleDict, name) or name == "training"]
    if taken:
        raise ConfigError(
            f"dataset {', '.join(map(repr, taken))}: torch cannot call a head so; take another name of letters, "
            "digits, - and _."
        )
    strangers = [name for name in shared_heads if name not in datasets]
    if strangers:
        raise ConfigError(
            f"model.shared_heads names {', '.join(strangers)}, which this run does not train on; it trains on "
            f"{', '.join(datasets)}."
        )


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
