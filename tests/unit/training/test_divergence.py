"""A run that goes wrong stops, or passes over a step, and no number that is not finite gets into a checkpoint."""

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from posecore.errors import DivergenceError
from posecore.methods.batch import DeviceBatch
from posecore.training.checkpoint import step_of
from posecore.training.context import LocalContext
from posecore.training.ema import AverageConfig
from posecore.training.engine import TorchEngineConfig, checked_total
from posecore.training.schedule import MultiStepSchedule
from tests.support.checkpoints import State, load_checkpoint
from tests.support.tiny_training import Fault, FaultyHeads, tiny_model, tiny_prototypes, tiny_training

TORCH = TorchEngineConfig()
SECTIONS = ("weights", "exp_avg", "exp_avg_sq", "buffers", "average")


def _faulty(kind: str, *steps: int) -> FaultyHeads:
    torch.manual_seed(1)
    return FaultyHeads(tiny_model(), Fault(kind, steps))


def _checkpoints(run_dir: Path) -> dict[int, State]:
    folders = (run_dir / "checkpoints").iterdir()
    return {step_of(folder.name) or 0: load_checkpoint(folder)[0] for folder in folders}


def _assert_equal(first: State, second: State) -> None:
    assert (first.optimizer_steps, first.average_updates) == (second.optimizer_steps, second.average_updates)
    for section in SECTIONS:
        ours, theirs = getattr(first, section), getattr(second, section)
        assert set(ours) == set(theirs)
        for name in ours:
            assert torch.equal(ours[name], theirs[name]), f"{section}/{name}"


def test_an_absurd_rate_ends_the_run_within_a_step_of_the_first_bad_loss(tmp_path: Path) -> None:
    """The first update is made of a good gradient, so what it leads to is seen in the second step."""
    with pytest.raises(DivergenceError, match=r"^training diverged in step [12]: ") as refusal:
        tiny_training(LocalContext(tmp_path, num_to_keep=1), TORCH, checkpoint_every=1, steps=100, lr=1e25)
    assert "of dataset people" in str(refusal.value) or "no finite norm" in str(refusal.value)
    assert len(_checkpoints(tmp_path)) <= 1  # the first step's is finite: reading it would raise otherwise


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize(
    ("kind", "what"),
    [
        ("loss", "not finite is the loss term loss/dogs of dataset dogs. No update"),
        ("gradient", r"the gradient has no finite norm, although every loss is finite \(loss/people, loss/dogs\). No"),
    ],
)
def test_the_first_bad_step_is_named_and_the_checkpoint_before_it_kept(
    tmp_path: Path, kind: str, what: str, accumulation: int
) -> None:
    context = LocalContext(tmp_path, num_to_keep=1)
    with pytest.raises(DivergenceError, match=f"^training diverged in step 4: {what}"):
        tiny_training(context, TORCH, checkpoint_every=1, accumulation=accumulation, method=_faulty(kind, 3))
    assert list(_checkpoints(tmp_path)) == [3]


@pytest.mark.parametrize("clip_norm", [None, 1.0])
def test_a_skipped_step_changes_nothing_but_its_number(tmp_path: Path, clip_norm: float | None) -> None:
    """Weights, moments, BatchNorm's statistics and the average."""
    logged: list[Mapping[str, float]] = []
    context = LocalContext(tmp_path, log=lambda metrics, _: logged.append(metrics), num_to_keep=9)
    changes = {"skip_nonfinite_steps": 2, "average": AverageConfig(momentum=0.5, warmup=1)}
    method = _faulty("loss", 2, 5)
    tiny_training(context, TORCH, checkpoint_every=1, method=method, clip_norm=clip_norm, training=changes)
    states = _checkpoints(tmp_path)
    assert sorted(states) == [1, 2, 3, 4, 5, 6, 7, 8]
    _assert_equal(states[2], states[3])
    _assert_equal(states[5], states[6])
    assert states[8].optimizer_steps == states[8].average_updates == 6
    assert not torch.equal(states[4].buffers["model.heads.dogs.deconv_layers.1.running_mean"], torch.zeros(8))
    assert [metrics.get("skipped_steps", 0) for metrics in logged] == [0, 1, 2, 2]
    assert all(torch.tensor(list(metrics.values())).isfinite().all() for metrics in logged)


def test_a_skipped_step_moves_no_prototype(tmp_path: Path) -> None:
    method, seen = tiny_prototypes(drop_path=0.0), list[int]()
    losses = method.losses

    def spoiled(batch: DeviceBatch) -> dict[str, Tensor]:
        terms = losses(batch)
        return terms | {"loss/people": terms["loss/people"] * float("inf")} if seen[-1] == 1 else terms

    method.losses = spoiled
    context, skip = LocalContext(tmp_path, num_to_keep=9), {"skip_nonfinite_steps": 1}
    tiny_training(context, TORCH, 6, checkpoint_every=1, method=method, training=skip, before_step=seen.append)
    states = _checkpoints(tmp_path)
    _assert_equal(states[1], states[2])
    assert not torch.equal(*(states[step].buffers["model.prototypes.people"] for step in (2, 3)))


def test_the_steps_that_were_skipped_are_counted_over_a_resume(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    changes = {"skip_nonfinite_steps": 1}
    tiny_training(LocalContext(tmp_path), TORCH, method=_faulty("loss", 2), training=changes, steps=5)
    assert capsys.readouterr().err == (
        "skipped step 3: not finite is the loss term loss/dogs of dataset dogs (1 of at most 1 step)\n"
    )
    with pytest.raises(DivergenceError, match=r"diverged in step 7: .* after 1 that were skipped"):
        tiny_training(LocalContext(tmp_path), TORCH, method=_faulty("gradient", 6), training=changes, steps=8)


@pytest.mark.parametrize(("kind", "last"), [("loss", 1), ("gradient", 20)])
def test_a_smaller_loss_scale_is_tried_for_gradients_alone_and_not_for_ever(
    tmp_path: Path, kind: str, last: int
) -> None:
    """From 2^14 on, until the scale is 1: in the fifteenth step with a dog, which is one step in four without."""
    method = _faulty(kind, *range(20))
    with pytest.raises(DivergenceError, match=f"diverged in step {last}: "):
        tiny_training(LocalContext(tmp_path), TorchEngineConfig(precision="fp16"), 20, method=method)


class _OverflowingMean(nn.Module):
    """Its gradient is finite, and the weight that it leads to is not."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.full((1,), -3e38))

    def forward(self, batch: DeviceBatch) -> dict[str, Tensor]:
        return {"loss": self.mean.sum()}


def test_a_last_step_that_overflows_is_not_saved(tmp_path: Path) -> None:
    method = _OverflowingMean()
    rate = {"schedule": MultiStepSchedule(warmup_steps=0)}
    method.model = tiny_model().eval().requires_grad_(False)
    with pytest.raises(
        DivergenceError, match="training diverged by step 1: NaN or infinity in weights/mean; it is not"
    ):
        tiny_training(LocalContext(tmp_path), TORCH, steps=1, method=method, training=rate, lr=3e38, betas=(0, 0.9))
    assert not list(tmp_path.rglob("step_*"))


def test_the_checked_total_is_the_sum_and_its_gradient_that_of_the_sum() -> None:
    values = torch.randn(3, requires_grad=True)
    plain = (values * torch.tensor([0.3, -1.7, 2e-20])).sum()
    checked = checked_total(dict(enumerate(values * torch.tensor([0.3, -1.7, 2e-20]))))
    expected, found = (torch.autograd.grad(total, values)[0] for total in (plain, checked))
    assert torch.equal(expected, found)
    for bad in (float("nan"), float("inf")):
        total = checked_total({"a": values[0], "b": torch.tensor(bad)})
        assert torch.autograd.grad(total, values)[0][0].isnan()
