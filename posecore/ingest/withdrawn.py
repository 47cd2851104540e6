"""What may not be ingested again: people, pictures or datasets that were withdrawn, as a file in the split's folder.

Every ingestion into that folder takes them out by a stage of its own, so that they stand in the manifest's definition
with the reason, and what they took out in the quarantine.
"""

from pydantic import ValidationError

from posecore.config import Config
from posecore.datasets.definition import DatasetDefinition, StageEntry
from posecore.errors import IngestError
from posecore.schema import Json
from posecore.storage import AnyPath, write_atomically

WITHDRAWN_NAME = "withdrawn.json"


class Withdrawn(Config):
    """What is not to be ingested.

    Attributes:
        subjects: id of a subject to the reason.
        pictures: digest of a picture, or of the file it came from, to the reason.
        datasets: name of a dataset of which nothing may be ingested any more, to the reason.
    """

    subjects: dict[str, str] = {}
    pictures: dict[str, str] = {}
    datasets: dict[str, str] = {}

    def __or__(self, other: "Withdrawn") -> "Withdrawn":
        """Both together."""
        return Withdrawn(
            subjects=self.subjects | other.subjects,
            pictures=self.pictures | other.pictures,
            datasets=self.datasets | other.datasets,
        )

    def stages(self) -> tuple[StageEntry, ...]:
        """The stages that take them out; none if there is nothing to take out."""
        entries = []
        if self.subjects:
            subjects = dict(sorted(self.subjects.items()))
            entries.append(StageEntry(stage="drop_subjects", options={"subjects": list(subjects), "reasons": subjects}))
        if self.pictures:
            pictures = dict(sorted(self.pictures.items()))
            entries.append(StageEntry(stage="drop_pictures", options={"pictures": pictures}))
        return tuple(entries)


def read_withdrawn(folder: AnyPath) -> Withdrawn:
    """What a split's folder says is withdrawn; nothing if it says nothing.

    Raises:
        IngestError: the file is not what :func:`write_withdrawn` writes; ingesting without it might bring them back.
    """
    path = folder / WITHDRAWN_NAME
    try:
        return Withdrawn.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return Withdrawn()
    except ValidationError as error:
        detail = " ".join(str(error).split())[:200]
        raise IngestError(
            f"{path} does not say who was withdrawn ({detail}); bring it back, or remove it to ingest everybody."
        ) from None


def write_withdrawn(folder: AnyPath, withdrawn: Withdrawn) -> Withdrawn:
    """Adds to what a split's folder says, and returns all of it."""
    together = read_withdrawn(folder) | withdrawn
    write_atomically(folder / WITHDRAWN_NAME, (together.model_dump_json(indent=1) + "\n").encode())
    return together


def without(definition: DatasetDefinition, withdrawn: Withdrawn) -> DatasetDefinition:
    """The definition with the stages that take out what was withdrawn, once, after all others.

    Raises:
        IngestError: all of the dataset was withdrawn.
    """
    if definition.name in withdrawn.datasets:
        raise IngestError(
            f"{definition.name} was withdrawn as a whole and is not ingested: {withdrawn.datasets[definition.name]}; "
            "take it out of the job."
        )
    others = [entry for entry in definition.stages if not _says_no_more(entry, withdrawn)]
    stages = withdrawn.stages()
    if len(others) == len(definition.stages) and not stages:
        return definition
    return definition.model_copy(update={"stages": (*others, *stages)})


def _says_no_more(entry: StageEntry, withdrawn: Withdrawn) -> bool:
    """Whether a stage takes out what was withdrawn and nothing else, as those of a former edition do."""
    if entry.files or entry.options.get("bodies_only"):
        return False
    if entry.stage == "drop_pictures":
        return _keys(entry.options.get("pictures")) <= withdrawn.pictures.keys()
    return entry.stage == "drop_subjects" and _keys(entry.options.get("subjects")) <= withdrawn.subjects.keys()


def _keys(value: Json) -> set[str]:
    return {str(key) for key in value} if isinstance(value, (dict, list)) else {""}
