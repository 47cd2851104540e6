"""Evaluation by Ray actors gives the numbers of one process, and files a person and an official script can read."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml

from pipelines.evaluate import main
from posecore.cluster.machines import RayMachines
from posecore.conventions import Conventions
from posecore.datasets.definition import EvaluationDefinition
from posecore.errors import CheckpointError, EvaluationError
from posecore.evaluation.arrays import GroundTruth
from posecore.evaluation.clinical import ClinicalSettings
from posecore.evaluation.inference import InferenceSettings, PredictionTask, evaluate_store, predict_store
from posecore.evaluation.results import read_results
from posecore.models.architecture import ModelConfig
from posecore.models.heads.classic import ClassicHeadConfig
from posecore.models.heads.embedding import EmbeddingConfig
from posecore.models.pose_model import build_model
from posecore.models.saving import load_model, read_card, save_model
from posecore.models.weights.read import read_weights
from posecore.shards.store import open_store
from posecore.storage import sha256_of
from posecore.workflows.evaluation import _Clinic, evaluate_stores
from posecore.workflows.machines import ActorSettings
from posecore.workflows.without_ray import ThisProcess
from tests.support.dot_worlds import HANDS, hands_definition, hands_store
from tests.support.onnx_files import halves
from tests.support.scene_worlds import SceneBlobModel
from tests.support.tiny_store import instance, record, write_store

SETTINGS = InferenceSettings(batch_size=4)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluate")
    conventions = Conventions()
    stores = {
        "near": hands_store(folder / "near", hands_definition(), num_images=7).location,
        "pixels": hands_store(
            folder / "pixels", hands_definition(EvaluationDefinition(protocol="pixel")), num_images=3
        ).location,
    }
    torch.manual_seed(0)
    config = ModelConfig(backbone="vit-nano", head=ClassicHeadConfig(channels=8), input_size=(128, 96))
    return folder, stores, save_model(build_model(config, {"hands": HANDS}, {"hands": conventions}), folder / "model")


@pytest.mark.ray
def test_actors_give_the_numbers_of_one_process(local_ray, world, tmp_path):
    _, stores, model_folder = world
    result = evaluate_stores(
        RayMachines(), model_folder, stores, SETTINGS, out=tmp_path, worst_cases=2, actors=ActorSettings(actors=2)
    )
    model = load_model(model_folder)
    for name, location in stores.items():
        store = open_store(location)
        figures, found = evaluate_store(model, store, SETTINGS), result.metrics[name]
        assert found.items() >= figures.items()
        added = {"missed_bodies", "redundant_bodies", "swapped_bodies"} if name == "near" else set()
        assert found.keys() - figures.keys() == added, "bodies are counted where the protocol has an OKS"
        expected = predict_store(model, store, SETTINGS)
        written = read_results(tmp_path / name / "results.json", expected.image_ids, 2)
        np.testing.assert_array_equal(written.keypoints, expected.keypoints)
        np.testing.assert_array_equal(written.scores, expected.scores)
    assert json.loads((tmp_path / "metrics.json").read_text()) == result.metrics
    page = result.report.read_text()
    assert page.count("<figure>") == 2 * (2 + 6), "of each set the two worst, and six pictures beside their labels"
    assert "near" in page
    assert not result.clinical, "hands have no torso"


def _task(store):
    return PredictionTask(store=store, head="babies", settings=SETTINGS)


def test_infants_with_names_are_judged_for_clinics_without_being_asked(world, tmp_path):
    folder, _, _ = world
    box = (20.0, 10.0, 90.0, 100.0)
    records = [
        record("babies", row, [instance(str(row), 17, box, subject_id=f"s{row % 3}", extras={"posture": "Prone"})])
        for row in range(6)
    ]
    store = write_store(folder / "babies", "babies", (), records=records)
    coco = store.manifest.definition.skeleton
    config = ModelConfig(backbone="vit-nano", head=ClassicHeadConfig(channels=8), input_size=(128, 96))
    model = save_model(build_model(config, {"babies": coco}, {"babies": Conventions()}), folder / "baby_model")
    stores = {"babies": store.location}
    result = evaluate_stores(ThisProcess(), model, stores, SETTINGS, out=tmp_path, worst_cases=0)
    written = json.loads((tmp_path / "babies" / "clinical.json").read_text())
    clinical = result.clinical["babies"]
    assert written["whole"]["error"]["value"] == clinical.whole.error.value
    assert result.metrics["babies"]["torso/error"] == clinical.whole.error.value
    assert json.loads((tmp_path / "metrics.json").read_text()) == result.metrics
    assert result.clinical_files == {"babies": tmp_path / "babies" / "clinical.json"}
    assert written["units"] == {"subject": 3}
    assert written["not_recorded"] == ["view"]
    assert [group["name"] for group in written["by"]["posture"]] == ["Prone"]
    assert written["by"]["subject"][0]["error"]["low"] is None
    assert "For clinics" in result.report.read_text()
    truth = GroundTruth.from_store(store)
    answers = predict_store(load_model(model), store, SETTINGS)
    assert _Clinic(None, ClinicalSettings()).judge(_task(store), truth, answers) is not None
    assert _Clinic(False, ClinicalSettings()).judge(_task(store), truth, answers) is None

    bodies = [record("babies", row, [instance(str(row), 17, box)]) for row in range(6)]
    filmed = [replace(body, video_id=f"film{row % 2}") for row, body in enumerate(bodies)]
    nameless = write_store(folder / "nameless", "babies", (), records=bodies)
    assert _Clinic(None, ClinicalSettings()).judge(_task(nameless), truth, answers) is None
    films = write_store(folder / "filmed", "babies", (), records=filmed)
    clinical = _Clinic(None, ClinicalSettings()).judge(_task(films), truth, answers)
    assert clinical is not None
    assert clinical.units == {"video": 2}


def test_what_clinics_cannot_have_is_refused_before_anything_is_predicted(world, tmp_path, capsys):
    _, stores, model_folder = world
    command = ["--model", model_folder, "--store", f"near={stores['near']}", "--out", tmp_path, "--worst-cases", "0"]
    assert main([*map(str, command), "--clinic"]) == 1
    assert "error: skeleton hands2 has no shoulders and hips" in capsys.readouterr().err


def test_detected_boxes_come_from_a_file(world, tmp_path):
    _, stores, model_folder = world
    path = tmp_path / "boxes.json"
    path.write_text(json.dumps([{"image_id": 2, "category_id": 1, "bbox": [30, 40, 100, 120], "score": 0.8}]))
    evaluate_stores(ThisProcess(), model_folder, {"near": stores["near"]}, SETTINGS, out=tmp_path, boxes={"near": path})
    results = json.loads((tmp_path / "near" / "results.json").read_text())
    assert [item["image_id"] for item in results] == [2]


@pytest.mark.ray
def test_errors_come_back_as_one_sentence(local_ray, world, tmp_path, capsys):
    _, stores, model_folder = world
    near = {"near": stores["near"]}
    with pytest.raises(EvaluationError, match="the model has no head 'coco'; it has hands"):
        evaluate_stores(RayMachines(), model_folder, near, SETTINGS, out=tmp_path, heads={"near": "coco"})
    with pytest.raises(CheckpointError, match="holds no whole model"):
        evaluate_stores(RayMachines(), tmp_path, near, SETTINGS, out=tmp_path)
    capsys.readouterr()
    assert main(["--model", str(model_folder), "--store", "near", "--out", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("error: --store near: expected NAME=VALUE")


def test_a_dry_run_says_which_head_would_answer_and_touches_nothing(world, tmp_path, capsys):
    _, stores, model_folder = world
    command = ["--model", str(model_folder), "--store", f"near={stores['near']}", "--out", str(tmp_path / "out")]
    assert main([*command, "--dry-run"]) == 0
    assert f"crops of {stores['near']} by head hands, judged as " in capsys.readouterr().out
    assert main([*command, "--head", "near=hnads", "--dry-run"]) == 1
    assert "the model has no head 'hnads'; it has hands" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.ray
def test_the_command_compares_with_a_parent(local_ray, world, tmp_path, capsys):
    _, stores, model_folder = world
    command = ["--model", model_folder, "--parent", model_folder, "--store", f"near={stores['near']}"]
    assert main([*map(str, command), "--out", str(tmp_path), "--batch-size", "4", "--worst-cases", "0"]) == 0
    printed = capsys.readouterr().out
    assert "| near | AP |" in printed
    assert "+0.0000 |" in printed


def test_how_pictures_are_read_is_refused_of_a_parent_before_the_model_is_judged(this_process, world, tmp_path, capsys):
    _, stores, crops = world
    scenes = save_model(SceneBlobModel(), tmp_path / "scenes")
    command = ["--model", scenes, "--parent", crops, "--store", f"near={stores['near']}", "--out", tmp_path / "out"]
    assert main([*map(str, command), "--peak-threshold", "0.3"]) == 2
    assert "--peak-threshold is for a bottom-up model, which this one is not" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_onnx_file_is_judged_as_any_model(this_process, world, tmp_path, capsys):
    _, stores, _ = world
    file = halves(tmp_path / "model.onnx", (128, 96))
    command = ["--model", str(file), "--store", f"near={stores['near']}", "--out", str(tmp_path / "out")]
    assert main(command) == 1
    assert "a head of 2 points, which is no published one; state its skeleton with --heads" in capsys.readouterr().err
    (tmp_path / "hands.yaml").write_text(yaml.safe_dump(HANDS.model_dump(mode="json")))
    assert main([*command, "--heads", f"hands={tmp_path / 'hands.yaml'}"]) == 0
    judged = json.loads((tmp_path / "out" / "metrics.json").read_text())["near"]
    store = open_store(stores["near"])
    expected = evaluate_store(read_weights(file, skeletons={"hands": HANDS}), store, InferenceSettings())
    assert judged.items() >= expected.items()
    (copy,) = (tmp_path / "out" / "models").iterdir()
    assert read_card(copy).lineage["weights"]["sha256"] == sha256_of(file)


def test_a_split_is_judged_by_prototypes_if_asked(this_process, world, tmp_path, capsys):
    _, stores, plain = world
    torch.manual_seed(0)
    card = load_model(plain).card
    config = card.architecture.model_copy(update={"embedding": EmbeddingConfig(dim=8, channels=8)})
    model = build_model(config, card.skeletons, card.conventions).eval()
    folder = save_model(model, tmp_path / "model")
    command = ["--store", f"near={stores['near']}", "--out", str(tmp_path / "out"), "--path", "average", "--model"]
    assert main([*command, str(folder)]) == 0
    judged = json.loads((tmp_path / "out" / "metrics.json").read_text())["near"]
    expected = evaluate_store(model, open_store(stores["near"]), InferenceSettings(path="average"))
    assert judged.items() >= expected.items()
    capsys.readouterr()
    assert main([*command, str(plain)]) == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: the model has no prototypes, which path average")
