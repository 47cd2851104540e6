"""How jobs come by the recipe that their run files leave unsaid; :mod:`posecore.training.recipe` does the work."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from posecore.datasets.definition import DatasetDefinition
from posecore.models.architecture import ModelConfig
from posecore.schema import Json
from posecore.training.recipe import Followed, Pupil, filled, follow, pace
from posecore.training.recipes import RECIPES

if TYPE_CHECKING:
    from pipelines.adaptation_job import AdaptationJob
    from pipelines.distill import DistillationJob
    from pipelines.multidataset_train import JobConfig


def follow_recipe(config: "JobConfig", definitions: Mapping[str, DatasetDefinition]) -> "Followed[JobConfig]":
    """The main job, completed.

    Raises:
        ConfigError: the recipe is none of this backbone's.
    """
    pupil = Pupil(
        model=config.method.architecture(config.model),
        keypoints=_keypoints(config, definitions),
        method=config.method.kind if "method" in config.model_fields_set else None,
    )
    return follow(config, config.recipe, pupil, RECIPES)


def follow_teaching_recipe(
    config: "DistillationJob", definitions: Mapping[str, DatasetDefinition]
) -> "Followed[DistillationJob]":
    """Distillation, completed.

    Raises:
        ConfigError: the recipe is none of this student's.
    """
    pupil = Pupil(model=config.student, keypoints=_keypoints(config, definitions), job="distill", field="student")
    return follow(config, config.recipe, pupil, RECIPES)


def at_the_pace_of(config: "AdaptationJob", parent: ModelConfig) -> "AdaptationJob":
    """An adaptation, whose parent's backbone was published with a layer decay; no recipe for all of it ever was."""
    fields: dict[str, Json] = {"training": {"optimizer": pace(parent, RECIPES)}}
    return filled(config, fields, origin="the parent's recipe")


def _keypoints(config: "JobConfig | DistillationJob", definitions: Mapping[str, DatasetDefinition]) -> dict[str, int]:
    trained = [entry.name for entry in config.datasets if entry.train is not None]
    return {name: definitions[name].skeleton.num_keypoints for name in trained}
