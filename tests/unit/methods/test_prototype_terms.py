import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from posecore.methods.prototype_terms import (
    Assigned,
    Pixels,
    assign,
    balanced_shares,
    contrast,
    distance,
    labelled_pixels,
    moved,
    pulls,
)

K, M, C = 4, 3, 6


def _prototypes(seed: int = 0) -> Tensor:
    return F.normalize(torch.randn(K, M, C, generator=torch.Generator().manual_seed(seed)), dim=-1)


def _pixels(count: int = 40, seed: int = 1) -> Pixels:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, K, (count,), generator=generator)
    confidence = torch.rand(count, generator=generator) * 0.9 + 0.1
    return Pixels(torch.randn(count, C, generator=generator), labels, confidence)


def test_pixels_are_those_of_labelled_points_with_the_highest_of_them() -> None:
    embeddings = torch.arange(2 * 2 * 3 * 4).reshape(2, 2, 3, 4).float()
    targets = torch.zeros(2, 3, 3, 4)
    targets[0, 2, 1, 1], targets[0, 0, 1, 1] = 0.9, 0.5
    targets[1, 1, 2, 3] = 0.2
    pixels = labelled_pixels(embeddings, targets, threshold=0.0)
    assert pixels.labels.tolist() == [2, 1], "point 0 is lower where it overlaps; elsewhere nothing is labelled"
    assert pixels.confidence.tolist() == pytest.approx([0.9, 0.2])
    assert torch.equal(pixels.embeddings, torch.stack([embeddings[0, :, 1, 1], embeddings[1, :, 2, 3]]))
    assert labelled_pixels(embeddings, targets, threshold=0.2).labels.tolist() == [2]


def _sinkhorn(similarities: np.ndarray, iterations: int) -> np.ndarray:
    """One keypoint's (n, M) shares as published: the transposed matrix, kept at a total of 1."""
    plan = np.exp(similarities.T / 0.05)
    plan /= plan.sum()
    per_point, count = plan.shape
    for _ in range(iterations):
        for m in range(per_point):
            plan[m] /= plan[m].sum() * per_point
        for i in range(count):
            plan[:, i] /= plan[:, i].sum() * count
    return plan.T * count


def test_shares_equal_an_independent_sinkhorn_per_keypoint() -> None:
    generator = np.random.default_rng(0)
    similarities, labels = generator.random((50, M)), generator.integers(0, K, 50)
    found = balanced_shares(torch.from_numpy(similarities), torch.from_numpy(labels), K).numpy()
    for k in range(K):
        mine = labels == k
        np.testing.assert_allclose(found[mine], _sinkhorn(similarities[mine], 3), rtol=1e-10)


def test_shares_are_nearly_doubly_stochastic() -> None:
    similarities = torch.rand(600, M, generator=torch.Generator().manual_seed(0)) * 0.2
    shares = balanced_shares(similarities, torch.zeros(600, dtype=torch.int64), 1)
    torch.testing.assert_close(shares.sum(dim=1), torch.ones(600))
    torch.testing.assert_close(shares.mean(dim=0), torch.full((M,), 1 / M), atol=0.02, rtol=0)


def test_one_favourite_prototype_does_not_get_every_pixel() -> None:
    similarities = torch.tensor([0.9, 0.1, 0.1]) + torch.rand(90, M, generator=torch.Generator().manual_seed(0)) * 0.05
    nearest = balanced_shares(similarities, torch.zeros(90, dtype=torch.int64), 1).argmax(dim=1)
    assert similarities.argmax(dim=1).tolist() == [0] * 90
    assert sorted(nearest.bincount(minlength=M).tolist())[0] >= 20


def test_contrast_and_distance_pixel_by_pixel() -> None:
    pixels, prototypes = _pixels(), _prototypes()
    assigned = assign(pixels, prototypes)
    losses, distances = [], []
    for embedding, label, m in zip(pixels.embeddings, pixels.labels, assigned.nearest, strict=True):
        logits = [abs(float(embedding @ p) / float(embedding.norm())) for p in prototypes.flatten(0, 1)]
        own = int(label) * M + int(m)
        losses.append(math.log(sum(math.exp(logit) for logit in logits)) - logits[own])
        distances.append((1 - logits[own]) ** 2)
    assert contrast(assigned).item() == pytest.approx(np.mean(losses), rel=1e-5)
    assert distance(assigned).item() == pytest.approx(np.mean(distances), rel=1e-5)
    assert 0 <= contrast(assigned).item() - (math.log(K * M) - 1) <= 2


def test_no_pixels_give_zero_with_a_graph() -> None:
    embeddings = torch.randn(2, C, 3, 4, requires_grad=True)
    assigned = assign(labelled_pixels(embeddings, torch.zeros(2, K, 3, 4), 0.0), _prototypes())
    loss = contrast(assigned) + distance(assigned)
    loss.backward()
    assert loss.item() == 0.0
    assert embeddings.grad is not None
    assert not embeddings.grad.any()
    sums, weights = pulls(assigned, _prototypes(), "confidence")
    assert not sums.any()
    assert not weights.any()


@pytest.mark.parametrize("weighting", ["confidence", "equal"])
def test_pulls_pixel_by_pixel(weighting) -> None:
    pixels, prototypes = _pixels(200), _prototypes()
    nearest = torch.arange(200) % M
    certain = F.one_hot(nearest, M) * 1e6  # beyond any Gumbel noise
    similarities = assign(pixels, prototypes).similarities
    sums, weights = pulls(Assigned(pixels, similarities, certain), prototypes, weighting)
    expected, expected_weights = torch.zeros(K, M, C), torch.zeros(K, M)
    for i in range(200):
        k, m = int(pixels.labels[i]), int(nearest[i])
        if int(similarities[i].amax(dim=1).argmax()) != k:
            continue
        c = float(pixels.confidence[i]) if weighting == "confidence" else 1.0
        direction = pixels.embeddings[i] / pixels.embeddings[i].norm()
        expected[k, m] += c**2 * direction * (1 if direction @ prototypes[k, m] > 0 else -1)
        expected_weights[k, m] += c
    assert expected_weights.count_nonzero() > 6
    torch.testing.assert_close(sums, expected)
    torch.testing.assert_close(weights, expected_weights)


def test_gumbel_noise_moves_pixels_between_prototypes_reproducibly() -> None:
    pixels = Pixels(torch.ones(300, C), torch.zeros(300, dtype=torch.int64), torch.ones(300))
    similarities = torch.zeros(300, K, M)
    similarities[:, 0] = 0.5
    assigned = Assigned(pixels, similarities, torch.full((300, M), 1 / M))
    torch.manual_seed(0)
    _, weights = pulls(assigned, _prototypes(), "equal")
    torch.manual_seed(0)
    assert torch.equal(pulls(assigned, _prototypes(), "equal")[1], weights)
    assert weights[0].sum() == 300
    assert (weights[0] > 70).all()


def test_a_prototype_turns_towards_pixels_on_either_side() -> None:
    prototype = torch.tensor([[[1.0, 0.0]]])
    for sign in (1.0, -1.0):
        pixels = Pixels(sign * torch.tensor([[1.0, 1.0]]), torch.tensor([0]), torch.tensor([1.0]))
        sums, weights = pulls(assign(pixels, prototype), prototype, "confidence")
        updated = moved(prototype, sums, weights, momentum=0.9)
        before, after = (abs(float(F.normalize(pixels.embeddings)[0] @ p[0, 0])) for p in (prototype, updated))
        assert after > before, "with the pixel's own sign it would turn away from the pixel behind it"


def test_the_update_is_a_normalised_moving_average_of_what_was_pulled() -> None:
    prototypes = _prototypes()
    sums, weights = torch.randn(K, M, C), torch.ones(K, M)
    weights[1, 2] = 0
    found = moved(prototypes, sums, weights, momentum=0.75)
    expected = 0.75 * prototypes + 0.25 * sums / sums.norm(dim=-1, keepdim=True)
    expected = expected / expected.norm(dim=-1, keepdim=True)
    expected[1, 2] = prototypes[1, 2]
    torch.testing.assert_close(found, expected)
