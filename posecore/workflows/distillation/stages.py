"""The stages in which a student learns: from labels and its teacher, then a fresh head from the first stage's."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from posecore.lineage.jobs.steps import StepResult
from posecore.methods.distillation import DistillationConfig
from posecore.methods.head_distillation import HeadDistillationConfig
from posecore.models.architecture import ModelCard
from posecore.models.saving import load_model
from posecore.models.sources import ModelFolder, StartFolder
from posecore.schema import Json
from posecore.training.loop import TrainingConfig
from posecore.workflows.data_steps import Split
from posecore.workflows.distillation.job import DistillationJob
from posecore.workflows.distillation.teacher import TeacherFiles
from posecore.workflows.job import JobWorkflow
from posecore.workflows.multidataset_worker import MultiDatasetWorker
from posecore.workflows.train_step import judge_while_training, train_step


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One run of the loop.

    Attributes:
        name: of its step.
        method: who teaches what.
        training: the loop.
        weights: what the student starts from.
        lineage: what the student's card will say beside this run.
    """

    name: str
    method: DistillationConfig | HeadDistillationConfig
    training: TrainingConfig
    weights: StartFolder | None
    lineage: Mapping[str, Json]


def first_stage(
    config: DistillationJob,
    teacher: TeacherFiles,
    start: StartFolder | None,
    token: StepResult | None,
    answers: Mapping[str, str],
    recipe: Mapping[str, Json],
) -> Stage:
    """Labels, features and outputs, with the teacher's token if there is one, to a student.

    Args:
        config: the job.
        teacher: who is asked.
        start: what the student starts from, or None.
        token: the step that made the token.
        answers: by dataset, the folder of the teacher's stored answers; empty to ask in every step.
        recipe: what is followed, and where it is not; for the student's card.
    """
    learned = None if token is None else ModelFolder.at(token.values["folder"])
    lineage: dict[str, Json] = {"teacher": dict(teacher.record), "recipe": dict(recipe)}
    if token is not None:
        lineage["token"] = {"run_id": token.run_id}
    return Stage(
        name="stage1",
        method=DistillationConfig(
            teacher=teacher.source, token=learned, answers=dict(answers), **config.method.model_dump()
        ),
        training=config.training,
        weights=start,
        lineage=lineage,
    )


def second_stage(config: DistillationJob, student: StepResult) -> Stage:
    """The first stage's student teaches a fresh head on its own backbone."""
    source = ModelFolder.at(student.values["folder"])
    return Stage(
        name="stage2",
        method=HeadDistillationConfig(teacher=source, backbone_statistics=config.backbone_statistics),
        training=config.head_training(),
        weights=None,
        lineage=load_model(student.values["folder"]).card.lineage,
    )


def train(
    workflow: JobWorkflow,
    config: DistillationJob,
    stage: Stage,
    teacher: TeacherFiles,
    training: Sequence[Split],
    evaluation: Sequence[Split],
) -> StepResult:
    """Shards to a student; its card names the teacher and the teacher's terms."""
    worker = MultiDatasetWorker(
        model=config.student,
        method=stage.method,
        weights=stage.weights,
        training=stage.training,
        loading=config.mixture(),
        stores={split.entry.name: split.location for split in training},
        evaluate=judge_while_training(evaluation, config.inference),
    )

    def taught(card: ModelCard) -> ModelCard:
        licenses = {**{f"teacher {key}": terms for key, terms in teacher.licenses.items()}, **card.licenses}
        return card.model_copy(update={"lineage": {**stage.lineage, **card.lineage}, "licenses": licenses})

    return train_step(workflow, stage.name, config, config.cluster, worker, training, taught, evaluation)
