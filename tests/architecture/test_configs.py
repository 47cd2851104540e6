"""Every shipped run file is whole: it validates, its datasets and splits exist, and it says how to run it."""

from pathlib import Path

import pytest

from pipelines.adapt import AdaptationJob
from pipelines.distill import DistillationJob
from pipelines.multidataset_train import JobConfig
from pipelines.pretrain import PretrainingConfig
from posecore.config import load_config
from posecore.errors import ConfigError
from posecore.training.preflight import crops_per_rank

CONFIGS = sorted((Path(__file__).resolve().parents[2] / "pipelines" / "configs").glob("*.yaml"))


def job_of(path: Path) -> type[JobConfig] | type[PretrainingConfig] | type[DistillationJob] | type[AdaptationJob]:
    match path.stem.partition("_")[0]:
        case "pretrain":
            return PretrainingConfig
        case "distill":
            return DistillationJob
        case "adapt":
            return AdaptationJob
        case _:
            return JobConfig


def test_there_are_run_files() -> None:
    assert {"adapt_demo", "demo", "distill_demo", "overfit_samples", "pretrain_demo"} <= {path.stem for path in CONFIGS}


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
