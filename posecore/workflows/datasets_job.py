"""What every job on several datasets is told, whatever it does with them."""

from collections.abc import Iterable, Mapping
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from posecore.config import Config, parse_config
from posecore.datasets.definition import DatasetDefinition
from posecore.datasets.discovery import load_dataset
from posecore.ingest.job import IngestSettings
from posecore.ingest.perceptual import Likeness
from posecore.lineage.store.tracking import TrackingConfig
from posecore.lineage.versions.dataset_inputs import Role
from posecore.loading.augment import AugmentConfig, LateAugmentConfig
from posecore.loading.loader import LoadingConfig, OnBadSample, Pictures
from posecore.loading.mixture import Shuffle, Unlabelled
from posecore.loading.precut import PrecutSettings
from posecore.loading.scene import SceneConfig
from posecore.loading.unlabelled_crops import UnlabelledConfig
from posecore.schema import Json
from posecore.storage import AnyPath, as_path, for_all_nodes


class DatasetEntry(Config):
    """One dataset of the run; its name is also the name of its head.

    Attributes:
        name: of the entry.
        definition: name of the dataset definition, or path of a ``dataset.yaml``; default the entry's name.
        root: folder of the download, relative to ``data_folder`` unless absolute; local or any fsspec URL.
        train: split to train on; None for a set that is only judged.
        evaluate: split to judge on; None for a set that is only trained on.
        head: for a set that is only judged, the entry whose head answers; for unlabelled pictures, the one that learns.
        weight: share of the samples, for ``sampling: explicit``.
        augment: other augmentation than the run's.
        changes: fields of the definition that differ for this run, nested as in ``dataset.yaml``.
        corrections: file with labels that training reads as unlabelled; evaluation reads them all.
        unlabelled: for pictures that a mean teacher labels in an adaptation: crop ``boxes`` or whole ``images``. Labels
            of such a set, if it has any, are never read.
    """

    name: str = Field(pattern=r"^[\w-]+$")
    definition: str = ""
    root: str
    train: str | None = None
    evaluate: str | None = None
    head: str | None = None
    weight: float | None = None
    augment: AugmentConfig | None = None
    changes: dict[str, Json] = {}
    corrections: str | None = None
    unlabelled: Unlabelled | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.train is None and self.evaluate is None:
            raise ValueError(f"{self.name}: give train, evaluate or both.")
        if self.unlabelled is not None and (
            self.train is None or self.head is None or self.evaluate is not None or self.corrections is not None
        ):
            raise ValueError(
                f"{self.name}: unlabelled pictures have a train split and a head that learns from them, and nothing "
                "that reads labels; give train and head, and take out evaluate and corrections."
            )
        if self.unlabelled is None and (self.train is None) == (self.head is None):
            raise ValueError(f"{self.name}: head is needed exactly where train is not given.")
        if self.weight is not None and self.train is None:
            raise ValueError(f"{self.name}: weight is the share of a set that is trained on; give train or drop it.")
        if self.weight is not None and self.weight <= 0:
            raise ValueError(
                f"{self.name}: weight {self.weight:g} is no share of the samples; give a positive number, or leave the "
                "dataset out, or give head in place of train to judge on it only."
            )
        if self.corrections is not None and self.train is None:
            raise ValueError(f"{self.name}: corrections drop labels from training, and it has no train split.")
        return self

    @property
    def answering_head(self) -> str:
        """The head that predicts this set: its own, or the one named."""
        return self.head or self.name

    @property
    def roles(self) -> list[Role]:
        """What the entry is used for."""
        wanted: list[tuple[Role, str | None]] = [("training", self.train), ("evaluation", self.evaluate)]
        return [role for role, split in wanted if split is not None]

    def split(self, role: Role) -> str:
        """Name of the split for one of the entry's roles."""
        split = self.train if role == "training" else self.evaluate
        assert split is not None, f"{self.name} has no {role} split"
        return split

    def load(self) -> DatasetDefinition:
        """The definition with this run's changes."""
        definition = load_dataset(self.definition or self.name)
        if not self.changes:
            return definition
        merged = _merged(definition.model_dump(), self.changes) | {"folder": definition.folder}
        return parse_config(merged, DatasetDefinition, origin=f"datasets.{self.name}.changes")


def learned_by(
    entries: Iterable[DatasetEntry], definitions: Mapping[str, DatasetDefinition]
) -> dict[str, DatasetDefinition]:
    """By head, the dataset it learns from: the entries with a train split."""
    return {entry.name: definitions[entry.name] for entry in entries if entry.train is not None}


class MixtureSettings(Config):
    """How batches are drawn and made; the datasets themselves come from ``datasets``.

    Attributes:
        sampling: see :class:`~posecore.loading.mixture.MixtureConfig`.
        temperature: likewise.
        shuffle_window: likewise.
        shuffle: likewise.
        block_bytes: likewise.
        num_threads: decoding threads per worker.
        prefetch: batches prepared ahead.
        cache_bytes: bound on the decoded images a worker keeps.
        pictures: see :class:`~posecore.loading.loader.LoadingConfig`; the job's ``precut`` says how they are cut.
        on_bad_sample: see :class:`~posecore.loading.loader.LoadingConfig`.
        max_bad_share: likewise.
    """

    sampling: Literal["natural", "temperature", "explicit"] = "natural"
    temperature: float = 1.0
    shuffle_window: int = 8
    shuffle: Shuffle = "auto"
    block_bytes: int = 30 << 30
    num_threads: int = 2
    prefetch: int = 2
    cache_bytes: int = 1 << 30
    pictures: Pictures = "whole"
    on_bad_sample: OnBadSample = "stop"
    max_bad_share: float = 0.01

    def config(self, datasets: Iterable[DatasetEntry], unlabelled: UnlabelledConfig | None = None) -> LoadingConfig:
        """The loader's configuration.

        Args:
            datasets: those with a train split are drawn from.
            unlabelled: for pre-training.
        """
        drawing = {"sampling", "temperature", "shuffle_window", "shuffle", "block_bytes"}
        entries = tuple(
            {
                "name": entry.name,
                "weight": entry.weight,
                "augment": entry.augment,
                "unlabelled": entry.unlabelled,
            }
            for entry in datasets
            if entry.train is not None
        )
        mixture = {"entries": entries, **self.model_dump(include=drawing)}
        values = {"mixture": mixture, "unlabelled": unlabelled, **self.model_dump(exclude=drawing)}
        return parse_config(values, LoadingConfig, origin="loading")


class LoaderSettings(MixtureSettings):
    """How batches are drawn, made and augmented.

    Attributes:
        augment: of every dataset that has none of its own.
        late: augmentation of the last passes, of every dataset.
        scenes: how whole pictures are turned, enlarged and moved, for a head that finds bodies in these; of
            ``augment``, what changes no place then counts.
    """

    augment: AugmentConfig = AugmentConfig()
    late: LateAugmentConfig | None = None
    scenes: SceneConfig | None = None


class Job(Config):
    """Base of whatever is run as steps.

    Attributes:
        name: of the workflow, and of the registered model.
        run_folder: everything the run writes; a local folder, one that every node mounts, or any fsspec URL.
        tracking: MLflow store.
    """

    name: str
    run_folder: str
    tracking: TrackingConfig = TrackingConfig()

    @property
    def folder(self) -> AnyPath:
        """The run folder, absolute: a submitted job runs in a directory that is thrown away.

        Raises:
            ConfigError: fsspec cannot open it, or no other process could.
        """
        return for_all_nodes(self.run_folder)


class DatasetsJob(Job):
    """Base of the run files of jobs on several datasets.

    Attributes:
        data_folder: what relative dataset roots are relative to.
        datasets: what is trained and judged on.
        ingest: shape of the shards.
        precut: cut a picture of every body of the training sets, too, for these crops.
        audit: what counts as the same image.
        allow_leakage: go on although train and evaluation sets share images; recorded in the lineage.
    """

    data_folder: str = "."
    datasets: tuple[DatasetEntry, ...] = Field(min_length=1)
    ingest: IngestSettings = IngestSettings()
    precut: PrecutSettings | None = None
    audit: Likeness = Likeness()
    allow_leakage: bool = False

    @model_validator(mode="after")
    def _check_datasets(self) -> Self:
        self._check_names()
        for entry in self.datasets:
            if entry.unlabelled is not None:
                raise ValueError(
                    f"datasets.{entry.name}.unlabelled: only an adaptation (pipelines/adapt.py) has a mean teacher "
                    "that could label these; take the entry out."
                )
        heads = {entry.name for entry in self.datasets if entry.train is not None}
        if not heads:
            raise ValueError("datasets: none has a train split.")
        for entry in self.datasets:
            if entry.head is not None and entry.head not in heads:
                raise ValueError(f"datasets.{entry.name}.head: {entry.head!r} is no entry with a train split.")
        return self

    def _check_names(self) -> None:
        names = [entry.name for entry in self.datasets]
        doubled = sorted({name for name in names if names.count(name) > 1})
        if doubled:
            raise ValueError(f"datasets: named twice: {', '.join(doubled)}.")

    def num_keypoints(self, definitions: Mapping[str, DatasetDefinition]) -> dict[str, int]:
        """By dataset that is trained on, its points."""
        return {name: each.skeleton.num_keypoints for name, each in learned_by(self.datasets, definitions).items()}

    def root(self, entry: DatasetEntry) -> str:
        """Where an entry's download lies."""
        return str(as_path(self.data_folder) / entry.root) if "://" not in entry.root else entry.root


def _merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in changes.items():
        below = merged.get(key)
        merged[key] = _merged(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return merged
