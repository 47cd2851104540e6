"""A model that a job starts from or is taught by, brought into the run folder so that every worker reads the same.

Copies lie under what decides them: the file's checksum, what is said of it, and the code that reads it. A training's
fingerprint has the copy's content alone, so code that reads the files of others may change without training again.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from posecore.config import digest_json
from posecore.datasets.definition import DatasetDefinition
from posecore.lineage.code.version import code_digest
from posecore.lineage.store.tracking import Tracking
from posecore.lineage.versions.model_source import registered_model, registered_version
from posecore.lineage.versions.tags import RegisteredVersion
from posecore.models.architecture import ModelConfig
from posecore.models.outline import without_memory
from posecore.models.pose_model import PoseModel, model_for
from posecore.models.saving import CARD_FILE, holds_model, load_outline, save_model
from posecore.models.sources import ModelFolder, StartFolder
from posecore.models.warm_start import inherited_conventions
from posecore.models.weights.initial import SourceConfig, WeightsConfig, pin
from posecore.models.weights.layout import CONFIG_FILE
from posecore.models.weights.onnx_file import PIPELINE_FILE
from posecore.schema import Json
from posecore.storage import AnyPath, as_path, sha256_of
from posecore.workflows.named_model import is_registered


@dataclass(frozen=True)
class FetchedModel:
    """A model and where it came from.

    Attributes:
        source: its copy in the run folder.
        record: where it came from, for the lineage of what is made with it.
        version: its version, if it is a registered one.
    """

    source: ModelFolder
    record: Mapping[str, Json]
    version: RegisteredVersion | None

    @cached_property
    def model(self) -> PoseModel:
        """The model, on the CPU, in evaluation mode."""
        return self.source.read()


def fetch_model(wanted: SourceConfig, folder: AnyPath, tracking: Tracking) -> FetchedModel:
    """Copies a model into a folder.

    Args:
        wanted: ``models:/name@alias``, ``models:/name/version``, or any source of weights.
        folder: of the run, for such models.
        tracking: the store that knows the registered ones.

    Raises:
        CheckpointError: it cannot be read.
        IntegrityError: it is not the stated one.
        LineageError: there is no such registered version.
    """
    if not is_registered(wanted.source):
        source = pin(wanted)
        copy = _copied(source, folder)
        return FetchedModel(ModelFolder.at(copy), source.provenance(load_outline(copy).card), None)
    version = registered_version(wanted.source, tracking)
    with registered_model(version.uri, tracking) as downloaded:
        source = pin(SourceConfig(source=str(downloaded)))
        copy = _copied(source, folder)
        record = source.provenance(load_outline(copy).card) | {"source": version.uri}
    return FetchedModel(ModelFolder.at(copy), record, version)


def fetch_start(wanted: WeightsConfig, folder: AnyPath) -> StartFolder:
    """Copies weights to start from into a folder.

    Args:
        wanted: pinned; any source of weights.
        folder: of the run, for such models.

    Raises:
        CheckpointError: they cannot be read.
        IntegrityError: they are not the stated ones.
    """
    copy = _copied(wanted, folder)
    record = wanted.provenance(load_outline(copy).card)
    return StartFolder.at(copy).model_copy(update={"take": wanted.take, "record": record})


def fetch_judged(source: str, folder: AnyPath, expect: str | None, heads: Mapping[str, str]) -> AnyPath:
    """A model folder of what is to be judged: itself, or a copy in ours of any other source of weights.

    Args:
        source: a model folder, local or any fsspec URL, or any source of weights.
        folder: of such copies.
        expect: preset or catalog name that a file must be of.
        heads: name of the skeleton by head of a file, where it does not say.

    Raises:
        CheckpointError: it cannot be read, or its points are guessed and not confirmed.
    """
    if holds_model(source):
        return as_path(source)
    return _copied(pin(SourceConfig(source=source, preset=expect, heads=dict(heads))), folder)


def refuse_other_conventions(
    architecture: ModelConfig, learned: Mapping[str, DatasetDefinition], start: StartFolder
) -> None:
    """Refuses a run file that states conventions of a head under which its initial weights were not trained.

    Args:
        architecture: of the model that starts from them.
        learned: by head, the dataset it learns from.
        start: the weights; only their card is looked at.

    Raises:
        ConfigError: names both sides.
    """
    if any(architecture.states(head) for head in learned):
        with without_memory():  # no memory, whatever the size
            model = model_for(architecture, learned)
        inherited_conventions(model, start.outline(), start.take)


def _copied(source: SourceConfig, folder: AnyPath) -> AnyPath:
    path = Path(source.source)
    beside = [(path if path.is_dir() else path.parent) / name for name in (CARD_FILE, CONFIG_FILE, PIPELINE_FILE)]
    decided = {
        "source": source.model_dump(mode="json", exclude={"source", "take"}),
        "beside": [sha256_of(said) if said.is_file() else None for said in beside],
        "code": code_digest(["posecore.models.weights.read"]),
    }
    copy = folder / digest_json(decided)[:12]
    if not holds_model(copy):
        save_model(source.read(), copy)
    return copy
