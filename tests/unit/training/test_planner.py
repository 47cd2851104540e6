"""Predicted memory against what autograd, the engine and the optimiser really hold."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter
from torch import Tensor, nn

from posecore.errors import ConfigError
from posecore.methods.strategies import Roles, StrategyConfig
from posecore.models.architecture import ModelConfig
from posecore.models.backbones.vit import VitConfig
from posecore.models.cost import build_parts
from posecore.models.heads.classic import ClassicHeadConfig
from posecore.training.engine import DeepSpeedEngineConfig, TorchEngineConfig
from posecore.training.gpus import find_gpu
from posecore.training.memory_trace import Moment
from posecore.training.planner import (
    HOST_BUILT_BYTES,
    HOST_BYTES,
    AdaptedParts,
    Plan,
    PlannedRun,
    StepTrace,
    _changes,
    _even_groups,
    _fed_heads,
    plan,
    remedies,
    trace_step,
    with_checkpointing,
)

TINY = ModelConfig(backbone=VitConfig(embed_dim=64, depth=3, num_heads=2, drop_path=0.1), input_size=(64, 64))
TOLD = ModelConfig(
    backbone=VitConfig(embed_dim=64, depth=2, num_heads=2, knowledge_tokens=3, knowledge_width=32), input_size=(64, 64)
)
RUN = PlannedRun(
    model=TINY, keypoints={"a": 5}, engine=TorchEngineConfig(precision="bf16"), gpu=find_gpu("h100"), micro_batch=4
)


@pytest.fixture(autouse=True)
def _own_linear(monkeypatch: pytest.MonkeyPatch) -> None:
    """DeepSpeed's stage 3 replaces it for the rest of the process, and casts weights where nobody can see it."""
    monkeypatch.setattr(torch.nn.functional, "linear", torch._C._nn.linear)


def _kept_by_autograd(model: ModelConfig, batch: int, dtype: torch.dtype) -> int:
    """Bytes of all storages but the weights' that autograd keeps for the backward pass, on real tensors."""
    backbone, heads = build_parts(model, {"a": 5})
    head = heads["a"]
    weights = {p.untyped_storage().data_ptr() for p in (*backbone.parameters(), *head.parameters())}
    kept: dict[int, tuple[Tensor, int]] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = (tensor, storage.nbytes())  # held, so that no other may take its place
        return tensor

    images = torch.randn(batch, 3, *model.input_size)
    with (
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
        torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32),
    ):
        features = backbone(images, [("a", 0, batch)])
        output = head(features)
    del output
    return sum(size for _, size in kept.values())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize(
    "model", [TINY, TOLD, ModelConfig(backbone="vitpose-small")], ids=["tiny", "told", "vitpose-small"]
)
def test_activations_are_those_autograd_keeps(model: ModelConfig, dtype: torch.dtype) -> None:
    precision = "fp32" if dtype == torch.float32 else "bf16"
    run = replace(RUN, model=model, micro_batch=2, engine=TorchEngineConfig(precision=precision))
    trace = trace_step(run, dtype=torch.bfloat16)
    measured = _kept_by_autograd(model, 2, dtype)
    assert trace.backbone + trace.heads + trace.weight_copies == pytest.approx(measured, rel=0.1)


def test_autocast_copies_every_weight_of_a_product_once() -> None:
    trace = trace_step(replace(RUN, model=ModelConfig(backbone="vitpose-base"), micro_batch=1))
    assert trace.weight_copies == pytest.approx(2 * 90e6, rel=0.01)
    assert trace_step(replace(RUN, engine=TorchEngineConfig())).weight_copies == 0


def test_rounded_weights_need_no_copies() -> None:
    run = replace(RUN, engine=DeepSpeedEngineConfig(zero_stage=3, precision="bf16-weights"), num_gpus=2)
    rounded, copying = trace_step(run), trace_step(RUN)
    assert rounded.weight_copies < 0.001 * copying.weight_copies  # float32 ones for BatchNorm
    assert rounded.parameters == copying.parameters
    assert rounded.backbone + rounded.heads < copying.backbone + copying.heads


def test_activations_grow_with_the_batch_and_shrink_by_checkpointing() -> None:
    base = replace(RUN, model=ModelConfig(backbone="vitpose-small"))
    small, large = (trace_step(replace(base, micro_batch=batch)) for batch in (2, 8))
    assert large.backbone == pytest.approx(4 * small.backbone, rel=0.01)
    checkpointed = trace_step(replace(base, micro_batch=8, model=with_checkpointing(base.model)))
    assert checkpointed.backbone < 0.15 * large.backbone
    assert max(m.activations for m in checkpointed.moments) < 0.3 * max(m.activations for m in large.moments)


def test_sharding_divides_what_it_should() -> None:
    eight = replace(RUN, num_gpus=8)
    trace = trace_step(eight)

    def at(stage: int) -> dict[str, float]:
        answer = plan(replace(eight, engine=DeepSpeedEngineConfig(zero_stage=stage)), trace)
        names = ("weights", "gradients", "moments", "master")
        return {name: round(getattr(answer, name) / answer.cost.parameters, 3) for name in names}

    assert at(0) == {"weights": 4, "gradients": 4, "moments": 8, "master": 0}
    assert at(1) == {"weights": 4, "gradients": 4, "moments": 1, "master": 0.5}
    assert at(2) == {"weights": 4, "gradients": 0.5, "moments": 1, "master": 0.5}
    assert at(3) == {"weights": 0.5, "gradients": 0.5, "moments": 1, "master": 0}


def test_offloading_moves_the_optimiser_to_the_host() -> None:
    near = plan(replace(RUN, engine=DeepSpeedEngineConfig(zero_stage=2)))
    far = plan(replace(RUN, engine=DeepSpeedEngineConfig(zero_stage=2, offload_optimizer=True)))
    assert far.host == near.master + near.moments + near.gradients + near.weights
    assert far.moments == far.master == 0
    assert far.peak_tensors < near.peak_tensors


def test_the_host_keeps_a_ranks_share_of_a_checkpoint_and_what_is_no_tensor() -> None:
    """Three float32 values of what learns, one of what does not, likewise of a moving average."""
    answer = plan(replace(RUN, trainable=1000, num_gpus=4, num_copies=1))
    total = answer.cost.parameters
    assert answer.checkpoint == (12 * 1000 + 4 * (total - 1000) + 4 * total) / 4
    assert answer.host_peak == answer.checkpoint + HOST_BYTES
    offloading = plan(replace(RUN, engine=DeepSpeedEngineConfig(zero_stage=2, offload_optimizer=True)))
    assert offloading.host_peak == offloading.host + offloading.checkpoint + HOST_BYTES


def test_a_process_on_the_cpu_holds_its_tensors_and_what_is_none() -> None:
    answer = plan(RUN)
    assert answer.cpu_resident == answer.resident + HOST_BUILT_BYTES
    assert answer.cpu_peak == answer.peak_tensors + HOST_BYTES


def test_trained_parameters_alone_have_gradients_and_moments() -> None:
    answer = plan(replace(RUN, trainable=1000))
    assert (answer.gradients, answer.moments) == (4000, 8000)
    assert answer.weights == 4 * answer.cost.parameters


def test_time_is_arithmetic_over_rate() -> None:
    answer = plan(replace(RUN, mfu=0.5, accumulation=2, num_gpus=4))
    assert answer.step_s == pytest.approx(3 * answer.cost.flops * 8 / (989e12 * 0.5))
    assert answer.samples_per_s == pytest.approx(32 / answer.step_s)
    recomputing = plan(replace(RUN, model=with_checkpointing(TINY)))
    assert recomputing.recomputed_flops == answer.cost.backbone.flops * 4


def test_remedies_come_in_order_until_the_run_fits() -> None:
    run = replace(RUN, num_gpus=8, micro_batch=4, gpu=replace(RUN.gpu, memory_bytes=0))
    tried = list(remedies(plan(run)))
    assert [words for words, _ in tried] == [
        "checkpoint activations (a third more arithmetic)",
        "ZeRO stage 1",
        "ZeRO stage 2",
        "ZeRO stage 3",
        "2 crops per pass, accumulated over 2",
        "1 crop per pass, accumulated over 4",
        "optimiser state in host memory (slower steps)",
        "16 GPUs",
        "32 GPUs",
        "64 GPUs",
    ]
    just_enough = replace(run, gpu=replace(RUN.gpu, memory_bytes=tried[4][1].peak))
    fitting = list(remedies(plan(just_enough)))
    assert fitting[-1][1].fits
    for _, answer in tried:
        alone = plan(answer.run)
        assert (answer.peak, answer.step_s) == (alone.peak, alone.step_s), "not what another run was traced for"
    assert not any(answer.fits for _, answer in fitting[:-1])


def test_hardware_without_bfloat16_is_refused() -> None:
    with pytest.raises(ConfigError, match="no bfloat16"):
        plan(replace(RUN, gpu=find_gpu("v100")))


def test_a_backbone_without_the_switch_cannot_checkpoint() -> None:
    with pytest.raises(ConfigError, match="cannot checkpoint"):
        with_checkpointing(ModelConfig(backbone="rtmpose-t"))


LEAN = ModelConfig(backbone=TINY.backbone, head=ClassicHeadConfig(channels=8), input_size=(64, 64))
TWO_HEADS = replace(RUN, keypoints={"old": 5, "new": 7})
STRATEGIES = [
    "full",
    "frozen-backbone",
    {"kind": "last-n", "blocks": 1},
    "bitfit",
    "lora",
    "adapter",
    "expert",
    "two-stage",
]


def _adapted(strategy: Any, **changes: Any) -> PlannedRun:
    chosen = TypeAdapter(StrategyConfig).validate_python(strategy)
    fields = {"model": chosen.architecture(LEAN), "adapted": AdaptedParts(chosen, Roles("new")), **changes}
    return replace(TWO_HEADS, **fields)


@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
def test_an_adaptations_counts_are_those_of_the_real_model(strategy: Any) -> None:
    """Against a model with memory, on which the strategy is applied for real."""
    answer = plan(_adapted(strategy))
    backbone, heads = build_parts(answer.run.model, answer.run.keypoints)
    model = nn.ModuleDict({"backbone": backbone, "heads": nn.ModuleDict(heads)})
    answer.run.adapted.strategy.apply(model, Roles("new"))
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert (answer.trained_parameters, answer.total_parameters) == (trained, sum(p.numel() for p in model.parameters()))
    assert (answer.gradients, answer.moments) == (4 * trained, 8 * trained)
    assert answer.weights == 4 * answer.total_parameters


def test_a_frozen_backbone_keeps_no_activations_and_goes_forward_only() -> None:
    frozen, full = (plan(_adapted(strategy, micro_batch=16)) for strategy in ("frozen-backbone", "full"))
    images, features = 4 * 16 * 3 * 64 * 64, 4 * 16 * 64 * 4 * 4
    assert frozen.trace.backbone == images + features
    assert full.trace.backbone > images + 20 * features
    head = frozen.cost.heads["new"]
    # The head's first layer needs no gradient of its input.
    assert frozen.cost.backbone.flops + 2 * head.flops < frozen.crop_flops < frozen.cost.backbone.flops + 3 * head.flops
    assert frozen.peak_tensors < 0.7 * full.peak_tensors
    assert plan(_adapted("frozen-backbone", micro_batch=2, model=with_checkpointing(LEAN))).recomputed_flops == 0


def test_low_rank_updates_save_the_gradients_of_weights() -> None:
    lora, full = plan(_adapted("lora")), plan(_adapted("full"))
    assert 1.9 < lora.crop_flops / lora.cost.flops < 2.6
    patches = 2 * 16 * 64 * 3 * 16 * 16  # whose input wants no gradient
    assert full.crop_flops == 3 * (full.cost.backbone.flops + full.cost.heads["new"].flops) - patches


def test_a_twentieth_for_fragmentation_and_a_gibibyte_and_a_half_for_libraries_come_on_top() -> None:
    planned = plan(RUN)
    assert planned.peak == pytest.approx(1.05 * planned.peak_tensors + 1.5 * 2**30, abs=1)
    room = replace(RUN.gpu, memory_bytes=planned.peak)
    assert plan(replace(RUN, gpu=room)).fits
    assert not plan(replace(RUN, gpu=replace(room, memory_bytes=planned.peak - 1))).fits


# Made-up bytes of three moments: before any gradient is finished, when some are, and when all are.
TOLD_TRACE = StepTrace(
    backbone=1, heads=2, weight_copies=3, largest_group=240, parameters=4, trained=5, backbone_learns=True,
    moments=(Moment(9000, 500, 0), Moment(6000, 200, 1500), Moment(500, 0, 4000)),
)  # fmt: skip
SENT = 4 * 1_000_000  # the least communication bucket, of float32


def _told(zero_stage: int | None, **changes: Any) -> Plan:
    """A plan for four GPUs on which a thousand parameters learn; without DeepSpeed for None."""
    settings = {name: changes.pop(name) for name in list(changes) if name.startswith("offload")}
    precision = changes.pop("precision", "bf16")
    engine = TorchEngineConfig(precision=precision) if zero_stage is None else DeepSpeedEngineConfig(
        zero_stage=zero_stage, precision=precision, **settings
    )  # fmt: skip
    trace = replace(TOLD_TRACE, largest_group=changes.pop("largest_group", 240))
    return plan(replace(RUN, **{"engine": engine, "num_gpus": 4, "trainable": 1000, **changes}), trace)


@pytest.mark.parametrize(
    ("zero_stage", "changes", "resident", "on_top"),
    [
        # float32 weights of everything, both moments of what learns; the first moment of the three
        (None, {"num_gpus": 1}, 8000, 9500),
        (0, {"num_gpus": 1}, 8000, 9500),
        # whole gradients wait for the last pass
        (None, {"num_gpus": 1, "accumulation": 2}, 8000, 9500 + 4000),
        # on several ranks gradients lie in the messages, which stay
        (None, {}, 8000 + 4000, 9500),
        (None, {"accumulation": 2}, 8000 + 4000, 9500 + 4000),
        # the update: gradients, twelve bytes per parameter of the largest group, one flat copy to be averaged
        (None, {"num_gpus": 1, "largest_group": 5000}, 8000, 4000 + 12 * 5000),
        (None, {"largest_group": 5000}, 8000 + 4000, 12 * 5000),
        (0, {"largest_group": 5000}, 8000, 4000 + 12 * 5000 + 4 * 1000),
        # moments and a second copy of the weights by four; two buckets where bfloat16 is sent beside float32
        (1, {}, 3000, 6200 + 1500 + 2 * SENT),
        (1, {"precision": "fp32"}, 3000, 6200 + 1500 + SENT),
        (1, {"accumulation": 2}, 3000, 6200 + 4000 + 2 * SENT),
        (1, {"largest_group": 400_000_000}, 3000, 4000 + 12 * 100_000_000),
        # gradients by four, too
        (2, {}, 3000, 6200 + 1000 + 2 * SENT),
        (2, {"largest_group": 400_000_000}, 3000, 1000 + 12 * 100_000_000),
        # the optimiser on the host
        (1, {"offload_optimizer": True}, 0, 6200 + 1500 + 2 * SENT),
        (2, {"offload_optimizer": True}, 0, 6200 + 2 * SENT),
    ],
)  # fmt: skip
def test_the_peak_is_what_is_alive_at_the_fullest_moment(
    zero_stage: int | None, changes: dict[str, Any], resident: int, on_top: int
) -> None:
    answer = _told(zero_stage, **changes)
    weights = 4 * answer.cost.parameters
    assert answer.weights == weights
    assert answer.resident == weights + resident
    assert answer.peak_tensors == weights + resident + on_top


@pytest.mark.parametrize(
    ("changes", "size", "resident", "buckets"),
    [
        ({}, 4, 2000 + 1000, SENT + SENT // 2),  # moments, gradients; bfloat16 is sent in half the size
        ({"precision": "fp32"}, 4, 2000 + 1000, SENT),
        ({"offload_optimizer": True}, 4, 0, SENT + SENT // 2),
        ({"precision": "bf16-weights"}, 2, 2000 + 500 + 1000, SENT // 2),  # and float32 weights of the optimiser
        ({"precision": "bf16-weights", "accumulation": 2}, 2, 2000 + 1000 + 1000, SENT // 2),
    ],
)
def test_stage_3_holds_a_part_of_everything_and_gathers_weights(
    changes: dict[str, Any], size: int, resident: int, buckets: int
) -> None:
    answer = _told(3, **changes)
    parameters = answer.cost.parameters
    assert (answer.weights, answer.gathered) == (size * parameters // 4, size * parameters)  # a quarter; all of them
    assert answer.resident == answer.weights + resident + buckets
    assert answer.peak_tensors == answer.resident + 9000 + size * parameters  # autocast's copies are let go
    assert answer.buffers == buckets + 12 * 60
    updating = _told(3, largest_group=4_000_000_000, **changes)
    assert updating.peak_tensors == updating.resident + 12 * 4_000_000  # the optimiser works on so much at a time


def test_no_more_is_gathered_than_is_ever_whole() -> None:
    huge = replace(TOLD_TRACE, parameters=10**9, trained=1000)
    parts = AdaptedParts(TypeAdapter(StrategyConfig).validate_python("frozen-backbone"), Roles("new"))
    run = replace(TWO_HEADS, model=LEAN, adapted=parts, num_gpus=4, engine=DeepSpeedEngineConfig(zero_stage=3))
    assert plan(run, huge).gathered == 4 * 10**9 // 8


def test_what_is_offloaded_is_counted_on_the_host() -> None:
    """The part's master copy, moments and gradients, and below stage 3 a staging buffer; weights where those go."""
    assert _told(1, offload_optimizer=True).host == 1000 + 2000 + 1000 + 1000
    assert _told(2, offload_optimizer=True).host == 1000 + 2000 + 1000 + 1000
    assert _told(3, offload_optimizer=True).host == 1000 + 2000 + 1000
    gone = _told(3, offload_optimizer=True, offload_parameters=True)
    assert (gone.host, gone.weights) == (4000 + gone.cost.parameters, 0)
    only = _told(3, offload_parameters=True)
    assert (only.host, only.weights, only.moments, only.master) == (only.cost.parameters, 0, 2000, 1000)
    assert _told(2).host == 0
    assert (_told(1, offload_optimizer=True).gradients, _told(2, offload_optimizer=True).gradients) == (4000, 0)


def test_whole_copies_are_never_sharded() -> None:
    for stage in (None, 1, 2):
        answer, without = _told(stage, num_copies=2), _told(stage)
        assert answer.average == 2 * 4 * answer.cost.parameters
        assert answer.resident == without.resident + answer.average


def test_a_bucket_of_stage_0_is_no_larger_than_the_gradients_or_a_message() -> None:
    for trained, bucket in ((1000, 4000), (320_000_000, 4 * 10_000_000), (10**10, 4 * 10**8)):
        assert _told(0, trainable=trained).buffers == bucket + 12 * 240
        assert _told(None, trainable=trained).buffers == 12 * 240
        assert _told(0, trainable=trained, num_gpus=1).buffers == 12 * 240


def _words(run: PlannedRun) -> list[str]:
    return [words for words, _ in _changes(run)]


def test_remedies_are_those_that_a_run_leaves_open() -> None:
    last = ["optimiser state in host memory (slower steps)", "2 GPUs", "4 GPUs", "8 GPUs"]
    small = replace(RUN, model=with_checkpointing(TINY), micro_batch=1)
    assert _words(small) == last
    assert _words(replace(small, micro_batch=6)) == ["3 crops per pass, accumulated over 2", *last]
    far = DeepSpeedEngineConfig(zero_stage=2, offload_optimizer=True)
    assert _words(replace(small, engine=far)) == last[1:]
    averaging = replace(small, num_gpus=4, num_copies=1)
    assert _words(averaging) == [
        "ZeRO stage 1",
        "ZeRO stage 2",
        "ZeRO stage 3",
        *last[:1],
        "8 GPUs",
        "16 GPUs",
        "32 GPUs",
    ]
    assert _words(replace(averaging, engine=DeepSpeedEngineConfig(zero_stage=2))) == _words(averaging)[2:]


def test_remedies_keep_the_precision_and_say_what_they_did() -> None:
    answers = [run for _, run in _changes(replace(RUN, engine=TorchEngineConfig(), num_gpus=2))]
    assert {answer.engine.precision for answer in answers} == {"fp32"}
    assert [answer.zero_stage for answer in answers] == [0, 1, 2, 3, 3, 3, 3, 3, 3, 3]
    assert [answer.micro_batch * answer.accumulation for answer in answers] == [4] * 10
    assert [answer.offloads_optimizer for answer in answers] == [False] * 6 + [True] * 4
    *_, (_, alone) = _changes(replace(RUN, engine=TorchEngineConfig()))
    assert (alone.zero_stage, alone.engine.precision) == (1, "fp32")


def test_crops_are_dealt_evenly() -> None:
    assert _even_groups(("a",), 5) == [("a", 0, 5)]
    for names, count in ((("a", "b", "c"), 8), (("a", "b"), 1), (("a", "b", "c", "d"), 12)):
        groups = _even_groups(names, count)
        assert [name for name, _, _ in groups] == list(names)
        assert [start for _, start, _ in groups] == [0, *(stop for _, _, stop in groups[:-1])]
        assert groups[-1][2] == count
        sizes = [stop - start for _, start, stop in groups]
        assert max(sizes) - min(sizes) <= 1


def test_heads_that_are_replayed_get_crops_and_others_none() -> None:
    parts = AdaptedParts(TypeAdapter(StrategyConfig).validate_python("full"), Roles("new", ("old",)))
    three = replace(TWO_HEADS, model=LEAN, keypoints={"old": 5, "new": 7, "other": 9}, adapted=parts)
    assert _fed_heads(three, ("old", "new", "other")) == ("new", "old")
    assert _fed_heads(replace(three, adapted=None), ("old", "new", "other")) == ("old", "new", "other")
    shared = LEAN.model_copy(update={"shared_heads": {"new": "old"}})
    assert _fed_heads(replace(three, model=shared), ("old",)) == ("old",)


def test_classification_of_bins_is_traced_like_maps() -> None:
    run = replace(RUN, model=ModelConfig(backbone="rtmpose-t"), keypoints={"a": 5}, micro_batch=2)
    trace = trace_step(run, dtype=torch.bfloat16)
    measured = _kept_by_autograd(run.model, 2, torch.bfloat16)
    assert trace.backbone + trace.heads + trace.weight_copies == pytest.approx(measured, rel=0.1)
