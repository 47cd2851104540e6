#!/usr/bin/env python
"""Distillation: a trained model of any family in, a small one that it has taught out.

::

    python pipelines/distill.py --teacher models:/whole-body@champion --student rtmpose-m --data coco_wholebody=/coco
    python pipelines/distill.py --config pipelines/configs/distill_demo.yaml

The data are ingested and audited as in the main job. If asked, the teacher first learns a knowledge token for its
student. In a first stage the student learns from labels and from its
teacher's features and outputs; in a second one a fresh head learns from the first stage's. Student and teacher are
judged on the same sets, their size, arithmetic and latency are measured, and the student is registered as its teacher's
child.
"""

if __name__ == "__main__":  # before the imports below, which take seconds
    from posecore.interruption import signals_end_the_process

    signals_end_the_process()

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Self

import torch
from pydantic import BeforeValidator, Field, model_validator
from rich.console import Console
from rich.table import Table

from posecore.cluster.connection import connect_to_ray
from posecore.cluster.training import RayTrainingConfig
from posecore.config import Config
from posecore.datasets.definition import DatasetDefinition
from posecore.evaluation.inference import InferenceSettings
from posecore.evaluation.protocols import PROTOCOLS
from posecore.lineage.registry import register_model
from posecore.lineage.steps import Outputs, Reuse, StepResult, Workflow
from posecore.lineage.tracking import RunLog, Tracking, connect
from posecore.lineage.versions import COST, RegisteredVersion
from posecore.loading.loader import LoadingConfig
from posecore.loading.training_crops import crop_terms
from posecore.methods.distillation import Distillation, DistillationConfig, DistillationTerms
from posecore.methods.head_distillation import HeadDistillationConfig
from posecore.methods.knowledge_token import KnowledgeTokenConfig, with_tokens
from posecore.models.architecture import ModelCard, ModelConfig
from posecore.models.cost import model_cost
from posecore.models.latency import forward_seconds
from posecore.models.pose_model import conventions_of, model_for
from posecore.models.saving import WEIGHTS_FILE, load_model
from posecore.models.sources import ModelFolder, StartFolder
from posecore.models.weights.initial import SourceConfig, WeightsConfig, pin
from posecore.schema import Json
from posecore.shards.answers import AnswerTerms, Bodies, LessonTerms
from posecore.shards.store import open_store
from posecore.training.loop import TrainingConfig
from posecore.training.preflight import crops_per_rank
from posecore.training.recipe import Followed, Pupil, RecipeChoice, RecipeConfig, follow
from posecore.training.recipes import RECIPES
from posecore.training.schedule import MultiStepSchedule
from posecore.workflows.datasets_job import DatasetsJob, LoaderSettings, learned_by
from posecore.workflows.distillation.flags import declare, overrides
from posecore.workflows.distillation.teacher_cache import TeacherCache, cache_step, check_cache
from posecore.workflows.fetched_model import REGISTRY, fetch_model, fetch_start, refuse_other_conventions
from posecore.workflows.judge_step import as_registered, judge_step
from posecore.workflows.multidataset_worker import MultiDatasetWorker
from posecore.workflows.protocol_check import check_protocols
from posecore.workflows.steps import Flags, Split, audit_step, check_places, ingest_splits, run_job
from posecore.workflows.train_step import judge_while_training, train_step

RUN_FILE = Path(__file__).with_name("configs") / "distill.yaml"
"""What the flags change where there is no ``--config``."""
FLAGS = Flags(declare, overrides, RUN_FILE)


def _named(field: str) -> BeforeValidator:
    return BeforeValidator(lambda value: {field: value} if isinstance(value, str) else value)


class TokenSettings(Config):
    """How the teacher learns a knowledge token before it teaches; nothing is published but ``number``.

    Attributes:
        steps: of the loop, at a constant rate after a tenth of them.
        lr: of the token, which is not decayed.
        number: of tokens.
    """

    steps: int = Field(gt=0)
    lr: float = Field(default=1e-2, gt=0)
    number: int = Field(default=1, gt=0)

    def training(self, first_stage: TrainingConfig) -> TrainingConfig:
        """The loop: batches and engine of the first stage."""
        optimizer = first_stage.optimizer.model_copy(update={"lr": self.lr, "weight_decay": 0.0})
        schedule = MultiStepSchedule(warmup_steps=self.steps // 10, milestones=())
        # A moving average would remember the random token for longer than this stage lasts.
        changes = {"steps": self.steps, "optimizer": optimizer, "schedule": schedule, "average": None}
        return first_stage.model_copy(update=changes)


class DistillationJob(DatasetsJob):
    """A complete run, whose data and folders are those of a :class:`~posecore.workflows.datasets_job.DatasetsJob`.

    Attributes:
        teacher: ``models:/name@alias``, ``models:/name/version``, or any source of weights.
        student: the small model; a preset's name is enough.
        weights: what the student starts from; None for fresh weights.
        recipe: published distillation that gives whatever is left out; left out, the one published for the student's
            backbone, if any. ``none`` for none.
        token: ViTPose's knowledge token, which the teacher learns and the student is shown; None for none.
        method: what counts how much in the first stage.
        loading: batches.
        bodies: ``all`` trains on boxes without a labelled point as well, ``images`` on whole images as if each were one
            body, such as the frames of a video; of both the teacher alone says something.
        cache: ``float16`` or ``float32`` asks the teacher once per crop, not once per epoch, and stores what it says;
            needs crops that do not change. ``off`` asks in every step.
        training: the first stage.
        second_stage: its length as a share of the first; 0 for none. Published: 60 epochs after 270, at a constant
            learning rate.
        backbone_statistics: in the second stage; see
            :class:`~posecore.methods.head_distillation.HeadDistillationConfig`.
        cluster: workers.
        inference: how predictions are made for the evaluation.
    """

    teacher: Annotated[SourceConfig, _named("source")]
    student: Annotated[ModelConfig, _named("backbone")]
    weights: WeightsConfig | None = None
    recipe: RecipeChoice = RecipeConfig()
    token: TokenSettings | None = None
    method: DistillationTerms = DistillationTerms()
    loading: LoaderSettings = LoaderSettings()
    bodies: Bodies = "labelled"
    cache: TeacherCache = None
    training: TrainingConfig
    second_stage: float = Field(default=60 / 270, ge=0)
    backbone_statistics: Literal["frozen", "drift"] = "frozen"
    cluster: RayTrainingConfig = RayTrainingConfig()
    inference: InferenceSettings = InferenceSettings()

    @model_validator(mode="after")
    def _check_mixture(self) -> Self:
        self.mixture()  # refuses what contradicts itself before anything starts
        if self.cache is not None:
            check_cache(self.cache, self.datasets, self.loading)
        return self

    def mixture(self) -> LoadingConfig:
        """The loader's configuration."""
        return self.loading.config(self.datasets).model_copy(update={"bodies": self.bodies})

    def followed(self, definitions: Mapping[str, DatasetDefinition]) -> "Followed[DistillationJob]":
        """The job, completed by its recipe.

        Raises:
            ConfigError: the recipe is none of this student's.
        """
        keypoints = self.num_keypoints(definitions)
        pupil = Pupil(model=self.student, keypoints=keypoints, job="distill", field="student")
        return follow(self, self.recipe, pupil, RECIPES)

    def head_training(self) -> TrainingConfig:
        """The second stage's loop: shorter, and with a constant rate after the warm-up."""
        steps = max(1, round(self.second_stage * self.training.steps))
        first = self.training.schedule
        warmup = min(first.warmup_steps, steps // 10)
        schedule = MultiStepSchedule(
            warmup_steps=warmup,
            warmup_start=first.warmup_start,
            warmup_reaches=first.warmup_reaches,
            milestones=(),
        )
        return self.training.model_copy(update={"steps": steps, "schedule": schedule})


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


def run(config: DistillationJob, reuse: Reuse) -> None:
    """The whole job as a list of steps."""
    console = Console(soft_wrap=True)
    definitions = {entry.name: entry.load() for entry in config.datasets}
    followed = config.followed(definitions)
    config = followed.config
    for line in followed.lines():
        console.print(line)
    crops_per_rank(config.training.global_batch, config.cluster.num_workers, config.training.accumulation)
    check_places(config, definitions)
    check_protocols(config, definitions)
    # A store made new for this run has no teacher.
    tracking = connect(config.tracking, config.folder, must_exist=config.teacher.source.startswith(REGISTRY))
    teacher = fetch_teacher(config, definitions, tracking)
    if config.token is not None:
        student_config = with_tokens(config.student, teacher.architecture, config.token.number)
        config = config.model_copy(update={"student": student_config})
    if config.weights is not None:
        config = config.model_copy(update={"weights": pin(config.weights)})
    start = None
    if config.weights is not None:
        start = fetch_start(config.weights, config.folder / "weights")
        refuse_other_conventions(config.student, learned_by(config.datasets, definitions), start)
    connect_to_ray()

    with Workflow(tracking, config.name, config.folder, config, reuse=reuse) as workflow:
        splits = ingest_splits(workflow, config, definitions)
        training = [split for split in splits if split.role == "training"]
        evaluation = [split for split in splits if split.role == "evaluation"]
        leaks = audit_step(workflow, config, training, evaluation)
        cached = training if config.cache else []
        answers = {split.entry.name: answers_of(workflow, config, teacher, split, definitions) for split in cached}
        recipe = followed.record()
        token = None if config.token is None else token_step(workflow, config, config.token, teacher, training)
        student = train(
            workflow, config, first_stage(config, teacher, start, token, answers, recipe), teacher, training, evaluation
        )
        if config.second_stage:
            student = train(workflow, config, second_stage(config, student), teacher, training, evaluation)
        judged = None
        if evaluation:
            judged = judge_step(workflow, "student", student.values["folder"], evaluation, config.inference)
        known = [split for split in evaluation if split.entry.answering_head in teacher.comparable]
        heads = {split.entry.name: teacher.heads[split.entry.answering_head] for split in known}
        reference = None
        if known:
            reference = judge_step(workflow, "teacher", teacher.source.source, known, config.inference, heads)
        measured = measure_step(workflow, config, teacher, student)
        registered = register_step(workflow, config, teacher, student, splits, judged, measured, leaks)
        workflow.run.set_tags({"posecore.registered": registered.values["uri"]})

    console.print(results_table(evaluation, judged, reference))
    console.print(cost_table(measured))
    console.print(f"model     {registered.values['uri']}   (folder {student.values['folder']})")
    console.print(f"lineage   mlflow ui --backend-store-uri {tracking.uri}")


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
    with torch.device("meta"):  # no memory, whatever the size
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
    workflow: Workflow,
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
    workflow: Workflow, config: DistillationJob, token: TokenSettings, teacher: TeacherFiles, training: Sequence[Split]
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
    workflow: Workflow,
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

    return train_step(workflow, stage.name, config, config.cluster, worker, training, taught)


def measure_step(workflow: Workflow, config: DistillationJob, teacher: TeacherFiles, student: StepResult) -> StepResult:
    """Size, arithmetic and latency of student and teacher on the driver's machine, one crop and one head at a time."""
    folders = {"student": student.values["folder"], "teacher": teacher.source.source}

    def execute(log: RunLog) -> Outputs:
        measured = {who: _measured(Path(folder)) for who, folder in folders.items()}
        log.log_metrics({f"{who}/{name}": value for who, values in measured.items() for name, value in values.items()})
        return Outputs(dict(measured))

    inputs = {"student": student, "teacher": teacher.source}
    return workflow.step("measure", execute, inputs=inputs, code=["posecore.models.latency", "posecore.models.cost"])


def _measured(folder: Path) -> dict[str, float]:
    model = load_model(folder)
    cost = model_cost(model.config, {name: skeleton.num_keypoints for name, skeleton in model.skeletons.items()})
    return {
        "parameters": cost.parameters,
        "gflops": cost.flops / 1e9,
        "megabytes": (folder / WEIGHTS_FILE).stat().st_size / 1e6,
        "latency_ms": 1e3 * forward_seconds(model, next(iter(model.skeletons))),
    }


def register_step(
    workflow: Workflow,
    config: DistillationJob,
    teacher: TeacherFiles,
    student: StepResult,
    splits: Sequence[Split],
    judged: StepResult | None,
    measured: StepResult,
    leaks: StepResult,
) -> StepResult:
    """The student as a new version in the registry, a child of its teacher's version if that is registered."""
    evaluation = [split for split in splits if split.role == "evaluation"]

    def execute(log: RunLog) -> Outputs:
        figures = {f"{COST}{name}": f"{value:.6g}" for name, value in measured.values["student"].items()}
        version = register_model(
            log,
            config.name,
            Path(student.values["folder"]),
            [split.use for split in splits],
            [] if judged is None else as_registered(evaluation, judged),
            parent=teacher.parent,
            tags={"training_run_id": student.run_id, "leaked_pairs": str(leaks.values["shared"]), **figures},
            summary=f"Distilled from {teacher.record['source']}.",
        )
        return Outputs({"uri": version.uri, "version": version.version}, versions=(version,))

    inputs = {
        "name": config.name,
        "model": student,
        "parent": teacher.parent.uri if teacher.parent else None,
        "judged": judged,
        "measured": measured,
        "audit": leaks,
    }
    return workflow.step("register", execute, inputs=inputs, code=["posecore.lineage.registry"])


def results_table(evaluation: Sequence[Split], judged: StepResult | None, reference: StepResult | None) -> Table:
    """One row per judged set: student beside teacher, where the teacher knows the same points."""
    table = Table(title="results")
    for column in ("dataset", "metric", "student", "teacher"):
        table.add_column(column, overflow="fold")
    of_student, of_teacher = ({} if step is None else step.values["metrics"] for step in (judged, reference))
    for split in evaluation:
        name = split.entry.name
        primary = PROTOCOLS[split.definition.evaluation.protocol].primary
        theirs = f"{of_teacher[name][primary]:.3f}" if name in of_teacher else "other points"
        table.add_row(name, primary, f"{of_student[name][primary]:.3f}", theirs)
    return table


def cost_table(measured: StepResult) -> Table:
    """What student and teacher cost."""
    table = Table(title="cost of one crop")
    for column in ("", "parameters", "GFLOPs", "MB on disk", "latency here, ms"):
        table.add_column(column)
    for who, values in measured.values.items():
        table.add_row(
            who,
            f"{values['parameters']:,.0f}",
            f"{values['gflops']:.3f}",
            f"{values['megabytes']:.1f}",
            f"{values['latency_ms']:.1f}",
        )
    return table


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the job named on the command line; returns the exit status."""
    return run_job(__doc__, DistillationJob, run, arguments, FLAGS)


if __name__ == "__main__":
    sys.exit(main())
