"""The main job by flags: what they stand for, which file that is, and what is refused before anything starts."""

from pathlib import Path

import pytest
import yaml

from pipelines.multidataset_train import FLAGS, JobConfig, main
from posecore.config import load_config, parse_config
from posecore.models.architecture import ModelConfig
from posecore.training.recipes import RECIPES


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[JobConfig]:
    """The jobs that would have run."""
    jobs: list[JobConfig] = []
    monkeypatch.setattr("pipelines.multidataset_train.run", lambda config, *_: jobs.append(config))
    return jobs


def test_data_and_model_are_a_whole_run(started: list[JobConfig]) -> None:
    data = ["--data", "coco=/data/coco", "--data", "mpii:train=s3://bucket/mpii"]
    assert main([*data, "--model", "vitpose-small", "--steps", "70"]) == 0
    (job,) = started
    assert job.model == ModelConfig.model_validate({"backbone": "vitpose-small"})
    assert (job.name, job.run_folder) == ("vitpose-small-coco-mpii", "runs/vitpose-small-coco-mpii")
    assert [(entry.root, entry.train, entry.evaluate) for entry in job.datasets] == [
        ("/data/coco", "train", "val"), ("s3://bucket/mpii", "train", None)
    ]  # fmt: skip
    assert job.recipe.auto_scale_lr
    assert job.training.steps == 70
    assert job.training.best is not None
    assert (job.training.best.metric, job.training.best.better) == ("coco/AP", "more")
    usual = load_config(FLAGS.run_file or "", JobConfig)
    untouched = {"name", "run_folder", "datasets", "model", "training"}
    assert job.model_dump(exclude=untouched) == usual.model_dump(exclude=untouched)


def test_a_model_without_a_recipe_and_data_without_a_judged_split(started: list[JobConfig], tmp_path: Path) -> None:
    own = yaml.safe_load((Path("datasets") / "coco" / "dataset.yaml").read_text()) | {"name": "ward"}
    (tmp_path / "dataset.yaml").write_text(yaml.safe_dump(own))
    assert not any(recipe.preset == "vit-nano" for recipe in RECIPES.values())
    assert main(["--data", f"{tmp_path}/dataset.yaml:train=here", "--model", "vit-nano", "--name", "mine"]) == 0
    (job,) = started
    (entry,) = job.datasets
    assert (entry.name, entry.definition, entry.root) == ("ward", f"{tmp_path}/dataset.yaml", f"{Path.cwd()}/here")
    assert not job.recipe.auto_scale_lr
    assert (job.training.best, job.training.evaluate_every, job.name) == (None, 0, "mine")


def test_what_is_better_is_the_protocols_to_say(started: list[JobConfig]) -> None:
    assert main(["--data", "minirgbd=/x", "--model", "vit-nano"]) == 0
    best = started[0].training.best
    assert best is not None
    assert best.metric.startswith("minirgbd/")


def test_a_dry_run_prints_the_file_that_flags_stand_for(
    started: list[JobConfig], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for split in ("train", "val"):
        annotations = tmp_path / "annotations" / f"person_keypoints_{split}2017.json"
        annotations.parent.mkdir(exist_ok=True)
        annotations.touch()
    flags = ["--data", f"coco={tmp_path}", "--model", "vitpose-small", "--set", "training.seed=3"]
    assert main(flags) == 0
    assert main([*flags, "--dry-run"]) == 0
    (job,) = started
    values = yaml.safe_load(capsys.readouterr().out)
    assert values["model"] == {"backbone": "vitpose-small"}
    assert parse_config(values, JobConfig, "printed") == job
    assert job.training.seed == 3
    weights = tmp_path / "small.pth"
    assert main([*flags, "--weights", str(weights), "--dry-run"]) == 1
    assert f"error: {weights} is no file or folder here" in capsys.readouterr().err
    weights.touch()
    assert main([*flags, "--weights", str(weights), "--dry-run"]) == 0
    assert main([*flags, "--weights", "models:/pose@champion", "--dry-run"]) == 1, "only a parent or a teacher is one"
    assert "models:/pose@champion is no file or folder here" in capsys.readouterr().err


def test_what_is_missing_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--model", "vit-nano"]) == 2
    assert "error: --data: missing; give both, or a run file with --config." in capsys.readouterr().err
    assert main(["--data", "coco", "--model", "vit-nano"]) == 2
    assert "--data coco: expected DATASET[:TRAIN[:EVALUATE]]=ROOT" in capsys.readouterr().err
