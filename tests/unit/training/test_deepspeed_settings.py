"""What DeepSpeed is asked for; that it does so is for its own engine's tests to show."""

import pytest

from posecore.training.deepspeed_engine import deepspeed_settings
from posecore.training.engine import DeepSpeedEngineConfig
from posecore.training.optimizer import OptimizerConfig

HUGE = 1_000_000_000


def asked(accumulation: int = 1, trained: int = HUGE, **engine: object) -> dict:
    config = DeepSpeedEngineConfig.model_validate({"zero_stage": 3, **engine})
    return deepspeed_settings(config, OptimizerConfig(clip_norm=2.0), 4, accumulation, trained, HUGE)


@pytest.mark.parametrize(("accumulation", "dtype"), [(1, "bf16"), (2, "fp32")])
def test_gradients_of_rounded_weights_are_rounded_where_no_others_are_added(accumulation: int, dtype: str) -> None:
    settings = asked(accumulation, precision="bf16-weights")
    assert settings["bf16"] == {"enabled": True}
    assert settings["data_types"] == {"grad_accum_dtype": dtype}


def test_autocast_keeps_float32_weights_and_their_gradients() -> None:
    settings = asked(precision="bf16")
    assert settings["torch_autocast"] == {"enabled": True, "dtype": "bfloat16"}
    assert not settings.keys() & {"bf16", "data_types"}


@pytest.mark.parametrize(("stage", "clipped"), [(0, 0.0), (1, 2.0), (2, 2.0), (3, 2.0)])
def test_stage_0_is_clipped_by_the_engine_itself(stage: int, clipped: float) -> None:
    assert asked(zero_stage=stage)["gradient_clipping"] == clipped


def test_messages_are_a_32nd_of_the_model_up_to_a_hundred_million_elements() -> None:
    zero = asked(trained=320_000_000)["zero_optimization"]
    assert zero["reduce_bucket_size"] == 10_000_000
    assert zero["allgather_bucket_size"] == zero["stage3_prefetch_bucket_size"] == HUGE // 32
    assert asked(trained=10 * HUGE)["zero_optimization"]["reduce_bucket_size"] == 100_000_000
    assert zero["stage3_max_live_parameters"] == zero["stage3_max_reuse_distance"] > HUGE // 32


def test_what_is_offloaded_is_said() -> None:
    assert not asked()["zero_optimization"].keys() & {"offload_optimizer", "offload_param"}
    zero = asked(offload_optimizer=True, offload_parameters=True)["zero_optimization"]
    assert (zero["offload_optimizer"], zero["offload_param"]) == ({"device": "cpu"}, {"device": "cpu"})
