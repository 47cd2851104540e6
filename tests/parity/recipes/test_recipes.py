"""Twenty steps of every recipe against the same training restated, parameter by parameter, from the same weights.

The real loop, the real methods and the real recipes are compared with :mod:`restated`, which is written from the papers
and configurations. Models are shrunk in width, depth and input. Every number of a recipe is the published one, but for
the length of the warm-up of vision transformers, which would leave nothing of the schedule to be seen in twenty steps;
whole schedules are compared at their published lengths.
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter
from torch import Tensor, nn

from pipelines.distill import DistillationJob
from posecore.methods.distillation import Distillation, DistillationConfig
from posecore.methods.head_distillation import HeadDistillation, HeadDistillationConfig
from posecore.methods.prototypes import PrototypesConfig
from posecore.methods.sharing import ExpertsConfig, HeadsConfig
from posecore.models.pose_model import PoseModel
from posecore.models.sources import ModelFolder
from posecore.schema import CropBatch
from posecore.training.recipes import RECIPES
from posecore.training.schedule import ScheduleConfig
from tests.parity.recipes import posebh
from tests.parity.recipes.comparison import (
    Loss,
    check,
    everything,
    restated_run,
    without_biases_before_norms,
    without_key_biases,
)
from tests.parity.recipes.restated import (
    Published,
    cosine_of_second_half,
    hardest_mse,
    heatmap_targets,
    in_steps,
    joints_mse,
    simcc_divergence,
    simcc_targets,
    straight_to_zero_after,
    taught_divergence,
    weighted_mse,
)
from tests.parity.recipes.toy import (
    STEPS,
    WARMUP,
    labels,
    pixels,
    posecore_run,
    rows,
    toy_model,
    training_of,
)
from tests.support.checkpoints import State

TALL = (64, 48)
SPREAD = {"input_size": TALL, "heatmap_sigma": 2.0, "blur_kernel": 11}  # those of whole inputs, on small maps
SIX = {"coco": 17, "aic": 14, "mpii": 16, "ap10k": 17, "apt36k": 17, "coco_wholebody": 133}
SIX_CODECS = {name: "udp" if name in ("coco", "mpii") else "msra" for name in SIX}


# -- ViTPose -----------------------------------------------------------------------------------------------------------


def of_heatmaps(kinds: Mapping[str, str], sigma: float, of_dataset: Callable[..., Tensor]) -> Loss:
    """Sum over datasets; every head sees all crops, and its own count."""

    def loss(network: nn.Module, batch: CropBatch, step: int) -> Tensor:
        features = network.model.backbone(pixels(batch), rows(batch))
        total = torch.zeros((), dtype=torch.float64)
        for group in batch.groups:
            maps = network.model.heads[group.dataset](features)[group.start : group.stop]
            size = tuple(maps.shape[2:])
            targets, weights = heatmap_targets(*labels(group), kinds[group.dataset], TALL, size, sigma)
            total = total + of_dataset(maps, targets, weights, len(batch.images))
        return total

    return loss


COCO = {"coco": 17}
VITPOSE_BASE = Published(
    lr=5e-4, weight_decay=0.1, layer_decay=0.75, clip_norm=1.0,
    warmup_steps=WARMUP, warmup_start=0.001, decay=in_steps(170 / 210, 200 / 210),
)  # fmt: skip


def vitpose(size: str) -> nn.Module:
    vit = {"preset": f"vitpose-{size}", "embed_dim": 32, "depth": 3, "num_heads": 2}
    architecture = {"backbone": vit, "head": {"kind": "classic", "channels": 8}} | SPREAD
    method = RECIPES[f"vitpose-{size}"].fields["method"]
    return HeadsConfig.model_validate(method).build(toy_model(architecture, COCO))


@pytest.mark.parametrize(("size", "layer_decay"), [("small", 0.8), ("base", 0.75), ("large", 0.8), ("huge", 0.85)])
def test_vitpose(size: str, layer_decay: float, tmp_path: Path) -> None:
    """arXiv 2204.12484, table 1, and ViTAE-Transformer/ViTPose @ c050ed2, ViTPose_*_coco_256x192.py."""
    method = vitpose(size)
    network, start = copy.deepcopy(method), copy.deepcopy(method.state_dict())
    training = training_of(RECIPES[f"vitpose-{size}"].fields["training"], 4)
    state = posecore_run(tmp_path, method, training, COCO)
    published = replace(VITPOSE_BASE, layer_decay=layer_decay)
    trainer = restated_run(network, published, of_heatmaps({"coco": "udp"}, 2.0, joints_mse), COCO, TALL, 4)
    check(state, trainer, start, without_key_biases)


@pytest.mark.parametrize(("size", "layer_decay"), [("small", 0.8), ("base", 0.75), ("large", 0.8), ("huge", 0.8)])
def test_vitpose_plus(size: str, layer_decay: float, tmp_path: Path) -> None:
    """arXiv 2212.04246 and vitPose+_*_coco+aic+mpii+ap10k+apt36k+wholebody_256x192_udp.py of the same repository."""
    published = Published(
        lr=1e-3, weight_decay=0.1, layer_decay=layer_decay, clip_norm=1.0,
        warmup_steps=WARMUP, warmup_start=0.001, decay=in_steps(170 / 210, 200 / 210),
    )  # fmt: skip
    fields = RECIPES[f"vitpose-plus-{size}"].fields
    vit = {"preset": f"vitpose-plus-{size}", "embed_dim": 16, "depth": 2, "num_heads": 2}
    architecture = {"backbone": vit, "head": {"kind": "classic", "channels": 4}} | SPREAD
    method = ExpertsConfig.model_validate(fields["method"]).build(toy_model(architecture, SIX))
    network, start = copy.deepcopy(method), copy.deepcopy(method.state_dict())
    state = posecore_run(tmp_path, method, training_of(fields["training"], 6), SIX)
    trainer = restated_run(network, published, of_heatmaps(SIX_CODECS, 2.0, joints_mse), SIX, TALL, 6)
    check(state, trainer, start, without_key_biases)


# -- PoseBH ------------------------------------------------------------------------------------------------------------


def without_biases_in_embeddings(name: str, tensor: Tensor) -> Tensor:
    """BatchNorm takes out what a convolution before it adds to a whole map."""
    before_norm = ("neck.conv1.bias", "neck.conv2.bias", "embedding_head.head.0.bias")
    return tensor[:0] if name.endswith(before_norm) else without_key_biases(name, tensor)


@pytest.mark.parametrize(("size", "layer_decay"), [("base", 0.75), ("huge", 0.8)])
def test_posebh(size: str, layer_decay: float, tmp_path: Path) -> None:
    """uyoung-jeong/PoseBH @ 8f03438, mdt/vit{b,h}_posebh.py: half of the run for embeddings, then heads, then all.

    What is frozen has no gradient, and goes on dropping paths and moving statistics, as released.
    """
    published = replace(VITPOSE_BASE, lr=1e-3, layer_decay=layer_decay, warmup_steps=STEPS, decay=in_steps(0.5, 0.9))
    fields = RECIPES[f"posebh-{size}"].fields
    vit = {"preset": f"vitpose-plus-{size}", "embed_dim": 16, "depth": 2, "num_heads": 2}
    architecture = {"backbone": vit, "head": {"kind": "classic", "channels": 4}} | SPREAD
    architecture |= {"embedding": {"dim": 8, "channels": 8}}
    method = PrototypesConfig.model_validate(fields["method"]).build(toy_model(architecture, SIX))
    network, start = copy.deepcopy(method.model), copy.deepcopy(method.state_dict())
    prototypes = {name: start[f"model.prototypes.{name}"].double() for name in SIX}
    state = posecore_run(tmp_path, method, training_of(fields["training"], 6, STEPS), SIX)
    taught = 0

    def loss(holder: nn.Module, batch: CropBatch, step: int) -> Tensor:
        nonlocal taught
        stage = ("embeddings", "heads", "all")[(step >= 10) + (step >= 18)]
        with torch.set_grad_enabled(stage == "all"):
            features = network.backbone(pixels(batch), rows(batch))
        embeddings = network.embedding_head(features)
        total = torch.zeros((), dtype=torch.float64)
        for group in batch.groups:
            name, own = group.dataset, slice(group.start, group.stop)
            with torch.set_grad_enabled(stage != "embeddings"):
                maps = network.heads[name](features)
            targets, weights = heatmap_targets(*labels(group), SIX_CODECS[name], TALL, (16, 12), 2.0)
            total = total + joints_mse(maps[own], targets, weights, len(batch.images))
            if not len(targets) and stage == "embeddings":
                continue
            known = prototypes[name] / prototypes[name].norm(dim=2, keepdim=True)
            vectors, whose, confidence = posebh.pixels_of(embeddings[own], targets)
            total = total + posebh.pixel_loss(vectors, whose, known)
            if len(targets):
                from_prototypes = posebh.maps_of(embeddings[own], known)
                total = total + posebh.HEATMAP * joints_mse(from_prototypes, targets, weights, len(targets))
            if stage == "embeddings":
                prototypes[name] = posebh.moved_prototypes(vectors, whose, confidence, known)
            else:
                others = [i for i in range(len(batch.images)) if not group.start <= i < group.stop]
                told = posebh.self_supervision(maps[others], embeddings[others], known)
                taught += float(told.detach()) > 0
                total = total + told
        return total

    trainer = restated_run(nn.ModuleDict({"model": network}), published, loss, SIX, TALL, 6)
    # An expert without crops in the two steps that train backbones only decays, by a few times float32's rounding.
    check(state, trainer, start, without_biases_in_embeddings, most_of_path=0.1)
    for name, vectors in prototypes.items():
        torch.testing.assert_close(state.buffers[f"model.prototypes.{name}"].double(), vectors, rtol=1e-5, atol=1e-6)
        assert not torch.equal(vectors.float(), start[f"model.prototypes.{name}"])
    assert taught > 30


# -- Sapiens -----------------------------------------------------------------------------------------------------------

SAPIENS = [  # sizes of equal recipes, points, rate, layer decay, hardest points
    ("0.3b 0.6b 1b 2b", 17, 5e-4, 0.85, None),
    ("0.3b 0.6b", 133, 5e-4, 0.75, None),
    ("1b 2b", 133, 5e-4, 0.85, None),
    ("0.3b", 308, 5e-5, 0.85, 128),
    ("0.6b 2b", 308, 5e-5, 0.85, None),
    ("1b", 308, 5e-5, 0.95, 128),
]


@pytest.mark.parametrize(("sizes", "points", "rate", "layer_decay", "hardest"), SAPIENS)
def test_sapiens(sizes: str, points: int, rate: float, layer_decay: float, hardest: int | None, tmp_path: Path) -> None:
    """facebookresearch/sapiens @ 3e829ac, pose/configs/sapiens_pose: drop path 0, everything learns."""
    published = Published(
        lr=rate, weight_decay=0.1, layer_decay=layer_decay, clip_norm=1.0,
        warmup_steps=WARMUP - 1, warmup_start=0.001, decay=in_steps(170 / 210, 200 / 210),
    )  # fmt: skip

    def mean_square(maps: Tensor, targets: Tensor, weights: Tensor, batch_size: int) -> Tensor:
        return weighted_mse(maps, targets, weights) if hardest is None else hardest_mse(maps, targets, weights, hardest)

    size = sizes.split()[0]
    vit = {"preset": f"sapiens-{size}", "embed_dim": 16, "depth": 2, "num_heads": 2}
    head = {"kind": "instance_norm", "deconv_channels": [8, 8], "conv_channels": [8, 8]}
    architecture = {"backbone": vit, "head": head} | SPREAD | {"heatmap_sigma": 6.0}
    fields, names = RECIPES[f"sapiens-{size}-{points}"].fields, {"people": points}
    method = HeadsConfig.model_validate(fields["method"]).build(toy_model(architecture, names))
    network, start = copy.deepcopy(method), copy.deepcopy(method.state_dict())
    state = posecore_run(tmp_path, method, training_of(fields["training"], 2), names)
    trainer = restated_run(network, published, of_heatmaps({"people": "udp"}, 6.0, mean_square), names, TALL, 2)
    check(state, trainer, start, without_biases_before_norms)


@pytest.mark.parametrize(
    ("size", "rate", "layer_decay", "clip_norm"),
    [("0.4b", 5e-4, 0.80, 2.0), ("0.8b", 5e-4, 0.85, 4.0), ("1b", 5e-4, 0.90, 4.0), ("5b", 1e-4, 0.94, 4.0)],
)
def test_sapiens2(size: str, rate: float, layer_decay: float, clip_norm: float, tmp_path: Path) -> None:
    """facebookresearch/sapiens2 @ 3098c14, sapiens/pose/configs/keypoints308: ten times the loss, as clipping wants."""
    published = Published(
        lr=rate, weight_decay=0.1, layer_decay=layer_decay, clip_norm=clip_norm,
        warmup_steps=WARMUP, warmup_start=0.001, decay=straight_to_zero_after(WARMUP),
    )  # fmt: skip

    def tenfold(maps: Tensor, targets: Tensor, weights: Tensor, batch_size: int) -> Tensor:
        return 10 * weighted_mse(maps, targets, weights)

    backbone = {"preset": f"sapiens2-{size}", "embed_dim": 16, "depth": 3, "num_heads": 2, "num_full_blocks": 1}
    head = {"kind": "instance_norm", "deconv_channels": [8, 8], "conv_channels": [8, 8, 8], "initialisation": "kaiming"}
    architecture = {"backbone": backbone, "head": head} | SPREAD | {"heatmap_sigma": 6.0}
    fields, names = RECIPES[f"sapiens2-{size}-308"].fields, {"people": 308}
    method = HeadsConfig.model_validate(fields["method"]).build(toy_model(architecture, names))
    network, start = copy.deepcopy(method), copy.deepcopy(method.state_dict())
    state = posecore_run(tmp_path, method, training_of(fields["training"], 2), names)
    trainer = restated_run(network, published, of_heatmaps({"people": "udp"}, 6.0, tenfold), names, TALL, 2)
    check(state, trainer, start, without_biases_before_norms)


# -- RTMPose and DWPose ------------------------------------------------------------------------------------------------

WIDE = (64, 64)
SIGMAS = (2.83, 2.83)  # the root of an eighth of the side, as 4.9 and 5.66 at 192x256


def simcc_published(weight_decay: float, clip_norm: float | None, averages: bool) -> Published:
    """In the first twenty of a thousand steps that warm up; the cosine is compared below."""
    return Published(
        lr=4e-3, weight_decay=weight_decay, clip_norm=clip_norm, undecayed="norms_and_biases", averages=averages,
        warmup_steps=999, warmup_start=1e-5, decay=in_steps(),
    )  # fmt: skip


def axes(logits: Tensor) -> tuple[Tensor, Tensor]:
    across, down = logits.split([2 * WIDE[1], 2 * WIDE[0]], dim=-1)
    return across, down


def of_labels(logits: Tensor, batch: CropBatch) -> Tensor:
    """``KLDiscretLoss``: mean over bins and points, sum over crops."""
    (group,) = batch.groups
    across, down, weights = simcc_targets(*labels(group), WIDE, SIGMAS)
    lost = [simcc_divergence(line, wanted) for line, wanted in zip(axes(logits), (across, down), strict=True)]
    return (weights * (lost[0] + lost[1])).sum() / logits.shape[1]


def simcc_model(size: str, points: int, seed: int = 0, widen: float = 0.0625) -> PoseModel:
    backbone = {"preset": f"rtmpose-{size}", "deepen": 0.1, "widen": widen}
    head = {"kind": "rtmcc", "token_dim": 16, "attention_dim": 8}
    architecture = {"backbone": backbone, "head": head, "input_size": WIDE}
    return toy_model(architecture, {"people": points}, seed)


RTMPOSE = [  # models of equal recipes, points, weight decay, clip norm, whether there is an average
    ("t-body", 17, 0.0, None, False),
    ("s-body", 17, 0.0, None, True),
    ("m-body l-body", 17, 0.05, None, True),
    ("t-wholebody s-wholebody m-wholebody l-wholebody", 133, 0.05, None, True),
    ("x-wholebody", 133, 0.05, 35.0, True),
]


@pytest.mark.parametrize(("names", "points", "weight_decay", "clip_norm", "averages"), RTMPOSE)
def test_rtmpose(
    names: str, points: int, weight_decay: float, clip_norm: float | None, averages: bool, tmp_path: Path
) -> None:
    """arXiv 2303.07399 and open-mmlab/mmpose @ 759b39c, configs/{body,wholebody}_2d_keypoint/rtmpose."""
    name = names.split()[0]
    fields = RECIPES[f"rtmpose-{name}"].fields
    method = HeadsConfig.model_validate(fields["method"]).build(simcc_model(name[0], points))
    network, start = copy.deepcopy(method), copy.deepcopy(method.state_dict())
    state = posecore_run(tmp_path, method, training_of(fields["training"], 4, 1000), {"people": points})

    def loss(network: nn.Module, batch: CropBatch, step: int) -> Tensor:
        features = network.model.backbone(pixels(batch), rows(batch))
        return of_labels(network.model.heads["people"](features), batch)

    published = simcc_published(weight_decay, clip_norm, averages)
    trainer = restated_run(network, published, loss, {"people": points}, WIDE, 4)
    check(state, trainer, start, everything)
    assert bool(state.average) == averages


DWPOSE = [  # models of equal recipes, points, weight decay, epochs
    ("t s m l", 133, 0.05, 270),
    ("t-body s-body", 17, 0.0, 420),
    ("m-body", 17, 0.05, 420),
]


@pytest.mark.parametrize(("names", "points", "weight_decay", "epochs"), DWPOSE)
def test_the_first_stage_of_dwpose(names: str, points: int, weight_decay: float, epochs: int, tmp_path: Path) -> None:
    """IDEA-Research/DWPose @ 3dca5db, distiller.py, fea.py, kd.py; the teacher has the batch's statistics."""
    name = names.split()[0]
    fields = RECIPES[f"dwpose-{name}"].fields
    teacher, student = simcc_model("l", points, seed=1, widen=0.125), simcc_model(name[0], points)
    asked = copy.deepcopy(teacher).requires_grad_(False)
    config = DistillationConfig.model_validate({"teacher": ModelFolder(source="nowhere"), **fields["method"]})
    method = Distillation(student, teacher, config)
    network, start = copy.deepcopy(method), copy.deepcopy(method.state_dict())
    state = posecore_run(tmp_path, method, training_of(fields["training"], 4, 1000), {"people": points})

    def loss(network: nn.Module, batch: CropBatch, step: int) -> Tensor:
        features = network.model.backbone(pixels(batch), rows(batch))
        logits = network.model.heads["people"](features)
        asked.backbone.train()
        taught = asked.backbone(pixels(batch), rows(batch))
        guess = asked.heads["people"](taught)
        projected = network.alignment.projection(features).double()
        apart = (projected - taught.double()).square().sum() / len(features)
        told = sum(taught_divergence(own, its) for own, its in zip(axes(logits), axes(guess), strict=True)) / points
        left = 1 - (step * epochs // STEPS) / epochs
        return of_labels(logits, batch) + left * (7e-5 * apart + 0.1 * told)

    published = simcc_published(weight_decay, 1.0, averages=True)
    trainer = restated_run(network, published, loss, {"people": points}, WIDE, 4)
    check(state, trainer, start, everything)
    assert "alignment.projection.weight" in trainer.weights


@pytest.mark.parametrize(("names", "points", "weight_decay"), [case[:3] for case in DWPOSE])
def test_the_second_stage_of_dwpose(names: str, points: int, weight_decay: float, tmp_path: Path) -> None:
    """The ``two_dis`` branch: a fresh head learns what the trained one says of the same features."""
    name = names.split()[0]
    fields = RECIPES[f"dwpose-{name}"].fields
    teacher, student = simcc_model(name[0], points, seed=1), simcc_model(name[0], points)
    asked = copy.deepcopy(teacher).requires_grad_(False)
    statistics = fields["backbone_statistics"]
    config = HeadDistillationConfig(teacher=ModelFolder(source="nowhere"), backbone_statistics=statistics)
    method = HeadDistillation(student, teacher, config)
    network, start = copy.deepcopy(method), copy.deepcopy(method.state_dict())
    whole_run = training_of(fields["training"], 4, 1000).model_copy(update={"steps": 26_000})
    second = DistillationJob.model_construct(training=whole_run, second_stage=1.0).head_training()
    training = second.model_copy(update={"steps": STEPS})
    state = posecore_run(tmp_path, method, training, {"people": points})

    def loss(network: nn.Module, batch: CropBatch, step: int) -> Tensor:
        network.model.backbone.train()
        with torch.no_grad():
            features = network.model.backbone(pixels(batch), rows(batch))
            guess = asked.heads["people"](features)
        logits = network.model.heads["people"](features)
        return sum(taught_divergence(own, its) for own, its in zip(axes(logits), axes(guess), strict=True)) / points

    published = simcc_published(weight_decay, 1.0, averages=True)
    trainer = restated_run(network, published, loss, {"people": points}, WIDE, 4)
    check(state, trainer, start, everything)
    assert all(name.startswith("model.heads.") for name in trainer.weights)


# -- schedules at full length, and what would be noticed ---------------------------------------------------------------


EQUAL = [
    *([f"rtmpose-{name}" for name in names.split()] for names, *_ in RTMPOSE),
    *([f"dwpose-{name}" for name in names.split()] for names, *_ in DWPOSE),
    *([f"sapiens-{size}-{points}" for size in sizes.split()] for sizes, points, *_ in SAPIENS),
    *([f"sapiens2-{size}-308"] for size in ("0.4b", "0.8b", "1b", "5b")),
    *([f"vitpose-{size}"] for size in ("small", "base", "large")),
    ["vitpose-huge", "vitpose-giant"],
    *([f"vitpose-plus-{size}"] for size in ("small", "base", "large", "huge")),
    *([f"posebh-{size}"] for size in ("base", "huge")),
]


@pytest.mark.parametrize("names", EQUAL, ids=lambda names: names[0])
def test_what_is_compared_once_is_one_recipe(names: list[str]) -> None:
    """Models that differ in their size alone are trained alike, and shrunk they are the same model."""
    first, *others = (RECIPES[name].fields for name in names)
    for other in others:
        assert (other.get("method"), other["training"]) == (first.get("method"), first["training"])


def test_every_recipe_is_compared() -> None:
    assert sorted(name for names in EQUAL for name in names) == sorted(RECIPES)


def published_factors(recipe: str, steps: int) -> Callable[[int], float]:
    """Of the rate, as its family has it."""
    if recipe.startswith("sapiens2"):
        warm, start, decay = 500, 0.001, straight_to_zero_after(500)
    elif recipe.startswith(("rtmpose", "dwpose")):
        warm, start, decay = 999, 1e-5, cosine_of_second_half
    elif recipe.startswith("posebh"):
        warm, start, decay = 500, 0.001, in_steps(50 / 100, 90 / 100)
    else:
        warm, start, decay = 499 if recipe.startswith("sapiens") else 500, 0.001, in_steps(170 / 210, 200 / 210)
    published = Published(lr=1.0, weight_decay=0.0, clip_norm=None, warmup_steps=warm, warmup_start=start, decay=decay)
    return lambda step: published.factor(step, steps)


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_schedule_is_the_published_one_from_the_first_step_to_the_last(recipe: str) -> None:
    steps = 10_000
    schedule = TypeAdapter(ScheduleConfig).validate_python(RECIPES[recipe].fields["training"]["schedule"])
    published = published_factors(recipe, steps)
    factors = [(schedule.factor(step, steps), published(step)) for step in [*range(1100), *range(1100, steps, 7)]]
    ours, theirs = zip(*factors, strict=True)
    assert ours == pytest.approx(theirs, rel=1e-9)
    assert len(set(theirs)) > 500


@pytest.mark.parametrize(
    "error",
    [
        {"lr": 5.1e-4}, {"weight_decay": 0.09}, {"layer_decay": 0.76}, {"clip_norm": None}, {"warmup_steps": 4},
        {"decay": in_steps(200 / 210)}, {"undecayed": "norms_and_biases"},
    ],
    ids=lambda error: next(iter(error)),
)  # fmt: skip
def test_a_wrong_number_would_be_noticed(
    error: dict[str, Any], base: tuple[State, nn.Module, dict[str, Tensor]]
) -> None:
    """The comparison can fail: every one of these is a mistake that could be made."""
    state, network, start = base
    wrong = replace(VITPOSE_BASE, **error)
    trainer = restated_run(copy.deepcopy(network), wrong, of_heatmaps({"coco": "udp"}, 2.0, joints_mse), COCO, TALL, 4)
    with pytest.raises(AssertionError):
        check(state, trainer, start, without_key_biases)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> tuple[State, nn.Module, dict[str, Tensor]]:
    """What ViTPose-B's run ends with, and what it started from."""
    method = vitpose("base")
    network, start = copy.deepcopy(method), copy.deepcopy(method.state_dict())
    training = training_of(RECIPES["vitpose-base"].fields["training"], 4)
    return posecore_run(tmp_path_factory.mktemp("base"), method, training, COCO), network, start
