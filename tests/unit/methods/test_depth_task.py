"""Depth as a second task against its formula in plain numpy, and its masks."""

import numpy as np
import pytest
import torch

from posecore.methods.depth_task import DepthTask, DepthTaskConfig, depth_errors
from posecore.methods.supervised import SupervisedConfig, SupervisedHeads
from tests.unit.models.test_depth import SIZE, batch_of, crops, model_of

RANDOM = np.random.default_rng(0)


def in_numpy(log_ratio, depth):
    """Equations 1 to 3 of arXiv 2408.12569 and the mean absolute error, pixel by pixel."""
    silogs, absolutes = [], []
    for raw, t in zip(log_ratio.astype(float), depth.astype(float), strict=True):
        pixels = [(np.exp(r), v) for r, v in zip(raw.ravel(), t.ravel(), strict=True) if v > 0]
        if not pixels:
            silogs.append(0.0)
            absolutes.append(0.0)
            continue
        mean = sum(v for _, v in pixels) / len(pixels)
        differences = [np.log(v / mean) - np.log(p) for p, v in pixels]
        n = len(pixels)
        silogs.append((sum(d * d for d in differences) / n - 0.5 * (sum(differences) / n) ** 2) ** 0.5)
        absolutes.append(sum(abs(v / mean - p) for p, v in pixels) / n)
    return silogs, absolutes


def test_the_formula() -> None:
    log_ratio = RANDOM.normal(0, 0.3, (3, 4, 5)).astype(np.float32)
    depth = RANDOM.uniform(0.4, 2.0, (3, 4, 5)).astype(np.float32)
    depth[1, :2] = 0
    depth[2] = 0
    silog, absolute = depth_errors(torch.from_numpy(log_ratio), torch.from_numpy(depth))
    expected = in_numpy(log_ratio, depth)
    np.testing.assert_allclose(silog, expected[0], rtol=1e-5)
    np.testing.assert_allclose(absolute, expected[1], rtol=1e-5)
    assert silog[2] == absolute[2] == 0


def test_a_known_case() -> None:
    """Twice as far everywhere than predicted: d = log 2 at every pixel, so SiLog is log 2 / √2."""
    depth = torch.full((1, 3, 3), 1.7)
    silog, absolute = depth_errors(torch.full((1, 3, 3), -np.log(2.0)), depth)
    assert silog.item() == pytest.approx(np.log(2) / 2**0.5)
    assert absolute.item() == pytest.approx(0.5)


def test_metres_or_millimetres_make_no_difference_and_unknown_pixels_none() -> None:
    log_ratio = torch.randn(2, 6, 6, generator=torch.Generator().manual_seed(0))
    depth = torch.rand(2, 6, 6, generator=torch.Generator().manual_seed(1)) + 0.5
    depth[:, 3:] = 0
    for one, other in zip(depth_errors(log_ratio, depth), depth_errors(log_ratio, depth * 1000), strict=True):
        torch.testing.assert_close(one, other)
    changed = log_ratio.clone()
    changed[:, 3:] += 5
    for one, other in zip(depth_errors(log_ratio, depth), depth_errors(changed, depth), strict=True):
        assert torch.equal(one, other)


def test_a_perfect_prediction_has_a_finite_gradient() -> None:
    depth = torch.rand(1, 4, 4, generator=torch.Generator().manual_seed(1)) + 0.5
    log_ratio = (depth / depth.mean()).log().requires_grad_()
    silog, absolute = depth_errors(log_ratio, depth)
    (silog + absolute).sum().backward()
    assert silog.item() < 1e-3
    assert log_ratio.grad is not None
    assert torch.isfinite(log_ratio.grad).all()


def test_crops_without_depth_count_but_ask_nothing() -> None:
    task = DepthTask(model_of(False), DepthTaskConfig(weight=2.0, silog_weight=1.0, l1_weight=0.5)).eval()
    features = torch.randn(3, 32, 4, 3, generator=torch.Generator().manual_seed(0))
    _, depth = crops()
    together = task(features, depth)
    log_ratio = task.head(features)[:, 0].clamp(-3, 3)
    silog, absolute = depth_errors(log_ratio, depth[:, 2::4, 2::4])  # 16×12 of 64×48, the nearest pixels
    torch.testing.assert_close(together, 2.0 * (silog + 0.5 * absolute).sum() / 3)
    without = depth.clone()
    without[0] = 0
    torch.testing.assert_close(together - task(features, without), 2.0 * (silog[0] + 0.5 * absolute[0]) / 3)


@pytest.mark.parametrize("given", ["none", "zeros"])
def test_without_any_depth_the_task_is_an_exact_zero_that_calls_its_head(given: str) -> None:
    method = SupervisedHeads(model_of(False), SupervisedConfig(depth=DepthTaskConfig(channels=8)))
    images, depth = crops()
    losses = method(batch_of(images, None if given == "none" else torch.zeros_like(depth)))
    assert losses["depth"].item() == 0
    losses["depth"].backward()
    assert all(parameter.grad is not None for parameter in method.depth_task.head.parameters())


def test_the_features_learn_depth_and_the_points_do_not_notice() -> None:
    """The second task reaches the backbone; its head is no part of the model that is saved."""
    plain = SupervisedHeads(model_of(False))
    method = SupervisedHeads(model_of(False), SupervisedConfig(depth=DepthTaskConfig(weight=1.0, channels=8)))
    images, depth = crops()
    batch = batch_of(images, depth)
    losses = method(batch)
    assert losses["loss/infants"].item() == plain(batch)["loss/infants"].item()
    losses["depth"].backward()
    gradient = method.model.backbone.patch_embed.proj.weight.grad
    assert gradient is not None
    assert gradient.abs().max() > 0
    assert not any("depth" in name for name in method.model.state_dict())
    optimizer = torch.optim.Adam(method.parameters(), lr=3e-3)
    smooth = torch.linspace(0.5, 1.5, SIZE[1]).expand(3, *SIZE)
    history = []
    for _ in range(30):
        loss = method.depth_task(method.features(batch), smooth)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(loss.item())
    assert history[-1] < 0.5 * history[0]
