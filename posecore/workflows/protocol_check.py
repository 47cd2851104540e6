"""Whether what a job is to judge can be judged, before anything starts."""

from collections.abc import Mapping

from posecore.datasets.definition import DatasetDefinition
from posecore.errors import ConfigError
from posecore.evaluation.protocols import protocol_problem
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
