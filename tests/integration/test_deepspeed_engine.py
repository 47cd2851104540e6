"""DeepSpeed at every stage against plain PyTorch, and one state that all of them continue from.

All runs are made by two groups of processes of :mod:`tests.support.tiny_training`, connected over loopback as torchrun
would; the tests compare what the runs left behind.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from posecore.evaluation.inference import evaluate_store
from posecore.evaluation.label_losses import label_losses, read_label_losses
from posecore.shards.store import open_store
from posecore.training.checkpoint import load_trained
from tests.support.checkpoints import load_checkpoint, newest
from tests.support.launched_runs import TORCH, last_state, launch, zero
from tests.support.tiny_store import write_store
from tests.support.tiny_training import JUDGING, LOG_FILE, SCENE_HEADS, described_method, tiny_skeleton

pytestmark = pytest.mark.slow
STAGES = (0, 1, 2, 3)
SECTIONS = ("weights", "exp_avg", "exp_avg_sq", "buffers")
ENGINES = {"torch": TORCH, **{f"zero{stage}": zero(stage) for stage in STAGES}}
ROUNDED = zero(3, precision="bf16-weights")
FAULTY_ENGINES = {
    **ENGINES,
    "offload": zero(2, offload_optimizer=True),
    "bf16": zero(3, precision="bf16"),
    "rounded": ROUNDED,
}
FAULT = {"steps": [3], "rank": 1}
AVERAGED = {"training": {"average": {"momentum": 0.7, "warmup": 0}, "evaluate_every": 3}}
LOW_RANK = {"adaptation": {"strategy": {"kind": "lora", "rank": 2}}}
CLIPPED = {"optimizer": {"clip_norm": 0.01}}
"""Far below the norms of these gradients, of 2 and more."""
OUTLINED = {"outlined": True, "shard_all": True}
DEPTH_ENGINES = {"torch": TORCH, "zero3": zero(3), "bf16": zero(3, precision="bf16")}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with every run; ``stopped`` ones ended at step 4 with a checkpoint at step 3."""
    folder = tmp_path_factory.mktemp("runs")

    def run(name: str, engine: dict[str, Any], copy_of: str | None = None, **fields: object) -> dict[str, Any]:
        copied = {} if copy_of is None else {"copy_of": str(folder / copy_of)}
        return {"run_dir": str(folder / name), "engine": engine, **copied, **fields}

    people = write_store(folder / "people", "people", [2, 1, 2], skeleton=tiny_skeleton("people", 5)).location
    on_two = [
        run("torch", TORCH),
        run("torch-stopped", TORCH, stop_before=4),
        run("torch-resumed", TORCH, copy_of="torch-stopped"),
        *(run(f"zero{stage}", zero(stage)) for stage in STAGES),
        *(run(f"zero{stage}-from-torch", zero(stage), copy_of="torch-stopped") for stage in STAGES),
        run("offload", zero(1, offload_optimizer=True)),
        run("bf16", zero(2, precision="bf16")),
        run("bf16-stopped", zero(2, precision="bf16"), stop_before=4),
        run("bf16-resumed", zero(2, precision="bf16"), copy_of="bf16-stopped"),
        run("rounded", ROUNDED, **AVERAGED),
        run("rounded-outlined", ROUNDED, counted=True, **OUTLINED),
        run("rounded-stopped", ROUNDED, stop_before=4, **OUTLINED),
        run("rounded-resumed", ROUNDED, copy_of="rounded-stopped", **OUTLINED),
        run("rounded-from-torch", ROUNDED, copy_of="torch-stopped"),
        run("bf16-from-rounded", zero(2, precision="bf16"), copy_of="rounded-stopped"),
        run("zero3-stopped", zero(3), stop_before=4),
        run("zero3-resumed", zero(3), copy_of="zero3-stopped"),
        run("zero3-outlined", zero(3), **OUTLINED),
        run("zero3-outlined-resumed", zero(3), copy_of="zero3-stopped", **OUTLINED),
        run("average-torch", TORCH, **AVERAGED),
        run("average-zero3", zero(3), counted=True, **OUTLINED, **AVERAGED),
        run("average-zero3-stopped", zero(3), stop_before=4, **OUTLINED, **AVERAGED),
        run("average-zero3-resumed", zero(3), copy_of="average-zero3-stopped", **OUTLINED, **AVERAGED),
        run("lora-torch", TORCH, **LOW_RANK),
        run("lora-zero3", zero(3), **OUTLINED, **LOW_RANK),
        *(
            run(f"judged-{name}", engine, judged=str(people), training={"evaluate_every": 6}, shard_all=True)
            for name, engine in (("torch", TORCH), ("zero3", zero(3)))
        ),
        run("clipped-torch", TORCH, **CLIPPED),
        run(
            "sparing-zero3",
            zero(3, offload_parameters=True, offload_optimizer=True),
            method="recomputing",
            **OUTLINED,
            **CLIPPED,
        ),
        *(run(f"depth-{name}", engine, method="depth") for name, engine in DEPTH_ENGINES.items()),
        *(
            each
            for head in SCENE_HEADS
            for each in (
                run(f"{head}-torch", TORCH, method=head),
                run(f"{head}-zero3", zero(3), method=head, shard_all=True),
                run(f"{head}-zero3-stopped", zero(3), stop_before=4, method=head),
                run(f"{head}-zero3-resumed", zero(3), copy_of=f"{head}-zero3-stopped", method=head),
            )
        ),
        run("prototypes-torch", TORCH, method="prototypes"),
        *(run(f"prototypes-zero{stage}", zero(stage), method="prototypes") for stage in (0, 2, 3)),
        run("prototypes-zero3-stopped", zero(3), stop_before=4, method="prototypes"),
        run("prototypes-zero3-resumed", zero(3), copy_of="prototypes-zero3-stopped", method="prototypes"),
        run("prototypes-torch-resumed", TORCH, copy_of="prototypes-zero3-stopped", method="prototypes"),
        *(
            run(f"{kind}-{name}", engine, fault={"kind": kind, **FAULT}, checkpoint_every=1)
            for name, engine in FAULTY_ENGINES.items()
            for kind in (("gradient",) if name in ("zero1", "zero2") else ("loss",))
        ),
        *(
            run(
                f"skipping-{name}",
                engine,
                fault={"kind": "loss" if name in ("zero1", "zero2") else "gradient", **FAULT},
                checkpoint_every=1,
                training={"skip_nonfinite_steps": 1},
            )
            for name, engine in FAULTY_ENGINES.items()
        ),
    ]
    on_one = [
        run("torch-on-one", TORCH, copy_of="zero3-stopped"),
        run("zero1-on-one", zero(1), copy_of="zero3-stopped"),
    ]
    launch(on_two, world_size=2)
    launch(on_one, world_size=1)
    return folder


def _norms(run: Path) -> list[float]:
    lines = map(json.loads, (run / LOG_FILE).read_text().splitlines())
    return [line["gradient_norm"] for line in lines if "gradient_norm" in line]


@pytest.mark.parametrize(
    ("name", "like"),
    [*((f"zero{stage}", "torch") for stage in STAGES), ("offload", "torch"), ("sparing-zero3", "clipped-torch")],
)
def test_the_norm_that_is_told_is_that_of_the_whole_gradient_before_clipping(runs: Path, name: str, like: str) -> None:
    norms = _norms(runs / name)
    assert len(norms) == 3
    assert norms == pytest.approx(_norms(runs / like), rel=1e-3)
    assert min(norms) > 0.1, "ten times what it is clipped to"


def _assert_close(
    first: Path, second: Path, tolerance: float, without: re.Pattern[str] = re.compile("$."), updates: int = 6
) -> None:
    ours, theirs = last_state(first), last_state(second)
    assert ours.optimizer_steps == theirs.optimizer_steps == updates
    for section in SECTIONS:
        tensors, others = getattr(ours, section), getattr(theirs, section)
        assert set(tensors) == set(others)
        for name, tensor in tensors.items():
            if not without.search(name):
                torch.testing.assert_close(
                    tensor, others[name], rtol=tolerance, atol=tolerance, msg=f"{section}/{name}"
                )


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_equals_plain_torch(runs: Path, stage: int) -> None:
    _assert_close(runs / f"zero{stage}", runs / "torch", tolerance=2e-5)


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_continues_a_state_of_plain_torch(runs: Path, stage: int) -> None:
    _assert_close(runs / f"zero{stage}-from-torch", runs / "torch", tolerance=2e-5)


@pytest.mark.parametrize("head", SCENE_HEADS)
@pytest.mark.parametrize("name", ["zero3", "zero3-resumed"])
def test_whole_pictures_are_learned_on_any_engine_and_after_a_stop(runs: Path, head: str, name: str) -> None:
    _assert_close(runs / f"{head}-{name}", runs / f"{head}-torch", tolerance=2e-5)


def test_offloading_the_optimiser_needs_no_compiler(runs: Path) -> None:
    _assert_close(runs / "offload", runs / "torch", tolerance=2e-5)


@pytest.mark.parametrize("name", ["torch", "bf16", "zero3"])
def test_a_stopped_group_ends_bit_for_bit_like_one_left_alone(runs: Path, name: str) -> None:
    _assert_close(runs / f"{name}-resumed", runs / name, tolerance=0.0)


@pytest.mark.parametrize("name", ["rounded-outlined", "rounded-resumed"])
def test_rounded_weights_do_not_depend_on_who_built_them_or_stopped(runs: Path, name: str) -> None:
    _assert_close(runs / name, runs / "rounded", tolerance=0.0)


@pytest.mark.parametrize("name", ["rounded", "rounded-from-torch", "bf16", "bf16-from-rounded"])
def test_rounded_weights_learn_what_autocast_learns(runs: Path, name: str) -> None:
    """Six steps of either go 22 % of their way aside of float32's, and what is lost of a gradient is 4 % of it."""
    ours, exact = last_state(runs / name), last_state(runs / "torch")
    first = described_method(None).state_dict()
    assert {tensor.dtype for tensor in ours.weights.values()} == {torch.float32}
    way, expected = (_flat(state.weights, first) for state in (ours, exact))
    assert torch.dot(way, expected) / (way.norm() * expected.norm()) > 0.96
    for section, tolerance in (("exp_avg", 0.08), ("exp_avg_sq", 0.03), ("buffers", 1e-3)):
        tensors, others = getattr(ours, section), getattr(exact, section)
        assert _flat(tensors, others).norm() < tolerance * _flat(others).norm(), section


def test_rounded_weights_are_judged_as_their_average(runs: Path) -> None:
    judged, expected = (_judged(runs / run) for run in ("rounded", "average-torch"))
    assert judged.keys() == expected.keys()
    assert judged[6] == pytest.approx(expected[6], rel=1e-2)


def _flat(tensors: Mapping[str, Tensor], without: Mapping[str, Tensor] | None = None) -> Tensor:
    """All values in a row, those of others taken from them."""
    parts = [(t if without is None else t - without[name]).double().flatten() for name, t in sorted(tensors.items())]
    return torch.cat(parts)


def test_a_stage_3_state_of_two_ranks_continues_on_one_whoever_reads_it(runs: Path) -> None:
    _assert_close(runs / "torch-on-one", runs / "zero1-on-one", tolerance=2e-5)


@pytest.mark.parametrize("name", ["zero3-outlined", "zero3-outlined-resumed"])
def test_a_model_that_no_rank_ever_has_whole_is_trained_alike(runs: Path, name: str) -> None:
    """Its first weights are those that rank 0 draws, or a checkpoint's, of which each rank reads its part."""
    _assert_close(runs / name, runs / "torch", tolerance=2e-5)
    assert not list((runs / name / "checkpoints").glob("start_*"))


@pytest.mark.parametrize("name", ["rounded-outlined", "average-zero3"])
def test_what_was_trained_leaves_no_memory_taken(runs: Path, name: str) -> None:
    """DeepSpeed's own parts would hold weights and moments to the end of the process, which is to judge the model."""
    taken = sum(tensor.nbytes for tensor in last_state(runs / name).weights.values())
    for rank in range(2):
        assert int((runs / name / f"left_rank{rank}").read_text()) < 0.02 * taken


def test_frozen_weights_are_sharded_and_saved_as_well(runs: Path) -> None:
    _assert_close(runs / "lora-zero3", runs / "lora-torch", tolerance=2e-5)


def test_clipping_offloading_and_recomputing_change_nothing(runs: Path) -> None:
    """The norm is that of all ranks' gradients, wherever weights, moments and activations are kept in the meantime."""
    _assert_close(runs / "sparing-zero3", runs / "clipped-torch", tolerance=2e-5)
    unclipped, clipped = (last_state(runs / name).exp_avg for name in ("torch", "clipped-torch"))
    assert all(tensor.norm() > 2 * clipped[name].norm() for name, tensor in unclipped.items() if "blocks" in name)


@pytest.mark.parametrize("name", ["average-zero3", "average-zero3-resumed"])
def test_an_average_of_sharded_weights_is_that_of_whole_ones(runs: Path, name: str) -> None:
    """In the checkpoint and in the evaluation, which computes with it; training goes on with the weights."""
    _assert_close(runs / name, runs / "average-torch", tolerance=2e-5)
    ours, theirs = last_state(runs / name), last_state(runs / "average-torch")
    assert ours.average.keys() == theirs.average.keys()
    assert ours.average_updates == theirs.average_updates == 6
    for key, tensor in theirs.average.items():
        torch.testing.assert_close(ours.average[key], tensor, rtol=2e-5, atol=2e-5, msg=key)
    assert any(
        not torch.equal(tensor, theirs.weights[key]) for key, tensor in theirs.average.items() if key in theirs.weights
    )
    judged, expected = (_judged(runs / run) for run in (name, "average-torch"))
    assert judged[6] == pytest.approx(expected[6], rel=1e-4)


@pytest.mark.parametrize("name", ["torch", "zero3"])
def test_ranks_share_an_evaluation_and_find_what_one_process_finds(runs: Path, name: str) -> None:
    """Of three batches the second rank has one, and passes another, that nobody looks at, through sharded weights."""
    run, store = runs / f"judged-{name}", open_store(runs / "people/shards/people/train")
    method = described_method(None)
    load_trained(newest(run), method)
    model = method.eval().model
    lines = [json.loads(line) for line in (run / LOG_FILE).read_text().splitlines()]
    (judged,) = [line for line in lines if any(metric.startswith("people/") for metric in line)]
    expected = evaluate_store(model, store, JUDGING)
    assert {metric: judged[f"people/{metric}"] for metric in expected} == pytest.approx(expected, rel=1e-4)
    (losses,) = read_label_losses(run / "label_losses" / "people", store)
    np.testing.assert_allclose(losses, label_losses(model, store, "people", JUDGING), rtol=1e-4)
    assert np.isfinite(losses).sum() > 20


def _judged(run: Path) -> dict[int, float]:
    lines = [json.loads(line) for line in (run / LOG_FILE).read_text().splitlines()]
    return {line["step"]: line["eval/loss/people"] for line in lines if "eval/loss/people" in line}


def test_depth_that_one_rank_has_and_the_other_has_not(runs: Path) -> None:
    """Every rank calls the projection and the second task's head in every step, or this would have hung."""
    _assert_close(runs / "depth-zero3", runs / "depth-torch", tolerance=2e-5)
    assert last_state(runs / "depth-zero3").weights["model.backbone.patch_embed.depth_proj.weight"].abs().max() > 0


def test_depth_in_half_precision(runs: Path) -> None:
    weights = last_state(runs / "depth-bf16").weights
    assert all(torch.isfinite(tensor).all() for tensor in weights.values())


@pytest.mark.parametrize("name", ["torch", "zero0", "zero2", "zero3", "zero3-resumed"])
def test_prototypes_are_the_same_on_all_ranks_and_in_the_checkpoint(runs: Path, name: str) -> None:
    run = runs / f"prototypes-{name}"
    first, second = (load_file(run / f"prototypes_rank{rank}") for rank in range(2))
    kept = last_state(run).buffers
    for dataset, prototypes in first.items():
        assert torch.equal(prototypes, second[dataset])
        assert torch.equal(prototypes, kept[f"model.prototypes.{dataset}"])


@pytest.mark.parametrize("name", ["zero0", "zero2", "zero3", "torch-resumed"])
def test_stages_and_prototypes_do_not_depend_on_the_engine(runs: Path, name: str) -> None:
    """First all but the embedding head is frozen, then the backbone: no decay, bias correction from the thaw on.

    A bias before BatchNorm has no gradient but rounding errors, of which AdamW makes steps.
    """
    biases = re.compile(r"embedding_head\.(neck\.(conv\d\.bias|bn\d\.running_mean)|head\.(0\.bias|1\.running_mean))")
    _assert_close(runs / f"prototypes-{name}", runs / "prototypes-torch", tolerance=2e-5, without=biases)
    assert last_state(runs / f"prototypes-{name}").updates == {"model.heads.": 3, "model.backbone.": 1}


def test_prototypes_resumed_in_the_middle_of_a_stage_end_bit_for_bit_alike(runs: Path) -> None:
    _assert_close(runs / "prototypes-zero3-resumed", runs / "prototypes-zero3", tolerance=0.0)


@pytest.mark.parametrize("name", FAULTY_ENGINES)
def test_what_one_rank_sees_go_wrong_stops_all_before_it_is_saved(runs: Path, name: str) -> None:
    """The loss of one rank, finite gradients notwithstanding, or its gradient alone."""
    kind = "gradient" if name in ("zero1", "zero2") else "loss"
    run = runs / f"{kind}-{name}"
    first, second = ((run / f"diverged_rank{rank}").read_text() for rank in range(2))
    assert first == second
    named = "not finite is the loss term loss/dogs of dataset dogs." if kind == "loss" else "the gradient has no finite"
    assert first.startswith(f"training diverged in step 4: {named}")
    assert sorted(path.name[:13] for path in (run / "checkpoints").iterdir()) == [f"step_{s:08d}" for s in (1, 2, 3)]
    last_state(run)


@pytest.mark.parametrize("name", FAULTY_ENGINES)
def test_a_skipped_step_is_none_under_any_engine(runs: Path, name: str) -> None:
    run = runs / f"skipping-{name}"
    assert not list(run.glob("diverged*"))
    _assert_close(run, runs / "skipping-torch", tolerance=0.05 if name in ("bf16", "rounded") else 2e-5, updates=5)
    before, after = (load_checkpoint(next((run / "checkpoints").glob(f"step_{s:08d}*")))[0] for s in (4, 5))
    assert (before.optimizer_steps, after.optimizer_steps) == (3, 4)


@pytest.mark.parametrize("name", FAULTY_ENGINES)
def test_a_good_step_comes_after_a_skipped_one(runs: Path, name: str) -> None:
    states = [
        load_checkpoint(next((runs / f"skipping-{name}" / "checkpoints").glob(f"step_{s:08d}*")))[0] for s in (4, 6)
    ]
    weight = "model.backbone.blocks.1.mlp.fc2.weight"
    assert not torch.equal(*(state.weights[weight] for state in states))
