"""Splits that leave little to find, and questions that a model cannot answer, as commands meet them; by every kind of
head, none of which has learned anything."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from posecore.cli import main
from posecore.config import parse_config
from posecore.datasets.definition import SplitDefinition
from posecore.datasets.discovery import load_dataset, read_split
from posecore.errors import EvaluationError
from posecore.ingest.job import IngestSettings, ingest_job
from posecore.ingest.run import ingest
from posecore.models.architecture import ModelConfig
from posecore.models.pose_model import model_for
from posecore.models.saving import save_model
from posecore.shards.store import ShardStore, open_store
from posecore.workflows.evaluation import evaluate_stores
from posecore.workflows.without_ray import ThisProcess

HEADS: dict[str, dict[str, Any]] = {
    "crops": {"kind": "classic", "channels": 8},
    "bottom-up": {"kind": "associative", "channels": 8, "fine_channels": 8, "fine_blocks": 1},
    "one-stage": {"kind": "queries", "num_queries": 3, "channels": 8, "num_layers": 1, "num_heads": 2, "hidden": 16},
}
PICTURES = {
    "nobody": [(0, 0), (0, 0)],
    "unlabelled": [(1, 0), (2, 0)],
    "one_point": [(1, 1), (2, 1)],
    "many": [(6, 17), (7, 17)],
    "one_subject": [(1, 17)] * 3,
}
"""By split, of each picture how many bodies, and how many points of each are labelled; more bodies than queries."""


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ShardStore]:
    folder = tmp_path_factory.mktemp("hard")
    splits = {name: SplitDefinition(annotations=f"{name}.json", images=name) for name in PICTURES}
    definition = load_dataset("coco").model_copy(update={"splits": splits})
    found = {}
    for name, pictures in PICTURES.items():
        _write(folder, name, pictures, definition.skeleton.names)
        job = ingest_job(definition, name, folder, folder / "shards", IngestSettings())
        ingest(job, read_split(definition, name, folder))
        found[name] = open_store(job.folder)
    return found


def _write(folder: Path, name: str, pictures: list[tuple[int, int]], points: tuple[str, ...]) -> None:
    random = np.random.default_rng(len(name))
    images, annotations = [], []
    (folder / name).mkdir()
    for number, (bodies, labelled) in enumerate(pictures, start=1):
        file = f"{number:012d}.jpg"
        cv2.imwrite(str(folder / name / file), random.integers(0, 256, (48, 64, 3), dtype=np.uint8))
        images.append({"id": number, "file_name": file, "width": 64, "height": 48})
        for _ in range(bodies):
            keypoints = np.zeros((17, 3), int)
            keypoints[:labelled] = np.column_stack([random.integers(2, 46, (labelled, 2)), np.full(labelled, 2)])
            body = {"id": len(annotations) + 1, "image_id": number, "category_id": 1, "bbox": [2, 2, 50, 44]}
            body |= {"area": 900.0, "iscrowd": 0, "keypoints": keypoints.ravel().tolist(), "num_keypoints": labelled}
            annotations.append(body | ({"subject_id": "eve"} if name == "one_subject" else {}))
    categories = [{"id": 1, "name": "person", "keypoints": list(points), "skeleton": []}]
    document = {"images": images, "annotations": annotations, "categories": categories}
    (folder / f"{name}.json").write_text(json.dumps(document))


@pytest.fixture(scope="module", params=HEADS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def model(kind: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(0)
    values = {"backbone": "vit-nano", "head": HEADS[kind], "input_size": [64, 64]}
    built = model_for(parse_config(values, ModelConfig, "model"), {"coco": load_dataset("coco")})
    return str(save_model(built, tmp_path_factory.mktemp(kind) / "model"))


def test_pictures_of_nobody_are_answered(
    model: str, kind: str, stores: dict[str, ShardStore], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures = Path(stores["nobody"].location).parents[2] / "nobody"
    ask = ["predict", str(pictures), "--model", model, "--format", "coco", "--out", str(tmp_path)]
    assert main(ask) == 0
    # Without boxes a model of crops takes every picture for one body.
    assert f"{2 if kind == 'crops' else 0} bodies in 2 images" in capsys.readouterr().out
    assert main([*ask, "--dataset", "mpii"]) == 1
    assert "the model has no head 'mpii'; it has coco (coco17, 17 points)" in capsys.readouterr().err


def test_how_sure_points_and_bodies_must_be_is_asked_of_models_that_can_tell(
    model: str, kind: str, stores: dict[str, ShardStore], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures = Path(stores["nobody"].location).parents[2] / "nobody"
    ask = ["predict", str(pictures), "--model", model, "--format", "coco", "--out", str(tmp_path)]
    for owner, option in (("bottom-up", "--peak-threshold"), ("one-stage", "--least-score")):
        status = main([*ask, option, "0"])
        said = capsys.readouterr()
        if kind != owner:
            assert status == 2
            assert f"{option} is for a {owner} model, which this one is not; leave it out." in said.err
        else:
            assert status == 0
            assert {"bottom-up": "bodies in 2 images", "one-stage": "6 bodies in 2 images"}[kind] in said.out
    assert main([*ask, "--least-score", "2"]) == 2
    assert "least_score" in capsys.readouterr().err
    split = stores["many"].location
    judge = ["evaluate", "--model", model, "--store", f"coco={split}", "--out", str(tmp_path), "--dry-run"]
    option = "--least-score" if kind == "bottom-up" else "--peak-threshold"
    for command in (judge, ["calibrate", model, str(split)]):
        assert main([*command, option, "0.3"]) == 2
        assert f"{option} is for a " in capsys.readouterr().err


def test_what_has_labels_is_judged_and_all_else_refused(
    model: str, stores: dict[str, ShardStore], tmp_path: Path
) -> None:
    places = {split: store.location for split, store in stores.items()}
    for split in ("nobody", "unlabelled"):
        with pytest.raises(EvaluationError, match=f"{split} cannot be judged: no body has a labelled point"):
            evaluate_stores(ThisProcess(), model, {split: places[split]}, out=tmp_path)
    judged = {split: places[split] for split in ("one_point", "many")}
    metrics = evaluate_stores(ThisProcess(), model, judged, out=tmp_path, worst_cases=0).metrics
    assert [metrics[split]["missed_bodies"] <= most for split, most in (("one_point", 3), ("many", 13))] == [True, True]
    assert all(0 <= metrics[split]["AP"] <= 1 for split in judged)


def test_what_a_model_promises_needs_subjects_and_labels(
    model: str, stores: dict[str, ShardStore], capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(split: str) -> str:
        assert main(["calibrate", model, str(stores[split].location)]) == 1
        return capsys.readouterr().err

    assert "all labelled points are of one subject, eve, which says nothing of others" in refused("one_subject")
    assert "2 images are too few to promise 90 % for a new one, which takes 9" in refused("many")
    assert "coco nobody: no point is labelled" in refused("nobody")
    assert "coco unlabelled: no point is labelled" in refused("unlabelled")
