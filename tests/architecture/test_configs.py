"""Every shipped run file is whole: it validates, its datasets and splits exist, and it says how to run it."""

from pathlib import Path

import pytest

from pipelines.distill import DistillationJob
from pipelines.multidataset_train import JobConfig
from pipelines.pretrain import PretrainingConfig
from posecore.config import load_config
from posecore.errors import ConfigError
from posecore.training.preflight import crops_per_rank

CONFIGS = sorted((Path(__file__).resolve().parents[2] / "pipelines" / "configs").glob("*.yaml"))


def job_of(path: Path) -> type[JobConfig] | type[PretrainingConfig] | type[DistillationJob]:
    match path.stem.partition("_")[0]:
        case "pretrain":
            return PretrainingConfig
        case "distill" | "dwpose":
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


def test_the_published_distillation_is_what_its_sheet_says() -> None:
    """Numbers of IDEA-Research/DWPose @ 3dca5db, mmpose/configs/distiller/ubody: s1_dis, x to l, and s2_dis, l to l."""
    path = next(path for path in CONFIGS if path.stem == "dwpose_ubody_x_to_l")
    job = load_config(path, DistillationJob)
    rate = [job.training.schedule.factor(round(share * job.training.steps), job.training.steps) for share in (0.5, 1)]
    assert rate == pytest.approx([1, 0.05])
    assert job.training.schedule.factor(0, job.training.steps) == pytest.approx(1e-5)
    assert crops_per_rank(job.training.global_batch, job.cluster.num_workers, job.training.accumulation) == 64
    second = job.head_training()
    assert second.steps / job.training.steps == pytest.approx(60 / 270, abs=1e-5)
    rate = [second.schedule.factor(step, second.steps) for step in (0, 1000, second.steps - 1)]
    assert rate == pytest.approx([1e-5, 1, 1])
    assert second.optimizer.clip_norm == 1
    loading = job.mixture()
    assert loading.mixture.sampling == "natural"
    assert loading.late is not None
    assert loading.late.from_pass == 270 - 30
    assert loading.late.augment.rotation_distribution == loading.augment.scale_distribution == "truncated"
    splits = {entry.name: entry.load().splits[entry.split("training")] for entry in job.datasets}
    assert splits["ubody"].options["image_id_stride"] == 10
    assert job.student.shared_heads == {"ubody": "coco_wholebody"}, "one head of 133 points for both"
    assert [job.method.strength(step, 270) for step in (0, 1, 269)] == pytest.approx([1, 269 / 270, 1 / 270])


def test_published_stages_want_a_trained_model() -> None:
    path = next(path for path in CONFIGS if path.stem == "posebh_base_six_datasets")
    with pytest.raises(ConfigError, match=r"name weights, or set method\.stages to joint"):
        load_config(path, JobConfig, ["weights=null"])
    load_config(path, JobConfig, ["weights=null", "method.stages=joint"])
