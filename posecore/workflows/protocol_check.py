"""Whether what a job is to judge can be judged, and what it is to look at is judged, before anything starts."""

from collections.abc import Mapping

from posecore.datasets.definition import DatasetDefinition
from posecore.errors import ConfigError
from posecore.evaluation.protocols import protocol_problem
from posecore.training.loop import TrainingConfig
from posecore.workflows.datasets_job import DatasetsJob


def check_protocols(config: DatasetsJob, definitions: Mapping[str, DatasetDefinition]) -> None:
    """Refuses sets that their own protocol could not judge once a model is trained.

    Raises:
        ConfigError: a protocol lacks an OKS constant, a point it names, or has no such option.
    """
    for entry in config.datasets:
        if entry.evaluate is None:
            continue
        definition = definitions[entry.name]
        problem = protocol_problem(definition.evaluation, definition.skeleton)
        if problem is not None:
            raise ConfigError(f"datasets.{entry.name} cannot be judged: {problem}")


def check_best(config: DatasetsJob, training: TrainingConfig) -> None:
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
