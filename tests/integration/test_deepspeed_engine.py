"""DeepSpeed at every stage against plain PyTorch, and one state that all of them continue from.

All runs are made by two groups of processes of :mod:`tests.support.tiny_training`, connected over loopback as torchrun
would; the tests compare what the runs left behind.
"""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.support.launched_runs import TORCH, last_state, launch, zero

pytestmark = pytest.mark.slow
STAGES = (0, 1, 2, 3)
SECTIONS = ("weights", "exp_avg", "exp_avg_sq", "buffers")
DEPTH_ENGINES = {"torch": TORCH, "zero3": zero(3), "bf16": zero(3, precision="bf16")}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with every run; ``stopped`` ones ended at step 4 with a checkpoint at step 3."""
    folder = tmp_path_factory.mktemp("runs")

    def run(name: str, engine: dict[str, Any], copy_of: str | None = None, **fields: object) -> dict[str, Any]:
        copied = {} if copy_of is None else {"copy_of": str(folder / copy_of)}
        return {"run_dir": str(folder / name), "engine": engine, **copied, **fields}

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
        run("zero3-stopped", zero(3), stop_before=4),
        run("zero3-resumed", zero(3), copy_of="zero3-stopped"),
        *(run(f"depth-{name}", engine, method="depth") for name, engine in DEPTH_ENGINES.items()),
        run("prototypes-torch", TORCH, method="prototypes"),
        *(run(f"prototypes-zero{stage}", zero(stage), method="prototypes") for stage in (0, 2, 3)),
        run("prototypes-zero3-stopped", zero(3), stop_before=4, method="prototypes"),
        run("prototypes-zero3-resumed", zero(3), copy_of="prototypes-zero3-stopped", method="prototypes"),
        run("prototypes-torch-resumed", TORCH, copy_of="prototypes-zero3-stopped", method="prototypes"),
    ]
    on_one = [
        run("torch-on-one", TORCH, copy_of="zero3-stopped"),
        run("zero1-on-one", zero(1), copy_of="zero3-stopped"),
    ]
    launch(on_two, world_size=2)
    launch(on_one, world_size=1)
    return folder


def _assert_close(first: Path, second: Path, tolerance: float, without: re.Pattern[str] = re.compile("$.")) -> None:
    ours, theirs = last_state(first), last_state(second)
    assert ours.optimizer_steps == theirs.optimizer_steps == 6
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


def test_offloading_the_optimiser_needs_no_compiler(runs: Path) -> None:
    _assert_close(runs / "offload", runs / "torch", tolerance=2e-5)


@pytest.mark.parametrize("name", ["torch", "bf16", "zero3"])
def test_a_stopped_group_ends_bit_for_bit_like_one_left_alone(runs: Path, name: str) -> None:
    _assert_close(runs / f"{name}-resumed", runs / name, tolerance=0.0)


def test_a_stage_3_state_of_two_ranks_continues_on_one_whoever_reads_it(runs: Path) -> None:
    _assert_close(runs / "torch-on-one", runs / "zero1-on-one", tolerance=2e-5)


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
