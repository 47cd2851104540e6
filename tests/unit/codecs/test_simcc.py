"""SimCC: what the parity arrays do not reach, and why the choices matter."""

import pytest
import torch

from posecore.codecs.heatmap import HeatmapCodec
from posecore.codecs.simcc import SHARPNESS, SimccCodec
from posecore.methods.simcc_loss import simcc_loss

CODEC = SimccCodec()


@pytest.mark.parametrize(
    ("input_size", "frame_size", "sigmas"),
    [
        ((256, 192), (512, 384), (5.66, 4.9)),
        ((384, 288), (768, 576), (6.93, 6.0)),
        ((256, 256), (512, 512), (5.66, 5.66)),
    ],
)
def test_published_sizes(input_size: tuple[int, int], frame_size: tuple[int, int], sigmas: tuple[float, float]) -> None:
    codec = SimccCodec(input_size=input_size)
    assert codec.frame_size == frame_size
    assert codec.sigmas == sigmas


def test_a_point_comes_back_to_the_nearest_half_pixel() -> None:
    points = torch.rand(6, 5, 2, generator=torch.Generator().manual_seed(0)) * torch.tensor([191.0, 255.0])
    targets, weights = CODEC.encode(points, torch.ones(6, 5))
    found, scores = CODEC.decode(targets)
    assert (found / CODEC.split_ratio - points).abs().max() <= 0.25 + 1e-5
    assert torch.equal(scores, torch.ones(6, 5))
    assert torch.equal(weights, torch.ones(6, 5))


def test_what_does_not_count_is_not_drawn() -> None:
    points = torch.tensor([[[10.0, 10.0], [torch.nan, 3.0], [-9.0, 10.0]]])
    targets, weights = CODEC.encode(points, torch.tensor([[0.0, 0.0, 1.0]]))
    assert not targets.any()
    assert not weights.any()


def test_scores_are_logits_and_the_smaller_of_the_two_counts() -> None:
    outputs = torch.full((1, 2, 896), -5.0)
    outputs[0, 0, 100], outputs[0, 0, 384 + 7] = 3.5, 2.0
    outputs[0, 1, 100] = 3.5  # nothing above zero on the other axis
    points, scores = CODEC.decode(outputs)
    assert scores.tolist() == [[2.0, -5.0]]
    assert points.tolist() == [[[100.0, 7.0], [-1.0, -1.0]]]


def test_reversed_bins_lie_one_to_the_right_unless_shifted() -> None:
    crop_x = torch.tensor([[[20.0, 30.0], [150.0, 60.0]]])
    mirrored = torch.tensor([[[191.0 - 150.0, 60.0], [191.0 - 20.0, 30.0]]])  # the mirror swaps left and right
    partners = torch.tensor([1, 0])
    targets = CODEC.encode(mirrored, torch.ones(1, 2))[0]
    published, _ = CODEC.decode(CODEC.flip_back(targets, partners, shift=False))
    aligned, _ = CODEC.decode(CODEC.flip_back(targets, partners, shift=True))
    assert torch.equal(aligned / 2, crop_x)
    assert torch.equal(published - aligned, torch.tensor([[[1.0, 0.0], [1.0, 0.0]]]))


@pytest.mark.parametrize("action", ["decode", "flip_back"])
def test_outputs_of_another_input_size_are_refused(action: str) -> None:
    outputs = torch.zeros(1, 2, 1344)
    with pytest.raises(ValueError, match=r"1,344 bins per keypoint, but a crop of \(256, 192\)"):
        CODEC.decode(outputs) if action == "decode" else CODEC.flip_back(outputs, torch.tensor([0, 1]), shift=False)


def test_crops_are_not_those_of_udp_heatmaps() -> None:
    assert CODEC.crop == "msra" != HeatmapCodec(kind="udp").crop


def test_the_target_distribution_is_much_narrower_than_its_gaussian() -> None:
    targets, _ = CODEC.encode(torch.tensor([[[96.0, 128.0]]]), torch.ones(1, 1))
    sigma = CODEC.sigmas[1]
    x = targets[0, 0, :384]
    q = torch.softmax(SHARPNESS * x, dim=0)
    half = (torch.arange(384)[q > q.max() / 2] - 192).abs().max() / sigma
    assert half < 0.42, "of the spread; the Gaussian itself is half as high 1.18 spreads away"
    assert q.min() / q.max() == pytest.approx(torch.exp(torch.tensor(-SHARPNESS)).item(), rel=1e-3)
    flat = torch.softmax(SHARPNESS * x / (sigma * (2 * torch.pi) ** 0.5), dim=0)
    assert flat.max() < 3 * flat.mean(), "normalising the Gaussian first would leave next to nothing to learn"


def test_the_loss_is_least_at_the_target_and_counts_by_weight() -> None:
    targets, weights = CODEC.encode(torch.tensor([[[40.0, 50.0], [100.0, 200.0]]]), torch.ones(1, 2))
    at_target = simcc_loss(CODEC, targets, targets, weights, num_samples=1)
    beside = simcc_loss(CODEC, targets.roll(3, dims=-1), targets, weights, num_samples=1)
    assert at_target.item() == pytest.approx(0, abs=1e-7)
    assert beside > 0.003
    one = simcc_loss(CODEC, targets.roll(3, dims=-1), targets, torch.tensor([[1.0, 0.0]]), num_samples=1)
    assert one.item() == pytest.approx(beside.item() / 2, rel=0.05)


def test_an_empty_group_costs_nothing_and_hangs_on_its_outputs() -> None:
    outputs = torch.zeros(0, 2, 896, requires_grad=True)
    loss = simcc_loss(CODEC, outputs, torch.zeros(0, 2, 896), torch.zeros(0, 2), num_samples=4)
    loss.backward()
    assert loss.item() == 0
    assert outputs.grad is not None
