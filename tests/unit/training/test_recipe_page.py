"""The values of every recipe against the published ones, stated here a second time with where they are from.

Sources: [VP] ViTAE-Transformer/ViTPose @ c050ed2, [BH] uyoung-jeong/PoseBH @ 8f03438, [MM] open-mmlab/mmpose @ 759b39c,
[DW] IDEA-Research/DWPose @ 3dca5db, [S1] facebookresearch/sapiens @ 3e829ac, [S2] facebookresearch/sapiens2 @ 3098c14,
[P1] arXiv 2204.12484, table 1.
"""

from pathlib import Path
from typing import Any

import pytest

from posecore.loading.augment import AugmentConfig, LateAugmentConfig
from posecore.models.architecture import ModelConfig
from posecore.training.optimizer import OptimizerConfig
from posecore.training.recipe import Recipe
from posecore.training.recipe_page import page
from posecore.training.recipes import RECIPES

PAGE = Path(__file__).parents[3] / "docs" / "recipes.md"

# [VP] the COCO configurations; [P1] for the drop path and layer decay of the giant.
VITPOSE = {  # layer decay, drop path
    "vitpose-small": (0.8, 0.1),
    "vitpose-base": (0.75, 0.3),
    "vitpose-large": (0.8, 0.5),
    "vitpose-huge": (0.85, 0.55),
    "vitpose-giant": (0.85, 0.55),
}
# [VP] vitPose+_*_coco+aic+mpii+ap10k+apt36k+wholebody_256x192_udp.py
VITPOSE_PLUS = {
    "vitpose-plus-small": (0.8, 0.1),
    "vitpose-plus-base": (0.75, 0.3),
    "vitpose-plus-large": (0.8, 0.5),
    "vitpose-plus-huge": (0.8, 0.55),
}
# [BH] mdt/vit{b,h}_posebh.py
POSEBH = {"posebh-base": (0.75, 0.3), "posebh-huge": (0.8, 0.55)}
# [S1] pose/configs/sapiens_pose: rate, layer decay, hardest points
SAPIENS = {
    "sapiens-0.3b-17": (5e-4, 0.85, None),
    "sapiens-0.6b-17": (5e-4, 0.85, None),
    "sapiens-1b-17": (5e-4, 0.85, None),
    "sapiens-2b-17": (5e-4, 0.85, None),
    "sapiens-0.3b-133": (5e-4, 0.75, None),
    "sapiens-0.6b-133": (5e-4, 0.75, None),
    "sapiens-1b-133": (5e-4, 0.85, None),
    "sapiens-2b-133": (5e-4, 0.85, None),
    "sapiens-0.3b-308": (5e-5, 0.85, 128),
    "sapiens-0.6b-308": (5e-5, 0.85, None),
    "sapiens-1b-308": (5e-5, 0.95, 128),
    "sapiens-2b-308": (5e-5, 0.85, None),
}
# [S2] keypoints308/shutterstock_goliath_3po: rate, layer decay, clip norm, crops per GPU times 8
SAPIENS2 = {
    "sapiens2-0.4b-308": (5e-4, 0.80, 2.0, 6 * 8),
    "sapiens2-0.8b-308": (5e-4, 0.85, 4.0, 12 * 8),
    "sapiens2-1b-308": (5e-4, 0.90, 4.0, 7 * 8),
    "sapiens2-5b-308": (1e-4, 0.94, 4.0, 2 * 8),
}
# [MM] configs/{body,wholebody}_2d_keypoint/rtmpose: batch, weight decay, clip norm, has an average, epochs
RTMPOSE = {
    "rtmpose-t-body": (1024, 0.0, None, False, 420),
    "rtmpose-s-body": (1024, 0.0, None, True, 420),
    "rtmpose-m-body": (1024, 0.05, None, True, 420),
    "rtmpose-l-body": (1024, 0.05, None, True, 420),
    "rtmpose-t-wholebody": (512, 0.05, None, True, 270),
    "rtmpose-s-wholebody": (512, 0.05, None, True, 270),
    "rtmpose-m-wholebody": (512, 0.05, None, True, 270),
    "rtmpose-l-wholebody": (512, 0.05, None, True, 270),
    "rtmpose-x-wholebody": (256, 0.05, 35.0, True, 270),
}
# [DW] mmpose/configs/distiller: batch, weight decay, epochs of both stages
DWPOSE = {
    "dwpose-t": (512, 0.05, 270, 60),
    "dwpose-s": (512, 0.05, 270, 60),
    "dwpose-m": (512, 0.05, 270, 60),
    "dwpose-l": (512, 0.05, 270, 60),
    "dwpose-t-body": (1024, 0.0, 420, 80),
    "dwpose-s-body": (1024, 0.0, 420, 80),
    "dwpose-m-body": (1024, 0.05, 420, 80),
}


def _optimizer(recipe: Recipe) -> OptimizerConfig:
    return OptimizerConfig.model_validate(recipe.training["optimizer"])


def _augment(recipe: Recipe) -> AugmentConfig:
    return AugmentConfig.model_validate(recipe.fields["loading"]["augment"])


def _drop_path(recipe: Recipe) -> float:
    return ModelConfig.model_validate({"backbone": recipe.preset}).backbone.drop_path


def _multistep(first: float, second: float, reaches: str = "after") -> dict[str, Any]:
    return {
        "kind": "multistep",
        "warmup_steps": 500,
        "warmup_start": 0.001,
        "warmup_reaches": reaches,  # [MM] mmengine's LinearLR ends one step earlier than [VP] mmcv's and torch's
        "milestones": pytest.approx([first, second]),
        "gamma": 0.1,
    }


def test_the_page_is_what_the_command_writes() -> None:
    """``posecore models recipes --markdown > docs/recipes.md``."""
    assert PAGE.read_text(encoding="utf-8") == page()


def test_every_recipe_is_stated_here() -> None:
    stated = [*VITPOSE, *VITPOSE_PLUS, *POSEBH, *RTMPOSE, *DWPOSE, *SAPIENS, *SAPIENS2]
    assert sorted(stated) == sorted(RECIPES)
    assert all(f"`{name}`" in page() for name in RECIPES)


@pytest.mark.parametrize(
    ("family", "batch", "rate", "milestones"),
    [
        (VITPOSE, 512, 5e-4, (170 / 210, 200 / 210)),
        (VITPOSE_PLUS, 1024, 1e-3, (170 / 210, 200 / 210)),
        (POSEBH, 512, 1e-3, (50 / 100, 90 / 100)),
    ],
)
def test_vitpose_and_its_kin(
    family: dict[str, tuple[float, float]], batch: int, rate: float, milestones: tuple[float, float]
) -> None:
    for name, (layer_decay, drop_path) in family.items():
        recipe = RECIPES[name]
        assert _optimizer(recipe) == OptimizerConfig(
            lr=rate, weight_decay=0.1, betas=(0.9, 0.999), eps=1e-8, layer_decay=layer_decay, clip_norm=1.0
        )
        assert recipe.training["schedule"] == _multistep(*milestones)
        assert (recipe.batch, _drop_path(recipe)) == (batch, drop_path), name
        augment = _augment(recipe)
        assert (augment.flip_probability, augment.half_body_probability, augment.half_body_padding) == (0.5, 0.3, 1.5)
        assert (augment.scale_factor, augment.scale_distribution) == (0.5, "clipped")
        assert (augment.rotation_degrees, augment.rotation_probability) == (40.0, 0.6)
        assert (augment.center_jitter, augment.center_jitter_probability) == ("per_run", 0.3)
        assert (augment.center_jitter_extent / 2, augment.center_jitter_distribution) == (0.2, "uniform")
        assert augment.half_body_rule == "vitpose"
        assert augment.appearance is None
        assert recipe.training["engine"]["precision"] == ("fp16" if family is POSEBH else "fp32")


def test_posebh() -> None:
    for name in POSEBH:
        method = RECIPES[name].fields["method"]
        assert (method["momentum"], method["pixel_threshold"], method["stages"]) == (0.999, 0.0, "published")


def _check_mmpose_crops(augment: AugmentConfig, scale: float, degrees: float, hole: float, shifts: bool) -> None:
    """RandomFlip, RandomHalfBody, RandomBBoxTransform, Blur, MedianBlur, CoarseDropout."""
    assert (augment.flip_probability, augment.half_body_probability, augment.half_body_padding) == (0.5, 0.3, 1.5)
    assert (augment.scale_factor, augment.scale_distribution) == (scale, "truncated")
    assert (augment.rotation_degrees, augment.rotation_distribution) == (degrees, "truncated")
    assert augment.rotation_probability == 0.6
    assert augment.half_body_rule == "mmpose"
    assert augment.center_jitter == ("per_sample" if shifts else "off")
    assert (augment.center_jitter_distribution, augment.center_jitter_extent) == ("truncated", 0.16)
    assert augment.center_jitter_probability == 0.3
    look = augment.appearance
    assert look is not None
    assert (look.blur_probability, look.median_blur_probability, look.hole_probability) == (0.1, 0.1, hole)
    assert look.hole_extent == (0.2, 0.4)


def _check_simcc(recipe: Recipe, weight_decay: float, clip_norm: float | None, averages: bool, epochs: int) -> None:
    assert _optimizer(recipe) == OptimizerConfig(
        lr=4e-3, weight_decay=weight_decay, undecayed="norms_and_biases", layer_decay=1.0, clip_norm=clip_norm
    )
    assert recipe.training["schedule"] == {
        "kind": "cosine", "warmup_steps": 1000, "warmup_start": 1e-5, "warmup_reaches": "last", "begin": 0.5,
        "floor": 0.05
    }  # fmt: skip
    assert recipe.training["average"] == ({"momentum": 2e-4, "warmup": 2000} if averages else None)
    assert recipe.training["synchronised_batchnorm"]
    late = LateAugmentConfig.model_validate(recipe.fields["loading"]["late"])
    assert late.from_pass == epochs - 30
    _check_mmpose_crops(late.augment, 0.25, 60.0, hole=0.5, shifts=False)
    largest = recipe.preset == "rtmpose-x"
    scale, degrees = (0.5, 90.0) if largest else (0.4, 80.0)
    _check_mmpose_crops(_augment(recipe), scale, degrees, hole=1.0, shifts=True)


def test_rtmpose() -> None:
    for name, (batch, weight_decay, clip_norm, averages, epochs) in RTMPOSE.items():
        _check_simcc(RECIPES[name], weight_decay, clip_norm, averages, epochs)
        assert RECIPES[name].batch == batch
        assert RECIPES[name].fields["method"]["simcc_reduction"] == "sum"
        size = ModelConfig.model_validate({"backbone": "rtmpose-m", **RECIPES[name].fields.get("model", {})}).input_size
        assert size == ((384, 288) if "-x-" in name else (256, 192))


def test_dwpose() -> None:
    for name, (batch, weight_decay, first, second) in DWPOSE.items():
        recipe = RECIPES[name]
        _check_simcc(recipe, weight_decay, 1.0, True, first)
        assert recipe.batch == batch
        assert recipe.fields["second_stage"] == pytest.approx(second / first)
        assert recipe.fields["method"] == {
            "feature_reduction": "sum",
            "feature_weight": 7e-5,
            "output_weight": 0.1,
            "decay": "linear",
            "decay_epochs": first,
            "balance": "published",
            "teacher_statistics": "batch",
        }


def test_sapiens() -> None:
    for name, (rate, layer_decay, hardest) in SAPIENS.items():
        recipe = RECIPES[name]
        assert _optimizer(recipe) == OptimizerConfig(lr=rate, weight_decay=0.1, layer_decay=layer_decay, clip_norm=1.0)
        assert recipe.training["schedule"] == _multistep(170 / 210, 200 / 210, reaches="last")
        assert (recipe.batch, _drop_path(recipe), recipe.fields["method"]["hardest_points"]) == (512, 0.0, hardest)
        _check_mmpose_crops(_augment(recipe), 0.5, 80.0, hole=1.0, shifts=True)
        model = ModelConfig.model_validate({"backbone": recipe.preset})
        assert (model.input_size, model.heatmap_sigma, model.blur_kernel) == ((1024, 768), 6.0, 11)


def test_sapiens2() -> None:
    for name, (rate, layer_decay, clip_norm, batch) in SAPIENS2.items():
        recipe = RECIPES[name]
        assert _optimizer(recipe) == OptimizerConfig(
            lr=rate, weight_decay=0.1, layer_decay=layer_decay, clip_norm=clip_norm
        )
        assert recipe.training["schedule"] == {
            "kind": "polynomial", "warmup_steps": 500, "warmup_start": 0.001, "warmup_reaches": "after", "power": 1.0,
            "floor": 0.0
        }  # fmt: skip
        assert (recipe.batch, recipe.fields["method"]["loss_weight"]) == (batch, 10.0)
        assert recipe.training["engine"]["precision"] == "bf16"
        _check_mmpose_crops(_augment(recipe), 0.5, 80.0, hole=1.0, shifts=True)
