"""Trained models in folders of ours: what a training process starts from or is taught by.

Whatever a user names, a file, a place on the hub or a registered version, is brought into such a folder before a
training begins (:mod:`posecore.models.weights.initial` reads it), so that a training depends on what is in the folder
and not on the code that reads the files of others. A folder's path is no part of what it is.
"""

from typing import Protocol, Self

from pydantic import Field

from posecore.config import Config, digest_json
from posecore.errors import IntegrityError
from posecore.models.architecture import ModelCard
from posecore.models.pose_model import PoseModel
from posecore.models.saving import WEIGHTS_FILE, load_model, load_outline
from posecore.models.warm_start import WarmStart, WarmStartConfig, warm_start
from posecore.schema import Json
from posecore.storage import AnyPath, as_path, for_all_nodes, sha256_of

OWN_LAYOUT = "posecore"
"""Name of ours among the layouts, a folder that :mod:`posecore.models.saving` writes."""


class ModelFolder(Config):
    """A model folder, as :func:`posecore.models.saving.save_model` writes it.

    Attributes:
        source: the folder.
        sha256: of its weights; another file is refused.
        card: digest of what its card says, but for its lineage and the names in its licences.
    """

    source: str = Field(exclude=True)
    sha256: str | None = Field(default=None, pattern="^[0-9a-f]{64}$")
    card: str | None = None

    @classmethod
    def at(cls, folder: str | AnyPath) -> Self:
        """The model that is in a folder now.

        Raises:
            CheckpointError: there is none.
            IntegrityError: its card is damaged.
        """
        path = for_all_nodes(folder)
        found = load_outline(path).card
        # Licences are listed by where weights came from; only their terms are part of what the model is.
        terms = sorted(set(found.licenses.values()))
        card = found.model_dump(mode="json", exclude={"lineage", "licenses"}) | {"licenses": terms}
        return cls(source=str(path), sha256=sha256_of(path / WEIGHTS_FILE), card=digest_json(card))

    def read(self) -> PoseModel:
        """The model, in evaluation mode.

        Raises:
            CheckpointError: there is no whole model in the folder.
            IntegrityError: it is not the stated one.
        """
        found = self._checksum()
        if self.sha256 not in (None, found):
            raise other_file(self.source, found, str(self.sha256))
        return load_model(self.source)

    def _checksum(self) -> str:
        return sha256_of(as_path(self.source) / WEIGHTS_FILE)

    def outline(self) -> PoseModel:
        """The model without its weights, of which nothing is read; only for a folder of ours.

        Raises:
            CheckpointError: there is no model in the folder.
            IntegrityError: its card is damaged.
        """
        return load_outline(self.source)

    def beside(self, model: PoseModel) -> PoseModel:
        """The model to be asked while another one trains: without its weights where the other has none.

        Args:
            model: that trains; on the meta device, whoever shards it reads the weights of both.

        Raises:
            CheckpointError: there is no whole model in the folder.
            IntegrityError: it is not the stated one.
        """
        return self.outline() if is_outline(model) else self.read()

    def provenance(self, card: ModelCard) -> dict[str, Json]:
        """How the lineage of another model names this one.

        Args:
            card: of the model that :meth:`read` gives.
        """
        return folder_record(card) | {
            "source": self.source,
            "revision": None,
            "sha256": self.sha256 or self._checksum(),
        }


class StartFolder(ModelFolder):
    """A model folder to start from.

    Attributes:
        take: what is taken besides the backbone.
        record: how the lineage of what starts from it names what it was made of; None names the folder.
    """

    take: WarmStartConfig = WarmStartConfig()
    record: dict[str, Json] | None = Field(default=None, exclude=True)

    def provenance(self, card: ModelCard) -> dict[str, Json]:
        """See :meth:`ModelFolder.provenance`."""
        return super().provenance(card) if self.record is None else self.record


class Start(Protocol):
    """Weights to start from: a :class:`StartFolder`, or whatever else can be read as a model."""

    @property
    def take(self) -> WarmStartConfig:
        """What is taken besides the backbone."""
        ...

    def read(self) -> PoseModel:
        """The model, in evaluation mode."""
        ...

    def provenance(self, card: ModelCard) -> dict[str, Json]:
        """How the lineage of another model names this one."""
        ...


def initial_weights(model: PoseModel, start: Start) -> WarmStart:
    """Copies weights into a fresh model, resampled, routed and picked point by point as it needs them.

    Args:
        model: receives the weights; its card then names them in ``lineage["weights"]`` and their terms in
            ``licenses``. On the meta device its card alone changes, and of a :class:`ModelFolder` no weights are read.
        start: where they are.

    Returns:
        What was copied from where.

    Raises:
        CheckpointError: the weights cannot be had or read.
        ConfigError: they are of a backbone of other widths.
        IntegrityError: the file is not the stated one.
    """
    parent = start.outline() if is_outline(model) and isinstance(start, ModelFolder) else start.read()
    report = warm_start(model, parent, start.take)
    record = start.provenance(parent.card) | {"copied": report.as_dict(), "fresh": report.fresh()}
    model.card = model.card.model_copy(update={"lineage": {**model.card.lineage, "weights": record}})
    return report


def is_outline(model: PoseModel) -> bool:
    """Whether a model is on the meta device, without weights."""
    return model.device.type == "meta"


def folder_record(card: ModelCard) -> dict[str, Json]:
    """What lineage says of a model folder of ours, its place excepted."""
    terms = ", ".join(sorted(set(card.licenses.values()))) or "not stated"
    told = card.lineage
    said = {"origin": told.get("weights"), "teacher": told.get("teacher"), "data": told.get("data")}
    return {"layout": OWN_LAYOUT, "license": terms, **said}


def other_file(source: str, found: str, stated: str) -> IntegrityError:
    """What is raised for weights that are not those that were meant."""
    return IntegrityError(f"{source} has SHA-256 {found}, not the stated {stated}; it is another file than was meant.")
