"""A teacher of one family and a student of another, against the same distillation restated.

First what the teacher is believed to mean, number by number; then every term of the loss with its gradient; then eight
steps of the real loop, parameter by parameter. The teacher knows points in another order, and is shown larger crops.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from posecore.codecs.codec import Codec
from posecore.codecs.heatmap import HeatmapCodec
from posecore.codecs.simcc import SimccCodec
from posecore.methods.batch import to_device
from posecore.methods.belief import believed
from posecore.methods.distillation import Distillation, DistillationConfig
from posecore.methods.losses import output_loss
from posecore.models.pose_model import PoseModel
from posecore.models.sources import ModelFolder
from posecore.schema import CropBatch
from posecore.skeletons.skeleton import Keypoint, Skeleton
from tests.parity.recipes.beliefs import Terms, belief
from tests.parity.recipes.comparison import SHORT, check, make_steps, same_terms, short_training, without_key_biases
from tests.parity.recipes.restated import Trainer, heatmap_targets, joints_mse, simcc_divergence, simcc_targets
from tests.parity.recipes.toy import batches, begin_step, labels, pixels, posecore_run, rows, toy_model, toy_weights

SIZE, LARGE = (96, 64), (192, 128)
CROPS = 6
POINTS = {"people": 5, "dogs": 3}
TEACHERS_POINTS = ("p4", "p1", "p9", "p0", "p3")
COMMON = {"people": ([0, 1, 3, 4], [3, 1, 4, 0]), "dogs": ([0, 1], [3, 1])}
"""Per dataset, the student's points that the teacher knows, and where it has them."""

PAIRS = {  # spreads of maps such that they are two to four times as wide as labels, which is so in whole crops
    "a map to lines": (Terms("udp", SIZE, 1.0), Terms("simcc", SIZE)),
    "a large map to lines": (Terms("msra", LARGE, 3.0), Terms("simcc", SIZE)),
    "lines to a map": (Terms("simcc", SIZE), Terms("udp", SIZE)),
    "long lines to a map": (Terms("simcc", LARGE), Terms("msra", SIZE)),
    "a large map to a map": (Terms("msra", LARGE, 3.0), Terms("udp", SIZE)),
    "long lines to lines": (Terms("simcc", LARGE), Terms("simcc", SIZE)),
}


def codec_of(terms: Terms) -> Codec:
    if terms.kind == "simcc":
        return SimccCodec(input_size=terms.size)
    size = (terms.length(0), terms.length(1))
    return HeatmapCodec(kind=terms.kind, input_size=terms.size, heatmap_size=size, heatmap_sigma=terms.sigma)


def answers(terms: Terms) -> Tensor:
    """(2, 4, …): places anywhere on the crop, heights of 0.2 to 1.3, and in the second crop noise of both signs."""
    random = np.random.default_rng(5)
    lines = []
    for axis in (1, 0):
        centers = random.uniform(0, terms.length(axis) - 1, (2, 4, 1))
        spread = terms.spread(axis)
        lines.append(np.exp(-((np.arange(terms.length(axis)) - centers) ** 2) / (2 * spread**2)))
    height = random.uniform(0.2, 1.3, (2, 4, 1))
    if terms.kind == "simcc":
        drawn = height * np.concatenate(lines, axis=-1)
    else:
        drawn = height[..., None] * lines[1][..., :, None] * lines[0][..., None, :]
    drawn[1] += 0.02 * random.standard_normal(drawn[1].shape)
    return torch.from_numpy(drawn).float()


def apart(ours: Tensor, theirs: Tensor) -> float:
    return float((ours.double() - theirs.double()).norm() / theirs.double().norm())


@pytest.mark.parametrize("name", PAIRS)
def test_what_a_student_is_told_and_what_it_learns_from_it(name: str) -> None:
    teacher, student = PAIRS[name]
    said = answers(teacher)
    told, wanted = believed(said, codec_of(teacher), codec_of(student)), belief(said, student, teacher)
    assert apart(told, wanted) <= 1e-5
    outputs = torch.randn(wanted.shape, generator=torch.Generator().manual_seed(1)).mul(0.3).requires_grad_()
    again = outputs.detach().double().requires_grad_()
    loss, expected = output_loss(codec_of(student), outputs, told, 3), told_apart(again, wanted, student, 3)
    loss.backward()
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert apart(outputs.grad, again.grad) <= 1e-5


def told_apart(outputs: Tensor, wanted: Tensor, student: Terms, crops: int) -> Tensor:
    """How far outputs are from what the teacher is believed to mean, per crop of the batch and point."""
    if student.kind != "simcc":
        return (outputs.double() - wanted).square().sum() / (crops * wanted[0].numel())
    total = torch.zeros((), dtype=torch.float64)
    for own, its in zip(axes(outputs, student), axes(wanted, student), strict=True):
        p, t = torch.softmax(10 * own.double(), -1), torch.softmax(10 * its, -1)
        total = total + (t * (t / p).log()).sum()
    return total / (crops * wanted.shape[1])


def axes(lines: Tensor, terms: Terms) -> tuple[Tensor, Tensor]:
    return lines[..., : terms.length(1)], lines[..., terms.length(1) :]


# -- the loss, and steps -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """A teacher and a student; what the settings mean is written down beside them.

    Attributes:
        teacher: what its head says.
        student: likewise.
        settings: of the real method.
        labels: what the mean of the labels' loss per crop counts.
        outputs: what the distance from the teacher's outputs counts.
        features: what the sum of the features' squared errors counts.
        epochs: in which the teacher counts less and less; None for steps.
    """

    teacher: Terms
    student: Terms
    settings: Mapping[str, Any] = field(default_factory=dict)
    labels: float = 1.0
    outputs: float = 1.0
    features: float = 0.0
    epochs: int | None = None

    def left(self, step: int) -> float:
        """How much the teacher still counts."""
        parts = self.epochs or SHORT
        return 1 - (step * parts // SHORT) / parts


MAP_TO_LINES = Case(
    Terms("udp", LARGE),
    Terms("simcc", SIZE),
    {"feature_reduction": "mean", "teacher_heads": {"dogs": "people"}},
    labels=64,
    outputs=0.1,
    features=7e-5,
)
LINES_TO_MAP = Case(
    Terms("simcc", LARGE),
    Terms("udp", SIZE),
    {"feature_weight": 3e-4, "decay_epochs": 3},
    features=3e-4,
    epochs=3,
)
ONLY_TOLD = Case(
    Terms("simcc", SIZE),
    Terms("udp", SIZE),
    {"feature_weight": 0, "output_weight": 0.7, "labels": False, "decay": "none"},
    labels=0,
    outputs=0.7,
    epochs=1,
)
CASES = {"heatmap to simcc": MAP_TO_LINES, "simcc to heatmap": LINES_TO_MAP, "without labels": ONLY_TOLD}


def architecture(terms: Terms) -> dict[str, Any]:
    if terms.kind == "simcc":
        backbone = {"preset": "rtmpose-s", "deepen": 0.1, "widen": 0.0625}
        return {"backbone": backbone, "head": {"kind": "rtmcc", "token_dim": 16, "attention_dim": 8}} | {
            "input_size": terms.size
        }
    vit = {"preset": "vitpose-base", "embed_dim": 16, "depth": 2, "num_heads": 2}
    head = {"kind": "classic", "channels": 8}
    return {"backbone": vit, "head": head, "input_size": terms.size, "heatmap_sigma": 2.0, "blur_kernel": 11}


def teacher_of(case: Case) -> PoseModel:
    points = tuple(Keypoint(name=name, union=name) for name in TEACHERS_POINTS)
    skeletons = {"cats": Skeleton(name="cats", keypoints=points[:1]), "people": Skeleton(name="p", keypoints=points)}
    model = toy_weights(architecture(case.teacher), skeletons, seed=1)
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(std=0.1)
        if case.teacher.kind == "udp":  # maxima on both sides of 1
            model.heads["people"].final_layer.weight.mul_(0.5)
    return model


def distillation(case: Case) -> tuple[Distillation, PoseModel]:
    """The real method, and its teacher once more."""
    config = DistillationConfig.model_validate({"teacher": ModelFolder(source="nowhere"), **case.settings})
    teacher = teacher_of(case)
    return Distillation(toy_model(architecture(case.student), POINTS), copy.deepcopy(teacher), config), teacher.eval()


def enlarged(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Linear between pixel centres, corner pixels on corner pixels."""
    spread = []
    for old, new in zip(images.shape[2:], size, strict=True):
        places = np.arange(new) * (old - 1) / (new - 1)
        spread.append(np.maximum(0, 1 - np.abs(places[:, None] - np.arange(old))))
    across, down = torch.from_numpy(spread[1]), torch.from_numpy(spread[0])
    return down @ images.double() @ across.T


def averaged(features: Tensor, like: Tensor) -> Tensor:
    """Onto the coarser grid of both, block by block."""
    height, width = (min(features.shape[axis], like.shape[axis]) for axis in (2, 3))
    tall, wide = features.shape[2] // height, features.shape[3] // width
    return features.double().unflatten(3, (width, wide)).unflatten(2, (height, tall)).mean((3, 5))


def of_labels(outputs: Tensor, group: Any, case: Case, crops: int) -> Tensor:
    if case.student.kind == "udp":
        targets, weights = heatmap_targets(*labels(group), "udp", SIZE, tuple(outputs.shape[2:]), 2.0)
        return joints_mse(outputs, targets, weights, crops)
    sigmas = (case.student.spread(1), case.student.spread(0))
    across, down, weights = simcc_targets(*labels(group), SIZE, sigmas)
    lines = zip(axes(outputs, case.student), (across, down), strict=True)
    return (weights * sum(simcc_divergence(own, its) for own, its in lines)).sum() / (outputs.shape[1] * crops)


def restated_terms(
    case: Case, network: nn.Module, teacher: PoseModel, batch: CropBatch, step: int
) -> dict[str, Tensor]:
    images = pixels(batch).to(next(network.parameters()).dtype)
    features = network.model.backbone(images, rows(batch))
    with torch.no_grad():
        shown = images if case.teacher.size == SIZE else enlarged(images, case.teacher.size).to(images.dtype)
        taught = teacher.backbone(shown, [])
    crops, terms = len(batch.images), {}
    if case.features:
        projected = network.alignment.projection(features)
        error = averaged(projected, taught) - averaged(taught, projected)
        terms["features"] = case.left(step) * case.features * error.square().sum() / crops
    for group in batch.groups:
        name, own = group.dataset, slice(group.start, group.stop)
        head = network.model.heads[name]
        points, its_points = COMMON[name]
        # Without crops a head gets a gradient of zero, and so the decay of AdamW.
        nothing = sum(0 * parameter.double().sum() for parameter in head.parameters())
        terms[f"loss/{name}"] = terms[f"outputs/{name}"] = nothing
        if group.start < group.stop:
            outputs = head(features[own])
            wanted = belief(teacher.heads["people"](taught[own])[:, its_points], case.student, case.teacher)
            told = told_apart(outputs[:, points], wanted, case.student, crops)
            terms[f"outputs/{name}"] = case.left(step) * case.outputs * told
            terms[f"loss/{name}"] = case.labels * of_labels(outputs, group, case, crops)
        if not case.labels:
            del terms[f"loss/{name}"]
    return terms


def compare_terms(case: Case, restated: Case, steps: range) -> None:
    """Networks are of float64, for batch statistics of small maps make of one rounding of float32 a hundred."""
    method, teacher = (part.double() for part in distillation(case))
    method.teacher.model.double()
    network = copy.deepcopy(method)
    for step, crops in zip(steps, batches(POINTS, SIZE, CROPS, steps[0]), strict=False):
        method.train().begin_step(step, SHORT)
        begin_step(step)
        theirs = restated_terms(restated, network.train(), teacher, crops, step)
        batch = to_device(crops, torch.device("cpu"))
        begin_step(step)
        ours = method(replace(batch, images=pixels(crops).double()))
        same_terms(method, ours, network, theirs, without_key_biases)


@pytest.mark.parametrize("name", CASES)
def test_every_term_and_its_gradient(name: str) -> None:
    compare_terms(CASES[name], CASES[name], range(3))


@pytest.mark.parametrize("name", CASES)
def test_eight_steps(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    method, teacher = distillation(case)
    network, start = copy.deepcopy(method), copy.deepcopy(method.state_dict())
    training, published = short_training(CROPS, case.student.kind == "simcc")
    state = posecore_run(tmp_path, method, training, POINTS)

    def loss(network: nn.Module, batch: CropBatch, step: int) -> Tensor:
        return sum(restated_terms(case, network, teacher, batch, step).values())

    trainer = Trainer(network, published, SHORT)
    make_steps(trainer, network, loss, batches(POINTS, SIZE, CROPS))
    check(state, trainer, start, without_key_biases)


@pytest.mark.parametrize(
    "error",
    [
        {"outputs": 0.101}, {"features": 7.1e-5}, {"labels": 64.1}, {"epochs": 3},
        {"teacher": Terms("udp", LARGE, 2.01)}, {"teacher": Terms("msra", LARGE)},
    ],
    ids=lambda error: str(next(iter(error))),
)  # fmt: skip
def test_a_wrong_number_would_be_noticed(error: dict[str, Any]) -> None:
    with pytest.raises(AssertionError):
        compare_terms(MAP_TO_LINES, replace(MAP_TO_LINES, **error), range(1, 2))
