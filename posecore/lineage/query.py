"""Lineage asked both ways: what a model has seen, and every model that has seen a dataset, an image or a subject.

The registry's tags are read once into a graph; a model has seen what it was trained on and what its ancestors were
trained on. From a dataset's digest the way goes on to the images through the split's own index.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import pyarrow.parquet as pq
from mlflow.entities.model_registry import ModelVersion

from posecore.errors import IntegrityError, LineageError
from posecore.lineage.dataset_inputs import DatasetUse
from posecore.lineage.tracking import Tracking
from posecore.lineage.versions import RegisteredVersion, dataset_uses, parent_of
from posecore.lineage.weights_use import WeightsUse, weights_uses
from posecore.shards.editions import find_edition
from posecore.shards.manifest import IMAGES_NAME, INSTANCES_NAME
from posecore.storage import as_path

_DIGEST_DIGITS = 8  # shorter hexadecimal words are taken for names


@dataclass(frozen=True)
class Sighting:
    """A model that has seen something.

    Attributes:
        model: the version.
        through: the version trained on it: the model itself or an ancestor.
        use: the split, as that version used it.
    """

    model: RegisteredVersion
    through: RegisteredVersion
    use: DatasetUse


@dataclass(frozen=True)
class Start:
    """A model that started from published weights.

    Attributes:
        model: the version.
        through: the version that started from them: the model itself or an ancestor.
        use: the weights.
    """

    model: RegisteredVersion
    through: RegisteredVersion
    use: WeightsUse


@dataclass(frozen=True)
class Trace:
    """Where an image or subject was looked for and found.

    Attributes:
        sightings: every model that has seen it.
        unread: splits whose index is gone or is no longer the one used, with why: there the answer is unknown.
    """

    sightings: list[Sighting]
    unread: list[str]


class LineageGraph:
    """All registered versions with their data and parents.

    Args:
        versions: the registry's versions.
    """

    def __init__(self, versions: Iterable[ModelVersion]) -> None:
        self._versions = {RegisteredVersion(v.name, int(v.version)): v for v in versions}
        self._uses = {model: dataset_uses(version) for model, version in self._versions.items()}
        self._weights = {model: weights_uses(version) for model, version in self._versions.items()}

    @classmethod
    def load(cls, tracking: Tracking) -> "LineageGraph":
        """Reads every version of every registered model."""
        return cls(_all_versions(tracking))

    @property
    def models(self) -> list[RegisteredVersion]:
        """Every version, by name and number."""
        return sorted(self._versions, key=lambda model: (model.name, model.version))

    def version(self, model: RegisteredVersion) -> ModelVersion:
        """The registry's entry.

        Raises:
            LineageError: there is none.
        """
        if model not in self._versions:
            raise LineageError(f"model {model.name} version {model.version} is not registered.")
        return self._versions[model]

    def ancestry(self, model: RegisteredVersion) -> list[RegisteredVersion]:
        """The version, its parent, its parent's parent and so on.

        Raises:
            LineageError: the version, or an ancestor, is not (or no longer) registered.
        """
        chain = [model]
        while (parent := parent_of(self.version(chain[-1]))) is not None:
            if parent in chain:
                raise LineageError(f"{model.uri}: its ancestry is a circle at {parent.uri}; correct the parent tags.")
            chain.append(parent)
        return chain

    def uses(self, model: RegisteredVersion) -> list[DatasetUse]:
        """The splits a version names as its own."""
        self.version(model)
        return self._uses[model]

    def weights(self, model: RegisteredVersion) -> list[WeightsUse]:
        """The weights a version started from, its parents' not included."""
        self.version(model)
        return self._weights[model]

    def training_data(self, model: RegisteredVersion) -> list[DatasetUse]:
        """Everything the version or an ancestor was trained on."""
        return [use for ancestor in self.ancestry(model) for use in self.uses(ancestor) if use.role == "training"]

    def sightings(self, *, evaluated: bool = False) -> Iterator[Sighting]:
        """Every pair of a model and a split it has seen in training, its own or an ancestor's.

        Args:
            evaluated: also what a version itself was evaluated on.
        """
        for model in self.models:
            for ancestor in self.ancestry(model):
                for use in self.uses(ancestor):
                    if use.role == "training" or (evaluated and ancestor == model):
                        yield Sighting(model, ancestor, use)

    def of_dataset(self, name_or_digest: str, *, evaluated: bool = False) -> list[Sighting]:
        """Every model that has seen a dataset.

        Args:
            name_or_digest: ``coco``, ``coco/train``, or a manifest digest or at least its first 8 digits.
            evaluated: also models only evaluated on it.
        """
        return [seen for seen in self.sightings(evaluated=evaluated) if _is_dataset(seen.use, name_or_digest)]

    def starts(self) -> Iterator[Start]:
        """Every pair of a model and published weights it started from, itself or through an ancestor."""
        for model in self.models:
            for ancestor in self.ancestry(model):
                for use in self.weights(ancestor):
                    yield Start(model, ancestor, use)

    def of_license(self, commercial_use: Literal["allowed", "not stated", "forbidden"]) -> list[Sighting | Start]:
        """Every model trained on data, or started from weights, whose terms of commercial use are these."""
        wanted = {"allowed": True, "not stated": None, "forbidden": False}[commercial_use]
        found: list[Sighting | Start] = [*self.sightings(), *self.starts()]
        return [seen for seen in found if seen.use.commercial_use is wanted]

    def of_weights(self, source_or_digest: str) -> list[Start]:
        """Every model that started from certain weights.

        Args:
            source_or_digest: as they were named, or their SHA-256 or at least its first 8 digits.
        """
        return [
            start
            for start in self.starts()
            if _has_digest(start.use, source_or_digest) or source_or_digest == start.use.source
        ]

    def of_image(self, sha256: str) -> Trace:
        """Every model that has seen an image.

        Args:
            sha256: hash of the image file's bytes.
        """
        return self._trace(IMAGES_NAME, "sha256", sha256)

    def of_subject(self, subject_id: str) -> Trace:
        """Every model that has seen a person or animal, for instance after a withdrawn consent.

        Args:
            subject_id: as in the datasets' records.
        """
        return self._trace(INSTANCES_NAME, "subject_id", subject_id)

    def _trace(self, table: str, column: str, value: str) -> Trace:
        holds: dict[tuple[str, str], bool] = {}
        unread = []
        for digest, location, label in self._training_splits:
            try:
                holds[digest, location] = _split_contains(location, digest, table, column, value)
            except (OSError, IntegrityError) as error:
                unread.append(f"{label} {digest[:12]} at {location}: {' '.join(str(error).split())}")
        found = [seen for seen in self.sightings() if holds.get((seen.use.digest, seen.use.location), False)]
        return Trace(found, unread)

    @cached_property
    def _training_splits(self) -> list[tuple[str, str, str]]:
        """(digest, location, label), each once."""
        uses = (use for uses in self._uses.values() for use in uses if use.role == "training")
        return sorted({(use.digest, use.location, use.label) for use in uses})


def _split_contains(location: str, digest: str, table: str, column: str, value: str) -> bool:
    with (find_edition(as_path(location), digest) / table).open("rb") as file:
        return bool(pq.read_table(file, columns=[column], filters=[(column, "=", value)]).num_rows)


def _is_dataset(use: DatasetUse, name_or_digest: str) -> bool:
    return _has_digest(use, name_or_digest) or name_or_digest in (use.name, use.label)


def _has_digest(use: DatasetUse | WeightsUse, digits: str) -> bool:
    return len(digits) >= _DIGEST_DIGITS and use.digest.startswith(digits.lower())


def _all_versions(tracking: Tracking) -> Iterator[ModelVersion]:
    token: str | None = None
    while True:
        page = tracking.client.search_model_versions(max_results=10_000, page_token=token)
        yield from page
        token = page.token
        if not token:
            return
