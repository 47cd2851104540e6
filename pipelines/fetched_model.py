"""A model that a job starts from or is taught by, brought into the run folder so that every worker reads the same."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from posecore.lineage.model_source import registered_model, registered_version
from posecore.lineage.tracking import Tracking
from posecore.lineage.versions import RegisteredVersion
from posecore.models.pose_model import PoseModel
from posecore.models.saving import holds_model, save_model
from posecore.models.weights.initial import SourceConfig, pin
from posecore.schema import Json

REGISTRY = "models:/"
"""What the address of a registered version begins with."""


@dataclass(frozen=True)
class FetchedModel:
    """A model and where it came from.

    Attributes:
        model: on the CPU, in evaluation mode.
        source: its copy in the run folder, by checksum.
        record: where it came from, for the lineage of what is made with it.
        version: its version, if it is a registered one.
    """

    model: PoseModel
    source: SourceConfig
    record: Mapping[str, Json]
    version: RegisteredVersion | None


def fetch_model(wanted: SourceConfig, folder: Path, tracking: Tracking) -> FetchedModel:
    """Copies a model into a folder, under the beginning of its checksum.

    Args:
        wanted: ``models:/name@alias``, ``models:/name/version``, or any source of weights.
        folder: of the run, for such models.
        tracking: the store that knows the registered ones.

    Raises:
        CheckpointError: it cannot be read.
        IntegrityError: it is not the stated one.
        LineageError: there is no such registered version.
    """
    version = None
    if wanted.source.startswith(REGISTRY):
        version = registered_version(wanted.source, tracking)
        with registered_model(version.uri, tracking) as downloaded:
            source = pin(SourceConfig(source=str(downloaded)))
            model = source.read()
            record = source.provenance(model) | {"source": version.uri}
    else:
        source = pin(wanted)
        model = source.read()
        record = source.provenance(model)
    copy = folder / str(source.sha256)[:12]
    if not holds_model(copy):
        save_model(model, copy)
    return FetchedModel(model, pin(SourceConfig(source=str(copy))), record, version)
