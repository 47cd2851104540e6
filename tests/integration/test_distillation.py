"""From a registered teacher to a registered student of another family, in two stages."""

import re
from pathlib import Path

import pytest
import torch
import yaml

from pipelines.distill import DistillationJob, main
from posecore.config import load_config
from posecore.lineage.dataset_inputs import DatasetUse
from posecore.lineage.registry import register_model
from posecore.lineage.tracking import TrackingConfig, connect
from posecore.lineage.versions import RegisteredVersion, get_version, parent_of
from posecore.lineage.weights_use import weights_uses
from posecore.models.architecture import ModelConfig
from posecore.models.heads import ClassicHeadConfig
from posecore.models.pose_model import build_model
from posecore.models.saving import load_model, save_model
from posecore.models.vit import VitConfig
from posecore.skeletons.library import load_skeleton
from posecore.synth.writers import write_dataset

SIZE = (64, 32)


@pytest.fixture(scope="module")
def run_file(tmp_path_factory: pytest.TempPathFactory, store_folder: Path) -> Path:
    """A run file beside its data, and a registered teacher with 133 points for a student with 17."""
    folder = tmp_path_factory.mktemp("distillation")
    write_dataset("coco", folder / "coco", num_train=8, num_val=4, image_size=(128, 128), seed=0)
    torch.manual_seed(0)
    backbone = VitConfig(embed_dim=16, depth=1, num_heads=2)
    config = ModelConfig(backbone=backbone, head=ClassicHeadConfig(channels=8), input_size=SIZE)
    teacher = build_model(config, {"whole": load_skeleton("coco_wholebody133")}, licenses={"whole": "CC-BY-NC-4.0"})
    tracking = TrackingConfig(uri=f"sqlite:///{store_folder}/mlflow.db", experiment="distillation")
    use = DatasetUse(
        name="whole",
        split="train",
        digest="a" * 64,
        role="training",
        location="/nowhere",
        license="CC-BY-NC-4.0",
        commercial_use=False,
    )
    run = connect(tracking, store_folder).start_run("teacher", {})
    register_model(run, "large", Path(str(save_model(teacher, folder / "teacher"))), [use], [])
    values = {
        "name": "small",
        "run_folder": str(folder / "run"),
        "data_folder": str(folder),
        "tracking": tracking.model_dump(),
        "datasets": [{"name": "people", "definition": "coco", "root": "coco", "train": "train", "evaluate": "val"}],
        "teacher": "models:/large/1",
        "student": {
            "backbone": {"kind": "cspnext", "deepen": 0.1, "widen": 0.1},
            "head": {"kind": "rtmcc", "token_dim": 16, "attention_dim": 8},
            "input_size": list(SIZE),
        },
        "training": {
            "steps": 4,
            "global_batch": 4,
            "optimizer": {"layer_decay": 1.0},
            "schedule": {"kind": "cosine", "warmup_steps": 1},
            "progress": False,
        },
        "second_stage": 0.5,
        "inference": {"flip_test": False, "num_threads": 1},
    }
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("local_ray")
def test_the_whole_job(run_file: Path, store_folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["--config", str(run_file)]) == 0
    said = capfd.readouterr().out
    steps = ["ingest:people:train", "ingest:people:val", "audit", "stage1", "stage2", "evaluate:student"]
    assert re.findall(r"^(\S+) +ran ", said, re.MULTILINE) == [*steps, "measure", "register"]
    assert "other points" in said  # the teacher's 133 cannot be judged on a set of 17

    student = load_model(re.findall(r"\(folder (\S+)\)", said)[0])
    assert student.skeletons.keys() == {"people"}
    assert student.card.lineage["step"] == 2
    assert student.card.lineage["teacher"]["source"] == "models:/large/1"
    assert student.card.licenses["teacher whole"] == "CC-BY-NC-4.0"
    first = next(run_file.parent.glob("run/training/*/model/model.json")).parent
    stages = [load_model(folder.parent) for folder in run_file.parent.glob("run/training/*/model/model.json")]
    assert len(stages) == 2, first
    backbones = [stage.backbone.state_dict() for stage in stages]
    assert all(torch.equal(tensor, backbones[1][name]) for name, tensor in backbones[0].items())
    heads = [stage.heads["people"].cls_x.weight for stage in stages]
    assert not torch.equal(*heads)

    tracking = connect(load_config(run_file, DistillationJob).tracking, store_folder)
    version = get_version(tracking, "small", 1)
    assert parent_of(version) == RegisteredVersion("large", 1)
    assert [use.source for use in weights_uses(version)] == ["models:/large/1"]
    parameters = sum(parameter.numel() for parameter in student.parameters())
    assert float(version.tags["cost.parameters"]) == parameters
    assert float(version.tags["cost.latency_ms"]) > 0
    assert {"cost.gflops", "cost.megabytes"} <= version.tags.keys()


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("teacher=models:/large/9", "models:/large/9: "),
        ("student.input_size=[64, 64]", "another shape than the student's 64x64"),
        ("method.teacher_heads={people: hands}", "the teacher has no head 'hands'; it has whole"),
        ("student=vit-nano", "another shape than the student's"),
        ("method.feature_wight=1", "feature_wight"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_starts(
    run_file: Path, capsys: pytest.CaptureFixture[str], override: str, sentence: str
) -> None:
    assert main(["--config", str(run_file), "--set", override]) == 1
    assert sentence in capsys.readouterr().err


def test_the_second_stage_is_short_and_at_a_constant_rate(run_file: Path) -> None:
    config = load_config(run_file, DistillationJob, ["training.steps=27000", "second_stage=0.2222222"])
    loop = config.head_training()
    assert loop.steps == 6000
    assert [loop.schedule.factor(step, loop.steps) for step in (1, 3000, 5999)] == [1, 1, 1]
