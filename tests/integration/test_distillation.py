"""From a registered teacher to a registered student of another family, in two stages."""

import html
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from pipelines.distill import DistillationJob, main, run
from posecore.config import load_config
from posecore.conventions import Conventions
from posecore.datasets.definition import DatasetDefinition
from posecore.errors import ConfigError
from posecore.lineage.ancestry.query import LineageGraph
from posecore.lineage.descriptions import describe_model
from posecore.lineage.jobs.steps import EVERYTHING
from posecore.lineage.registry.registration import register_model
from posecore.lineage.store.tracking import TrackingConfig, connect
from posecore.lineage.versions.dataset_inputs import DatasetUse
from posecore.lineage.versions.tags import RegisteredVersion, get_version, parent_of
from posecore.lineage.versions.weights_use import WEIGHTS, WeightsUse
from posecore.loading.augment import mirrored_only
from posecore.loading.samples import UsableInstances
from posecore.models.architecture import ModelConfig
from posecore.models.backbones.vit import VitConfig
from posecore.models.heads.classic import ClassicHeadConfig
from posecore.models.pose_model import PoseModel, build_model
from posecore.models.saving import load_model, save_model
from posecore.models.sources import ModelFolder
from posecore.shards.answers import (
    Answer,
    AnswerTerms,
    CropAnswer,
    CropTerms,
    LessonTerms,
    publish_answers,
    read_answer_manifest,
    write_answers,
)
from posecore.shards.store import open_store
from posecore.skeletons.library import load_skeleton
from posecore.synth.writers import write_dataset
from posecore.workflows.data_steps import Split
from posecore.workflows.distillation.cache_step import TeacherCacheSettings, cache_step
from posecore.workflows.without_ray import ThisProcess
from tests.support.tiny_store import write_store

SIZE = (64, 32)
HEAD = {"kind": "classic", "channels": 8}


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
    version = register_model(run, "large", Path(str(save_model(teacher, folder / "teacher"))), [use], [])
    run.tracking.client.set_registered_model_alias("large", "champion", str(version.version))
    values = {
        "name": "small",
        "run_folder": str(folder / "run"),
        "data_folder": str(folder),
        "tracking": tracking.model_dump(),
        "datasets": [{"name": "people", "definition": "coco", "root": "coco", "train": "train", "evaluate": "val"}],
        "teacher": "models:/large/1",
        "cache": {"precision": "float16", "instances_per_shard": 4},
        "loading": {"augment": mirrored_only(0.5).model_dump()},
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
    assert main(["--config", str(run_file), "--teacher", "models:/large@champion"]) == 0
    said = capfd.readouterr().out
    ingested = ["ingest:people:train", "ingest:people:val", "audit"]
    steps = [*ingested, "cache:people", "stage1", "stage2", "evaluate:student", "measure", "register", "report"]
    assert re.findall(r"^(\S+) +ran ", said, re.MULTILINE) == steps
    assert "other points" in said  # the teacher's 133 cannot be judged on a set of 17

    stored = read_answer_manifest(next(run_file.parent.glob("run/answers/people/*")))
    bodies = UsableInstances.of(open_store(run_file.parent / "run/shards/people/coco/train")).rows
    assert stored.num_crops == 2 * len(bodies) > len(stored.shards) > 1
    assert stored.outputs_shape == (17, 16, 8)
    assert main(["--config", str(run_file), "--teacher", "models:/large@champion"]) == 0
    assert re.findall(r"^(\S+) +reused ", capfd.readouterr().out, re.MULTILINE) == steps

    (page,) = re.findall(r"^report +(/\S+)", said, re.MULTILINE)
    assert "of the teacher's parameters" in html.unescape(Path(page).read_text())
    assert "<h2>cost of one pass</h2>" in Path(page).read_text()
    student = load_model(re.findall(r"\(folder (\S+)\)", said)[0])
    assert student.skeletons.keys() == {"people"}
    assert student.card.lineage["step"] == 2
    assert student.card.lineage["teacher"]["source"] == "models:/large/1"
    assert student.card.licenses["teacher whole"] == "CC-BY-NC-4.0"
    first = next(run_file.parent.glob("run/training/*/*/model/model.json")).parent
    stages = [load_model(folder.parent) for folder in run_file.parent.glob("run/training/*/*/model/model.json")]
    assert len(stages) == 2, first
    backbones = [stage.backbone.state_dict() for stage in stages]
    assert all(torch.equal(tensor, backbones[1][name]) for name, tensor in backbones[0].items())
    heads = [stage.heads["people"].cls_x.weight for stage in stages]
    assert not torch.equal(*heads)

    tracking = connect(load_config(run_file, DistillationJob).tracking, store_folder)
    version = get_version(tracking, "small", 1)
    assert parent_of(version) == RegisteredVersion("large", 1)
    weights = [WeightsUse.model_validate_json(value) for tag, value in version.tags.items() if tag.startswith(WEIGHTS)]
    assert [use.source for use in weights] == ["models:/large/1"]
    parameters = sum(parameter.numel() for parameter in student.parameters())
    assert float(version.tags["cost.parameters"]) == parameters
    assert float(version.tags["cost.latency_ms"]) > 0
    assert {"cost.gflops", "cost.megabytes"} <= version.tags.keys()
    told = "\n".join(describe_model(LineageGraph.load(tracking), RegisteredVersion("small", 1))[0])
    assert re.search(
        r"one crop   gflops \S+, latency_ms \S+, megabytes \S+, parameters \S+\nmade from large version 1", told
    )
    assert "measured   people on " in told


@pytest.fixture
def without_ray(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The job's own steps on a split that is ingested already, with every training in this process."""
    store = write_store(tmp_path, "people", [1] * 6)

    def splits(_: object, config: DistillationJob, definitions: dict[str, DatasetDefinition]) -> list[Split]:
        (entry,) = config.datasets
        location = str(tmp_path / "shards" / "people" / "train")
        return [Split(entry, "training", location, store.manifest.digest, definitions[entry.name])]

    monkeypatch.setattr("pipelines.distill.ingest_splits", splits)


@pytest.mark.usefixtures("without_ray")
def test_a_teacher_learns_a_token_once_and_every_student_is_given_it(
    run_file: Path, store_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def job(*changes: str) -> tuple[list[str], list[str], PoseModel]:
        values = yaml.safe_load(run_file.read_text())
        values |= {"name": "told", "run_folder": str(tmp_path / "run"), "token": {"steps": 3}, "cache": "off"}
        values["datasets"][0].pop("evaluate")
        values["student"] = {"backbone": {"kind": "vit", "embed_dim": 24, "depth": 1, "num_heads": 2}, "head": HEAD}
        values["student"]["input_size"] = list(SIZE)
        values["method"] = {"feature_weight": 0}
        file = tmp_path / "told.yaml"
        file.write_text(yaml.safe_dump(values))
        run(load_config(file, DistillationJob, changes), EVERYTHING, ThisProcess())
        said = capsys.readouterr().out
        ran, reused = (re.findall(rf"^(\S+) +{word} ", said, re.MULTILINE) for word in ("ran", "reused"))
        return ran, reused, load_model(re.findall(r"\(folder (\S+)\)", said)[0])

    ran, _, student = job()
    assert ran == ["audit", "token", "stage1", "stage2", "measure", "register", "report"]
    first = student.backbone.knowledge_tokens
    assert (first.shape, student.backbone.knowledge_adapter.weight.shape) == ((1, 16), (24, 16))
    cards = [load_model(path.parent) for path in (tmp_path / "run" / "training").glob("*/*/model/model.json")]
    (teacher,) = (model for model in cards if "whole" in model.skeletons)
    assert torch.equal(first, teacher.backbone.knowledge_tokens)
    registered = load_model(next((tmp_path / "run" / "teacher").iterdir())).state_dict()
    kept = {name: tensor for name, tensor in teacher.state_dict().items() if name in registered}
    assert kept.keys() == registered.keys()
    assert all(torch.equal(tensor, registered[name]) for name, tensor in kept.items())
    assert student.card.lineage["token"]["run_id"] == teacher.card.lineage["run_id"]

    ran, reused, wide = job("student.backbone.embed_dim=16", "method.output_weight=0", "second_stage=0")
    assert (ran, reused) == (["stage1", "measure", "register", "report"], ["audit", "token"])
    assert torch.equal(wide.backbone.knowledge_tokens, first)
    assert not hasattr(wide.backbone, "knowledge_adapter")


def test_answers_of_another_version_are_refused(tmp_path: Path) -> None:
    """Those that another run stored are read as they are, or not at all; nobody is asked."""
    crops = CropTerms(dataset="d" * 64, bodies="labelled", input_size=SIZE, conventions=Conventions(), mirrored=False)
    lesson = LessonTerms(teacher="1" * 64, head="whole", points=(0,), feature_size=None)
    terms = AnswerTerms(lesson=lesson, crops=crops, precision="float16")
    answer = CropAnswer(0, False, Answer(np.zeros((1, 16, 8), np.float16), None))
    publish_answers(tmp_path, terms, "code", [write_answers(tmp_path, 0, terms, "code", [answer])])
    settings = TeacherCacheSettings(stored={"people": str(tmp_path)})
    split: Any = SimpleNamespace(entry=SimpleNamespace(name="people"))
    nothing: Any = None

    def folder(wanted: AnswerTerms) -> str:
        return cache_step(nothing, split, ModelFolder(source="nowhere"), wanted, tmp_path / "unused", settings)

    assert folder(terms) == str(tmp_path)
    newer = AnswerTerms(lesson=lesson.model_copy(update={"teacher": "2" * 64}), crops=crops, precision="float16")
    with pytest.raises(ConfigError, match=r"stored with the teacher of SHA-256 1{64}, and this run has 2{64}; let the"):
        folder(newer)
    other = AnswerTerms(lesson=lesson, crops=crops.model_copy(update={"dataset": "e" * 64}), precision="float16")
    with pytest.raises(ConfigError, match=r"stored with the dataset of digest d{64}, and this run has e{64}"):
        folder(other)


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("teacher=models:/large/9", "models:/large/9: "),
        ("student.input_size=[64, 64]", "another shape than the student's 64x64"),
        ("method.teacher_heads={people: hands}", "the teacher has no head 'hands'; it has whole"),
        ("student=vit-nano", "another shape than the student's"),
        ("method.feature_wight=1", "feature_wight"),
        (
            "token={steps: 3}",
            "a plain vision transformer (ViTPose, Sapiens), and the student is a cspnext; leave token",
        ),
        ("cache.stored={dogs: /nowhere}", "cache.stored: 'dogs' is no dataset with a train split: people"),
        ("cache=float8", "cache.precision: Input should be 'float16' or 'float32'"),
        (
            "loading.augment.scale_factor=0.5",
            "loading.augment: a teacher's stored answers are to the crops that boxes cut",
        ),
        ("datasets.0.augment={}", "datasets.people.augment: a teacher's stored answers"),
        (
            "method.teacher_statistics=batch",
            "method.teacher_statistics: with batch, an answer depends on the other crops",
        ),
    ],
)
def test_what_cannot_work_is_refused_before_anything_starts(
    run_file: Path, capsys: pytest.CaptureFixture[str], override: str, sentence: str
) -> None:
    assert main(["--config", str(run_file), "--set", override]) in (1, 2)
    assert sentence in capsys.readouterr().err


def test_the_cache_is_off_unless_wanted(run_file: Path) -> None:
    for off in ("off", "null", "'off'"):
        assert load_config(run_file, DistillationJob, [f"cache={off}", "loading={}"]).cache is None
    wanted = load_config(run_file, DistillationJob, ["cache=float32"]).cache
    assert wanted is not None
    assert wanted.precision == "float32"
    assert DistillationJob.model_fields["cache"].default is None


def test_the_second_stage_is_short_and_at_a_constant_rate(run_file: Path) -> None:
    config = load_config(run_file, DistillationJob, ["training.steps=27000", "second_stage=0.2222222"])
    loop = config.head_training()
    assert loop.steps == 6000
    assert [loop.schedule.factor(step, loop.steps) for step in (1, 3000, 5999)] == [1, 1, 1]
