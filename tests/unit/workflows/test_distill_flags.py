"""Distillation by flags: what they stand for, what they leave alone, and what is refused before anything starts."""

from pathlib import Path

import pytest

from pipelines.distill import RUN_FILE, DistillationJob, main
from posecore.config import load_config
from posecore.models.architecture import ModelConfig

THREE = ["--teacher", "models:/whole-body@champion", "--student", "rtmpose-m", "--data", "coco_wholebody=/data/coco"]


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[DistillationJob]:
    """The jobs that would have run."""
    jobs: list[DistillationJob] = []
    monkeypatch.setattr("pipelines.distill.run", lambda config, *_: jobs.append(config))
    return jobs


def test_teacher_student_and_data_are_a_whole_run(started: list[DistillationJob]) -> None:
    assert main(THREE) == 0
    (job,) = started
    assert job.teacher.source == "models:/whole-body@champion"
    assert job.student == ModelConfig.model_validate({"backbone": "rtmpose-m"})
    assert (job.name, job.run_folder) == ("rtmpose-m-distilled", "runs/rtmpose-m-distilled")
    (entry,) = job.datasets
    assert (entry.name, entry.root, entry.train, entry.evaluate) == ("coco_wholebody", "/data/coco", "train", "val")
    untouched = {"teacher", "student", "datasets", "name", "run_folder"}
    usual = load_config(RUN_FILE, DistillationJob)
    assert job.model_dump(exclude=untouched) == usual.model_dump(exclude=untouched)


def test_several_datasets_with_splits_of_ones_own(
    started: list[DistillationJob], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    more = ["--data", "ubody:dwpose_train=s3://bucket/ubody", "--data", "ap10k:train:test=ap10k", "--name", "mine"]
    assert main([*THREE, *more]) == 0
    (job,) = started
    _, ubody, animals = job.datasets
    assert (ubody.root, ubody.train, ubody.evaluate) == ("s3://bucket/ubody", "dwpose_train", None)
    assert (animals.root, animals.train, animals.evaluate) == (str(tmp_path / "ap10k"), "train", "test")
    assert (job.name, job.run_folder) == ("mine", "runs/mine")


def test_flags_change_a_run_file_and_set_changes_flags(started: list[DistillationJob]) -> None:
    demo = RUN_FILE.with_name("distill_demo.yaml")
    arguments = ["--config", str(demo), "--student", "rtmpose-t", "--tracking-uri", "http://mlflow:5000"]
    assert main([*arguments, "--set", "student.input_size=[128, 96]", "--set", "training.steps=5"]) == 0
    (job,) = started
    file = load_config(demo, DistillationJob)
    assert job.student == ModelConfig.model_validate({"backbone": "rtmpose-t", "input_size": [128, 96]})
    assert job.tracking.uri == "http://mlflow:5000"
    assert job.training.steps == 5
    untouched = {"student", "tracking", "training"}
    assert job.model_dump(exclude=untouched) == file.model_dump(exclude=untouched)


def test_the_published_run_for_a_smaller_student_is_what_its_head_says(started: list[DistillationJob]) -> None:
    published = RUN_FILE.with_name("dwpose_ubody_x_to_l.yaml")
    changes = ["teacher.source=/weights/l.pth", "student.shared_heads={ubody: coco_wholebody}"]
    arguments = [argument for change in changes for argument in ("--set", change)]
    assert main(["--config", str(published), "--student", "rtmpose-m", *arguments]) == 0
    (job,) = started
    assert job.teacher.heads == {"coco_wholebody": "coco_wholebody133"}
    assert job.teacher.source == "/weights/l.pth"
    wanted = {"backbone": "rtmpose-m", "shared_heads": {"ubody": "coco_wholebody"}}
    assert job.student == ModelConfig.model_validate(wanted)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (THREE[:2], "--student, --data: missing; give all of them, or a run file with --config."),
        ([*THREE[:5], "coco"], "--data coco: expected DATASET[:TRAIN[:EVALUATE]]=ROOT"),
        ([*THREE[:5], "coco::val=/data"], "--data coco::val=/data: expected DATASET[:TRAIN[:EVALUATE]]=ROOT"),
        ([*THREE[:5], "koko=/data"], "koko"),
        ([*THREE[:5], "ochuman=/data"], "is meant for training; name one, --data ochuman:"),
        ([*THREE, "--data", "coco_wholebody=/other"], "named twice: coco_wholebody"),
        ([*THREE[:3], "rtmpose-q", *THREE[4:]], "no backbone preset is called 'rtmpose-q'. Did you mean rtmpose-"),
    ],
)
def test_what_flags_cannot_mean_is_refused(
    started: list[DistillationJob], capsys: pytest.CaptureFixture[str], arguments: list[str], sentence: str
) -> None:
    assert main(arguments) in (1, 2)
    said = capsys.readouterr().err
    assert sentence in said
    assert said.count("\n") == 1
    assert started == []


def test_a_registered_teacher_is_not_looked_for_in_a_store_made_for_this_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    for split in ("train", "val"):
        file = tmp_path / "coco" / "annotations" / f"coco_wholebody_{split}_v1.0.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    assert main([*THREE[:-1], "coco_wholebody=coco"]) == 1
    assert "nothing has been recorded at sqlite:///" in capsys.readouterr().err
    assert not list(tmp_path.glob("**/mlflow.db"))
