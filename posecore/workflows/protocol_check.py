"""Whether what a job is to judge can be judged, and what it is to look at is judged, before anything starts."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from posecore.datasets.definition import DatasetDefinition
from posecore.datasets.judgeable import labels_problem
from posecore.doors import trusted_file
from posecore.errors import ConfigError, DatasetError
from posecore.evaluation.arrays import GroundTruth
from posecore.evaluation.label_counts import label_counts
from posecore.evaluation.protocols import BUILT_IN, metrics_of, protocol_problem, scenes_problem
from posecore.shards.store import open_store
from posecore.training.best import BestConfig
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


def check_judged_labels(evaluation: Sequence["Split"], best: BestConfig | None) -> None:
    """Refuses ingested splits by which nothing could be judged once a model is trained, or no step be the best.

    Args:
        evaluation: the splits.
        best: by what a step is.

    Raises:
        DatasetError: no body of one is labelled, or its protocol asks for more than its labels have.
        ConfigError: an evaluation of the split will not have the metric, by one of our own protocols.
    """
    for split in evaluation:
        store, name = open_store(split.location), f"evaluation split {split.entry.split('evaluation')}"
        problem = labels_problem(split.definition.evaluation.protocol, label_counts(store))
        if problem is not None:
            raise DatasetError(f"datasets.{split.entry.name}: {name}: {problem}")
        judged, _, metric = ("", "", "") if best is None else best.metric.partition("/")
        definition = store.manifest.definition
        # What a protocol of one's own says of answers that are the labels need not be what it says of others.
        if judged == split.entry.name and definition.evaluation.protocol in BUILT_IN:
            with trusted_file():
                there = metrics_of(definition.evaluation, definition.skeleton, GroundTruth.from_store(store))
            if metric not in there:
                raise ConfigError(
                    f"training.best.metric: there is no {judged}/{metric}: protocol {definition.evaluation.protocol} "
                    f"has none of the name, or nothing in {name} is judged by it; there are: "
                    f"{', '.join(sorted(there))}."
                )
