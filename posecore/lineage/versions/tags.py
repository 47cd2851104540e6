"""What a version in the model registry says of itself, written and read as tags.

What lineage must answer years later is written redundantly as tags of the model version, because tags survive when
runs are deleted and can be read without the artifact store. The logged model carries the same tags, which survive when
the version is deleted:

- ``dataset.<role>.<name>/<split>``: a :class:`~posecore.lineage.versions.dataset_inputs.DatasetUse` as JSON, one per
  dataset;
- ``evaluation.<name>.<digest>``: metrics as JSON, per evaluation set and the digest they were measured on;
- ``weights.<n>``: a :class:`~posecore.lineage.versions.weights_use.WeightsUse` as JSON, weights it came from, however
  they were named;
- ``cost.<figure>``: size, arithmetic and measured latency of a model that was made to be small;
- ``sha256`` of its weights, ``license``, ``commercial_use``, ``parent``, ``run_id``, ``code``, ``git``;
- ``resumed_code``: another version of the code whose checkpoints its training went on from.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from pydantic import ConfigDict, Field

from posecore.config import Config
from posecore.errors import LineageError, QuestionError
from posecore.lineage.store.tracking import Tracking, metric_name
from posecore.lineage.versions.dataset_inputs import DatasetUse, short_digest
from posecore.nearest import choices

DATASET = "dataset."
"""What tags begin with that name a split."""
EVALUATION = "evaluation."
"""What tags begin with that hold figures."""
SHA256 = "sha256"
"""Tag: of the version's weights, by which whatever else they lie in is the same model."""
VERSION = "posecore.version"
"""Tag of a logged model: ``name/number`` it was registered as; it outlives the version."""
WITHDRAWN_TAG = "withdrawn"
"""Tag of a version that has seen what was withdrawn since: the run of the withdrawal."""
COST = "cost."
"""What tags begin with that say what a version costs."""
RESUMED_CODE = "resumed_code"
"""Tag, and entry of a model card's lineage, that names another code whose checkpoints a training went on from."""


class EvaluationResult(Config):
    """Metrics of a model on one evaluation set.

    Attributes:
        name: name of the set, such as ``coco``; metrics are addressed as ``name/metric``.
        digest: dataset digest of the set; figures are comparable only on the same one.
        metrics: by name.
        groups: of groups of its bodies, as ``error/posture/prone``; shown beside the others, and not in the tag.
    """

    # Plain JSON has no NaN, which is what a metric without ground truth is.
    model_config = ConfigDict(allow_inf_nan=True, ser_json_inf_nan="strings")

    name: str
    digest: str
    metrics: dict[str, float]
    groups: dict[str, float] = Field(default_factory=dict, exclude=True)


@dataclass(frozen=True, slots=True)
class RegisteredVersion:
    """A version in the registry.

    Attributes:
        name: registered model.
        version: its number.
    """

    name: str
    version: int

    @property
    def uri(self) -> str:
        """For ``mlflow.pyfunc.load_model``."""
        return f"models:/{self.name}/{self.version}"


def get_version(tracking: Tracking, name: str, version: int | str) -> ModelVersion:
    """A model version.

    Raises:
        LineageError: there is none.
    """
    try:
        return tracking.client.get_model_version(name, str(version))
    except MlflowException as error:
        detail = " ".join(str(error).split())
        raise LineageError(
            f"model {name} version {version}: {detail.rstrip('.')}.{near_models(tracking, name)}"
        ) from None


def look_up(tracking: Tracking, name: str) -> None:
    """Refuses the name of a model that is not registered.

    Raises:
        QuestionError: it is not.
    """
    known = _models(tracking)
    if name not in known:
        raise QuestionError(f"no model is registered as {name}.{choices(name, known)}")


def near_models(tracking: Tracking, name: str) -> str:
    """What to say behind the sentence that a version was not found: what is registered instead."""
    known = _models(tracking)
    if name not in known:
        return choices(name, known) if known else " Nothing is registered there."
    numbers = sorted(int(each.version) for each in tracking.client.search_model_versions(f"name = '{name}'"))
    held = tracking.client.get_registered_model(name).aliases
    aliases = f" Its aliases: {', '.join(sorted(held))}." if held else " It has no alias."
    return f" Versions of {name}: {', '.join(map(str, numbers)) or 'none'}.{aliases}"


def _models(tracking: Tracking) -> list[str]:
    return [each.name for each in tracking.client.search_registered_models(max_results=1000)]


def evaluations(version: ModelVersion) -> list[EvaluationResult]:
    """The metrics a version carries."""
    tags = sorted(version.tags.items())
    return [EvaluationResult.model_validate_json(value) for key, value in tags if key.startswith(EVALUATION)]


def parent_of(version: ModelVersion) -> RegisteredVersion | None:
    """The version it was made from, or None."""
    uri = version.tags.get("parent")
    return parse_uri(uri) if uri else None


def parse_uri(uri: str) -> RegisteredVersion:
    """The version that ``models:/name/number`` names.

    Raises:
        ValueError: the text has another form.
    """
    name, _, number = uri.removeprefix("models:/").rpartition("/")
    if not name or not uri.startswith("models:/"):
        raise ValueError(f"{uri} is not models:/name/number")
    return RegisteredVersion(name, int(number))


def dataset_tags(datasets: Sequence[DatasetUse]) -> dict[str, str]:
    """One tag per split."""
    return {f"{DATASET}{use.role}.{use.label}": use.model_dump_json() for use in datasets}


def evaluation_tag(result: EvaluationResult) -> tuple[str, str]:
    """Key and value of the tag that holds the metrics of one evaluation set."""
    return f"{EVALUATION}{metric_name(result.name)}.{short_digest(result.digest)}", result.model_dump_json()
