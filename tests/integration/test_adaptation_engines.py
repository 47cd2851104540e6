"""Every strategy and every teacher under ZeRO-3 against plain PyTorch, with every tensor sharded, however small."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from posecore.models.saving import save_model
from tests.support.launched_runs import TORCH, last_state, launch, zero
from tests.support.tiny_training import LOG_FILE, tiny_adaptation, tiny_model, tiny_parent

pytestmark = pytest.mark.slow

RUNS: dict[str, dict[str, Any]] = {
    "full": {"strategy": "full", "distillation": 0.5, "old_heads": ["people", "horses"]},
    "frozen-backbone": {"strategy": "frozen-backbone"},
    "last-n": {"strategy": {"kind": "last-n", "blocks": 1}},
    "bitfit": {"strategy": "bitfit"},
    "lora": {"strategy": "lora", "distillation": 0.5, "old_heads": ["people"]},
    "dora": {"strategy": "dora"},
    "adapter": {"strategy": {"kind": "adapter", "width": 5}},
    "expert": {"strategy": "expert", "expert_share": 0.25},
    "prototypes": {"strategy": {"kind": "prototypes", "rest": "trained"}, "embedding": {"dim": 16, "channels": 8}},
    "two-stage": {"strategy": {"kind": "two-stage", "backbone_from": 0.5}},
    "anchored": {"strategy": "full"},
}
TAUGHT: dict[str, Any] = {
    "strategy": "full",
    "replayed": [],
    "unlabelled": {"confidence": -1.0, "mask_share": 0.25, "ramp_up": 0.5},
    "unlabelled_sets": ["people"],
}
"""People stand for unlabelled pictures of dogs."""

ASKING = ("distillation", "head-distillation", "knowledge-token")
"""Methods that ask a trained model, which is no part of the state."""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with every run under both engines, on two ranks; one of them stopped at step 4 and went on."""
    folder = tmp_path_factory.mktemp("runs")
    parent = {"source": str(save_model(tiny_parent(), folder / "parent"))}
    torch.manual_seed(5)
    asked = {"teacher": str(save_model(tiny_model(drop_path=0.0), folder / "teacher"))}

    def run(name: str, engine: dict[str, Any], suffix: str, **fields: Any) -> dict[str, Any]:
        """As jobs do, no rank has the weights whole under stage 3, and reads its part of a parent's, too."""
        optimizer = {"anchor_decay": 5.0} if name == "anchored" else {}
        described = {"run_dir": str(folder / f"{name}-{suffix}"), "engine": engine, "shard_all": True}
        described |= {"optimizer": optimizer, "outlined": engine == zero(3)}
        if name in ASKING:
            return described | asked | {"method": name} | fields
        return described | {"adaptation": RUNS.get(name, TAUGHT) | {"parent": parent}} | fields

    taught = {stage: run("taught", zero(stage), f"zero{stage}-stopped", stop_before=5) for stage in (2, 3)}
    stopped = run("anchored", zero(3), "stopped", stop_before=4)
    launch(
        [
            *(run(name, engine, engine["kind"]) for name in (*RUNS, *ASKING) for engine in (TORCH, zero(3))),
            run("anchored", zero(1), "zero1"),
            stopped,
            run("anchored", zero(3), "resumed", copy_of=stopped["run_dir"]),
            run("distillation", zero(3, precision="bf16"), "bf16", outlined=True),
            run("taught", zero(3, precision="bf16"), "bf16", outlined=True),
            run("taught", TORCH, "torch"),
            *(run("taught", zero(stage), f"zero{stage}") for stage in (0, 1, 2)),
            run("taught", zero(3), "zero3"),
            *(
                each
                for stage, stopped in taught.items()
                for each in (stopped, run("taught", zero(stage), f"zero{stage}-resumed", copy_of=stopped["run_dir"]))
            ),
        ],
        world_size=2,
    )
    return folder


def _assert_close(first: Path, second: Path, tolerance: float = 2e-5) -> None:
    ours, theirs = last_state(first), last_state(second)
    for section in ("weights", "exp_avg", "exp_avg_sq", "buffers", "anchor"):
        tensors, others = getattr(ours, section), getattr(theirs, section)
        assert set(tensors) == set(others), section
        for name, tensor in tensors.items():
            torch.testing.assert_close(tensor, others[name], rtol=tolerance, atol=tolerance, msg=f"{section}/{name}")


@pytest.mark.parametrize("name", [*RUNS, *ASKING])
def test_stage_3_equals_plain_torch(runs: Path, name: str) -> None:
    _assert_close(runs / f"{name}-deepspeed", runs / f"{name}-torch")


@pytest.mark.parametrize("name", RUNS)
def test_what_is_frozen_stays_so_under_stage_3(runs: Path, name: str) -> None:
    """Horses have no data: neither gradients nor decay may reach what is theirs."""
    values = dict(RUNS[name])
    first = tiny_adaptation(**values).state_dict()
    state = last_state(runs / f"{name}-deepspeed")
    after = state.weights | state.buffers
    assert after.keys() == first.keys()
    for tensor in (key for key in first if re.search(r"\.horses\b", key)):
        assert torch.equal(after[tensor], first[tensor]), tensor
    moved = [key for key in state.exp_avg if not torch.equal(after[key], first[key])]
    assert len(moved) >= 0.9 * len(state.exp_avg)


@pytest.mark.parametrize(("name", "term"), [("distillation", "outputs/people"), ("taught", "unlabelled/people")])
def test_teachers_answer_in_half_precision(runs: Path, name: str, term: str) -> None:
    rounded, exact = (_first_loss(runs / f"{name}-{suffix}", term) for suffix in ("bf16", "torch"))
    assert rounded == pytest.approx(exact, rel=0.05)
    assert rounded != exact


def _first_loss(run: Path, term: str) -> float:
    loss: float = json.loads((run / LOG_FILE).read_text().splitlines()[0])[term]
    return loss


def test_anchors_are_sharded_saved_and_restored(runs: Path) -> None:
    _assert_close(runs / "anchored-resumed", runs / "anchored-deepspeed", tolerance=0.0)
    _assert_close(runs / "anchored-zero1", runs / "anchored-torch")


@pytest.mark.parametrize("engine", ["zero0", "zero1", "zero2", "zero3"])
def test_a_mean_teacher_is_the_same_under_every_engine(runs: Path, engine: str) -> None:
    """Under stage 3 every rank averages its run of each weight."""
    _assert_close(runs / f"taught-{engine}", runs / "taught-torch")
    weights = last_state(runs / f"taught-{engine}").weights
    head = "model.heads.dogs.final_layer.weight"
    assert not torch.equal(weights[f"mean_teacher.{head}"], weights[f"method.{head}"])


@pytest.mark.parametrize("engine", ["zero2", "zero3"])
def test_a_mean_teacher_resumes_exactly_on_two_ranks(runs: Path, engine: str) -> None:
    _assert_close(runs / f"taught-{engine}-resumed", runs / f"taught-{engine}", tolerance=0.0)
