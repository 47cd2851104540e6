"""What is done to the child, from the run file: its method, and what every training process does with the shards."""

from collections.abc import Sequence

from posecore.errors import DatasetError
from posecore.lineage.jobs.steps import StepResult
from posecore.methods.adaptation import AdaptationConfig
from posecore.methods.mean_teacher import MeanTeacherConfig
from posecore.methods.pose_prior import PosePriorConfig
from posecore.methods.strategies import Roles
from posecore.models.sources import StartFolder
from posecore.workflows.adaptation.job import AdaptationJob
from posecore.workflows.adaptation.start import Start
from posecore.workflows.adaptation.worker import AdaptationWorker
from posecore.workflows.data_steps import Split
from posecore.workflows.fetched_model import FetchedModel


def adaptation(config: AdaptationJob, parent: FetchedModel) -> AdaptationConfig:
    """What every worker does to the child."""
    teacher = (config.method.unlabelled or MeanTeacherConfig()) if config.unlabelled else None
    return AdaptationConfig(
        terms=config.method.model_copy(update={"unlabelled": teacher}),
        roles=Roles(
            target=config.target,
            replayed=config.replayed,
            parent_has_embedding=parent.model.config.embedding is not None,
            new_depth=config.depth_input and not parent.model.takes_depth,
        ),
        parent=parent.source,
        old_heads=tuple(dict.fromkeys(entry.answering_head for entry in config.kept)),
        unlabelled_sets=config.unlabelled,
    )


def with_own_proportions(method: AdaptationConfig, config: AdaptationJob, checked: StepResult) -> AdaptationConfig:
    """The method whose loss looks at the proportions that the target's own labels have, if that is wanted.

    Raises:
        DatasetError: the labels are too few to have any.
    """
    if not config.own_proportions:
        return method
    if not (learned := checked.values.get("proportions")):
        raise DatasetError(f"own_proportions must be 0 here: {checked.values['told']}.")
    prior = PosePriorConfig(source=learned, weight=config.own_proportions, datasets=(config.target,))
    return method.model_copy(update={"terms": method.terms.model_copy(update={"prior": prior.pinned()})})


def trainer(
    config: AdaptationJob, method: AdaptationConfig, parent: FetchedModel, start: Start, training: Sequence[Split]
) -> AdaptationWorker:
    """What every worker does with the shards; it judges nothing."""
    return AdaptationWorker(
        model=start.card.architecture,
        method=method,
        weights=StartFolder.at(start.folder),
        training=config.loop(),
        loading=config.mixture(start.card.architecture.takes_depth, start.card.architecture.whole_scenes),
        stores={split.entry.name: split.location for split in training},
        parent=str(parent.record["source"]),
        card=start.card,
    )
