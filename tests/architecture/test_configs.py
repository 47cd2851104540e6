"""Every shipped run file is whole: it validates, its datasets and splits exist, and it says how to run it."""

from pathlib import Path

import pytest

from pipelines.distill import DistillationJob
from pipelines.multidataset_train import JobConfig, main
from pipelines.pretrain import PretrainingConfig
from posecore.config import load_config
from posecore.errors import ConfigError
from posecore.training.preflight import crops_per_rank
from posecore.workflows.adaptation.job import AdaptationJob

CONFIGS = sorted((Path(__file__).resolve().parents[2] / "pipelines" / "configs").glob("*.yaml"))


def job_of(path: Path) -> type[JobConfig] | type[PretrainingConfig] | type[DistillationJob] | type[AdaptationJob]:
    match path.stem.partition("_")[0]:
        case "pretrain":
            return PretrainingConfig
        case "distill" | "dwpose":
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
    loading = config.mixture(takes_depth=False) if isinstance(config, AdaptationJob) else config.mixture()
    assert [entry.name for entry in loading.mixture.entries]


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
        (["loading.sampling=explicit", "datasets.0.weight=.nan"], "datasets.0.weight: Input should be a finite number"),
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
    assert main(["--config", str(path), *(part for text in overrides for part in ("--set", text))]) in (1, 2)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert not (tmp_path / "run").exists()
