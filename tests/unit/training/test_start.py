import gc
import shutil
import weakref
from pathlib import Path

import pytest
import torch
from torch import nn

from posecore.errors import CheckpointError
from posecore.methods.supervised import SupervisedHeads
from posecore.training.context import LocalContext
from posecore.training.engine import DeepSpeedEngineConfig, EngineSettings, TorchEngineConfig, build_engine
from posecore.training.optimizer import OptimizerConfig
from posecore.training.start import FirstState, MethodMakers, is_sharded
from posecore.training.torch_engine import materialise
from tests.support.tiny_training import tiny_model, tiny_training


def _build() -> nn.Module:
    torch.manual_seed(1)
    return SupervisedHeads(tiny_model())


def _outline() -> nn.Module:
    with torch.device("meta"):
        return _build()


def test_an_outline_gets_the_first_values_that_were_built(tmp_path: Path) -> None:
    context = LocalContext(tmp_path)
    first = FirstState(MethodMakers(_build, _outline), context)
    first.write()
    shutil.copytree(tmp_path / "checkpoints" / f"start_{context.attempt}", tmp_path / "checkpoints" / "start_killed")
    settings = EngineSettings(optimizer=OptimizerConfig(), micro_batch=1, accumulation=1, device=context.device)
    engine = build_engine(TorchEngineConfig(), _outline(), settings)
    first.restore(engine)
    first.remove()
    assert list((tmp_path / "checkpoints").iterdir()) == []
    for name, tensor in _build().state_dict().items():
        assert torch.equal(engine.method.state_dict()[name], tensor), name


def test_what_cannot_be_built_is_said_as_it_is(tmp_path: Path) -> None:
    def build() -> nn.Module:
        raise CheckpointError("the weights are gone.")

    with pytest.raises(CheckpointError, match=r"^the weights are gone\.$"):
        FirstState(MethodMakers(build, _outline), LocalContext(tmp_path)).write()


def test_what_was_trained_here_leaves_no_memory_taken(tmp_path: Path) -> None:
    made: list[weakref.ref[torch.Tensor]] = []

    def build() -> nn.Module:
        method = _build()
        made.extend(weakref.ref(parameter) for parameter in method.parameters())
        return method

    tiny_training(LocalContext(tmp_path), TorchEngineConfig(), steps=1, method=MethodMakers(build, _outline))
    gc.collect()
    assert made
    assert not any(parameter() is not None for parameter in made)


def test_a_parameter_that_is_used_twice_is_still_one() -> None:
    with torch.device("meta"):
        module = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.BatchNorm1d(3))
        module[1].weight = module[0].weight
        module[0].bias.requires_grad_(False)
    materialise(module, torch.device("cpu"))
    assert module[1].weight is module[0].weight
    assert not module[0].bias.requires_grad
    assert not any(tensor.is_meta for tensor in module.state_dict().values())


def test_weights_are_in_parts_at_stage_3_with_ranks_to_divide_them_among(tmp_path: Path) -> None:
    context = LocalContext(tmp_path)
    sharded = DeepSpeedEngineConfig(zero_stage=3)
    assert not is_sharded(sharded, context)
    context.world_size = 2
    assert is_sharded(sharded, context)
    assert not any(is_sharded(config, context) for config in (DeepSpeedEngineConfig(zero_stage=2), TorchEngineConfig()))
