"""A registered model is whole: it loads, it serves over HTTP, and lineage leads from it to images and back."""

import base64
import hashlib
import json
import logging
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
import venv
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
from mlflow.exceptions import MlflowException
from packaging.utils import canonicalize_name
from safetensors.torch import load_file, save_file

from posecore.cli import main as posecore_command
from posecore.datasets.definition import DatasetDefinition, LicenseDefinition, SplitDefinition
from posecore.errors import CheckpointError, IntegrityError, LineageError, QuestionError
from posecore.ingest.job import IngestSettings, ingest_job
from posecore.ingest.run import ingest
from posecore.lineage.ancestry.pictures import Editions, find_picture, find_subject, models_that_saw
from posecore.lineage.ancestry.query import Answer, LineageGraph
from posecore.lineage.ancestry.questions import of_license
from posecore.lineage.ancestry.records import Records, VersionRecord
from posecore.lineage.descriptions import describe_answer, describe_model
from posecore.lineage.registry.registration import SERVED_PACKAGES, default_store, register_model, requirements
from posecore.lineage.store.tracking import Tracking, TrackingConfig, connect
from posecore.lineage.versions.dataset_inputs import DatasetUse
from posecore.lineage.versions.model_source import registered_model
from posecore.lineage.versions.tags import EvaluationResult, RegisteredVersion, get_version
from posecore.models.architecture import ModelConfig
from posecore.models.backbones.vit import VitConfig
from posecore.models.heads.classic import ClassicHeadConfig
from posecore.models.pose_model import build_model
from posecore.models.saving import CARD_FILE, WEIGHTS_FILE, load_model, read_card, save_model
from posecore.models.weights.initial import SourceConfig
from posecore.prediction.predictor import Predictor, PredictorSettings
from posecore.schema import Instance, Record
from posecore.shards.digests import known_digests
from posecore.skeletons.library import load_skeleton
from tests.support.dot_worlds import HANDS, hands_definition, hands_store
from tests.support.ports import free_port

SUBJECT = "infant-7"


def png(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (40, 60, 3), np.uint8)
    return bytes(cv2.imencode(".png", pixels)[1])


def record(number: int, subject: str) -> Record:
    instance = Instance(
        id=str(number),
        bbox_xywh=(5, 5, 30, 30),
        keypoints=np.array([[10, 10, 2]] * 17, np.float32),
        area=900.0,
        area_rule="box",
        subject_id=subject,
    )
    return Record(
        dataset="clinic",
        split="train",
        source_id=str(number),
        image=f"{number}.png",
        width=60,
        height=40,
        instances=[instance],
    )


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> DatasetUse:
    """An ingested split of two images, of two subjects."""
    root = tmp_path_factory.mktemp("clinic")
    for number in range(2):
        (root / f"{number}.png").write_bytes(png(number))
    definition = DatasetDefinition(
        name="clinic",
        title="Clinic",
        reader="posecore.formats.coco:CocoReader",
        skeleton=load_skeleton("coco17"),
        license=LicenseDefinition(id="consent-2024", commercial_use=False),
        splits={"train": SplitDefinition(annotations="none.json")},
    )
    job = ingest_job(definition, "train", root, root / "out", IngestSettings())
    manifest = ingest(job, [record(0, SUBJECT), record(1, "infant-8")])
    return DatasetUse(
        name="clinic",
        split="train",
        digest=manifest.digest,
        role="training",
        location=str(job.folder),
        license=definition.license.id,
        commercial_use=False,
    )


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(0, tmp_path_factory.mktemp("model"))


def saved(seed: int, folder: Path, lineage: dict[str, Any] | None = None) -> Path:
    """A model of its own: equal weights are one model to lineage."""
    torch.manual_seed(seed)
    backbone = VitConfig(embed_dim=16, depth=1, num_heads=2)
    config = ModelConfig(backbone=backbone, head=ClassicHeadConfig(channels=8), input_size=(64, 48))
    model = build_model(config, {"coco": load_skeleton("coco17"), "mpii": load_skeleton("mpii16")})
    model.card = model.card.model_copy(update={"lineage": lineage or {}})
    return Path(str(save_model(model, folder)))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Tracking:
    """A store of its own: an answer from one that others write to may be incomplete."""
    folder = tmp_path_factory.mktemp("registered")
    return connect(TrackingConfig(uri=f"sqlite:///{folder}/mlflow.db", experiment="registered"), folder)


@pytest.fixture(scope="module")
def parent(store: Tracking, split: DatasetUse, model_folder: Path) -> RegisteredVersion:
    result = EvaluationResult(name="coco", digest="e" * 64, metrics={"AP": 0.5, "AP (M)": float("nan")})
    return register_model(store.start_run("train", {}), "adults", model_folder, [split], [result], summary="A test.")


@pytest.fixture(scope="module")
def child(
    store: Tracking, split: DatasetUse, tmp_path_factory: pytest.TempPathFactory, parent: RegisteredVersion
) -> RegisteredVersion:
    """Fine-tuned on other data; has seen the parent's only through it."""
    other = split.model_copy(
        update={
            "name": "free",
            "digest": "b" * 64,
            "location": "/nowhere/free",
            "license": "CC0",
            "commercial_use": True,
        }
    )
    folder = saved(1, tmp_path_factory.mktemp("child"))
    return register_model(store.start_run("adapt", {}), "infants", folder, [other], [], parent=parent)


@pytest.fixture(scope="module")
def loaded(store: Tracking, parent: RegisteredVersion) -> Any:
    with default_store(store.uri):
        return mlflow.pyfunc.load_model(parent.uri)


def test_a_version_carries_its_lineage(
    store: Tracking, parent: RegisteredVersion, child: RegisteredVersion, split: DatasetUse
) -> None:
    tags = get_version(store, "adults", parent.version).tags
    assert DatasetUse.model_validate_json(tags["dataset.training.clinic/train"]) == split
    assert tags["license"] == "consent-2024"
    assert len(tags["code"]) == 64
    run = store.client.get_run(tags["run_id"])
    assert [output.model_id for output in run.outputs.model_outputs] == [
        get_version(store, "adults", parent.version).source.rsplit("/", 1)[-1]
    ]
    child_tags = get_version(store, "infants", child.version).tags
    assert child_tags["parent"] == parent.uri
    child_run = store.client.get_run(child_tags["run_id"])
    assert [entry.model_id for entry in child_run.inputs.model_inputs] == [run.outputs.model_outputs[0].model_id]


def test_registering_leaves_the_process_as_it_was(
    store: Tracking,
    split: DatasetUse,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(logging.getLogger("mlflow"), "propagate", True)
    mlflow.set_tracking_uri(None)
    other = split.model_copy(update={"name": "other", "digest": "c" * 64})
    register_model(store.start_run("train", {}), "quiet", saved(2, tmp_path), [other], [])
    assert "MLFLOW_TRACKING_URI" not in os.environ, "later jobs of this process would record in another store"
    assert not mlflow.is_tracking_uri_set()
    assert caplog.messages == [], "nobody asked for a line on how it is done"


def test_the_model_card_names_heads_data_and_figures(store: Tracking, parent: RegisteredVersion) -> None:
    card = get_version(store, parent.name, parent.version).description
    assert "| mpii | mpii16 | 16 |" in card
    assert "| clinic/train | training | consent-2024 | `" in card
    assert (
        "| commercial | forbidden | clinic/train (consent-2024) forbids it: as the dataset's definition states |"
        in card
    )
    assert "| research | not stated | clinic/train (consent-2024) does not say that it allows it: " in card
    assert "| coco | AP | 0.5000 |" in card


def test_a_model_without_data_or_parent_is_not_registered(store: Tracking, model_folder: Path) -> None:
    with pytest.raises(LineageError, match="lineage would be empty"):
        register_model(store.start_run("train", {}), "orphan", model_folder, [], [])
    assert store.client.search_registered_models("name = 'orphan'") == []


def test_a_model_that_is_not_finite_is_not_registered(
    store: Tracking, split: DatasetUse, model_folder: Path, tmp_path: Path
) -> None:
    name = "heads.mpii.final_layer.bias"
    tensors = load_file(model_folder / WEIGHTS_FILE)
    tensors[name][2] = float("nan")
    save_file(tensors, tmp_path / WEIGHTS_FILE)
    digest = hashlib.sha256((tmp_path / WEIGHTS_FILE).read_bytes()).hexdigest()
    card = json.loads((model_folder / CARD_FILE).read_text()) | {"weights_sha256": digest}
    (tmp_path / CARD_FILE).write_text(json.dumps(card))
    with pytest.raises(CheckpointError, match=rf"NaN or infinity in {name}; "):
        register_model(store.start_run("train", {}), "broken", tmp_path, [split], [])
    assert store.client.search_registered_models("name = 'broken'") == []


def test_the_loaded_model_predicts_what_the_library_predicts(loaded: Any, model_folder: Path) -> None:
    image = png(5)
    model = load_model(model_folder)
    whole = loaded.predict(pd.DataFrame({"image": [image]}))
    (expected,) = Predictor(model).predict([image], dataset="coco")
    keypoints = whole["keypoints"][0]
    assert [point["name"] for point in keypoints] == list(load_skeleton("coco17").names)
    np.testing.assert_allclose(
        [[point["x"], point["y"]] for point in keypoints], expected.keypoints[0], rtol=0, atol=1e-9
    )
    assert [point["score"] for point in keypoints] == pytest.approx(expected.keypoint_scores[0].tolist())
    assert whole["score"][0] == pytest.approx(expected.scores[0])

    boxed = loaded.predict(
        pd.DataFrame(
            {"image": [image, image], "x": [10.0, np.nan], "y": [5.0, np.nan], "w": [20.0, np.nan], "h": [30.0, np.nan]}
        ),
        params={"dataset": "mpii", "flip_test": True},
    )
    mirrored = Predictor(model, PredictorSettings(flip_test=True))
    answers = mirrored.predict([image, image], [[(10, 5, 20, 30)], None], "mpii")
    expected = [answer.keypoints[0] for answer in answers]
    found = [[[point["x"], point["y"]] for point in row] for row in boxed["keypoints"]]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)


BAD_ROWS: list[tuple[dict[str, Any], str]] = [
    ({"image": b"no image"}, "row 1: neither a JPEG nor a PNG"),
    ({"image": b""}, "row 1: image is empty"),
    ({"image": png(1)[:200]}, "row 1: the file ends before its PNG end mark"),
    ({"image": png(1), "x": 1.0, "y": 1.0, "h": 1.0}, "row 1: a box needs all of x, y, w, h"),
    ({"image": png(1), "x": 1.0, "y": 1.0, "w": 0.0, "h": 1.0}, "row 1: box 0 (1, 1, 0, 1) has no width"),
    ({"image": png(1), "x": -2e11, "y": 0.0, "w": 4e11, "h": 9.0}, "more than 10 times the image's longer side"),
]


@pytest.mark.parametrize(("row", "problem"), BAD_ROWS)
def test_a_bad_picture_is_explained_beside_the_good_ones(loaded: Any, row: dict[str, Any], problem: str) -> None:
    good = {"image": png(5), "x": np.nan, "y": np.nan, "w": np.nan, "h": np.nan}
    answers = loaded.predict(pd.DataFrame([good, good | row, good]))
    assert answers["error"][0] is None
    assert problem in answers["error"][1]
    assert (answers["keypoints"][1], answers["score"][1]) == ([], None)
    assert answers["keypoints"][2] == answers["keypoints"][0]
    assert len(answers["keypoints"][0]) == 17
    assert answers["score"][2] == answers["score"][0]
    assert answers["score"][0] is not None


def test_the_name_of_a_file_is_never_opened(loaded: Any, tmp_path: Path) -> None:
    photo = tmp_path / "photo.png"
    photo.write_bytes(png(5))
    for name in (str(photo), np.str_(photo), photo):
        (answer,) = loaded.predict(pd.DataFrame({"image": [name]})).to_dict("records")
        assert answer["keypoints"] == []
        assert "it must be the bytes of a JPEG or PNG file" in answer["error"]


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"path": "prototypes"}, "the model has no prototypes, which path prototypes needs"),
        ({"path": "proto"}, "params: path: Input should be 'regression', 'prototypes' or 'average'"),
        ({"dataset": "cats"}, "no head 'cats'; it has coco \\(coco17, 17 points\\), mpii"),
    ],
)
def test_bad_parameters_are_explained(loaded: Any, params: dict[str, Any], message: str) -> None:
    with pytest.raises(MlflowException, match=message):
        loaded.predict(pd.DataFrame({"image": [png(1)]}), params=params)


def test_lineage_is_asked_forwards_and_backwards(
    store: Tracking, parent: RegisteredVersion, child: RegisteredVersion, split: DatasetUse
) -> None:
    graph = LineageGraph.load(store)
    assert graph.ancestry(child) == [graph.weights_node(child), graph.weights_node(parent)]
    assert {use.label for use in graph.training_data(child)} == {"free/train", "clinic/train"}
    for question in ("clinic", "clinic/train", split.digest, split.digest[:10].upper()):
        assert models(graph, graph.of_dataset(question)) == {"adults version 1", "infants version 1"}
    for misspelt in ("clin", "clinic/val", "0" * 64):
        with pytest.raises(QuestionError, match="no dataset or digest of this name is recorded"):
            graph.of_dataset(misspelt)


def models(graph: LineageGraph, answer: Answer) -> set[str]:
    """Names of the models in an answer, those of other tests left out."""
    return {name for name in (graph.name(seen.model) for seen in answer.sightings) if not name.startswith("other")}


def test_a_record_of_weights_that_is_none_is_not_registered(
    store: Tracking, split: DatasetUse, model_folder: Path, tmp_path: Path
) -> None:
    model = load_model(model_folder)
    for record in ("sapiens", {"license": "MIT"}, {"license": "MIT", "sha256": 3, "source": "x", "layout": "y"}):
        model.card = model.card.model_copy(update={"lineage": {"weights": record}})
        folder = Path(str(save_model(model, tmp_path / "model")))
        with pytest.raises(CheckpointError, match=r"model.json: its record of the weights it started from is none"):
            register_model(store.start_run("train", {}), "unclear", folder, [split], [])
    assert store.client.search_registered_models("name = 'unclear'") == []


def test_a_damaged_version_is_named_by_its_uri_and_its_record_cannot_lead_out(
    store: Tracking, split: DatasetUse, model_folder: Path, tmp_path: Path
) -> None:
    other = split.model_copy(update={"name": "damaged", "digest": "d" * 64, "location": "/nowhere/damaged"})
    version = register_model(store.start_run("train", {}), "damaged", saved(3, tmp_path), [other], [])
    logged = get_version(store, "damaged", version.version).source.rsplit("/", 1)[-1]
    files = Path(store.client.get_logged_model(logged).artifact_location.removeprefix("file://"))
    (card,) = files.rglob(CARD_FILE)
    card.write_text("{")
    with (
        pytest.raises(IntegrityError, match=f"^{version.uri}/{CARD_FILE} is not readable as JSON"),
        registered_model(version.uri, store) as folder,
    ):
        load_model(folder)
    described = (files / "MLmodel").read_text()
    for path in ("../../outside", str(model_folder)):
        (files / "MLmodel").write_text(described.replace(f"path: {card.parent.relative_to(files)}", f"path: {path}"))
        with (
            pytest.raises(LineageError, match="outside its own files; do not use it"),
            registered_model(version.uri, store),
        ):
            pass
    (files / "MLmodel").write_text("flavors: {}")
    with pytest.raises(LineageError, match="cannot be read"), registered_model(version.uri, store):
        pass


def test_terms_of_published_weights_bind_what_was_made_from_them(
    store: Tracking, split: DatasetUse, tmp_path: Path
) -> None:
    record: dict[str, Any] = {"layout": "sapiens", "preset": "sapiens-1b", "license": "CC-BY-NC-4.0"}
    record |= {
        "source": "noahcao/sapiens-pose-coco",
        "revision": "abc",
        "sha256": "f" * 64,
        "dropped": {"cls_token": "x"},
    }
    folder = saved(4, tmp_path / "model", {"weights": record})
    free = split.model_copy(
        update={"name": "free", "digest": "1" * 64, "location": "", "commercial_use": True, "license": "MIT"}
    )
    started = register_model(store.start_run("train", {}), "started", folder, [free], [])
    again = saved(5, tmp_path / "tuned")
    tuned = register_model(store.start_run("adapt", {}), "started", again, [free], [], parent=started)
    version = get_version(store, "started", started.version)
    assert version.tags["license"] == "CC-BY-NC-4.0, MIT"
    assert version.tags["commercial_use"] == "forbidden"
    assert "Creative Commons Attribution-NonCommercial" in version.description
    graph = LineageGraph.load(store)
    answer = graph.of_weights("ffffffff")
    assert models(graph, answer) == {"started version 1", "started version 2"}
    via = "came from noahcao/sapiens-pose-coco ffffffffffff through started version 1"
    assert f"started version {tuned.version}: {via}" in describe_answer(graph, answer)
    assert "on trust: what noahcao/sapiens-pose-coco was trained on is known to its publisher" in describe_answer(
        graph, answer
    )
    lines, complete = describe_model(graph, tuned)
    assert any("(CC-BY-NC-4.0) forbids it" in line for line in lines)
    assert complete
    editions = Editions.of(graph)
    for asked in ("commercial", "CC-BY-NC-4.0"):
        assert "started version 2" in models(graph, of_license(graph, editions, asked))
    with pytest.raises(QuestionError, match=r"nothing recorded is under this licence; there is CC-BY-NC-4\.0"):
        of_license(graph, editions, "CC-BY-NC-3.0")


def test_a_folder_a_file_and_the_registry_are_the_same_parent(
    store: Tracking, parent: RegisteredVersion, split: DatasetUse, model_folder: Path, tmp_path: Path
) -> None:
    """By hash: a child of the folder has seen what the version made from that folder has."""
    record = SourceConfig(source=str(model_folder)).provenance(load_model(model_folder).card)
    free = split.model_copy(update={"name": "free", "digest": "1" * 64, "location": ""})
    folder = saved(6, tmp_path / "child", {"weights": dict(record)})
    child = register_model(store.start_run("train", {}), "of-folder", folder, [free], [])
    graph = LineageGraph.load(store)
    assert graph.weights_node(parent) in graph.ancestry(child)
    assert "of-folder version 1" in models(graph, models_that_saw(graph, find_subject(Editions.of(graph), SUBJECT)))


def test_a_parent_whose_version_was_deleted_is_still_known_and_one_that_never_was_is_said(
    store: Tracking, split: DatasetUse, tmp_path: Path
) -> None:
    doomed = register_model(store.start_run("train", {}), "doomed", saved(7, tmp_path / "doomed"), [split], [])
    orphan = register_model(
        store.start_run("adapt", {}), "bereft", saved(8, tmp_path / "orphan"), [split], [], parent=doomed
    )
    store.client.delete_model_version(doomed.name, str(doomed.version))
    graph = LineageGraph.load(store)
    lines, complete = describe_model(graph, orphan)
    assert "made from doomed version 1 (deleted)" in lines
    assert complete
    store.client.set_model_version_tag(orphan.name, str(orphan.version), "parent", "models:/nobody/3")
    store.client.set_model_version_tag(orphan.name, str(orphan.version), "dataset.mine", "hello")
    try:
        graph = LineageGraph.load(store)
        lines, complete = describe_model(graph, orphan)
        assert not complete
        said = "\n".join(lines)
        assert "unknown: models:/nobody/3, from which bereft version 1 was made, is not registered" in said
        assert "unknown: bereft version 1, dataset.mine: a tag is not as we write it" in said
        assert graph.of_dataset("clinic").unknown
    finally:
        store.client.delete_registered_model(orphan.name)


def test_images_and_subjects_are_found_through_the_split(
    store: Tracking, parent: RegisteredVersion, child: RegisteredVersion
) -> None:
    graph = LineageGraph.load(store)
    editions = Editions.of(graph)
    by_image = models_that_saw(graph, find_picture(editions, known_digests(png(0))[0]))
    for name in (SUBJECT, f"clinic/{SUBJECT}"):
        by_subject = models_that_saw(graph, find_subject(editions, name))
        assert {"adults version 1", "infants version 1"} <= models(graph, by_image) == models(graph, by_subject)
    # The other split's folder does not exist: the answer must say that it is incomplete.
    assert [line for line in by_subject.unknown if "free/train" in line and "/nowhere/free" in line]


def test_a_name_that_matches_nothing_is_a_mistake_where_everything_could_be_read(split: DatasetUse) -> None:
    known = Records(
        versions=[
            VersionRecord(
                version=RegisteredVersion("m", 1),
                deleted=False,
                model_id="",
                run_id="",
                user="",
                sha256="a" * 64,
                parent="",
                aliases=(),
                uses=[split],
                weights=[],
                tags={},
            )
        ]
    )
    editions = Editions.of(LineageGraph(known))
    with pytest.raises(QuestionError, match="infant-9: no edition of any recorded split names this subject"):
        find_subject(editions, "infant-9")
    with pytest.raises(QuestionError, match="has this picture"):
        find_picture(editions, "0" * 64)
    with pytest.raises(QuestionError, match="64 hexadecimal digits"):
        find_picture(editions, "0.png")


def test_the_command_answers(
    store: Tracking, child: RegisteredVersion, split: DatasetUse, capsys: pytest.CaptureFixture[str]
) -> None:
    base = ["lineage", "--tracking-uri", store.uri]
    assert posecore_command([*base, "model", "infants", str(child.version)]) == 0
    told = capsys.readouterr().out
    assert "made from adults version 1" in told
    assert f"training   clinic/train  {split.digest[:12]}  consent-2024" in told
    assert posecore_command([*base, "dataset", "clinic"]) == 0
    assert "infants version 1: training on clinic/train" in capsys.readouterr().out
    assert posecore_command([*base, "subject", SUBJECT]) == 1, "an incomplete answer must not look like a full one"
    assert "unknown: free/train" in capsys.readouterr().out
    for question, problem in (
        (["model", "infant", "1"], "infant version 1 is not registered; there is infants"),
        (["dataset", "clinik"], "there is clinic"),
        (["image", "abc"], "64 hexadecimal digits"),
        (["user", "nobody"], "nobody: nothing recorded is theirs; there is "),
    ):
        assert posecore_command([*base, *question]) == 2
        assert problem in capsys.readouterr().err


def test_asking_where_nothing_was_recorded_creates_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    assert posecore_command(["lineage", "--tracking-uri", uri, "dataset", "coco"]) == 1
    assert "nothing has been recorded" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_the_command_predicts_with_a_registered_model(
    store: Tracking, parent: RegisteredVersion, model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store.client.set_registered_model_alias(parent.name, "champion", str(parent.version))
    photo, out = tmp_path / "photo.png", tmp_path / "out"
    photo.write_bytes(png(5))
    command = ["predict", str(photo), "--out", str(out), "--tracking-uri", store.uri, "--dataset", "mpii", "--model"]
    (expected,) = Predictor(load_model(model_folder)).predict([photo], dataset="mpii")
    for model in ("models:/adults@champion", f"models:/adults/{parent.version}"):
        assert posecore_command([*command, model]) == 0
        (body,) = json.loads((out / "coco_mpii.json").read_bytes())
        np.testing.assert_allclose(np.reshape(body["keypoints"], (-1, 3))[:, :2], expected.keypoints[0], atol=1e-9)
        assert f"1 body in 1 image by mpii (16 points): see {out}" in capsys.readouterr().out
    exported = ["export", "models:/adults@champion", "--tracking-uri", store.uri, "--head", "mpii"]
    assert posecore_command([*exported, "--format", "safetensors", "--out", str(tmp_path / "mpii")]) == 0
    assert list(load_model(tmp_path / "mpii").skeletons) == ["mpii"]
    capsys.readouterr()
    for model, problem in (
        ("models:/adults@nobody", "nobody"),
        ("models:/nothing/1", "nothing"),
        ("models:/adults", "is named models:/name@alias or models:/name/version"),
    ):
        assert posecore_command([*command, model]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error: ")
        assert problem in line


IMPORTS = """
import ast, importlib.metadata, sys
import posecore.lineage.serving
names = set()
for name, module in sys.modules.items():
    if name.partition(".")[0] == "posecore" and module.__file__:
        for node in ast.parse(open(module.__file__).read()).body:
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                names.add(node.module.partition(".")[0])
known = importlib.metadata.packages_distributions()
for name in names & known.keys() - {"posecore"}:
    print(*known[name])
"""
"""Prints, a line each, the packages that may be what something imports that is loaded to serve."""
LIMITS = {"max_bodies": 4, "max_bytes": 100_000, "max_pixels": 3000, "max_total_pixels": 4000}


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a fresh virtual environment: every package of this one but ours, which is nowhere there."""
    folder = tmp_path_factory.mktemp("elsewhere") / "venv"
    venv.EnvBuilder(with_pip=False).create(folder)
    packages = Path(mlflow.__file__).parents[1]
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "shared.pth").write_text(f"{packages}\n")  # files like it in that folder are not read in turn
    python = folder / "bin" / "python"
    uvicorn = folder / "bin" / "uvicorn"
    uvicorn.write_text(f"#!{python}\nfrom uvicorn.main import main\nmain()\n")
    uvicorn.chmod(0o755)
    return python


@pytest.fixture(scope="module")
def served(
    store: Tracking, parent: RegisteredVersion, elsewhere: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Path]]:
    """Address and log of ``mlflow models serve`` on loopback, where the library is not installed.

    Its whole process group is ended afterwards.
    """
    port = free_port()
    output = tmp_path_factory.mktemp("served") / "serve.log"
    log = output.open("w")
    scripts = str(elsewhere.parent)
    command = [str(elsewhere), "-m", "mlflow", "models", "serve", "--model-uri", parent.uri, "--env-manager", "local"]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    environment = {
        **{name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        "MLFLOW_TRACKING_URI": store.uri,
        "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}",
        "MLFLOW_MODELS_WORKERS": "1",
        "MLFLOW_PYFUNC_INFERENCE_CONFIG": json.dumps(LIMITS),
    }
    server = subprocess.Popen(
        command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True, env=environment, cwd=output.parent
    )
    address = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 120
        while not _answers(f"{address}/ping"):
            assert server.poll() is None, output.read_text()
            assert time.monotonic() < deadline, output.read_text()
            time.sleep(0.2)
        yield address, output
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()
        log.close()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as reply:
            return bool(reply.status == 200)
    except OSError:
        return False


def ask(served: tuple[str, Path], body: Any, content_type: str = "application/json") -> tuple[int, Any]:
    """Status and answer to a body, which is sent as JSON unless it is bytes."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(f"{served[0]}/invocations", data, {"Content-Type": content_type})
    try:
        with urllib.request.urlopen(request, timeout=60) as reply:
            return reply.status, json.loads(reply.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read())


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


@pytest.mark.slow
def test_a_version_needs_no_package_of_ours(elsewhere: Path, served: tuple[str, Path]) -> None:
    """What a server installs has no name that somebody else could give a package; the library comes with the model."""
    ours = subprocess.run([str(elsewhere), "-c", "import posecore"], capture_output=True, cwd="/", env={}, check=False)
    assert b"No module named 'posecore'" in ours.stderr, "the environment is not what it should be"
    assert "posecore" not in " ".join(requirements())
    assert not any("+" in line for line in requirements()), "builds for a kind of processor have an index of their own"
    found = subprocess.run([sys.executable, "-c", IMPORTS], capture_output=True, text=True, check=True).stdout
    served_names = {canonicalize_name(name) for name in SERVED_PACKAGES}
    missing = [line for line in found.splitlines() if not served_names & set(map(canonicalize_name, line.split()))]
    assert found
    assert not missing


@pytest.mark.slow
def test_pictures_sent_over_http_are_predicted(served: tuple[str, Path], model_folder: Path) -> None:
    rows = [{"image": encoded(png(5)), "x": 10, "y": 5.5, "w": 20, "h": 30}]
    (expected,) = Predictor(load_model(model_folder)).predict([png(5)], [[(10, 5.5, 20, 30)]], "mpii")
    split = {"columns": list(rows[0]), "data": [list(row.values()) for row in rows]}
    for body in ({"dataframe_records": rows}, {"dataframe_split": split}):
        status, answer = ask(served, body | {"params": {"dataset": "mpii"}})
        assert status == 200
        (prediction,) = answer["predictions"]
        assert prediction["error"] is None
        assert prediction["score"] == pytest.approx(expected.scores[0], abs=1e-5)
        found = [[point["x"], point["y"]] for point in prediction["keypoints"]]
        np.testing.assert_allclose(found, expected.keypoints[0], rtol=0, atol=1e-3)


@pytest.mark.slow
def test_one_bad_picture_sent_over_http_does_not_fail_the_others(served: tuple[str, Path]) -> None:
    large = bytes(cv2.imencode(".png", np.zeros((60, 51, 3), np.uint8))[1])
    images = [encoded(png(5)), "A", encoded(large), None]
    status, answer = ask(served, {"dataframe_records": [{"image": image} for image in images]})
    assert status == 200
    errors = [row["error"] for row in answer["predictions"]]
    assert errors[0] is None
    assert errors[1] == "row 1: image is empty, or was no base64."
    assert errors[3] == "row 3: image is empty, or was no base64."
    assert "51x60 pixels are more than the 3000 allowed" in errors[2]
    status, answer = ask(served, {"dataframe_records": [{"image": encoded(png(5))}] * 3})
    assert [row["error"] is None for row in answer["predictions"]] == [True, True, False]
    assert "max_total_pixels = 4000" in answer["predictions"][2]["error"]


@pytest.mark.slow
def test_what_a_stranger_may_not_send_is_refused_without_a_word_of_the_server(
    served: tuple[str, Path], tmp_path: Path
) -> None:
    photo = tmp_path / "photo.png"
    photo.write_bytes(png(5))
    row = {"image": encoded(png(5))}
    table = BytesIO()
    pd.DataFrame({"image": [str(photo)]}).to_parquet(table)
    requests: list[tuple[Any, str, int, str]] = [
        (f"image\n{photo}\n".encode(), "text/csv", 415, "pictures are sent as application/json"),
        (table.getvalue(), "application/vnd.apache.parquet", 415, "pictures are sent as application/json"),
        ({"dataframe_records": [row], "params": {"fliptest": True}}, "", 400, "there is no parameter 'fliptest'"),
        ({"dataframe_records": [row | {"width": 3}]}, "", 400, "there is no column 'width'; there are image, x, y"),
        ({"dataframe_records": [row], "parameters": {}}, "", 400, "there is no field 'parameters'"),
        ({"dataframe_records": [row], "params": {"path": "proto"}}, "", 400, "params: path: Input should be"),
        ({"dataframe_records": [row], "params": {"dataset": "cats"}}, "", 400, "the model has no head 'cats'"),
        ({"dataframe_records": [row | {"x": "wide"}]}, "", 400, "x"),
        ({"dataframe_split": {"columns": ["x"], "data": [[1.0]]}}, "", 400, "missing inputs ['image']"),
        ({"dataframe_split": {"columns": ["image"], "data": [[]]}}, "", 400, "data, a list of rows as long"),
        ({"dataframe_records": [row] * 5}, "", 413, "5 rows, more than max_bodies = 4"),
        ({"dataframe_records": [{}] * 500}, "", 413, "more values than belong to max_bodies = 4"),
        ({"dataframe_records": [{"image": "A" * 100_000}]}, "", 413, "more than max_bytes = 100000"),
        ({"instances": [row]}, "", 400, "either dataframe_records or dataframe_split"),
        (b"{", "", 400, "the body is not JSON"),
    ]
    for body, content_type, expected, problem in requests:
        status, answer = ask(served, body, content_type or "application/json")
        assert (status, answer.keys()) == (expected, {"error_code", "message"}), (problem, answer)
        assert problem in answer["message"]
        for secret in (str(photo), "Traceback", "site-packages", ".py", "/tmp", png(5)[:4].decode("latin-1")):
            assert secret not in answer["message"]
    assert "Traceback" not in served[1].read_text()


def test_a_calibrated_version_is_the_next_one(
    store: Tracking, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hands = hands_store(tmp_path / "hands", hands_definition(), num_images=10)
    torch.manual_seed(7)
    backbone = VitConfig(embed_dim=16, depth=1, num_heads=2)
    config = ModelConfig(backbone=backbone, head=ClassicHeadConfig(channels=8), input_size=(64, 48))
    folder = Path(str(save_model(build_model(config, {"hands": HANDS}), tmp_path / "model")))
    use = DatasetUse(name="hands", split="train", digest="c" * 64, role="training", license="CC0-1.0")
    first = register_model(store.start_run("train", {}), "hands", folder, [use], [])
    where = ["--tracking-uri", store.uri, "--folder", str(tmp_path)]
    assert posecore_command(["calibrate", first.uri, str(hands.location), *where]) == 0
    assert f"models:/hands/2, whose parent is {first.uri}" in capsys.readouterr().out
    with registered_model("models:/hands/2", store) as after, registered_model(first.uri, store) as before:
        assert [each.data for each in read_card(after).uncertainty] == ["hands val", "hands val"]
        assert not read_card(before).uncertainty
        assert (after / WEIGHTS_FILE).read_bytes() == (before / WEIGHTS_FILE).read_bytes()
    assert get_version(store, "hands", 2).tags["parent"] == first.uri
    lines, _ = describe_model(LineageGraph.load(store), RegisteredVersion("hands", 2))
    told = "\n".join(lines)
    assert hands.manifest.digest[:12] in told, "what its promises were fitted to"
    assert "c" * 12 in told, "what the parent learned from"
    judge = ["evaluate", "--model", first.uri, "--store", f"hands={hands.location}", "--out", str(tmp_path / "out")]
    assert posecore_command([*judge, *where, "--peak-threshold", "0.3"]) == 2, "a model of crops goes by no such thing"
    assert "--peak-threshold is for a bottom-up model, which this one is not" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
