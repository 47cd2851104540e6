"""Counted parameters and arithmetic against the published figures."""

import pytest

from posecore.models.architecture import ModelConfig
from posecore.models.backbones.vit import VitConfig
from posecore.models.cost import model_cost

# ViTPose (arXiv 2204.12484) and the parameter counts of its released files, in millions.
VITPOSE = {"vitpose-small": 21.66, "vitpose-base": 85.79, "vitpose-large": 303.30, "vitpose-huge": 630.91}
# Sapiens (arXiv 2408.12569): encoder parameters counted from the released files, TFLOPs (of one MAC each) as published.
SAPIENS = {
    "sapiens-0.3b": (306.2, 1.242),
    "sapiens-0.6b": (634.6, 2.583),
    "sapiens-1b": (1139.2, 4.647),
    "sapiens-2b": (2131.9, 8.709),
}
# Sapiens2 (arXiv 2604.21681): its figures leave the products of queries, keys and values out.
SAPIENS2 = {
    "sapiens2-0.1b": (113.99, 0.342),
    "sapiens2-0.4b": (395.45, 1.260),
    "sapiens2-0.8b": (814.28, 2.592),
    "sapiens2-1b": (1455.47, 4.715),
    "sapiens2-5b": (5066.90, 15.722),
}
# RTMPose with 17 points at 256×192: parameters of the whole model in millions, GFLOPs (of one MAC each).
RTMPOSE = {"rtmpose-t": (3.34, 0.36), "rtmpose-s": (5.47, 0.68), "rtmpose-m": (13.59, 1.93), "rtmpose-l": (27.66, 4.16)}


@pytest.mark.parametrize("preset", VITPOSE)
def test_vitpose_parameters(preset: str) -> None:
    cost = model_cost(ModelConfig(backbone=preset), {"coco": 17})
    assert cost.backbone.parameters / 1e6 == pytest.approx(VITPOSE[preset], abs=0.01)


def test_vitpose_base_arithmetic_is_the_published() -> None:
    cost = model_cost(ModelConfig(backbone="vitpose-base"), {"coco": 17})
    assert cost.backbone.macs / 1e9 == pytest.approx(17.1, abs=0.05)
    assert cost.backbone.flops == 2 * cost.backbone.macs
    assert cost.macs == cost.backbone.macs + cost.heads["coco"].macs


@pytest.mark.parametrize("preset", SAPIENS)
def test_sapiens(preset: str) -> None:
    parameters, published = SAPIENS[preset]
    cost = model_cost(ModelConfig(backbone=preset), {"coco": 17})
    assert cost.backbone.parameters / 1e6 == pytest.approx(parameters, abs=0.1)
    assert cost.backbone.macs / 1e12 == pytest.approx(published, rel=0.13)


@pytest.mark.parametrize("preset", SAPIENS2)
def test_sapiens2(preset: str) -> None:
    parameters, published = SAPIENS2[preset]
    config = ModelConfig(backbone=preset)
    cost = model_cost(config, {"goliath": 308})
    assert cost.backbone.parameters / 1e6 == pytest.approx(parameters, abs=0.01)
    tokens = 64 * 48 + 9
    attention = 2 * config.backbone.depth * tokens**2 * config.backbone.embed_dim
    assert (cost.backbone.macs - attention) / 1e12 == pytest.approx(published, rel=0.05)


@pytest.mark.parametrize("preset", RTMPOSE)
def test_rtmpose(preset: str) -> None:
    parameters, published = RTMPOSE[preset]
    cost = model_cost(ModelConfig(backbone=preset), {"coco": 17})
    assert cost.parameters / 1e6 == pytest.approx(parameters, abs=0.01)
    assert cost.macs / 1e9 == pytest.approx(published, rel=0.03)


def test_arithmetic_by_hand() -> None:
    config = ModelConfig(backbone=VitConfig(embed_dim=32, depth=1, num_heads=2), input_size=(32, 32))
    tokens, width = 4, 32
    block = tokens * width * (3 * width + width + 4 * width + 4 * width) + 2 * tokens**2 * width
    patches = tokens * width * 3 * 16 * 16
    assert model_cost(config, {"a": 5}).backbone.macs == block + patches


def test_knowledge_tokens_cost_what_patches_do_and_their_adapter_once() -> None:
    backbone = VitConfig(embed_dim=32, depth=1, num_heads=2, knowledge_tokens=3, knowledge_width=10)
    cost = model_cost(ModelConfig(backbone=backbone, input_size=(32, 32)), {"a": 5}).backbone
    without = model_cost(
        ModelConfig(backbone=VitConfig(embed_dim=32, depth=1, num_heads=2), input_size=(32, 32)), {"a": 5}
    ).backbone
    tokens, width = 4 + 3, 32
    block = tokens * width * (3 * width + width + 4 * width + 4 * width) + 2 * tokens**2 * width
    assert cost.macs == block + 4 * width * 3 * 16 * 16 + 3 * 10 * width
    assert cost.parameters - without.parameters == 3 * 10 + 10 * width + width


def test_heads_count_once_and_shared_ones_not_at_all() -> None:
    one = model_cost(ModelConfig(backbone="vit-nano"), {"a": 5})
    two = model_cost(ModelConfig(backbone="vit-nano"), {"a": 5, "b": 5})
    shared = model_cost(ModelConfig(backbone="vit-nano", shared_heads={"b": "a"}), {"a": 5, "b": 5})
    assert two.parameters - one.parameters == one.heads["a"].parameters
    assert two.macs == one.macs
    assert shared.parameters == one.parameters
