"""Every shipped run file is whole: it validates, its datasets and splits exist, and it says how to run it."""

from pathlib import Path

import pytest

from pipelines.distill import DistillationJob
from pipelines.multidataset_train import JobConfig, main
from pipelines.pretrain import PretrainingConfig
from posecore.config import load_config
from posecore.errors import ConfigError
from posecore.training.preflight import crops_per_rank

CONFIGS = sorted((Path(__file__).resolve().parents[2] / "pipelines" / "configs").glob("*.yaml"))


def job_of(path: Path) -> type[JobConfig] | type[PretrainingConfig] | type[DistillationJob]:
    match path.stem.partition("_")[0]:
        case "pretrain":
            return PretrainingConfig
        case "distill":
            return DistillationJob
        case _:
            return JobConfig


def test_there_are_run_files() -> None:
    assert {"demo", "distill_demo", "overfit_samples", "pretrain_demo"} <= {path.stem for path in CONFIGS}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_run_file_validates_and_names_splits_that_exist(path: Path) -> None:
    config = load_config(path, job_of(path))
    for entry in config.datasets:
        definition = entry.load()
        assert {entry.split(role) for role in entry.roles} <= definition.splits.keys()
    assert crops_per_rank(config.training.global_batch, config.cluster.num_workers, config.training.accumulation) > 0
    assert [entry.name for entry in config.mixture().mixture.entries]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_run_file_begins_with_what_how_long_result_and_command(path: Path) -> None:
    comment = [line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
    for word in ("What:", "How long:", "Expect:", "Command:"):
        assert any(line.startswith(f"# {word}") for line in comment), word


def test_published_stages_want_a_trained_model() -> None:
    path = next(path for path in CONFIGS if path.stem == "posebh_base_six_datasets")
    with pytest.raises(ConfigError, match=r"name weights, or set method\.stages to joint"):
        load_config(path, JobConfig, ["weights=null"])
    load_config(path, JobConfig, ["weights=null", "method.stages=joint"])


@pytest.mark.parametrize("kind", ["demo", "distill_demo", "pretrain_demo"])
def test_every_job_refuses_a_mixture_that_contradicts_itself(kind: str) -> None:
    path = next(path for path in CONFIGS if path.stem == kind)
    with pytest.raises(ConfigError, match="sampling is explicit, so each needs a weight"):
        load_config(path, job_of(path), ["loading.sampling=explicit", "loading.temperature=1"])
    with pytest.raises(ConfigError, match="weight 0 is no share of the samples"):
        load_config(path, job_of(path), ["datasets.0.weight=0"])


_ONE_EYED = "{keypoints: [{name: left_eye, union: left_eye, flip: right_eye}], links: []}"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["method=expert"], "method: 'expert' is none of heads, experts, prototypes"),
        (["method={expert_share: 0.5}"], "method: nothing is none of heads, experts, prototypes"),
        (["method={kind: experts, expert_share: 0}"], "expert_share: Input should be greater than 0"),
        (["method={kind: experts, expert_share: 0.3}"], "expert_share 0.3 of embed_dim 128 is not a whole number"),
        (["method=prototypes"], "name weights, or set method.stages to joint"),
        (["method={kind: prototypes, stages: join}"], "'join' is none of published, published-base, joint"),
        (["method={kind: heads, head_statistics: both}"], "head_statistics: Input should be 'own' or 'mixed'"),
        (["method={kind: heads, denominator: all}"], "denominator: Input should be 'batch' or 'group'"),
        (["method={kind: heads, loss_weights: {coco: 0}}"], "loss_weights.coco: Input should be greater than 0"),
        (["method={kind: heads, loss_weights: {coko: 2}}"], "loss_weights names coko, which this run does not"),
        (["model={backbone: rtmpose-t}", "method=experts"], "experts needs a plain vision transformer; cspnext has no"),
        (["inference.path=average"], "inference.path: average needs a model with prototypes"),
        (["model.shared_heads={zebra: coco}"], "shared_heads names zebra, which this run does not train on"),
        (["loading.sampling=explicit"], "each needs a weight; missing for coco, coco_wholebody"),
        (["loading.sampling=explicit", "datasets.0.weight=0"], "coco: weight 0 is no share of the samples"),
        (["loading.sampling=explicit", "datasets.0.weight=.nan"], "coco: weight nan is no share of the samples"),
        (["datasets.0.weight=2"], "the weight of coco needs sampling: explicit"),
        (["datasets.1.name=coco"], "named twice: coco"),
        (["datasets.0.name=co.co"], "datasets.0.name: String should match pattern"),
        (["datasets.0={name: keys, definition: coco, root: coco, train: train}"], "torch cannot call a head so"),
        ([f"datasets.0.changes.skeleton={_ONE_EYED}"], "left_eye flips to right_eye, which does not flip back"),
        (["weights.take={expert: false}"], "weights.take.expert: Extra inputs are not permitted"),
    ],
)  # fmt: skip
def test_a_wrong_setting_on_the_command_line_is_one_sentence(
    settings: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before anything starts: no step, no store, no cluster."""
    path = next(path for path in CONFIGS if path.stem == "demo")
    overrides = [f"run_folder={tmp_path / 'run'}", *settings]
    assert main(["--config", str(path), *(part for text in overrides for part in ("--set", text))]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert not (tmp_path / "run").exists()
