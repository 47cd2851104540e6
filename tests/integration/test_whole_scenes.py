"""The main job with either model of whole pictures, on two skeletons: trained, judged, registered, served, adapted."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
import torch
import yaml

from pipelines.adapt import run as adapt
from pipelines.distill import run as distil
from pipelines.multidataset_train import JobConfig, run
from posecore.cli import main
from posecore.config import load_config, parse_config
from posecore.datasets.definition import SplitDefinition
from posecore.datasets.discovery import load_dataset, read_split
from posecore.errors import ConfigError
from posecore.evaluation.inference import InferenceSettings, evaluate_store
from posecore.ingest.job import IngestSettings, ingest_job
from posecore.ingest.run import ingest
from posecore.lineage.jobs.steps import EVERYTHING
from posecore.loading.loader import Loader, LoadingConfig
from posecore.methods.batch import to_device
from posecore.methods.supervised import SupervisedConfig, SupervisedHeads
from posecore.models.architecture import ModelConfig
from posecore.models.pose_model import PoseModel, model_for
from posecore.models.saving import load_model
from posecore.prediction.predictor import Predictor
from posecore.shards.store import open_store
from posecore.synth.coco_files import CocoFile
from posecore.synth.scene import render_group
from posecore.synth.writers import encode_jpeg, write_dataset
from posecore.workflows.adaptation.job import AdaptationJob
from posecore.workflows.distillation.job import DistillationJob
from posecore.workflows.without_ray import ThisProcess

pytestmark = pytest.mark.slow
NAMES = ("coco", "crowdpose")


HEADS: dict[str, dict[str, Any]] = {
    "associative": {"kind": "associative", "channels": 8, "fine_channels": 8, "fine_blocks": 1},
    "queries": {"kind": "queries", "num_queries": 5, "channels": 8, "num_layers": 1, "num_heads": 2, "hidden": 16},
}


@pytest.fixture(scope="module", params=HEADS)
def kind(request: pytest.FixtureRequest) -> str:
    """Of the head."""
    return str(request.param)


@pytest.fixture(scope="module")
def run_file(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(f"scenes-{kind}")
    for seed, name in enumerate(NAMES):
        write_dataset(name, folder / "data" / name, num_train=4, num_val=2, image_size=(64, 64), seed=seed)  # type: ignore[arg-type]
    values = {
        "name": "scenes",
        "run_folder": str(folder / "run"),
        "data_folder": str(folder / "data"),
        "datasets": [{"name": name, "root": name, "train": "train", "evaluate": "val"} for name in NAMES],
        "model": {
            "backbone": "vit-nano",
            "head": HEADS[kind],
            "input_size": [64, 64],
            "heatmap_sigma": 1.0,
        },
        "training": {"steps": 2, "global_batch": 2, "evaluate_every": 2},
        "inference": {
            "num_threads": 1,
            "grouping": {"peak_threshold": 0.0, "max_bodies": 5},
            "selection": {"least_score": 0.0},
        },
        "worst_cases": 2,
    }
    file = folder / "run.yaml"
    file.write_text(yaml.safe_dump(values))
    return file


def _job(file: Path, *changes: str) -> None:
    run(load_config(file, JobConfig, changes), EVERYTHING, ThisProcess())


@pytest.fixture(scope="module")
def folder(run_file: Path) -> Path:
    """Of the trained model."""
    _job(run_file)
    (found,) = (run_file.parent / "run" / "training").glob("*/*/model")
    return found


@pytest.fixture(scope="module")
def model(folder: Path) -> PoseModel:
    return load_model(folder)


@pytest.mark.usefixtures("folder")
def test_both_sets_are_judged_by_their_own_protocols(run_file: Path) -> None:
    run_folder = run_file.parent / "run"
    for name, points in (("coco", 17), ("crowdpose", 14)):
        (results,) = run_folder.rglob(f"{name}/results.json")
        assert all(len(body["keypoints"]) == 3 * points for body in orjson.loads(results.read_bytes()))
        metrics = orjson.loads((results.parent.parent / "metrics.json").read_bytes())[name]
        assert 0 <= metrics["AP"] <= 1
        by_crowding = {"AP_easy"} if name == "crowdpose" else set()  # none of the two pictures is crowded
        assert metrics.keys() >= by_crowding | {"missed_bodies", "redundant_bodies", "swapped_bodies"}
    assert (run_folder / "mlflow.db").exists()


def test_the_command_predicts_without_boxes_and_refuses_them(
    run_file: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures = run_file.parent / "data" / "coco" / "val2017"
    arguments = ["predict", str(pictures), "--model", str(folder), "--out", str(tmp_path / "out")]
    assert main(arguments) == 0
    assert re.search(r"bodies in 2 images by coco \(17 points\)", capsys.readouterr().out)
    boxes = tmp_path / "boxes.csv"
    boxes.write_text("image,x,y,w,h\n" + "".join(f"{path.name},0,0,50,50\n" for path in pictures.iterdir()))
    assert main([*arguments, "--boxes", str(boxes)]) != 0
    assert "leave boxes and detector out" in capsys.readouterr().err


def test_a_model_is_served_by_every_head(model: PoseModel) -> None:
    found = Predictor(model).predict_heads([np.zeros((50, 70, 3), np.uint8)])
    assert set(found[0]) == set(NAMES)
    assert found[0]["crowdpose"].keypoints.shape[1:] == (14, 2)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("method=prototypes", "prototypes know of one body"),
        ("loading.augment.blanket_probability=0.5", "a blanket lies on one body"),
        ("label_check={}", "label_check: it looks at crops of single bodies"),
        (
            "datasets.1.changes={evaluation: {protocol: oks_per_category}}",
            "protocol oks_per_category judges each class by itself",
        ),
        ("datasets.1.changes={evaluation: {protocol: pck}}", "protocol pck wants one answer to every annotated body"),
    ],
)
def test_what_does_not_go_with_whole_pictures_is_refused_at_once(run_file: Path, change: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        _job(run_file, change)


def test_scenes_of_a_head_of_crops_are_refused(run_file: Path) -> None:
    with pytest.raises(ConfigError, match=r"loading.scenes: the model's head reads crops"):
        _job(run_file, "model.head=classic", "loading.scenes={}")


ZERO_AT_FIRST = {
    "associative": ("final_layer.bias", "tag_layer.bias", "fine_layer.bias"),
    "queries": ("point_places", "boxes.0.2.weight", "moves.0.2.weight", "factors.0.weight"),
}


def test_training_changed_the_weights_of_both_heads(model: PoseModel, kind: str) -> None:
    for name in NAMES:
        head = model.heads[name].state_dict()
        assert all(head[weight].abs().sum() > 0 for weight in ZERO_AT_FIRST[kind])


@pytest.mark.usefixtures("folder")
def test_two_versions_are_compared_by_their_precision(
    run_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    page, place = tmp_path / "page.html", str(run_file.parent / "run")
    asked = ["compare", "models:/scenes/1", "models:/scenes/1", "--folder", place, "--out", str(page), "--no-flip-test"]
    assert main(asked) == 0
    said = capsys.readouterr().out
    assert "coco: AP  " in said
    assert "crowdpose: AP  " in said
    assert "mean error" not in said
    assert "bodies, found in whole pictures, split" in page.read_text()


def test_a_child_learns_another_skeleton_of_whole_pictures_by_lora(folder: Path, tmp_path: Path) -> None:
    write_dataset("syrip", tmp_path / "syrip", 4, 2, (64, 64), 3)
    values = {
        "name": "child",
        "run_folder": str(tmp_path / "run"),
        "data_folder": str(tmp_path),
        "parent": str(folder),
        "target": "syrip",
        "datasets": [{"name": "syrip", "root": "syrip", "train": "train", "evaluate": "val"}],
        "method": {"strategy": "lora"},
        "training": {"steps": 2, "global_batch": 2},
        "inference": {"num_threads": 1},
    }
    file = tmp_path / "adapt.yaml"
    file.write_text(yaml.safe_dump(values))
    assert adapt(load_config(file, AdaptationJob), EVERYTHING, ThisProcess()) == "models:/child/1"
    (child,) = (tmp_path / "run" / "training").glob("*/*/model")
    assert load_model(child).config.whole_scenes
    assert set(load_model(child).heads) == {"coco", "crowdpose", "syrip"}


def test_a_smaller_one_learns_from_it_without_labels(kind: str, run_file: Path, folder: Path, tmp_path: Path) -> None:
    values = yaml.safe_load(run_file.read_text())
    student = values.pop("model") | {"input_size": [32, 32]}
    student["head"] |= {"associative": {"channels": 4}, "queries": {"num_queries": 4}}[kind]
    file = tmp_path / "distil.yaml"
    values |= {
        "name": "student",
        "run_folder": str(tmp_path / "run"),
        "teacher": str(folder),
        "student": student,
        "method": {"feature_weight": 0.001, "labels": False},
        "training": {"steps": 2, "global_batch": 2},
        "second_stage": 0.5,
    }
    values.pop("worst_cases")
    file.write_text(yaml.safe_dump(values))
    assert distil(load_config(file, DistillationJob), EVERYTHING, ThisProcess()) == "models:/student/1"
    with pytest.raises(ConfigError, match=f"cache: answers are stored for crops, and the student's {kind} head"):
        load_config(file, DistillationJob, ["cache=float16"])
    with pytest.raises(ConfigError, match="the teacher finds bodies in whole pictures and the student reads crops"):
        distil(load_config(file, DistillationJob, ["student.head=classic"]), EVERYTHING, ThisProcess())


LEARNED: dict[str, dict[str, Any]] = {
    "associative": {"head": HEADS["associative"] | {"channels": 16}, "method": {}, "steps": 150, "lr": 3e-3, "AP": 0.3},
    "queries": {
        "head": {"kind": "queries", "num_queries": 8, "channels": 64, "num_layers": 2, "num_heads": 4, "hidden": 128},
        "method": {"loss": {"kind": "set_prediction", "denoising": {"groups": 0}}},
        "steps": 240,
        "lr": 2e-3,
        "AP": 0.5,
    },
}


def test_bodies_that_hide_each_other_are_learned_by_heart(kind: str, tmp_path: Path) -> None:
    """Four rendered pictures of one to three bodies, judged by COCO's protocol without boxes."""
    (tmp_path / "data" / "train").mkdir(parents=True)
    document = CocoFile("rendered", "")
    for number, count in enumerate((1, 2, 3, 1)):
        scene = render_group(3, number, count, (64, 64))
        (tmp_path / "data" / "train" / f"{number}.jpg").write_bytes(encode_jpeg(scene))
        document.add(number + 1, f"{number}.jpg", scene)
    (tmp_path / "data" / "train.json").write_bytes(orjson.dumps(document.document()))
    splits = {"train": SplitDefinition(annotations="train.json", images="train")}
    definition = load_dataset("coco").model_copy(update={"splits": splits})
    job = ingest_job(definition, "train", tmp_path / "data", tmp_path / "shards", IngestSettings())
    ingest(job, read_split(definition, "train", tmp_path / "data"))
    store = open_store(job.folder)

    values = {
        "backbone": {"preset": "vit-nano", "patch_size": 8, "patch_padding": 0},
        "head": LEARNED[kind]["head"],
        "input_size": [64, 64],
        "heatmap_sigma": 1.5,
    }
    torch.manual_seed(0)
    config = parse_config(LEARNED[kind]["method"], SupervisedConfig, "method")
    method = SupervisedHeads(
        model_for(parse_config(values, ModelConfig, "model"), {"coco": definition}), config
    ).train()
    still = {"fit": "long", "least_zoom": 1, "most_zoom": 1, "rotation_degrees": 0, "shift": 0, "flip_probability": 0}
    loading = {"mixture": {"entries": [{"name": "coco"}]}, "scenes": still, "num_threads": 1}
    optimizer = torch.optim.AdamW(method.parameters(), lr=LEARNED[kind]["lr"], weight_decay=0.0)
    loader = Loader(
        {"coco": store},
        parse_config(loading, LoadingConfig, "loading"),
        input_size=(64, 64),
        seed=0,
        global_batch=4,
    )
    for _, batch in zip(range(LEARNED[kind]["steps"]), loader, strict=False):
        optimizer.zero_grad()
        sum(method(to_device(batch, torch.device("cpu"))).values()).backward()
        torch.nn.utils.clip_grad_norm_(method.parameters(), 5.0)
        optimizer.step()
    metrics = evaluate_store(method.model, store, InferenceSettings(num_threads=1, flip_test=False))
    assert metrics["AP50"] > 0.7
    assert metrics["AP"] > LEARNED[kind]["AP"]
