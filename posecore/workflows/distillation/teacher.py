"""The teacher of a distillation: brought into the run folder, asked once if wanted, given a token if wanted."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from posecore.datasets.definition import DatasetDefinition
from posecore.lineage.jobs.steps import StepResult
from posecore.lineage.store.tracking import Tracking
from posecore.lineage.versions.tags import RegisteredVersion
from posecore.loading.training_crops import crop_terms
from posecore.methods.distillation import Distillation, DistillationConfig
from posecore.methods.knowledge_token import KnowledgeTokenConfig
from posecore.models.architecture import ModelConfig
from posecore.models.outline import without_memory
from posecore.models.pose_model import conventions_of, model_for
from posecore.models.sources import ModelFolder
from posecore.schema import Json
from posecore.shards.answers import AnswerTerms, LessonTerms
from posecore.shards.store import open_store
from posecore.workflows.data_steps import Split
from posecore.workflows.datasets_job import learned_by
from posecore.workflows.distillation.cache_step import cache_step
from posecore.workflows.distillation.job import DistillationJob, TokenSettings
from posecore.workflows.fetched_model import fetch_model
from posecore.workflows.job import JobWorkflow
from posecore.workflows.multidataset_worker import MultiDatasetWorker
from posecore.workflows.train_step import train_step


@dataclass(frozen=True)
class TeacherFiles:
    """The teacher as every worker of this run reads it.

    Attributes:
        source: a model folder in the run folder, by checksum.
        architecture: what it is; its conventions are those of the heads that teach, by dataset of the student.
        record: where it came from, for the student's lineage.
        licenses: its terms.
        parent: its version, if it is a registered one.
        heads: by dataset of the student, the head that teaches it.
        comparable: datasets whose points are those of their teaching head.
        lessons: by dataset of the student, what a cache of the teacher's answers holds; empty without one.
    """

    source: ModelFolder
    architecture: ModelConfig
    record: Mapping[str, Json]
    licenses: Mapping[str, str]
    parent: RegisteredVersion | None
    heads: Mapping[str, str]
    comparable: frozenset[str]
    lessons: Mapping[str, LessonTerms]


def fetch_teacher(
    config: DistillationJob, definitions: Mapping[str, DatasetDefinition], tracking: Tracking
) -> TeacherFiles:
    """Brings the teacher into the run folder and refuses one that cannot teach this student.

    Raises:
        CheckpointError: it cannot be read.
        ConfigError: the two do not go together.
        IntegrityError: it is not the stated one.
        LineageError: there is no such registered version.
    """
    fetched = fetch_model(config.teacher, config.folder / "teacher", tracking)
    model, own = fetched.model, fetched.source
    terms = DistillationConfig(teacher=own, **config.method.model_dump())
    learned = learned_by(config.datasets, definitions)
    with without_memory():  # no memory, whatever the size
        method = Distillation(model_for(config.student, learned), model, terms)
    lessons = method.teacher.lessons
    taught = {dataset: model.conventions[lesson.head].head for dataset, lesson in lessons.items()}
    architecture = model.config.model_copy(update={"conventions_of": taught})
    comparable = frozenset(
        dataset
        for dataset, lesson in lessons.items()
        if model.skeletons[lesson.head].union_names == learned[dataset].skeleton.union_names
    )
    heads = {dataset: lesson.head for dataset, lesson in lessons.items()}
    stored = {} if config.cache is None else method.lesson_terms()
    version, licenses = fetched.version, model.card.licenses
    return TeacherFiles(own, architecture, fetched.record, licenses, version, heads, comparable, stored)


def answers_of(
    workflow: JobWorkflow,
    config: DistillationJob,
    teacher: TeacherFiles,
    split: Split,
    definitions: Mapping[str, DatasetDefinition],
) -> str:
    """Folder of the teacher's answers to the crops of a training split, stored now or earlier."""
    assert config.cache is not None, "only asked for with a cache"
    crops = crop_terms(
        open_store(split.location),
        split.entry.augment or config.loading.augment,
        config.loading.late,
        config.student.input_size,
        conventions_of(config.student, split.entry.name, definitions),
        config.bodies,
    )
    terms = AnswerTerms(lesson=teacher.lessons[split.entry.name], crops=crops, precision=config.cache.precision)
    return cache_step(workflow, split, teacher.source, terms, config.folder / "answers", config.cache)


def token_step(
    workflow: JobWorkflow,
    config: DistillationJob,
    token: TokenSettings,
    teacher: TeacherFiles,
    training: Sequence[Split],
) -> StepResult:
    """The teacher to the teacher with a token; nothing of the student counts, so all students share one."""
    worker = MultiDatasetWorker(
        model=teacher.architecture,
        method=KnowledgeTokenConfig(teacher=teacher.source, teacher_heads=dict(teacher.heads), number=token.number),
        training=token.training(config.training),
        loading=config.loading.config(config.datasets),
        stores={split.entry.name: split.location for split in training},
    )
    return train_step(workflow, "token", config, config.cluster, worker, training)
