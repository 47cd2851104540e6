"""Whether what a job is to judge can be judged, and what it is to look at is judged, before anything starts."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from posecore.datasets.definition import DatasetDefinition
from posecore.datasets.judgeable import labels_problem
from posecore.errors import ConfigError, DatasetError
from posecore.evaluation.label_counts import label_counts
from posecore.evaluation.protocols import protocol_problem, scenes_problem
from posecore.shards.store import open_store
from posecore.training.loop import TrainingConfig

if TYPE_CHECKING:  # jobs know MLflow, which whoever asks here for labels alone does not wait for
    from posecore.workflows.data_steps import Split
    from posecore.workflows.datasets_job import DatasetsJob


def check_protocols(
    config: "DatasetsJob", definitions: Mapping[str, DatasetDefinition], *, whole_scenes: bool = False
) -> None:
    """Refuses sets that their own protocol could not judge once a model is trained.

    Args:
        config: with the sets that are judged.
        definitions: by name of the entry.
        whole_scenes: whether the model finds bodies in whole pictures.

    Raises:
        ConfigError: a protocol lacks an OKS constant, a point it names, or has no such option.
    """
    for entry in config.datasets:
        if entry.evaluate is None:
            continue
        definition = definitions[entry.name]
        problem = protocol_problem(definition.evaluation, definition.skeleton)
        if problem is None and whole_scenes:
            problem = scenes_problem(definition.evaluation)
        if problem is not None:
            raise ConfigError(f"datasets.{entry.name} cannot be judged: {problem}")


def check_best(config: "DatasetsJob", training: TrainingConfig) -> None:
    """Refuses to wait for the best of a set that is not judged.

    Raises:
        ConfigError: names the sets that are.
    """
    judged = [entry.name for entry in config.datasets if entry.evaluate is not None]
    if training.best is not None and training.best.metric.partition("/")[0] not in judged:
        raise ConfigError(
            f"training.best.metric: {training.best.metric} is no metric of a set that is judged; begin it with "
            f"{' or '.join(f'{name}/' for name in judged) or 'one, once there is one'}."
        )


def check_judged_labels(evaluation: Sequence["Split"]) -> None:
    """Refuses ingested splits by which nothing could be judged once a model is trained.

    Raises:
        DatasetError: no body of one is labelled, or its protocol asks for more than its labels have.
    """
    for split in evaluation:
        problem = labels_problem(split.definition.evaluation.protocol, label_counts(open_store(split.location)))
        if problem is not None:
            name = f"datasets.{split.entry.name}: evaluation split {split.entry.split('evaluation')}"
            raise DatasetError(f"{name}: {problem}")
