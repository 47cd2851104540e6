"""Every run file of a published model, completed by its recipe, makes a step with its settings on a small model."""

from pathlib import Path
from typing import Any

import pytest
import torch

from pipelines.distill import DistillationJob
from pipelines.multidataset_train import JobConfig
from posecore.config import load_config
from posecore.methods.distillation import Distillation, DistillationConfig
from posecore.methods.head_distillation import HeadDistillation, HeadDistillationConfig
from posecore.models.architecture import ModelConfig
from posecore.models.pose_model import build_model
from posecore.models.sources import ModelFolder
from posecore.training.context import LocalContext
from posecore.training.engine import TorchEngineConfig
from posecore.training.loop import train
from tests.parity.recipes.test_recipes import WIDE, simcc_model
from tests.parity.recipes.toy import batches

CONFIGS = Path(__file__).resolve().parents[2] / "pipelines" / "configs"

SMALL: dict[str, dict[str, Any]] = {
    "vit": {"embed_dim": 16, "depth": 2, "num_heads": 2},
    "sapiens2": {"embed_dim": 16, "depth": 3, "num_heads": 2, "num_full_blocks": 1},
    "cspnext": {"deepen": 0.1, "widen": 0.0625},
    "classic": {"channels": 8},
    "rtmcc": {"token_dim": 16, "attention_dim": 8},
    "instance_norm": {"deconv_channels": (8, 8), "conv_channels": (8, 8)},
}
"""Fields that make a backbone or head of a kind small."""


@pytest.mark.parametrize(
    ("name", "recipe"),
    [
        ("vitpose_base_coco", "vitpose-base"),
        ("vitpose_plus_base_six_datasets", "vitpose-plus-base"),
        ("posebh_base_six_datasets", "posebh-base"),
        ("rtmpose_m_wholebody", "rtmpose-m-wholebody"),
        ("sapiens_1b_coco", "sapiens-1b-17"),
        ("sapiens_1b_wholebody", "sapiens-1b-133"),
        ("sapiens2_1b_308", "sapiens2-1b-308"),
    ],
)
def test_a_run_file_of_a_published_model_trains_by_its_recipe(name: str, recipe: str, tmp_path: Path) -> None:
    config = load_config(CONFIGS / f"{name}.yaml", JobConfig)
    definitions = {entry.name: entry.load() for entry in config.datasets}
    followed = config.followed(definitions)
    assert followed.recipe is not None
    assert followed.recipe.name == recipe
    assert not [remark for remark in followed.remarks if remark.startswith("warning")]
    if name not in ("vitpose_plus_base_six_datasets", "sapiens_1b_coco"):  # bfloat16 there
        assert followed.deviations == ()
    job = followed.config
    whole = job.method.architecture(job.model)
    values = {key: getattr(whole, key) for key in ModelConfig.model_fields if key not in ("backbone", "head")}
    for part in ("backbone", "head"):
        config_of_part = getattr(whole, part)
        values[part] = config_of_part.model_dump() | SMALL[config_of_part.kind]
    values |= {"input_size": (64, 64), "heatmap_sigma": 2.0, "blur_kernel": 11}
    if whole.embedding is not None:
        values["embedding"] = {"dim": 8, "channels": 8}
    skeletons = {entry: definition.skeleton for entry, definition in definitions.items()}
    torch.manual_seed(0)
    model = build_model(ModelConfig.model_validate(values), skeletons)
    points = {entry: skeleton.num_keypoints for entry, skeleton in skeletons.items()}
    small = {"steps": 1, "global_batch": 4, "accumulation": 1, "average": None, "progress": False}
    training = job.training.model_copy(update={**small, "engine": TorchEngineConfig()})
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    train(job.method.build(model), lambda start: batches(points, (64, 64), 4, start), training, LocalContext(tmp_path))
    assert any(not torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())


def test_the_run_file_of_dwpose_is_its_recipe_and_makes_a_step_of_either_stage(tmp_path: Path) -> None:
    config = load_config(CONFIGS / "dwpose_ubody_x_to_l.yaml", DistillationJob)
    followed = config.followed({entry.name: entry.load() for entry in config.datasets})
    assert followed.recipe is not None
    assert (followed.recipe.name, followed.deviations) == ("dwpose-l", ())
    job, points, nowhere = followed.config, {"people": 133}, ModelFolder(source="nowhere")
    teacher, student = simcc_model("x", 133, seed=1, widen=0.125), simcc_model("l", 133)
    stages = {
        "first": (Distillation(student, teacher, distilling(job, nowhere)), job.training),
        "second": (
            HeadDistillation(simcc_model("l", 133, seed=2), student, heads_of(job, nowhere)),
            job.head_training(),
        ),
    }
    for stage, (method, training) in stages.items():
        before = {key: tensor.clone() for key, tensor in method.state_dict().items()}
        small = {"steps": 1, "global_batch": 4, "accumulation": 1, "average": None, "progress": False}
        small_run = training.model_copy(update={**small, "engine": TorchEngineConfig()})
        train(method, lambda start: batches(points, WIDE, 4, start), small_run, LocalContext(tmp_path / stage))
        assert any(not torch.equal(tensor, before[key]) for key, tensor in method.state_dict().items()), stage


def distilling(job: DistillationJob, teacher: ModelFolder) -> DistillationConfig:
    return DistillationConfig(**job.method.model_dump(), teacher=teacher)


def heads_of(job: DistillationJob, teacher: ModelFolder) -> HeadDistillationConfig:
    return HeadDistillationConfig(teacher=teacher, backbone_statistics=job.backbone_statistics)
