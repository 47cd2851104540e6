"""The run file of a distillation: who teaches whom, by what, and how long."""

from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from posecore.config import Config, parse_config
from posecore.datasets.definition import DatasetDefinition
from posecore.evaluation.inference import InferenceSettings
from posecore.loading.loader import LoadingConfig
from posecore.methods.distillation import DistillationTerms
from posecore.models.architecture import ModelConfig
from posecore.models.weights.initial import SourceConfig, WeightsConfig
from posecore.shards.answers import Bodies
from posecore.training.loop import TrainingConfig
from posecore.training.recipe import Followed, Pupil, RecipeChoice, RecipeConfig, follow
from posecore.training.recipes import RECIPES
from posecore.training.schedule import MultiStepSchedule
from posecore.workflows.datasets_job import DatasetsJob, LoaderSettings
from posecore.workflows.distillation.cache_step import TeacherCache, check_cache
from posecore.workflows.machines import WorkersConfig


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
    cluster: WorkersConfig = WorkersConfig()
    inference: InferenceSettings = InferenceSettings()

    @model_validator(mode="after")
    def _check_mixture(self) -> Self:
        self.mixture()  # refuses what contradicts itself before anything starts
        if self.cache is not None:
            if self.student.whole_scenes:
                raise ValueError(
                    f"cache: answers are stored for crops, and the student's {self.student.head.kind} head is of whole "
                    "pictures; leave the cache out."
                )
            if "://" in self.run_folder:
                raise ValueError(
                    f"cache: stored answers are read where they lie, and run_folder {self.run_folder} is a URL; leave "
                    "the cache out, or name a folder that every node mounts."
                )
            check_cache(self.cache, self.datasets, self.loading)
        return self

    def mixture(self) -> LoadingConfig:
        """The loader's configuration."""
        loading = self.loading.config(self.datasets).of_heads(whole_scenes=self.student.whole_scenes)
        return parse_config({**loading.model_dump(), "bodies": self.bodies}, LoadingConfig, origin="loading")

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
        return self.training.model_copy(update={"steps": steps, "schedule": self.training.schedule.held(steps)})
