"""Distributions over places: their moments, and the likelihood that teaches them how far off they are."""

import pytest
import torch
from torch import Tensor
from torch.distributions import Laplace, MultivariateNormal

from posecore.codecs.heatmap import HeatmapCodec
from posecore.codecs.places import PlacesCodec, moments
from posecore.codecs.spread import ROUNDED
from posecore.methods.likelihood import Likelihood
from posecore.methods.losses import output_loss, usual_loss
from posecore.skeletons.library import load_skeleton

CODEC = PlacesCodec()
STRIDE = torch.tensor([191 / 47, 255 / 63])


def logits_of(center: tuple[float, float], covariance: list[list[float]]) -> Tensor:
    rows, columns = torch.meshgrid(torch.arange(64.0), torch.arange(48.0), indexing="ij")
    offset = torch.stack([columns - center[0], rows - center[1]], dim=-1)
    inverse = torch.linalg.inv(torch.tensor(covariance))
    return (-0.5 * torch.einsum("hwi,ij,hwj->hw", offset, inverse, offset))[None, None]


@pytest.mark.parametrize("place", [(0.0, 0.0), (100.3, 200.7), (191.0, 255.0)])
def test_the_mean_of_what_is_drawn_is_the_point_wherever_it_is(place: tuple[float, float]) -> None:
    point = torch.tensor([[place]])
    drawn, weights = CODEC.encode(point, torch.ones(1, 1))
    assert drawn.sum().item() == pytest.approx(1)
    assert weights.item() == 1
    torch.testing.assert_close(moments(drawn)[0] * STRIDE, point, atol=1e-4, rtol=0)


def test_what_does_not_count_is_not_drawn() -> None:
    points = torch.tensor([[[10.0, 10.0], [torch.nan, 3.0], [-2.0, 10.0], [10.0, 256.0]]])
    drawn, weights = CODEC.encode(points, torch.tensor([[0.0, 0.0, 1.0, 1.0]]))
    assert not drawn.any()
    assert not weights.any()


def test_a_gaussian_is_read_as_its_mean_and_its_covariance() -> None:
    covariance = [[4.0, 1.0], [1.0, 2.0]]
    outputs = logits_of((20.3, 30.6), covariance)
    points, scores = CODEC.decode(outputs)
    torch.testing.assert_close(points[0, 0], torch.tensor([20.3, 30.6]), atol=1e-3, rtol=0)
    expected = torch.tensor(covariance) + ROUNDED * torch.eye(2)
    torch.testing.assert_close(CODEC.covariances(outputs, points)[0, 0], expected, atol=1e-3, rtol=0)
    away = CODEC.covariances(outputs, points + torch.tensor([2.0, 0.0]))[0, 0]
    torch.testing.assert_close(away - expected, torch.tensor([[4.0, 0.0], [0.0, 0.0]]), atol=1e-3, rtol=0)
    drawn = torch.tensor(covariance) + 4 * torch.eye(2)
    assert scores.item() == pytest.approx(4 / torch.linalg.det(drawn).sqrt().item(), rel=1e-3)


def test_a_score_is_as_high_as_the_mean_of_the_heatmaps_of_its_places() -> None:
    """Of two equally likely places: the heatmap that the squared error asks for has its maximum between them."""
    points = torch.tensor([[[19.5, 30.0], [20.5, 30.0]]])
    heatmaps, _ = HeatmapCodec().encode(points * STRIDE, torch.ones(1, 2))
    places, _ = CODEC.encode(points * STRIDE, torch.ones(1, 2))
    mixed = places.mean(dim=1, keepdim=True)
    _, score = CODEC.decode(mixed.clamp(min=1e-20).log())
    assert score.item() == pytest.approx(heatmaps.mean(dim=1).max().item(), abs=0.03)


def test_mirroring_swaps_sides_and_turns_the_correlation() -> None:
    outputs = torch.cat(
        [logits_of((10.0, 30.0), [[4.0, 1.0], [1.0, 2.0]]), logits_of((30.0, 20.0), [[1.0, 0.0], [0.0, 1.0]])], dim=1
    )
    back = CODEC.flip_back(outputs, torch.tensor([1, 0]), shift=False)
    points, _ = CODEC.decode(back)
    torch.testing.assert_close(points[0], torch.tensor([[17.0, 20.0], [37.0, 30.0]]), atol=1e-3, rtol=0)
    covariance = CODEC.covariances(back, points)[0, 1]
    assert covariance[0, 1].item() == pytest.approx(-1.0, abs=1e-3)


def test_the_likelihood_is_that_of_the_normal_distribution() -> None:
    outputs = logits_of((20.0, 30.0), [[4.0, 1.0], [1.0, 2.0]])
    label = torch.tensor([[[22.0, 29.0]]])
    targets, _ = CODEC.encode(label * STRIDE, torch.ones(1, 1))
    mean, _ = CODEC.decode(outputs)
    covariance = CODEC.covariances(outputs, mean)
    expected = -MultivariateNormal(mean, covariance).log_prob(label)
    torch.testing.assert_close(Likelihood().points(CODEC, outputs, targets), expected, atol=1e-4, rtol=0)
    scale = (covariance.diagonal(dim1=2, dim2=3) / 2).sqrt()
    expected = -Laplace(mean, scale).log_prob(label).sum(dim=-1)
    found = Likelihood(distribution="laplace").points(CODEC, outputs, targets)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_a_point_that_does_not_count_has_a_finite_loss_and_no_gradient() -> None:
    outputs = torch.zeros(2, 1, 64, 48, requires_grad=True)
    targets, weights = CODEC.encode(torch.tensor([[[50.0, 50.0]], [[torch.nan, 0.0]]]), torch.tensor([[1.0], [0.0]]))
    loss = Likelihood()(CODEC, outputs, targets, weights, 2)
    loss.backward()
    assert loss.isfinite()
    assert outputs.grad is not None
    assert outputs.grad[0].any()
    assert not outputs.grad[1].any()


@pytest.mark.parametrize(("distribution", "variance"), [("gaussian", 4.0), ("laplace", 8.0)])
def test_it_learns_how_far_labels_scatter(distribution: str, variance: float) -> None:
    """Labels two pixels left or right: σ = 2 is the likeliest Gaussian, b = 2 and so σ² = 8 the likeliest Laplace."""
    labels = torch.tensor([[[18.0, 30.0]], [[22.0, 30.0]]])
    targets, weights = CODEC.encode(labels * STRIDE, torch.ones(2, 1))
    outputs = torch.zeros(1, 1, 64, 48, requires_grad=True)
    loss = Likelihood.model_validate({"distribution": distribution})
    optimizer = torch.optim.Adam([outputs], lr=0.3)
    for _ in range(150):
        optimizer.zero_grad()
        loss(CODEC, outputs.expand(2, 1, 64, 48), targets, weights, 2).backward()
        optimizer.step()
    points, _ = CODEC.decode(outputs)
    found = CODEC.covariances(outputs, points)[0, 0]
    if distribution == "gaussian":
        torch.testing.assert_close(points[0, 0], torch.tensor([20.0, 30.0]), atol=0.1, rtol=0)
    assert found[0, 0].item() == pytest.approx(variance, rel=0.1)
    assert found[1, 1].item() < 0.5


def test_a_teacher_is_followed_in_its_distribution() -> None:
    teacher = logits_of((20.0, 30.0), [[4.0, 1.0], [1.0, 2.0]])
    assert output_loss(CODEC, teacher, teacher, 1).item() == pytest.approx(0, abs=1e-6)
    student = logits_of((21.0, 30.0), [[4.0, 1.0], [1.0, 2.0]])
    expected = torch.distributions.kl_divergence(
        MultivariateNormal(torch.tensor([20.0, 30.0]), torch.tensor([[4.0, 1.0], [1.0, 2.0]])),
        MultivariateNormal(torch.tensor([21.0, 30.0]), torch.tensor([[4.0, 1.0], [1.0, 2.0]])),
    )
    assert output_loss(CODEC, student, teacher, 1).item() == pytest.approx(expected.item(), rel=1e-3)


def test_it_is_for_places_alone() -> None:
    assert isinstance(usual_loss(CODEC), Likelihood)
    skeleton = load_skeleton("coco17")
    assert usual_loss(CODEC).problem(CODEC, skeleton) is None
    assert usual_loss(CODEC).problem(HeatmapCodec(), skeleton) == (
        "likelihood is of a head of places, and its head has udp outputs; choose head places."
    )
