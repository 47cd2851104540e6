"""The loop in one process, without Ray and without DeepSpeed."""

import hashlib
import json
import math
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from posecore.errors import CheckpointError, ConfigError, PreflightError
from posecore.methods.batch import DeviceBatch
from posecore.methods.supervised import SupervisedHeads
from posecore.schema import CropBatch
from posecore.training.checkpoint import load_trained
from posecore.training.context import LocalContext
from posecore.training.engine import TorchEngineConfig
from posecore.training.loop import TrainingConfig, seed_step, train
from posecore.training.preflight import crops_per_rank
from tests.support.checkpoints import State, load_checkpoint, newest, save_format_1
from tests.support.tiny_training import Stopped, stop_at, tiny_batches, tiny_model, tiny_training


def _last(run_dir: Path) -> State:
    folder = newest(run_dir)
    return load_checkpoint(folder)[0]


def _assert_equal(first: State, second: State) -> None:
    assert first.optimizer_steps == second.optimizer_steps
    assert first.loss_scale == second.loss_scale
    for section in ("weights", "exp_avg", "exp_avg_sq", "buffers"):
        ours, theirs = getattr(first, section), getattr(second, section)
        assert set(ours) == set(theirs)
        for name in ours:
            assert torch.equal(ours[name], theirs[name]), f"{section}/{name}"


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_stopped_run_ends_like_one_left_alone(tmp_path: Path, precision: str) -> None:
    engine = TorchEngineConfig(precision=precision)
    tiny_training(LocalContext(tmp_path / "a"), engine)
    with pytest.raises(Stopped):
        tiny_training(LocalContext(tmp_path / "b"), engine, before_step=stop_at(5))
    tiny_training(LocalContext(tmp_path / "b"), engine)
    _assert_equal(_last(tmp_path / "a"), _last(tmp_path / "b"))


def test_an_overflow_in_fp16_costs_one_step_and_half_the_scale(tmp_path: Path) -> None:
    """The published scale of 2^14 first; gradients of a huge loss overflow. A stopped run goes on with both."""
    config = _config(engine={"kind": "torch", "precision": "fp16"}, steps=5, checkpoint_every=1)
    whole = train(_Overflowing(), _batches, config, LocalContext(tmp_path / "a"))
    state = _last(tmp_path / "a")
    assert state.loss_scale == (2.0**13, 4)
    assert state.optimizer_steps == 4
    assert state.weights["linear.weight"].dtype == torch.float32
    assert not torch.equal(state.weights["linear.weight"], _Overflowing().linear.weight)
    with pytest.raises(Stopped):
        train(_Overflowing(), _three_batches, config, LocalContext(tmp_path / "b"))
    assert (
        train(_Overflowing(), _batches, config, LocalContext(tmp_path / "b")).metrics["loss"] == whole.metrics["loss"]
    )
    _assert_equal(state, _last(tmp_path / "b"))


class _Overflowing(nn.Module):
    """A loss whose gradient in the very first step is too large for float16, times the scale."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(3, 2)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, batch: DeviceBatch) -> dict[str, Tensor]:
        self.calls += 1
        outputs = self.linear(batch.images.float().mean((2, 3)))
        assert outputs.dtype == torch.float16
        return {"loss/people": outputs.square().mean() * (1e5 if self.calls == 1 else 1.0)}


def _batches(start: int) -> Iterator[CropBatch]:
    return tiny_batches(start, 0, 1)


def _three_batches(start: int) -> Iterator[CropBatch]:
    yield from islice(_batches(start), 3)
    raise Stopped


def test_fp16_is_refused_where_clipping_would_see_scaled_gradients() -> None:
    with pytest.raises(ValueError, match=r"set precision to bf16, or engine\.kind to torch"):
        _config(engine={"kind": "deepspeed", "precision": "fp16"})


def test_rounded_weights_are_refused_where_they_save_nothing() -> None:
    for engine, advice in (
        ({"kind": "torch"}, r"set engine\.kind to deepspeed"),
        ({"kind": "deepspeed"}, "zero_stage 3"),
    ):
        with pytest.raises(ValueError, match=advice):
            _config(engine={**engine, "precision": "bf16-weights"})


def test_drop_path_is_really_random_between_steps(tmp_path: Path) -> None:
    tiny_training(LocalContext(tmp_path / "a"), TorchEngineConfig())
    tiny_training(LocalContext(tmp_path / "b"), TorchEngineConfig(), drop_path=0.0)
    name = "model.backbone.blocks.1.mlp.fc1.weight"
    assert not torch.equal(_last(tmp_path / "a").weights[name], _last(tmp_path / "b").weights[name])


def test_accumulating_two_halves_is_one_step_on_the_whole(tmp_path: Path) -> None:
    """Without BatchNorm and drop-path there is no difference but rounding."""
    results = []
    for parts in (1, 2):
        torch.manual_seed(0)
        method = SupervisedHeads(_without_batchnorm())
        config = _config(accumulation=parts)
        train(method, lambda start: tiny_batches(start, 0, 1), config, LocalContext(tmp_path / str(parts)))
        results.append(method.state_dict())
    for name, tensor in results[0].items():
        torch.testing.assert_close(tensor, results[1][name], rtol=1e-4, atol=1e-5)


def _without_batchnorm() -> nn.Module:
    from posecore.models.heads.classic import SimpleHeadConfig
    from posecore.models.pose_model import PoseModel

    card = tiny_model(drop_path=0.0).card
    architecture = card.architecture.model_copy(update={"head": SimpleHeadConfig()})
    return PoseModel(card.model_copy(update={"architecture": architecture}))


def _config(**changes: object) -> TrainingConfig:
    values: dict[str, object] = {
        "steps": 4,
        "global_batch": 8,
        "seed": 3,
        "checkpoint_every": 2,
        "log_every": 2,
        "progress": False,
    }
    return TrainingConfig.model_validate(values | changes)


def _train(run_dir: Path, config: TrainingConfig, **arguments: object) -> list[tuple[int, dict[str, float]]]:
    """Runs and returns what was logged."""
    logged: list[tuple[int, dict[str, float]]] = []

    def log(metrics: Mapping[str, float], step: int) -> None:
        logged.append((step, dict(metrics)))

    torch.manual_seed(0)
    method = SupervisedHeads(tiny_model())
    train(method, lambda start: tiny_batches(start, 0, 1), config, LocalContext(run_dir, log=log), **arguments)
    return logged


WEIGHT = "model.backbone.blocks.0.attn.qkv.weight"
STATISTIC = "model.heads.people.deconv_layers.4.running_var"


def test_an_average_is_kept_evaluated_and_resumed(tmp_path: Path) -> None:
    """Statistics as well as weights: what is evaluated are those of the average."""
    evaluated: list[dict[str, torch.Tensor]] = []

    def evaluate(method: nn.Module, step: int) -> dict[str, float]:
        evaluated.append({name: tensor.detach().clone() for name, tensor in method.state_dict().items()})
        return {}

    every = {"checkpoint_every": 1, "evaluate_every": 1, "average": {"momentum": 0.8, "warmup": 0}}
    _train(tmp_path / "whole", _config(**every), evaluate=evaluate)
    present = []
    for step in (2, 3, 4):
        (folder,) = (tmp_path / "whole" / "checkpoints").glob(f"step_{step:08d}_*")
        state = load_checkpoint(folder)[0]
        present.append(state.weights | state.buffers)
        assert state.average_updates == step
        for name, tensor in state.average.items():
            assert torch.equal(evaluated[step - 1][name], tensor), name
    for name in (WEIGHT, STATISTIC):
        assert not torch.equal(present[1][name], present[2][name])
        torch.testing.assert_close(evaluated[2][name], 0.2 * evaluated[1][name] + 0.8 * present[1][name])
        torch.testing.assert_close(evaluated[3][name], 0.2 * evaluated[2][name] + 0.8 * present[2][name])
    assert evaluated[3]["model.heads.people.deconv_layers.4.num_batches_tracked"] == 4

    method = SupervisedHeads(tiny_model())
    load_trained(folder, method)
    for name, tensor in method.state_dict().items():
        assert torch.equal(tensor, evaluated[3][name]), name
    shutil.copytree(tmp_path / "whole", tmp_path / "resumed")
    shutil.rmtree(tmp_path / "resumed" / "checkpoints" / folder.name)
    _train(tmp_path / "resumed", _config(**every))
    resumed = _last(tmp_path / "resumed")
    assert resumed.average_updates == 4
    for name, tensor in resumed.average.items():
        assert torch.equal(tensor, evaluated[3][name]), name


def test_a_run_whose_average_had_a_constant_decay_and_no_statistics_goes_on(tmp_path: Path) -> None:
    _train(tmp_path, _config(average={}))
    folder = next((tmp_path / "checkpoints").glob("step_00000002_*"))
    shutil.rmtree(next((tmp_path / "checkpoints").glob("step_00000004_*")))
    state, progress = load_checkpoint(folder)
    older = {name: tensor + 1 for name, tensor in state.average.items() if name in state.weights}
    save_format_1(folder, replace(state, average=older), progress)
    values = json.loads((folder / "state.json").read_text())
    del values["average_updates"]  # unknown to that format, as the statistics were
    values["config"] = values["config"] | {"average_decay": 0.999}
    _rewrite(folder, values)

    method = SupervisedHeads(tiny_model())
    load_trained(folder, method)
    assert torch.equal(method.state_dict()[WEIGHT], older[WEIGHT])
    assert torch.equal(method.state_dict()[STATISTIC], state.buffers[STATISTIC])
    _train(tmp_path, _config(average={"momentum": 0.7, "warmup": 4}, checkpoint_every=1))
    third, ended = (load_checkpoint(next((tmp_path / "checkpoints").glob(f"step_{step:08d}_*")))[0] for step in (3, 4))
    assert ended.average_updates == 4
    for name, start in ((WEIGHT, older[WEIGHT]), (STATISTIC, state.buffers[STATISTIC])):
        expected = start
        for update, present in ((2, third), (3, ended)):
            share = 0.7 + 0.3 * math.exp(-(1 + update) / 4)
            expected = (1 - share) * expected + share * (present.weights | present.buffers)[name]
        torch.testing.assert_close(ended.average[name], expected)


def _rewrite(folder: Path, values: dict[str, object]) -> None:
    data = json.dumps(values).encode()
    (folder / "state.json").write_bytes(data)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["state.json"] = {"num_bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_an_average_longer_than_the_run_is_refused(tmp_path: Path) -> None:
    """Also one that begins in the middle of it."""
    with pytest.raises(ValueError, match=r"94 % of what is kept after its 300 steps would be the weights it started"):
        _config(average={"momentum": 2e-4, "warmup": 0}, steps=300)
    _train(tmp_path, _config())
    average = {"momentum": 0.7, "warmup": 0}
    with pytest.raises(ConfigError, match=r"9 % of what is kept after its 3 steps would be"):
        _train(tmp_path, _config(steps=7, average=average))


def test_the_former_setting_names_the_new_one() -> None:
    with pytest.raises(ValueError, match=r"average_decay is no setting any more; give average: {} for the published"):
        _config(average_decay=0.9998)


def test_a_compiled_backbone_trains_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = []
    as_it_is = nn.Module.compile

    def compile_without_code(self: nn.Module) -> None:
        compiled.append(self)
        as_it_is(self, backend="aot_eager")  # traces and differentiates as inductor does, but needs no C++ compiler

    monkeypatch.setattr(nn.Module, "compile", compile_without_code)
    plain = _train(tmp_path / "plain", _config())
    assert compiled == []
    traced = _train(tmp_path / "traced", _config(compile=True))
    assert len(compiled) == 1
    assert traced[-1][1]["loss"] == pytest.approx(plain[-1][1]["loss"], rel=1e-5)
    weights, others = (_last(tmp_path / run).weights for run in ("plain", "traced"))
    assert weights.keys() == others.keys()


def test_compiling_needs_whole_weights() -> None:
    with pytest.raises(ValueError, match=r"compile: ZeRO-3 gathers weights .*; use engine\.zero_stage 2"):
        _config(compile=True, engine={"kind": "deepspeed", "zero_stage": 3})


def test_metrics_name_every_dataset(tmp_path: Path) -> None:
    logged = _train(tmp_path, _config())
    assert [step for step, _ in logged] == [2, 4]
    metrics = logged[-1][1]
    assert set(metrics) == {
        "loss",
        "loss/people",
        "loss/dogs",
        "lr",
        "samples_per_s",
        "mfu",
        "data_wait_share",
        "gradient_norm",
        "memory_bytes",
    }
    assert metrics["loss"] == pytest.approx(metrics["loss/people"] + metrics["loss/dogs"])
    config = _config()
    rates = [config.optimizer.lr * config.schedule.factor(step, config.steps) for step in (1, 3)]
    assert [values["lr"] for _, values in logged] == pytest.approx(rates), "of the steps just done"
    assert 0 <= metrics["data_wait_share"] <= 1
    assert metrics["samples_per_s"] > 0
    assert 0 < metrics["mfu"] < 1


def test_evaluation_runs_in_evaluation_mode_and_changes_nothing(tmp_path: Path) -> None:
    calls: list[int] = []

    def evaluate(method: nn.Module, step: int) -> dict[str, float]:
        assert not any(module.training for module in method.modules())
        assert not torch.is_grad_enabled()
        torch.rand(3)
        calls.append(step)
        return {"eval/people": 0.5}

    logged = _train(tmp_path / "a", _config(evaluate_every=1), evaluate=evaluate)
    _train(tmp_path / "b", _config())
    assert calls == [1, 2, 3, 4]
    assert [metrics["eval/people"] for _, metrics in logged if "eval/people" in metrics] == [0.5] * 4
    _assert_equal(_last(tmp_path / "a"), _last(tmp_path / "b"))


def test_old_checkpoints_go_and_a_half_written_one_is_not_taken(tmp_path: Path) -> None:
    _train(tmp_path, _config(steps=10, checkpoint_every=2))
    folder = tmp_path / "checkpoints"
    steps = sorted(int(path.name.split("_")[1]) for path in folder.iterdir())
    assert steps == [6, 8, 10]
    (folder / "step_00000012_ws1_dead").mkdir()
    (folder / "step_00000012_ws1_dead" / "rank_00000-000.safetensors").write_bytes(b"half")
    assert _train(tmp_path, _config(steps=11, checkpoint_every=2))[0][0] == 11


def test_a_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    _train(tmp_path, _config())
    assert _train(tmp_path, _config()) == []


def test_a_finished_run_draws_no_batch(tmp_path: Path) -> None:
    config = TrainingConfig(steps=2, global_batch=8, progress=False)
    drawn: list[int] = []

    def batches(start: int) -> Iterator[CropBatch]:
        for batch in tiny_batches(start, 0, 1):
            drawn.append(batch.step)
            yield batch

    for _ in range(2):
        train(SupervisedHeads(tiny_model()), batches, config, LocalContext(tmp_path))
    assert drawn == [0, 1]


def test_another_seed_or_batch_is_refused(tmp_path: Path) -> None:
    _train(tmp_path, _config())
    with pytest.raises(CheckpointError, match="written with seed 3 and global_batch 8, not 4 and 8"):
        _train(tmp_path, _config(seed=4))
    with pytest.raises(CheckpointError, match="not 3 and 4"):
        _train(tmp_path, _config(global_batch=4))


def test_a_resume_with_another_list_of_datasets_is_refused(tmp_path: Path) -> None:
    """Also the same datasets in another order: the model fits, but a step would name other samples."""

    def run(order: int, steps: int) -> None:
        def batches(start: int) -> Iterator[CropBatch]:
            for batch in tiny_batches(start, 0, 1):
                yield replace(batch, groups=batch.groups[::order])

        config = TrainingConfig(steps=steps, global_batch=8, progress=False)
        train(_Anything(), batches, config, LocalContext(tmp_path))

    run(order=1, steps=2)
    with pytest.raises(CheckpointError) as refusal:
        run(order=-1, steps=4)
    assert str(refusal.value) == (
        "the checkpoint of step 2 was trained on people, dogs, this run would go on with dogs, people: restore the "
        "list, or start a new run from the trained model (weights:)."
    )
    run(order=1, steps=4)


class _Anything(nn.Module):
    """Learns the mean of the pixels, whoever is on them."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(()))

    def forward(self, batch: DeviceBatch) -> dict[str, Tensor]:
        return {"loss": (batch.images - self.mean).square().mean()}


def test_a_checkpoint_of_another_architecture_is_refused(tmp_path: Path) -> None:
    _train(tmp_path, _config())
    with pytest.raises(CheckpointError, match="belongs to another architecture; missing"):
        train(nn.Linear(2, 2), lambda start: tiny_batches(start, 0, 1), _config(), LocalContext(tmp_path))


def test_batch_arithmetic_is_checked_before_anything_starts() -> None:
    assert crops_per_rank(64, world_size=4, accumulation=2) == 16
    with pytest.raises(
        PreflightError, match=r"cannot be cut evenly for 4 workers and training\.accumulation 2; use 56 or 64"
    ):
        crops_per_rank(60, world_size=4, accumulation=2)


def test_random_numbers_depend_on_seed_step_and_rank() -> None:
    drawn = set()
    for key in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)):
        seed_step(*key)
        drawn.add(torch.rand(1).item())
    assert len(drawn) == 4
    seed_step(0, 1, 0)
    assert torch.rand(1).item() in drawn
