import numpy as np
import pytest
import torch

from posecore.errors import ConfigError
from posecore.methods.batch import to_device
from posecore.methods.heatmap_loss import hardest_points_loss, heatmap_loss
from posecore.methods.supervised import SupervisedConfig, SupervisedHeads
from posecore.schema import CropBatch, KeypointState
from tests.support.tiny_training import tiny_batches, tiny_model

CPU = torch.device("cpu")


def _batch(step: int = 1) -> CropBatch:
    return next(tiny_batches(step, rank=0, world_size=1))


def _method(config: SupervisedConfig | None = None) -> SupervisedHeads:
    torch.manual_seed(0)
    return SupervisedHeads(tiny_model(drop_path=0.0), config).train()


def test_the_published_formula_spelled_out() -> None:
    generator = torch.Generator().manual_seed(0)
    predicted = torch.randn(2, 3, 4, 5, generator=generator)
    target = torch.rand(2, 3, 4, 5, generator=generator)
    weights = torch.tensor([[1.0, 0.0, 0.5], [0.0, 1.0, 1.0]])
    expected = 0.0
    for k in range(3):
        total = 0.0
        for n in range(2):
            w = weights[n, k].item()
            for p in range(20):
                total += (w * predicted[n, k].flatten()[p].item() - w * target[n, k].flatten()[p].item()) ** 2
        expected += total / (7 * 4 * 5)
    loss = heatmap_loss(predicted, target, weights, num_samples=7)
    assert loss.item() == pytest.approx(expected / 3, rel=1e-5)


def test_hardest_points_spelled_out() -> None:
    """Two of three points count per crop; the weight acts before the choice, so an unlabelled point comes last."""
    generator = torch.Generator().manual_seed(0)
    predicted = torch.randn(2, 3, 4, 5, generator=generator)
    target = torch.rand(2, 3, 4, 5, generator=generator)
    weights = torch.tensor([[1.0, 1.0, 1.0], [0.0, 1.0, 0.0]])
    errors = ((predicted - target).square().mean((2, 3)) * weights).tolist()
    expected = sum(sum(sorted(crop)[-2:]) / 2 for crop in errors) / 7
    loss = hardest_points_loss(predicted, target, weights, num_samples=7, hardest_points=2)
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    # One crop has a single labelled point: what is left of its two is an error of zero, and still counts as one.
    assert sorted(errors[1])[-2] == 0.0
    every = hardest_points_loss(predicted, target, weights, num_samples=7, hardest_points=3)
    assert every.item() == pytest.approx(heatmap_loss(predicted, target, weights, num_samples=7).item(), rel=1e-6)


def test_hardest_points_alone_have_a_gradient() -> None:
    predicted = torch.tensor([3.0, 2.0, 1.0]).view(1, 3, 1, 1).requires_grad_()
    loss = hardest_points_loss(predicted, torch.zeros(1, 3, 1, 1), torch.ones(1, 3), num_samples=1, hardest_points=2)
    loss.backward()
    assert predicted.grad is not None
    assert predicted.grad.flatten().tolist() == [3.0, 2.0, 0.0]


def test_published_variants_of_the_loss_are_settings() -> None:
    batch = to_device(_batch(step=0), CPU)
    plain = _method()(batch)
    tenfold = _method(SupervisedConfig(loss_weight=10))(batch)
    hardest = _method(SupervisedConfig(hardest_points=2, loss_weight=10))(batch)
    assert tenfold["loss/people"].item() == pytest.approx(10 * plain["loss/people"].item(), rel=1e-6)
    assert hardest["loss/people"].item() > tenfold["loss/people"].item()
    assert hardest["loss/dogs"].item() == 0.0, "a dataset without samples has no worst points"
    with pytest.raises(ConfigError, match=r"hardest_points 128 is more than the \d+ of people"):
        _method(SupervisedConfig(hardest_points=128))


def test_a_dataset_may_count_more_than_others() -> None:
    batch = to_device(_batch(), CPU)
    plain, weighted = _method()(batch), _method(SupervisedConfig(loss_weight=2, loss_weights={"dogs": 5.0}))(batch)
    assert weighted["loss/people"].item() == pytest.approx(2 * plain["loss/people"].item(), rel=1e-6)
    assert weighted["loss/dogs"].item() == pytest.approx(10 * plain["loss/dogs"].item(), rel=1e-6)
    with pytest.raises(
        ConfigError, match=r"loss_weights names cats, which this run does not train on; .* people, dogs"
    ):
        _method(SupervisedConfig(loss_weights={"cats": 2.0}))


@pytest.mark.parametrize("weight", [0.0, -1.0, float("inf"), float("nan")])
def test_a_loss_weight_that_silences_a_dataset_is_refused(weight: float) -> None:
    with pytest.raises(ValueError, match=r"loss_weights\.dogs"):
        SupervisedConfig(loss_weights={"dogs": weight})


def test_denominators_are_those_of_the_whole_batch() -> None:
    batch = to_device(_batch(), CPU)
    published = _method(SupervisedConfig())(batch)
    per_group = _method(SupervisedConfig(denominator="group"))(batch)
    assert set(published) == {"loss/people", "loss/dogs"}
    assert published["loss/people"].item() == pytest.approx(per_group["loss/people"].item() * 6 / 8, rel=1e-5)
    assert published["loss/dogs"].item() == pytest.approx(per_group["loss/dogs"].item() * 2 / 8, rel=1e-5)


def test_a_dataset_without_samples_contributes_nothing_but_takes_part() -> None:
    method = _method()
    losses = method(to_device(_batch(step=0), CPU))
    assert losses["loss/dogs"].item() == 0.0
    sum(losses.values()).backward()
    for name, parameter in method.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all()
        assert not name.startswith("model.heads.dogs.") or not parameter.grad.any()
    assert method.model.heads["dogs"].deconv_layers[1].num_batches_tracked == 0
    assert method.model.heads["people"].deconv_layers[1].num_batches_tracked == 1


@pytest.mark.parametrize("state", [KeypointState.UNKNOWN, KeypointState.UNLABELLED, KeypointState.ABSENT])
def test_points_that_are_not_labelled_have_no_gradient(state: KeypointState) -> None:
    batch = _batch()
    batch.groups[0].state[:, 2] = state
    batch.groups[0].keypoints_crop[:, 2] = np.nan
    method = _method()
    losses = method(to_device(batch, CPU))
    assert torch.isfinite(losses["loss/people"])
    losses["loss/people"].backward()
    gradient = method.model.heads["people"].final_layer.weight.grad
    assert not gradient[2].any()
    assert gradient[1].any()


def test_mixed_statistics_are_named_and_used() -> None:
    method = _method(SupervisedConfig(head_statistics="mixed"))
    losses = method(to_device(_batch(step=0), CPU))
    assert losses["loss/dogs"].item() == 0.0
    assert method.model.heads["dogs"].deconv_layers[1].num_batches_tracked == 1, "it saw the people's features"


def test_it_learns_a_batch_by_heart() -> None:
    method = _method()
    batch = to_device(_batch(), CPU)
    optimizer = torch.optim.Adam(method.parameters(), lr=3e-3)
    history = []
    for _ in range(60):
        loss = sum(method(batch).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(loss.item())
    assert history[-1] < 0.5 * history[0]
